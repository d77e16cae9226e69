//! Listening, and the life of one connection.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{self, Response};
use crate::hijack::{ClientStream, Hijacker, Taken, Takeover};
use crate::{Door, route, version};

/// How long a client may take for a request's head, and leave a connection idle; dockerd's figure.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest head, in bytes.
const HEAD_LIMIT: usize = 1 << 20;
/// How long requests that are under way may go on when the daemon stops.
const GRACE: Duration = Duration::from_secs(5);
/// How long to wait when the system has no descriptor left for a new connection.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Where connections come from.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: ClientStream;

    /// The next connection.
    ///
    /// # Errors
    /// Those of `accept(2)`; the caller logs them and goes on.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Serves every connection of `listener` until `shutdown`. Then requests that are under way get a few seconds,
/// and streams without an end are ended at once.
pub async fn serve(door: Arc<Door>, mut listener: impl Listener, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                connections.spawn(serve_connection(door.clone(), stream, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves one connection to its end: for listeners that do more than accept, as TLS does.
pub async fn serve_connection(door: Arc<Door>, stream: impl ClientStream, shutdown: CancellationToken) {
    let (hijacker, takeover) = Hijacker::new();
    let service = service_fn({
        let shutdown = shutdown.clone();
        move |request| answer(door.clone(), request, hijacker.clone(), shutdown.clone())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    match drive(connection, takeover, &shutdown).await {
        Ok(Some((taken, takeover))) => {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = takeover(taken) => {}
            }
        }
        Ok(None) => {}
        // Clients come and go as they like.
        Err(error) => tracing::debug!(%error, "a connection broke off"),
    }
}

/// Drives a connection until it ends, or a handler takes it.
async fn drive<S, F>(
    connection: http1::Connection<TokioIo<S>, F>,
    takeover: oneshot::Receiver<Takeover>,
    shutdown: &CancellationToken,
) -> Result<Option<(Taken, Takeover)>, hyper::Error>
where
    S: ClientStream,
    F: hyper::service::HttpService<Incoming, ResBody = body::Body>,
    F::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = connection;
    let stopped = async {
        shutdown.cancelled().await;
    };
    let takeover = async {
        // A hijacker that is gone without a takeover means that the connection ends by itself.
        match takeover.await {
            Ok(takeover) => takeover,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::pin!(stopped, takeover);
    let taken = tokio::select! {
        ended = &mut connection => return ended.map(|()| None),
        taken = &mut takeover => taken,
        () = &mut stopped => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            return tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(())).map(|()| None);
        }
    };
    let parts = connection.into_parts();
    Ok(Some((Taken::new(parts.io.into_inner(), parts.read_buf), taken)))
}

/// One request, one response.
async fn answer(
    door: Arc<Door>,
    request: Request<Incoming>,
    hijacker: Hijacker,
    shutdown: CancellationToken,
) -> Result<Response, Infallible> {
    let headers = door.headers();
    let mut response = match route::dispatch(door, request, hijacker, shutdown).await {
        Ok(response) => response,
        Err(error) => {
            if error.status().is_server_error() {
                tracing::error!(status = error.status().as_u16(), error = error.message(), "a request failed");
            }
            body::failure(&error)
        }
    };
    for (name, value) in headers {
        response.headers_mut().entry(name).or_insert(value);
    }
    Ok(response)
}

impl Door {
    /// The headers of every response.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let server = HeaderValue::from_str(&format!("Docker/{} (linux)", self.info.version));
        vec![
            (HeaderName::from_static("api-version"), HeaderValue::from_static(version::MAX_API_VERSION_TEXT)),
            (HeaderName::from_static("docker-experimental"), HeaderValue::from_static("false")),
            (HeaderName::from_static("ostype"), HeaderValue::from_static("linux")),
            (http::header::SERVER, server.unwrap_or(HeaderValue::from_static("Docker (linux)"))),
        ]
    }
}

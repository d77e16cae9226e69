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
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{self, Response};
use crate::hijack::{Client, ClientStream, Hijacker, Taken, Takeover};
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
    /// What is still to happen until a connection that was accepted can be used: a handshake that waits for its client, and for which
    /// no other client must wait.
    type Handshake: Future<Output = io::Result<Self::Stream>> + Send + 'static;

    /// The next connection.
    ///
    /// # Errors
    /// Those of `accept(2)`; the caller logs them and goes on.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Handshake>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Handshake = std::future::Ready<io::Result<UnixStream>>;

    async fn accept(&mut self) -> io::Result<Self::Handshake> {
        UnixListener::accept(self).await.map(|(stream, _)| std::future::ready(Ok(stream)))
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
            Ok(handshake) => {
                let (door, shutdown) = (door.clone(), shutdown.clone());
                connections.spawn(async move {
                    let shaken = tokio::select! {
                        () = shutdown.cancelled() => return,
                        shaken = handshake => shaken,
                    };
                    match shaken {
                        Ok(stream) => serve_connection(door, stream, shutdown).await,
                        // Not worth more: who may not come in, may not fill the log either.
                        Err(error) => tracing::debug!(%error, "a client is not let in"),
                    }
                });
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

/// Serves one connection to its end.
async fn serve_connection(door: Arc<Door>, stream: impl ClientStream, shutdown: CancellationToken) {
    let (hijacker, takeover) = Hijacker::new();
    let client = Client::of(&stream);
    let may_half_close = client.may_half_close();
    let service = service_fn({
        let shutdown = shutdown.clone();
        move |request| Box::pin(answer(door.clone(), request, client.clone(), hijacker.clone(), shutdown.clone()))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(may_half_close)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        // As dockerd writes them, for clients that compare them as text.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Some((taken, takeover)) = drive(connection, takeover, &shutdown).await {
        let patience = async {
            shutdown.cancelled().await;
            if takeover.says_goodbye {
                tokio::time::sleep(GRACE).await;
            }
        };
        tokio::select! {
            () = patience => {}
            () = (takeover.carry)(taken) => {}
        }
    }
}

/// Drives a connection until it ends, or a handler takes it.
async fn drive<S, F>(
    connection: http1::Connection<TokioIo<S>, F>,
    takeover: oneshot::Receiver<Takeover>,
    shutdown: &CancellationToken,
) -> Option<(Taken, Takeover)>
where
    S: ClientStream,
    F: hyper::service::HttpService<Incoming, ResBody = body::Body> + Unpin,
    F::Future: Unpin,
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
    let takeover = tokio::select! {
        ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
            // Clients come and go as they like.
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke off");
            }
            None
        }
        takeover = &mut takeover => Some(takeover),
        () = &mut stopped => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            // What breaks off now is of no interest to anybody any more.
            let _ = tokio::time::timeout(GRACE, connection).await;
            return None;
        }
    };
    let parts = connection.into_parts();
    let taken = Taken::new(parts.io.into_inner(), parts.read_buf);
    match takeover {
        Some(takeover) => Some((taken, takeover)),
        None => {
            // A request may have been answered before its body had come: the client is to read that answer, instead of
            // finding the connection broken while it writes.
            taken.finish().await;
            None
        }
    }
}

/// One request, one response.
async fn answer(
    door: Arc<Door>,
    request: Request<Incoming>,
    client: Client,
    hijacker: Hijacker,
    shutdown: CancellationToken,
) -> Result<Response, Infallible> {
    door.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let headers = door.headers();
    let mut response = match route::dispatch(door, request, client, hijacker, shutdown).await {
        Ok(response) => response,
        Err(error) => {
            // Mostly something that whoever asked can mend: a port that is taken, a registry that is down. What there is
            // not (501), or not now (503), is for them alone.
            let theirs = [http::StatusCode::NOT_IMPLEMENTED, http::StatusCode::SERVICE_UNAVAILABLE];
            if error.status().is_server_error() && !theirs.contains(&error.status()) {
                tracing::info!(status = error.status().as_u16(), error = error.message(), "a request failed");
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
        let server = HeaderValue::from_str(&format!("Docker/{} (linux)", version::DOCKER_VERSION));
        vec![
            (HeaderName::from_static("api-version"), HeaderValue::from_static(version::MAX_API_VERSION_TEXT)),
            (HeaderName::from_static("docker-experimental"), HeaderValue::from_static("false")),
            (HeaderName::from_static("ostype"), HeaderValue::from_static("linux")),
            (http::header::SERVER, server.unwrap_or(HeaderValue::from_static("Docker (linux)"))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves one end of a pair of sockets: what a handler takes is echoed in capitals until the client closes its side.
    fn serve_echo(stream: UnixStream, shutdown: CancellationToken) -> tokio::task::JoinHandle<()> {
        let (hijacker, takeover) = Hijacker::new();
        let service = service_fn(move |request: Request<Incoming>| {
            let hijacker = hijacker.clone();
            Box::pin(async move {
                let path = request.uri().path().to_owned();
                if path == "/refuse" {
                    return Ok(body::empty(http::StatusCode::FORBIDDEN));
                }
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                if path != "/take" {
                    return Ok::<_, Infallible>(http::Response::new(body::Body::Full(body)));
                }
                let echo = |mut taken: Taken| async move {
                    taken.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("a head");
                    let mut buffer = [0; 64];
                    while let Ok(length @ 1..) = taken.read(&mut buffer).await {
                        taken.write_all(&buffer[..length].to_ascii_uppercase()).await.expect("an echo");
                    }
                    taken.write_all(b"!").await.expect("after the client's end");
                    taken.finish().await;
                };
                let taken = hijacker.take(Box::new(move |taken| Box::pin(echo(taken)))).await;
                Ok(taken.unwrap_or_else(|error| body::failure(&error)))
            })
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            if let Some((taken, takeover)) = drive(connection, takeover, &shutdown).await {
                (takeover.carry)(taken).await;
            }
        })
    }

    async fn exchange(sent: &[&[u8]]) -> String {
        let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
        let served = serve_echo(server, CancellationToken::new());
        for part in sent {
            client.write_all(part).await.expect("sent");
            tokio::task::yield_now().await;
        }
        client.shutdown().await.expect("closed");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an answer");
        drop(client);
        served.await.expect("served");
        answer
    }

    #[tokio::test]
    async fn a_taken_connection_carries_what_came_with_the_request_and_after_it() {
        let request = b"POST /take HTTP/1.1\r\nHost: a\r\n\r\nearly ";
        assert_eq!(exchange(&[request, b"late"]).await, "HTTP/1.1 200 OK\r\n\r\nEARLY LATE!");
    }

    #[tokio::test]
    async fn a_body_is_read_before_the_connection_is_taken() {
        let request =
            b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n{..}in";
        assert_eq!(exchange(&[request, b"put"]).await, "HTTP/1.1 200 OK\r\n\r\nINPUT!");
    }

    #[tokio::test]
    async fn an_earlier_request_on_the_connection_is_answered_as_usual() {
        let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
        let served = serve_echo(server, CancellationToken::new());
        client.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").await.expect("sent");
        let mut head = [0; 512];
        let mut answer = String::new();
        while !answer.ends_with("ok") {
            let length = client.read(&mut head).await.expect("an answer");
            answer.push_str(std::str::from_utf8(&head[..length]).expect("text"));
        }
        client.write_all(b"POST /take HTTP/1.1\r\nHost: a\r\n\r\nthen").await.expect("sent");
        client.shutdown().await.expect("closed");
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.expect("an answer");
        assert_eq!(rest, "HTTP/1.1 200 OK\r\n\r\nTHEN!");
        drop(client);
        served.await.expect("served");
    }

    #[tokio::test]
    async fn an_answer_that_comes_before_the_body_is_read_by_a_client_that_still_sends() {
        let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
        let served = serve_echo(server, CancellationToken::new());
        client.write_all(b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n").await.expect("sent");
        let mut head = [0; 12];
        client.read_exact(&mut head).await.expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 403");
        client.write_all(b"a ").await.expect("the connection takes the body");
        client.write_all(b"body").await.expect("all of it");
        client.shutdown().await.expect("closed");
        client.read_to_end(&mut Vec::new()).await.expect("the rest of the answer, and the end");
        served.await.expect("served");
    }

    #[tokio::test]
    async fn an_idle_connection_ends_with_the_daemon() {
        let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
        let shutdown = CancellationToken::new();
        let served = serve_echo(server, shutdown.clone());
        shutdown.cancel();
        assert_eq!(client.read(&mut [0; 1]).await.expect("the end"), 0);
        served.await.expect("served");
    }
}

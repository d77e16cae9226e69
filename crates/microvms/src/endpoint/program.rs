//! A connection to a program in a microVM: each request has one of its own, by HTTP/1.1 or HTTP/2, which ends with the microVM's run at the latest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::forward::Refusal;

/// How long a program may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Until a microVM does not run any more.
pub(super) type Ended = Shared<BoxFuture<'static, ()>>;

/// So many connections to programs there may be.
#[derive(Clone)]
pub(super) struct Ways(Arc<Semaphore>);

impl Ways {
    /// At most so many.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// One of them: free again when it is dropped by all who have it.
    pub(super) fn take(&self) -> Result<Arc<OwnedSemaphorePermit>, Refusal> {
        let taken = self.0.clone().try_acquire_owned().map_err(|_| {
            let text = "as many requests are under way as the endpoint forwards at a time: try again later";
            Refusal(StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
        });
        taken.map(Arc::new)
    }
}

/// What a connection lasts for, and counts as. As an executor, it runs what a connection consists of: all of that is gone when the microVM's run ends,
/// whereupon its address may be another's.
#[derive(Clone)]
pub(super) struct Run {
    /// The end of the microVM's run.
    pub(super) ended: Ended,
    /// Held as long as there is something of the connection.
    pub(super) way: Arc<OwnedSemaphorePermit>,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Run {
    fn execute(&self, part: F) {
        let Self { ended, way } = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended => {}
                _ = part => {}
            }
            drop(way);
        });
    }
}

/// Where a program is asked something, once.
pub(super) struct Program {
    pub(super) address: SocketAddr,
    pub(super) run: Run,
}

impl Program {
    /// Asks it by HTTP/1.1.
    pub(super) async fn first<B>(&self, request: Request<B>) -> Result<Response<Incoming>, Refusal>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let handshake = http1::handshake(TokioIo::new(self.connect().await?));
        let (mut sender, connection) = handshake.await.map_err(|error| self.bad(&error))?;
        self.run.execute(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| self.bad(&error))
    }

    /// Asks it by HTTP/2: what follows an answer's body is part of it.
    pub(super) async fn second<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, Refusal>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        by_second(&mut request)?;
        let handshake = http2::handshake(self.run.clone(), TokioIo::new(self.connect().await?));
        let (mut sender, connection) = handshake.await.map_err(|error| self.bad(&error))?;
        self.run.execute(connection);
        sender.send_request(request).await.map_err(|error| self.bad(&error))
    }

    async fn connect(&self) -> Result<TcpStream, Refusal> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await;
        let stream = connected
            .map_err(|_| self.refused(StatusCode::GATEWAY_TIMEOUT, &"not within 10 seconds"))?
            .map_err(|error| self.bad(&error))?;
        super::prepare(&stream);
        Ok(stream)
    }

    fn bad(&self, why: &dyn std::fmt::Display) -> Refusal {
        self.refused(StatusCode::BAD_GATEWAY, why)
    }

    fn refused(&self, status: StatusCode, why: &dyn std::fmt::Display) -> Refusal {
        Refusal(status, format!("the program does not answer at port {}: {why}", self.address.port()))
    }
}

/// Makes a request one of HTTP/2, whose host is part of what is asked for, and says that what follows the answer's body is heard, without which a program of gRPC does not answer.
fn by_second<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let invalid =
        |error: &dyn std::fmt::Display| Refusal(StatusCode::BAD_REQUEST, format!("the request's host: {error}"));
    let host = request.headers_mut().remove(header::HOST);
    let host = host.as_ref().map_or(Ok("localhost"), HeaderValue::to_str).map_err(|error| invalid(&error))?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    *request.uri_mut() = uri.map_err(|error| invalid(&error))?;
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http_body_util::{BodyExt as _, Empty, StreamBody};
    use hyper::body::Frame;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;

    /// Answers one connection with what begins, and does not end.
    async fn endless(socket: TcpListener, is_second: bool) {
        let (stream, _) = socket.accept().await.unwrap();
        let service = service_fn(|_| async {
            let begins = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"begun")))]);
            Ok::<_, Infallible>(Response::new(StreamBody::new(begins.chain(stream::pending()))))
        });
        let stream = TokioIo::new(stream);
        // It is cut off.
        let _ = match is_second {
            true => {
                hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
            }
            false => hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await,
        };
    }

    #[tokio::test]
    async fn nothing_of_a_connection_outlives_the_run_of_its_microvm() {
        for is_second in [false, true] {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = socket.local_addr().unwrap();
            let theirs = tokio::spawn(endless(socket, is_second));
            let (end, ended) = oneshot::channel::<()>();
            let ways = Ways::new(1);
            let run = Run { ended: ended.map(drop).boxed().shared(), way: ways.take().unwrap() };
            let program = Program { address, run };
            let request = Request::get("/").header(header::HOST, "there").body(Empty::<Bytes>::new()).unwrap();
            let answer = match is_second {
                true => program.second(request).await,
                false => program.first(request).await,
            };
            drop(program);
            let mut answer = answer.unwrap().into_body();
            assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "begun");
            // It counts as long as it is there.
            let refusal = ways.take().unwrap_err();
            assert_eq!(refusal.0, StatusCode::SERVICE_UNAVAILABLE);
            end.send(()).unwrap();
            let all_ends = async {
                assert!(answer.frame().await.unwrap().is_err());
                theirs.await.unwrap();
                drop(ways.0.acquire().await.unwrap());
            };
            tokio::time::timeout(Duration::from_secs(60), all_ends).await.expect("it ends");
            assert!(ways.take().is_ok());
        }
    }

    #[test]
    fn what_goes_on_by_http_2_says_so() {
        let request = Request::builder().uri("/pkg.Service/Call?x").header(header::HOST, "there.example:90");
        let mut request = request.body(()).unwrap();
        by_second(&mut request).unwrap();
        assert_eq!(request.uri(), "http://there.example:90/pkg.Service/Call?x");
        assert_eq!(request.headers().get(header::TE).unwrap(), "trailers");
        assert!(!request.headers().contains_key(header::HOST));
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("a b"));
        assert!(by_second(&mut request).is_err());
    }
}

//! Speaks HTTP with the daemon: one connection a call, so that a call can become a stream in both directions.
//!
//! The documents stay what the daemon sent, so that `inspect` and `--output json` show all of it and a newer daemon's
//! fields pass through. That, and fields of a request that no model of Docker's knows (`--isolation`), is why this is hyper and
//! not one of the typed clients.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::address::Address;
use super::error::{Error, Result, advised};
use super::request::Request;

/// Bytes of an answer that is read as a whole.
const ANSWER_MAX: usize = 256 << 20;

/// What servers answer with TLS to those who begin without.
const WANTS_TLS: &str = "Client sent an HTTP request to an HTTPS server";

/// A connection that stopped being HTTP.
pub(super) type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// A daemon.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    address: Address,
}

impl Daemon {
    pub(super) fn new(address: Address) -> Daemon {
        Daemon { address }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a call; the answer is a success, whose body is still to come.
    pub(super) async fn send(&self, request: Request) -> Result<Response<Incoming>> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => Error::Denied(self.address.clone()),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::NotRunning(self.address.clone(), error)
            }
            _ => Error::Unreachable(self.address.clone(), error),
        };
        let mut sender = match &self.address {
            Address::Unix(path) => handshake(UnixStream::connect(path).await.map_err(failed)?).await?,
            Address::Tcp(host) => handshake(TcpStream::connect(host).await.map_err(failed)?).await?,
            Address::Tls(host, identity) => {
                let (name, _) = host.rsplit_once(':').unwrap_or((host, ""));
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
                    .map_err(|error| Error::Usage(format!("{host} cannot be called by TLS: {error}")))?;
                let connector = TlsConnector::from(Arc::new(identity.client()?));
                let stream = TcpStream::connect(host).await.map_err(failed)?;
                handshake(connector.connect(name, stream).await.map_err(failed)?).await?
            }
        };
        let mut built = http::Request::builder()
            .method(request.method)
            .uri(&request.path)
            .header(header::HOST, "stratus")
            .header(header::USER_AGENT, concat!("stratus/", env!("CARGO_PKG_VERSION")));
        for (name, value) in request.headers {
            built = built.header(name, value);
        }
        let built = built.body(request.body).map_err(|error| Error::Usage(format!("this can't be asked: {error}")))?;
        let response = sender.send_request(built).await.map_err(|error| self.refused_to_listen(error))?;
        match response.status() {
            status if status.is_client_error() || status.is_server_error() => {
                Err(self.explained(refusal(status, response).await))
            }
            _ => Ok(response),
        }
    }

    /// A server that wants TLS says so in the words of Go's, and not what is to be done about it.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Refused { message, .. } if message.contains(WANTS_TLS) => Error::WantsTls(self.address.clone()),
            error => error,
        }
    }

    /// A client learns that its certificate is not accepted only when it reads the first answer (RFC 8446, section 4.4.3).
    fn refused_to_listen(&self, error: hyper::Error) -> Error {
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
        let alert =
            cause.and_then(io::Error::get_ref).and_then(|cause| cause.downcast_ref::<tokio_rustls::rustls::Error>());
        match alert {
            Some(tokio_rustls::rustls::Error::AlertReceived(alert)) => {
                Error::NotAccepted(self.address.clone(), format!("{alert:?}"))
            }
            _ => error.into(),
        }
    }

    /// Sends a call whose answer says nothing but that it worked.
    pub(super) async fn done(&self, request: Request) -> Result<StatusCode> {
        let response = self.send(request).await?;
        let status = response.status();
        whole(response).await.map(|_| status)
    }

    /// Sends a call whose answer is a document.
    pub(super) async fn document(&self, request: Request) -> Result<Value> {
        let bytes = whole(self.send(request).await?).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Sends a call whose answer is a document, and gives it as it was written: with its fields in their order.
    pub(super) async fn text(&self, request: Request) -> Result<String> {
        let bytes = whole(self.send(request).await?).await?;
        let _: serde::de::IgnoredAny = serde_json::from_slice(&bytes)?;
        // What is JSON is UTF-8.
        String::from_utf8(bytes.into()).map_err(|error| Error::Answer(error.to_string()))
    }

    /// Sends a call whose answer is a document of which some is of interest.
    pub(super) async fn read<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        let bytes = whole(self.send(request).await?).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Sends a call whose answer is a document after another, as long as it lasts.
    pub(super) async fn documents(&self, request: Request) -> Result<Documents> {
        Ok(Documents { body: self.send(request).await?.into_body(), buffer: Vec::new(), ended: false })
    }

    /// Sends a call that takes the connection over.
    pub(super) async fn hijack(&self, request: Request) -> Result<Upgraded> {
        self.upgrade(request, "tcp").await
    }

    /// Sends a call after which another protocol is spoken on its connection.
    pub(super) async fn upgrade(&self, request: Request, protocol: &str) -> Result<Upgraded> {
        let request = request.header("upgrade", protocol.into()).header("connection", "Upgrade".into());
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::Answer(format!("status {} where the streams should be", response.status())));
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }
}

async fn handshake<S>(stream: S) -> Result<http1::SendRequest<super::request::Body>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its failures are the sender's and the body's as well.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

/// The whole of an answer.
async fn whole(response: Response<Incoming>) -> Result<Bytes> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(Error::Broken(error.to_string())),
    }
}

/// The daemon's words in an answer that is a failure.
async fn refusal(status: StatusCode, response: Response<Incoming>) -> Error {
    #[derive(serde::Deserialize)]
    struct Words {
        message: String,
    }
    let body = match whole(response).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let message = match serde_json::from_slice::<Words>(&body) {
        Ok(words) => words.message,
        Err(_) if body.is_empty() => format!("the daemon answered {status}"),
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    Error::Refused { status, message: advised(cause(&message).to_owned()) }
}

/// What failed, without the names of the programs that dockerd has one after another start a container.
fn cause(message: &str) -> &str {
    const STEPS: [&str; 2] = [
        "failed to create task for container: failed to create shim task: OCI runtime create failed: ",
        "OCI runtime exec failed: exec failed: unable to start container process: ",
    ];
    STEPS.iter().find_map(|steps| message.strip_prefix(steps)).unwrap_or(message)
}

/// Documents that come one after another.
pub(super) struct Documents {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
}

impl Documents {
    /// The next one; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(document) = take(&mut self.buffer)? {
                return Ok(Some(document));
            }
            if self.ended {
                return match self.buffer.trim_ascii().is_empty() {
                    true => Ok(None),
                    false => Err(Error::Broken("its answer stops in the middle of a document".into())),
                };
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => self.ended = true,
            }
        }
    }
}

/// Takes the first document out of a buffer, if all of it is there.
fn take(buffer: &mut Vec<u8>) -> Result<Option<Value>> {
    let mut documents = serde_json::Deserializer::from_slice(buffer).into_iter::<Value>();
    match documents.next() {
        Some(Ok(document)) => {
            let end = documents.byte_offset();
            buffer.drain(..end);
            Ok(Some(document))
        }
        Some(Err(error)) if !error.is_eof() => Err(error.into()),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_no_steps_before_them() {
        let said =
            "failed to create task for container: failed to create shim task: OCI runtime create failed: exec: \"x\"";
        assert_eq!((cause(said), cause("No such image: x")), ("exec: \"x\"", "No such image: x"));
    }

    #[test]
    fn documents_are_taken_when_they_are_whole() {
        let mut buffer = b"{\"a\":1}\r\n{\"b\":".to_vec();
        assert_eq!(take(&mut buffer).expect("JSON"), Some(serde_json::json!({"a": 1})));
        assert_eq!(take(&mut buffer).expect("JSON"), None);
        buffer.extend_from_slice(b"2}");
        assert_eq!(take(&mut buffer).expect("JSON"), Some(serde_json::json!({"b": 2})));
        assert_eq!(take(&mut buffer).expect("JSON"), None);
        buffer.extend_from_slice(b"nonsense");
        assert!(take(&mut buffer).is_err());
    }
}

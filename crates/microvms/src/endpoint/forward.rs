//! One request: from a client of the endpoint to the program in a microVM, and its answer back.
//!
//! The program is spoken to by HTTP/1.1, however the client came: what a program speaks it does not say. But a request of gRPC, which there is by HTTP/2 alone, goes on as that, to a program that
//! serves it without TLS.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use engine::model::Timestamp;
use engine::{ErrorKind, WaitCondition};
use futures_util::FutureExt as _;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::program::{Ended, Program, Run, Ways};
use super::token::Grant;
use super::wanted::{PROTOCOL, Wanted, put_upgrade, take_hop};
use super::{USUAL_PORT, wanted};
use crate::Microvms;
use crate::activity::Activity;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// A host name of at least so many hexadecimal digits names a microVM.
const NAME_MIN: usize = 12;

/// What is sent back.
pub(super) type Answer = UnsyncBoxBody<Bytes, hyper::Error>;

/// A client of the endpoint.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) microvms: Microvms,
    pub(super) peer: IpAddr,
    pub(super) scheme: &'static str,
    /// Its place among the connections.
    pub(super) place: Arc<OwnedSemaphorePermit>,
    /// What there is for what it asks.
    pub(super) ways: Ways,
}

/// What a connection's requests have in common: each that is let in holds a handle until its answer has ended.
#[derive(Clone, Default)]
pub(super) struct Taken(Arc<Notify>);

impl Taken {
    /// Somebody is not let in.
    pub(super) fn refuse(&self) {
        self.0.notify_one();
    }

    /// Waits until somebody was not let in.
    pub(super) async fn refused(&self) {
        self.0.notified().await;
    }

    /// How many others have a handle.
    pub(super) fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Why a request goes nowhere.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl Refusal {
    fn into_answer(self) -> Response<Answer> {
        let Self(status, message) = self;
        let body = serde_json::json!({ "message": message }).to_string();
        let mut answer = Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync());
        *answer.status_mut() = status;
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::UNAUTHORIZED {
            // Nobody holds a place who may not be here.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl From<engine::Error> for Refusal {
    fn from(error: engine::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self(status, error.to_string())
    }
}

impl Client {
    /// Answers a request of a connection of which `taken` is.
    pub(super) async fn answer(&self, request: Request<Incoming>, taken: Taken) -> Response<Answer> {
        let version = request.version();
        match self.forward(request).await {
            Ok(answer) => answer.map(|body| Held { body, _held: taken }.boxed_unsync()),
            Err(refusal) => {
                let mut answer = refusal.into_answer();
                if version == Version::HTTP_2 && answer.headers_mut().remove(header::CONNECTION).is_some() {
                    // It says so for all of its connection in another way.
                    taken.refuse();
                }
                // No handle goes with it: whoever does not read it is not waited for.
                answer
            }
        }
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
        let wanted = Wanted::take(request.headers_mut());
        let (grant, port) = self.admit(&wanted, &request)?;
        // Before a machine goes on for nothing.
        let way = self.ways.take()?;
        let (visit, address) = self.microvms.visit(&grant.microvm).await?;
        let run = Run { ended: self.ended(&grant.microvm).await?, way };
        let program = Program { address: SocketAddr::new(address, port), run };
        let becomes = wanted.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        self.rewrite(&mut request, program.address, wanted.upgrade)?;
        let mut answer = match is_grpc(&request) {
            true => program.second(request).await?,
            false => program.first(request).await?,
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            take_hop(answer.headers_mut());
            return Ok(answer.map(|body| Held { body, _held: visit }.boxed_unsync()));
        }
        let theirs = hyper::upgrade::on(&mut answer);
        let (Some(client), Some(upgrade)) = (becomes, take_hop(answer.headers_mut())) else {
            let text = "the program changes to another protocol, which nobody asked it for";
            return Err(Refusal(StatusCode::BAD_GATEWAY, text.to_owned()));
        };
        put_upgrade(answer.headers_mut(), upgrade);
        if wanted.offers_ours {
            // A browser that offered some, and gets none, hangs up.
            let protocol = answer.headers_mut().entry(header::SEC_WEBSOCKET_PROTOCOL);
            protocol.or_insert(HeaderValue::from_static(PROTOCOL));
        }
        let (activity, place) = (visit.activity().clone(), self.place.clone());
        tokio::spawn(async move {
            pipe(client, theirs, activity, program.run).await;
            drop(place);
        });
        Ok(answer.map(|_| empty()))
    }

    /// Whom a request is for, and at which port: if whoever sends it may ask that.
    fn admit<B>(&self, wanted: &Wanted, request: &Request<B>) -> Result<(Grant, u16), Refusal> {
        let token = wanted.token.as_deref().ok_or_else(|| {
            let text =
                format!("no token: send one in the header {} (stratus microvm token makes it)", wanted::TOKEN_NAME);
            Refusal(StatusCode::UNAUTHORIZED, text)
        })?;
        let verified = self.microvms.0.endpoint.signer.verify(token, Timestamp::now());
        let grant = verified.map_err(|why| Refusal(StatusCode::UNAUTHORIZED, why.to_owned()))?;
        // Of one that is gone nothing is known any more.
        if grant.generation < self.microvms.0.activities.of(&grant.microvm).tokens() {
            return Err(Refusal(StatusCode::UNAUTHORIZED, "the token was taken back: ask for another one".to_owned()));
        }
        if request.method() == http::Method::CONNECT {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "CONNECT: this is no proxy to elsewhere".to_owned()));
        }
        if is_a_hook(request.uri().path()) {
            // The daemon alone tells a program what becomes of it, and whose it is.
            return Err(Refusal(StatusCode::FORBIDDEN, "hooks are the daemon's alone".to_owned()));
        }
        if let Some(named) = named(request).filter(|named| !grant.microvm.starts_with(named)) {
            let text = format!("the token is for another microVM than {named}");
            return Err(Refusal(StatusCode::MISDIRECTED_REQUEST, text));
        }
        let port = match wanted.port.as_deref().map(|port| (port, port.parse::<u16>())) {
            None => grant.ports.only().unwrap_or(USUAL_PORT),
            Some((_, Ok(port))) => port,
            Some((text, Err(_))) => {
                return Err(Refusal(StatusCode::BAD_REQUEST, format!("port {text:?}: it is a number, 1 to 65535")));
            }
        };
        match grant.ports.has(port) {
            true => Ok((grant, port)),
            false => {
                let text = format!("the token is for port {}, and not for port {port}", grant.ports);
                Err(Refusal(StatusCode::FORBIDDEN, text))
            }
        }
    }

    /// Makes a request what the program behind is to see.
    fn rewrite<B>(
        &self,
        request: &mut Request<B>,
        address: SocketAddr,
        upgrade: Option<HeaderValue>,
    ) -> Result<(), Refusal> {
        let path = request.uri().path_and_query().cloned();
        // By HTTP/2 the host is part of what is asked for.
        let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        if !is_grpc(request) {
            *request.version_mut() = Version::HTTP_11;
            join_cookies(request.headers_mut())?;
        }
        let headers = request.headers_mut();
        let value = |text: String| {
            let invalid = |error| Refusal(StatusCode::BAD_REQUEST, format!("a header of the request: {error}"));
            HeaderValue::try_from(text).map_err(invalid)
        };
        let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let through: Vec<_> = before.map(str::to_owned).chain([self.peer.to_string()]).collect();
        headers.insert(FORWARDED_FOR, value(through.join(", "))?);
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(self.scheme));
        let host = match headers.get(header::HOST) {
            Some(host) => host.clone(),
            None => value(authority.unwrap_or_else(|| address.to_string()))?,
        };
        headers.insert(FORWARDED_HOST, host.clone());
        headers.insert(header::HOST, host);
        if let Some(upgrade) = upgrade {
            put_upgrade(headers, upgrade);
        }
        Ok(())
    }

    /// Waits until a microVM does not run any more.
    async fn ended(&self, microvm: &str) -> Result<Ended, Refusal> {
        let ended = self.microvms.0.engine.wait(microvm, WaitCondition::NotRunning).await?;
        let ended = async move {
            ended.await;
        };
        Ok(ended.boxed().shared())
    }
}

/// Whether a request is one of gRPC (its PROTOCOL-HTTP2.md), that came as those do. What is made for browsers (`application/grpc-web`) is any other request.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let rest = kind.and_then(|kind| kind.strip_prefix("application/grpc"));
    request.version() == Version::HTTP_2 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// Makes one field of what HTTP/2 may split into several (RFC 9113, section 8.2.3): by HTTP/1.1 there is one, and some programs read the first alone.
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let crumbs: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
        let invalid = |error| Refusal(StatusCode::BAD_REQUEST, format!("the request's cookies: {error}"));
        headers.insert(header::COOKIE, joined.map_err(invalid)?);
    }
    Ok(())
}

/// The microVM that a host name is of, as `0123456789ab.localhost`: so that each has an origin of its own in a browser.
fn named<B>(request: &Request<B>) -> Option<&str> {
    let host = match request.uri().host() {
        Some(host) => host,
        None => request.headers().get(header::HOST)?.to_str().ok()?,
    };
    let (label, _) = host.split_once('.')?;
    (label.len() >= NAME_MIN && label.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(label)
}

/// Whether a path may lead to a program's hooks, however it is written: whoever reads it may decode it, and take out what leads nowhere.
fn is_a_hook(path: &str) -> bool {
    let mut decoded = percent_decode_str(path).decode_utf8_lossy().into_owned();
    // Some decode twice.
    decoded = percent_decode_str(&decoded).decode_utf8_lossy().to_ascii_lowercase();
    let mut parts = Vec::new();
    for part in decoded.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.starts_with(&["aws", "lambda-microvms", "runtime"])
}

fn empty() -> Answer {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer's body: as long as somebody reads it, something is held, as the request is under way.
struct Held<B, H> {
    body: B,
    _held: H,
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin, H: Unpin> Body for Held<B, H> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Carries what a connection has become, for as long as its microVM runs. What comes from the client counts as something asked: an open connection
/// by itself does not.
async fn pipe(client: OnUpgrade, program: OnUpgrade, activity: Arc<Activity>, run: Run) {
    let both = async {
        let (client, program) = tokio::try_join!(client, program)?;
        let mut client = Counted { stream: TokioIo::new(client), activity };
        // However it ends, both ends are closed.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut TokioIo::new(program)).await;
        Ok::<_, hyper::Error>(())
    };
    tokio::select! {
        () = run.ended.clone() => {}
        _ = both => {}
    }
}

/// A client's connection, of which it is seen when something comes.
struct Counted {
    stream: TokioIo<Upgraded>,
    activity: Arc<Activity>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.touch();
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_found_however_they_are_written() {
        for hook in [
            "/aws/lambda-microvms/runtime/v1/run",
            "//aws///lambda-microvms/./runtime/v1/run",
            "/x/../aws/lambda-microvms/runtime/v1/run",
            "/aws/lambda%2Dmicrovms%2Fruntime/v1/run",
            "/aws/lambda-microvms/%2572untime/v1/run",
            "/AWS/Lambda-MicroVMs/runtime/v1/run",
            "/aws\\lambda-microvms\\runtime",
        ] {
            assert!(is_a_hook(hook), "{hook}");
        }
        for other in
            ["/", "/aws", "/aws/lambda-microvms", "/runtime/v1/run", "/a/aws/lambda-microvms/runtime/v1", "/%ff"]
        {
            assert!(!is_a_hook(other), "{other}");
        }
    }

    #[test]
    fn what_is_grpc_is_told_from_what_is_not() {
        let of = |version, kind: &str| {
            let request = Request::builder().version(version).uri("http://there.example:90/pkg.Service/Call");
            request.header(header::CONTENT_TYPE, kind).header(header::HOST, "there.example:90").body(()).unwrap()
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
            assert!(is_grpc(&of(Version::HTTP_2, kind)) && !is_grpc(&of(Version::HTTP_11, kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", ""] {
            assert!(!is_grpc(&of(Version::HTTP_2, kind)), "{kind}");
        }
    }

    #[test]
    fn split_cookies_go_on_as_one() {
        let of = |crumbs: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.extend(crumbs.iter().map(|crumb| (header::COOKIE, HeaderValue::from_static(crumb))));
            join_cookies(&mut headers).unwrap();
            let joined: Vec<_> = headers.get_all(header::COOKIE).iter().cloned().collect();
            joined
        };
        assert_eq!(of(&["a=b", "c=d; e=f", "g=h"]), ["a=b; c=d; e=f; g=h"]);
        assert_eq!(of(&["a=b; c=d"]), ["a=b; c=d"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn a_host_name_may_name_the_microvm() {
        let of = |host: &str, uri: &str| {
            let request = Request::builder().uri(uri).header(header::HOST, host).body(()).unwrap();
            named(&request).map(str::to_owned)
        };
        assert_eq!(of("0123456789ab.localhost:4000", "/"), Some("0123456789ab".to_owned()));
        assert_eq!(of("a", "http://0123456789ab.localhost/x"), Some("0123456789ab".to_owned()));
        for other in ["127.0.0.1:4000", "localhost", "example.com", "abc.localhost", "0123456789ax.localhost"] {
            assert_eq!(of(other, "/"), None, "{other}");
        }
    }
}

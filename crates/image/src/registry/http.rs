//! One HTTP exchange: redirections followed, stalls noticed, answers bounded.

use std::error::Error as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::config::RegistryConfig;
use super::dial::{self, Connector, DialSettings, ProxyAddress};
use super::error::{RegistryError, TransportCause};
use super::reach::Reach;

const REDIRECTS_MAX: usize = 10;
const POOL_IDLE: Duration = Duration::from_secs(30);
const ERROR_BODY_MAX: u64 = 64 * 1024;

type BodyError = Box<dyn std::error::Error + Send + Sync>;
type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// The pieces of a request's body that is sent while it is made.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// A request that can be sent again, as its body is at hand.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Outgoing {
    pub(super) fn new(method: Method, url: Uri) -> Outgoing {
        Outgoing { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a header; a value that no header can have is an error of whoever sent it to us.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Result<Outgoing, RegistryError> {
        let value = HeaderValue::from_str(value).map_err(|error| RegistryError::Malformed {
            what: format!("a value for the header {name}"),
            reason: error.to_string(),
        })?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(super) fn body(mut self, body: Bytes) -> Outgoing {
        self.body = body;
        self
    }

    pub(super) fn failed(&self, cause: TransportCause) -> RegistryError {
        transport_error(&self.method, &self.url, cause)
    }
}

/// An answer whose body has not been read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Where it came from, after redirections.
    pub(super) url: Uri,
    method: Method,
    body: Incoming,
    stall: Duration,
}

/// Speaks HTTP/1.1 with one registry, over connections that are kept for a while.
pub(super) struct HttpClient {
    client: Client<Connector, RequestBody>,
    user_agent: HeaderValue,
    stall: Duration,
    proxy: super::proxy::ProxyConfig,
}

impl HttpClient {
    /// For one host, with the certificates and through the proxies that the configuration has for it. `verify`: its certificate
    /// must be right.
    pub(super) fn new(config: &RegistryConfig, host: &str, verify: bool) -> HttpClient {
        HttpClient::within(config, host, verify, None)
    }

    /// One that connects to no address out of reach, wherever it is redirected to.
    pub(super) fn within(config: &RegistryConfig, host: &str, verify: bool, reach: Option<Reach>) -> HttpClient {
        let settings = DialSettings {
            host: host.to_owned(),
            certificate_dirs: config.certificate_dirs.clone(),
            verify,
            proxy: config.proxy.clone(),
            timeout: config.connect_timeout,
            reach,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(8)
            .build(Connector::new(settings));
        let user_agent = HeaderValue::from_str(&config.user_agent).unwrap_or(HeaderValue::from_static("stratus"));
        HttpClient { client, user_agent, stall: config.stall_timeout, proxy: config.proxy.clone() }
    }

    /// Sends a request and follows where it is sent on to. Credentials never go to another host than they were meant for.
    pub(super) async fn send(&self, mut outgoing: Outgoing) -> Result<Answer, RegistryError> {
        for _ in 0..=REDIRECTS_MAX {
            let body = Full::new(outgoing.body.clone()).map_err(|never| match never {}).boxed_unsync();
            let length = outgoing.body.len() as u64;
            let answer = self.exchange(&outgoing, body, length, &Arc::default(), self.stall).await?;
            match redirection(&outgoing, &answer)? {
                Some(next) => outgoing = next,
                None => return Ok(answer),
            }
        }
        Err(outgoing.failed(TransportCause::Redirect(format!("stopped after {REDIRECTS_MAX} redirects"))))
    }

    /// Sends a request whose answer may take longer than a transfer may stand still, as the registry works on it.
    pub(super) async fn send_patiently(&self, outgoing: Outgoing) -> Result<Answer, RegistryError> {
        let body = Full::new(outgoing.body.clone()).map_err(|never| match never {}).boxed_unsync();
        let length = outgoing.body.len() as u64;
        self.exchange(&outgoing, body, length, &Arc::default(), self.stall.saturating_mul(10)).await
    }

    /// Sends a request of `length` bytes that come from a stream. Not redirected.
    pub(super) async fn send_stream(
        &self,
        outgoing: Outgoing,
        length: u64,
        pieces: Pieces,
    ) -> Result<Answer, RegistryError> {
        let moved = Arc::new(AtomicU64::new(0));
        let counter = moved.clone();
        let frames = pieces.map(move |piece| {
            piece.map(|bytes| {
                counter.fetch_add(1, Ordering::Relaxed);
                Frame::data(bytes)
            })
        });
        let body = BodyExt::boxed_unsync(StreamBody::new(frames));
        self.exchange(&outgoing, body, length, &moved, self.stall).await
    }

    async fn exchange(
        &self,
        outgoing: &Outgoing,
        body: RequestBody,
        length: u64,
        moved: &AtomicU64,
        stall: Duration,
    ) -> Result<Answer, RegistryError> {
        let request = self.request(outgoing, body, length)?;
        let mut answer = pin!(self.client.request(request));
        loop {
            let before = moved.load(Ordering::Relaxed);
            match tokio::time::timeout(stall, &mut answer).await {
                Ok(Ok(response)) => return Ok(Answer::new(outgoing, response, self.stall)),
                Ok(Err(error)) => return Err(outgoing.failed(cause_of(&error))),
                Err(_) if moved.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(outgoing.failed(TransportCause::Stalled(stall))),
            }
        }
    }

    fn request(
        &self,
        outgoing: &Outgoing,
        body: RequestBody,
        length: u64,
    ) -> Result<Request<RequestBody>, RegistryError> {
        let mut request = Request::new(body);
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = outgoing.url.clone();
        let headers = request.headers_mut();
        headers.clone_from(&outgoing.headers);
        headers.insert(header::USER_AGENT, self.user_agent.clone());
        // Some front ends refuse a request that may have a body and doesn't say its length.
        if !matches!(outgoing.method, Method::GET | Method::HEAD) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Plain requests carry the proxy's password themselves; tunnels were opened with it.
        let is_plain = outgoing.url.scheme_str() == Some("http");
        if is_plain && let Some(proxy) = self.proxy.proxy_for(&outgoing.url) {
            let proxy = ProxyAddress::parse(proxy).map_err(|cause| outgoing.failed(cause))?;
            if let Some(Ok(value)) = proxy.authorization.as_deref().map(HeaderValue::from_str) {
                headers.insert(header::PROXY_AUTHORIZATION, value);
            }
        }
        Ok(request)
    }
}

/// The request to make instead, where the answer says so.
fn redirection(outgoing: &Outgoing, answer: &Answer) -> Result<Option<Outgoing>, RegistryError> {
    let keeps_method = matches!(answer.status.as_u16(), 307 | 308);
    let is_read = matches!(outgoing.method, Method::GET | Method::HEAD);
    if !(keeps_method || is_read && matches!(answer.status.as_u16(), 301..=303)) {
        return Ok(None);
    }
    let Some(location) = answer.header(&header::LOCATION) else { return Ok(None) };
    let failed = |text: String| outgoing.failed(TransportCause::Redirect(text));
    let url = super::url::resolve(&outgoing.url, location)
        .filter(|url| url.host().is_some())
        .ok_or_else(|| failed(format!("the server redirects to {location:?}, which is no address")))?;
    if outgoing.url.scheme_str() == Some("https") && url.scheme_str() != Some("https") {
        return Err(failed(format!("the server redirects to {url}, which is not protected by TLS")));
    }
    let mut next = outgoing.clone();
    if url.authority() != outgoing.url.authority() {
        // A token is bought with a secret in the body.
        if outgoing.method == Method::POST && !outgoing.body.is_empty() {
            return Err(failed(format!(
                "the server redirects to {url}, which may not have what was meant for it alone"
            )));
        }
        next.headers.remove(header::AUTHORIZATION);
    }
    next.url = url;
    Ok(Some(next))
}

impl Answer {
    fn new(outgoing: &Outgoing, response: Response<Incoming>, stall: Duration) -> Answer {
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status, head.headers);
        Answer { status, headers, url: outgoing.url.clone(), method: outgoing.method.clone(), body, stall }
    }

    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn number(&self, name: &HeaderName) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let cause = match tokio::time::timeout(self.stall, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => continue,
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => continue,
                },
                Ok(Some(Err(error))) => cause_of_hyper(&error),
                Err(_) => TransportCause::Stalled(self.stall),
            };
            return Err(transport_error(&self.method, &self.url, cause));
        }
    }

    /// The whole body, where it has at most `limit` bytes.
    pub(super) async fn bytes(&mut self, what: &str, limit: u64) -> Result<Bytes, RegistryError> {
        let too_large = || RegistryError::TooLarge { what: what.to_owned(), limit };
        if self.number(&header::CONTENT_LENGTH).is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            if (whole.len() + piece.len()) as u64 > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads the reason for which a request was refused.
    pub(super) async fn refusal(mut self) -> RegistryError {
        let retry_after = self.header(&header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        let status = self.status;
        // A reason that can't be read leaves the status, which says enough.
        let body = self.bytes("error", ERROR_BODY_MAX).await.unwrap_or_default();
        let refusal = super::refusal::parse(status, &self.headers, &body);
        RegistryError::Refused { status: status.as_u16(), refusal, retry_after: retry_after.map(Duration::from_secs) }
    }
}

fn transport_error(method: &Method, url: &Uri, cause: TransportCause) -> RegistryError {
    let mut name = method.as_str().to_lowercase();
    name[..1].make_ascii_uppercase();
    RegistryError::Transport { method: name, url: url.to_string(), cause }
}

fn cause_of(error: &legacy::Error) -> TransportCause {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(cause) = inner.downcast_ref::<TransportCause>() {
            return cause.clone();
        }
        if let Some(hyper) = inner.downcast_ref::<hyper::Error>() {
            return cause_of_hyper(hyper);
        }
        source = inner.source();
    }
    TransportCause::Other(error.to_string())
}

fn cause_of_hyper(error: &hyper::Error) -> TransportCause {
    if error.is_incomplete_message() {
        return TransportCause::Closed;
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::UnexpectedEof => TransportCause::Closed,
                _ => TransportCause::Other(dial::reason(io)),
            };
        }
        source = inner.source();
    }
    TransportCause::Other(error.to_string())
}

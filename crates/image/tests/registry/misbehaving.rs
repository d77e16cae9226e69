//! A registry in the test itself, which does to requests what the test tells it to.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use crate::fixture::Fixture;
use image::media_type;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn query(&self, name: &str) -> Vec<String> {
        let pairs = self.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| unescape(value)).collect()
    }
}

pub(crate) fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
        plain.push_str(&part[2..]);
    }
    plain
}

/// What the registry does with a request.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Ends the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Reply {
        self.cut = Some(bytes);
        self
    }
}

type Behaviour = Arc<dyn Fn(&Seen, usize) -> Option<Reply> + Send + Sync>;

/// A registry that serves one fixture as the image `x:latest` in every repository, unless told otherwise.
pub(crate) struct Misbehaving {
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Misbehaving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Misbehaving {
    /// `behave` is asked first, with the request and how many like it (method and path) came before it.
    pub(crate) async fn start(
        fixture: &Fixture,
        behave: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Misbehaving {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (fixture, behave): (_, Behaviour) = (Arc::new(fixture.clone()), Arc::new(behave));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (fixture, behave, log) = (fixture.clone(), behave.clone(), log.clone());
                let service = service_fn(move |request| {
                    let (fixture, behave, log) = (fixture.clone(), behave.clone(), log.clone());
                    async move { Ok::<_, Infallible>(answer(request, &fixture, &behave, &log).await) }
                });
                // A connection that ends early is what such a registry is for.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Misbehaving { host, seen, task }
    }

    pub(crate) fn name(&self, rest: &str) -> image::Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    /// The requests of one kind so far.
    pub(crate) fn seen(&self, method: &Method, part: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.method == *method && seen.path().contains(part)).cloned().collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    fixture: &Fixture,
    behave: &Behaviour,
    log: &Mutex<Vec<Seen>>,
) -> Response<CutBody> {
    let (head, body) = request.into_parts();
    let body =
        http_body_util::BodyExt::collect(body).await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let seen = Seen { method: head.method, uri: head.uri, headers: head.headers, body };
    let before = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|one| one.method == seen.method && one.path() == seen.path()).count();
        log.push(seen.clone());
        before
    };
    let reply = behave(&seen, before).unwrap_or_else(|| behaved(&seen, fixture));
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let length = reply.body.len();
    if seen.method == Method::HEAD {
        return response.header("content-length", length).body(CutBody::whole(Bytes::new())).unwrap();
    }
    let mut body = CutBody::whole(reply.body.into());
    if let Some(cut) = reply.cut {
        body.rest.truncate(cut);
        body.is_cut = true;
    }
    response.header("content-length", length).body(body).unwrap()
}

/// What a registry should answer.
pub(crate) fn behaved(seen: &Seen, fixture: &Fixture) -> Reply {
    let path = seen.path();
    if path == "/v2/" {
        return Reply::new(200, "{}");
    }
    let (_, rest) = path.trim_start_matches("/v2/").split_once('/').unwrap_or_default();
    if let Some(version) = rest.strip_prefix("manifests/") {
        return match version == "latest" || version == fixture.digest().to_string() {
            true => Reply::new(200, fixture.manifest.clone())
                .with("content-type", media_type::OCI_MANIFEST)
                .with("docker-content-digest", fixture.digest().to_string()),
            false => missing("MANIFEST_UNKNOWN", "manifest unknown"),
        };
    }
    let Some(digest) = rest.strip_prefix("blobs/") else { return missing("UNSUPPORTED", "what?") };
    let Some(blob) = digest.parse().ok().and_then(|digest| fixture.blobs.get(&digest)) else {
        return missing("BLOB_UNKNOWN", "blob unknown to registry");
    };
    let start =
        seen.header("range").map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
    match start {
        None => Reply::new(200, blob.clone()),
        Some(start) => Reply::new(206, &blob[start..])
            .with("content-range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
    }
}

pub(crate) fn missing(code: &str, message: &str) -> Reply {
    refused(404, code, message)
}

pub(crate) fn refused(status: u16, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
    Reply::new(status, body.to_string()).with("content-type", "application/json")
}

/// A body that may end in an error, which ends the connection.
struct CutBody {
    rest: Bytes,
    is_cut: bool,
    /// How often the server is asked to come back, as it sends what it has each time, before the end.
    patience: usize,
}

impl CutBody {
    fn whole(rest: Bytes) -> CutBody {
        CutBody { rest, is_cut: false, patience: 1000 }
    }
}

impl Body for CutBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if !self.rest.is_empty() {
            let length = self.rest.len().min(64 * 1024);
            return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))));
        }
        if self.is_cut && self.patience > 0 {
            self.patience -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.is_cut.then(|| Err(std::io::Error::other("cut"))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && !self.is_cut
    }
}

//! One request on its way to a handler.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::{ByteStream, Engine};
use futures_util::{FutureExt, StreamExt, stream};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use microvms::Microvms;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::Door;
use crate::decode;
use crate::error::{ApiError, Result};
use crate::hijack::Hijacker;
use crate::query::Query;
use crate::version::ApiVersion;

/// The longest JSON body that is read, in bytes. dockerd has no limit; nothing a client sends comes near this one.
const BODY_LIMIT: usize = 8 << 20;
/// How long a client may send nothing in the middle of a JSON body: as long as in the middle of a head.
const BODY_STALL: Duration = Duration::from_secs(300);
/// How long the rest of a body is read that nobody wants.
const UNWANTED: Duration = Duration::from_secs(10);

/// One request: what it asks of which thing, in which version of the API.
pub(crate) struct Call {
    pub(crate) door: Arc<Door>,
    pub(crate) version: ApiVersion,
    /// What stands in the path where the route has a place for a name; empty where it has none.
    pub(crate) name: String,
    pub(crate) query: Query,
    pub(crate) parts: Parts,
    pub(crate) body: Incoming,
    pub(crate) hijacker: Hijacker,
    /// The daemon stops: what would go on for ever ends now.
    pub(crate) shutdown: CancellationToken,
}

impl Call {
    /// The engine.
    pub(crate) fn engine(&self) -> &Engine {
        &self.door.engine
    }

    /// Images of microVMs, and the microVMs.
    pub(crate) fn microvms(&self) -> &Microvms {
        &self.door.microvms
    }

    /// The request's headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// A header's text; empty where it is not given.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The JSON body; `None` where it is empty.
    ///
    /// # Errors
    /// 400 for everything that is not JSON of a `T`, 413 for too much of it.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let bytes = self.bytes().await?;
        decode::body(&self.parts.headers, &bytes)
    }

    /// The JSON body, or a `T` as it is without one.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T> {
        Ok(self.json().await?.unwrap_or_default())
    }

    /// The whole body, up to the limit for JSON.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes> {
        let too_large = || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "http: request body too large");
        let stalled = || ApiError::new(StatusCode::REQUEST_TIMEOUT, "the rest of the request's body did not come");
        let mut bytes = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(BODY_STALL, self.body.frame()).await;
            let Some(frame) = frame.map_err(|_| stalled())? else { break };
            let frame = frame.map_err(|error| ApiError::bad_request(format!("reading the request's body: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > BODY_LIMIT {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    }

    /// The body piece by piece, for archives of any size.
    pub(crate) fn into_stream(self) -> ByteStream {
        self.into_upload().0
    }

    /// The same, and what ends when the client has nothing more to send. The docker client that is answered before, as
    /// dockerd does it, complains of every file that it could not send, one time in three; reading what comes once the
    /// answer is out does not spare it that.
    pub(crate) fn into_upload(self) -> (ByteStream, impl Future<Output = ()> + Send) {
        let (read, was_read) = oneshot::channel::<()>();
        let upload = Upload { body: Some(self.body), read: Some(read), runtime: Handle::current() };
        let frames = stream::unfold(upload, |mut upload| async {
            let frame = upload.body.as_mut()?.frame().await?;
            Some((frame, upload))
        });
        let pieces = frames.filter_map(|frame| {
            std::future::ready(match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(engine::Error::invalid(format!("reading the request's body: {error}")))),
            })
        });
        (ByteStream::new(Box::pin(pieces)), was_read.map(drop))
    }
}

/// A body that is read to its end also where nobody wants the rest: a client that is still sending loses the answer
/// together with the connection.
struct Upload {
    body: Option<Incoming>,
    /// Dropped once there is nothing more to read.
    read: Option<oneshot::Sender<()>>,
    runtime: Handle,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        let read = self.read.take();
        let rest = async move {
            let _read = read;
            while let Some(Ok(_)) = body.frame().await {}
        };
        self.runtime.spawn(tokio::time::timeout(UNWANTED, rest));
    }
}

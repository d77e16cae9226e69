//! Bodies of responses, and the responses that handlers build most.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, Result};

/// The body of a response: nothing, known bytes, or a stream that is sent piece by piece as it comes.
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// Known bytes.
    Full(Bytes),
    /// Pieces, each flushed when no further piece is ready. A failure breaks the connection off, so that the client
    /// can't take what came for the whole.
    Stream(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>),
}

impl Body {
    /// The same, but for a stream that would go on when `end` comes.
    pub(crate) fn until(self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        match self {
            Self::Stream(stream) => Self::Stream(Box::pin(stream.take_until(Box::pin(end)))),
            known => known,
        }
    }
}

/// A response as handlers return it.
pub(crate) type Response = http::Response<Body>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => stream.poll_next_unpin(cx).map(|next| next.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A value as one line of JSON, with the line feed that Go's encoder adds.
pub(crate) fn json_line<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    let mut buffer = BytesMut::with_capacity(256).writer();
    serde_json::to_writer(&mut buffer, value).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut line = buffer.into_inner();
    line.put_u8(b'\n');
    Ok(line.freeze())
}

/// A response with JSON.
pub(crate) fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Result<Response> {
    Ok(with_type(status, JSON, Body::Full(json_line(value)?)))
}

/// 200 with JSON.
pub(crate) fn ok_json<T: Serialize + ?Sized>(value: &T) -> Result<Response> {
    json(StatusCode::OK, value)
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = http::Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// 204.
pub(crate) fn no_content() -> Response {
    empty(StatusCode::NO_CONTENT)
}

/// A response with a content type.
pub(crate) fn with_type(status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// 200 with a stream of pieces.
pub(crate) fn stream(content_type: &'static str, pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::Stream(Box::pin(pieces.map(Ok)));
    with_type(StatusCode::OK, HeaderValue::from_static(content_type), body)
}

/// As [`stream`], broken off when the daemon stops: what is followed goes on, and a client must not take this for its end.
pub(crate) fn stream_until(
    shutdown: &CancellationToken,
    content_type: &'static str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    let stops = shutdown.clone();
    let broken = futures_util::stream::poll_fn(move |_| {
        Poll::Ready(stops.is_cancelled().then(|| Err(io::Error::other("the daemon stops"))))
    });
    let pieces = pieces.map(Ok).take_until(shutdown.clone().cancelled_owned()).chain(broken.take(1));
    with_type(StatusCode::OK, HeaderValue::from_static(content_type), Body::Stream(Box::pin(pieces)))
}

/// 200 with a stream that may fail on the way.
pub(crate) fn archive(content_type: &'static str, bytes: engine::ByteStream) -> Response {
    let pieces = futures_util::stream::unfold(Some(bytes), |bytes| async {
        let mut bytes = bytes?;
        match bytes.next().await? {
            Ok(piece) => Some((Ok(piece), Some(bytes))),
            Err(error) => {
                tracing::warn!(%error, "an archive broke off");
                Some((Err(io::Error::other(error)), None))
            }
        }
    });
    with_type(StatusCode::OK, HeaderValue::from_static(content_type), Body::Stream(Box::pin(pieces)))
}

/// The response that tells a failure.
pub(crate) fn failure(error: &ApiError) -> Response {
    #[derive(Serialize)]
    struct Message<'a> {
        message: &'a str,
    }
    if error.status() == StatusCode::NOT_MODIFIED {
        return empty(error.status());
    }
    json(error.status(), &Message { message: error.message() }).unwrap_or_else(|_| empty(error.status()))
}

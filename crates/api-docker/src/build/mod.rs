//! `POST /build`: a context comes in, what is done is told in the classic builder's words, and an image comes of it.

pub(crate) mod cache;
mod request;
mod words;

use ::build::{Events, Progress};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::progress::Message;
use request::Parameters;
use words::Words;

/// `POST /build`
pub(crate) async fn build(call: Call) -> Result<Response> {
    let parameters = Parameters::read(&call)?;
    let (builder, shutdown) = (call.door.builder.clone(), call.shutdown.clone());
    let name = parameters.dockerfile.clone();
    let id = parameters.id.as_ref().map(|id| builder.named(id));
    let received = match &parameters.remote {
        Some(address) => builder.fetch(address, &name, &parameters.given, None).await,
        None => {
            let receiving = builder.clone();
            let archive = call.into_stream().into_reader();
            let received = tokio::task::spawn_blocking(move || receiving.receive(archive, &name)).await;
            received.map_err(|e| ApiError::internal(e.to_string()))?
        }
    };
    let received = received.map_err(refused)?;
    let (quiet, push) = (parameters.quiet, parameters.push);
    let request = parameters.request(received);
    let (progress, events) = Progress::channel();
    let task = Task(tokio::spawn(async move {
        let build = builder.build(request, push, progress);
        match id {
            Some(id) => id.unless_ended(build).await,
            None => build.await,
        }
    }));
    let mut teller = Teller { words: Words::new(quiet), events, task: Some(task), shutdown };
    // What is wrong with the file or the request is told as the answer's status.
    let Some(first) = teller.next().await? else { return Ok(body::stream("application/json", stream::empty())) };
    let rest = stream::unfold(Some(teller), |teller| async {
        let mut teller = teller?;
        match teller.next().await {
            Ok(Some(piece)) => Some((piece, Some(teller))),
            Ok(None) => None,
            Err(error) => Some((line(&Message::failure(&error)), None)),
        }
    });
    Ok(body::stream("application/json", stream::once(std::future::ready(first)).chain(rest)))
}

/// `POST /build/cancel`: ends the builds that were begun with that `buildid`. A name that none has is no error, as with dockerd.
pub(crate) async fn cancel(call: Call) -> Result<Response> {
    let id = call.query.given("id").ok_or_else(|| ApiError::bad_request("build ID not provided"))?;
    call.door.builder.cancel(id);
    Ok(body::empty(StatusCode::OK))
}

/// `POST /session`
pub(crate) async fn session(_: Call) -> Result<Response> {
    Err(ApiError::not_implemented(
        "stratus has no BuildKit sessions: build with DOCKER_BUILDKIT=0, which takes the same Dockerfiles",
    ))
}

/// What a build says that failed before anything was done.
pub(crate) fn refused(error: ::build::Error) -> ApiError {
    match error {
        ::build::Error::Language(mistakes) => {
            // The first line is what clients and people know.
            let first = mistakes.iter().next();
            let first = first
                .map(|first| format!("dockerfile parse error line {}: {}", first.span.start.line, first.summary()));
            ApiError::bad_request(format!("{}\n{mistakes}", first.unwrap_or_default()))
        }
        error if error.is_invalid() => ApiError::bad_request(error.to_string()),
        error => ApiError::internal(error.to_string()),
    }
}

/// A build that is given up with its client.
struct Task(JoinHandle<::build::Result<::build::Built>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Turns what a build tells into pieces of the answer.
struct Teller {
    words: Words,
    events: Events,
    task: Option<Task>,
    /// The daemon stops: the build is given up, and its client told.
    shutdown: CancellationToken,
}

impl Teller {
    /// The next piece; `None` after the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                self.task = None;
                let message = "the build was given up, as the daemon is being stopped: build again once one runs";
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message))
            }
            piece = self.piece() => piece,
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        while let Some(told) = self.events.recv().await {
            let mut piece = BytesMut::new();
            self.words.event(told.event).iter().for_each(|message| piece.put(line(message)));
            // What is there already goes with it.
            while let Some(told) = self.events.try_recv() {
                self.words.event(told.event).iter().for_each(|message| piece.put(line(message)));
            }
            if !piece.is_empty() {
                return Ok(Some(piece.freeze()));
            }
        }
        let Some(mut task) = self.task.take() else { return Ok(None) };
        let mut piece = BytesMut::new();
        match (&mut task.0).await {
            Ok(Ok(built)) => self.words.built(&built).iter().for_each(|message| piece.put(line(message))),
            Ok(Err(error)) if !self.words.began() => return Err(refused(error)),
            Ok(Err(error)) => self.words.failed(&error).iter().for_each(|message| piece.put(line(message))),
            Err(error) => {
                let message = format!("the build was given up: {error}");
                return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message));
            }
        }
        Ok(Some(piece.freeze()))
    }
}

fn line(message: &Message) -> Bytes {
    let mut piece = BytesMut::new();
    message.put(&mut piece);
    piece.freeze()
}

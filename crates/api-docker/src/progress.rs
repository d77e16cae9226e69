//! Streams that tell how far something is: lines of JSON in dockerd's words, as `docker pull` and its like show them.
//!
//! The work runs in a task of its own and never waits for the client: its events are put into a queue, in which a
//! counter's newer value takes the older one's place, so that the queue has an end. What is in the queue is sent at
//! most ten times a second. A client that goes away ends the work, which can be taken up again later.

mod bar;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use image::{Phase, Progress, ProgressEvent};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::body::{self, Response};
use crate::error::{ApiError, Result};
pub(crate) use bar::Counter;

/// Between two writes while only counters move.
const INTERVAL: Duration = Duration::from_millis(100);

/// One line of such a stream. Absent fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<Counter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub(crate) error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aux: Option<serde_json::Value>,
}

/// A failure in the middle of a stream, whose status has long been sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ErrorDetail {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    message: String,
}

impl ErrorDetail {
    /// Of a command that ended with a code.
    pub(crate) fn with_code(message: String, code: Option<i32>) -> Self {
        Self { code, message }
    }
}

impl Message {
    /// A line of text.
    pub(crate) fn status(text: impl Into<String>) -> Self {
        Self { status: Some(text.into()), ..Self::default() }
    }

    /// A line of text about one thing.
    pub(crate) fn status_of(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::status(text) }
    }

    /// Text that is shown as it is.
    pub(crate) fn stream(text: impl Into<String>) -> Self {
        Self { stream: Some(text.into()), ..Self::default() }
    }

    /// How far something is that has no name; of 0 bytes where nobody knows of how many.
    pub(crate) fn counting(words: &str, current: u64, total: u64) -> Self {
        let counter = Counter { current, total };
        Self { detail: Some(counter), progress: counter.bar(), ..Self::status(words) }
    }

    /// A result for programs.
    pub(crate) fn aux(value: serde_json::Value) -> Self {
        Self { detail: Some(Counter::default()), aux: Some(value), ..Self::default() }
    }

    /// A failure.
    pub(crate) fn failure(error: &ApiError) -> Self {
        let message = error.message().to_owned();
        Self {
            error_detail: Some(ErrorDetail::with_code(message.clone(), None)),
            error: Some(message),
            ..Self::default()
        }
    }

    pub(crate) fn put(&self, piece: &mut BytesMut) {
        let mut writer = piece.writer();
        // Nothing in a message can fail to be JSON, and a buffer in memory takes everything.
        if serde_json::to_writer(&mut writer, self).is_ok() {
            piece.put_slice(b"\r\n");
        }
    }
}

impl From<ProgressEvent> for Message {
    fn from(event: ProgressEvent) -> Self {
        let (words, counter) = words(&event.phase);
        let id = Some(event.id).filter(|id| !id.is_empty());
        Self { id, ..Self::counting(&words, counter.current, counter.total) }
    }
}

/// dockerd's words for a step, and its counter.
fn words(phase: &Phase) -> (String, Counter) {
    let none = Counter::default();
    let count = |current: u64, total: u64| Counter { current, total };
    let (words, counter) = match phase {
        Phase::PullingFsLayer => ("Pulling fs layer", none),
        Phase::Waiting => ("Waiting", none),
        Phase::Downloading { current, total } => ("Downloading", count(*current, *total)),
        Phase::Retrying { seconds } => {
            let plural = if *seconds == 1 { "" } else { "s" };
            return (format!("Retrying in {seconds} second{plural}"), none);
        }
        Phase::VerifyingChecksum => ("Verifying Checksum", none),
        Phase::DownloadComplete => ("Download complete", none),
        Phase::Extracting { current, total } => ("Extracting", count(*current, *total)),
        Phase::PullComplete => ("Pull complete", none),
        Phase::AlreadyExists => ("Already exists", none),
        Phase::Preparing => ("Preparing", none),
        Phase::Pushing { current, total } => ("Pushing", count(*current, *total)),
        Phase::Pushed => ("Pushed", none),
        Phase::LayerAlreadyExists => ("Layer already exists", none),
        Phase::Mounted { from } => return (format!("Mounted from {from}"), none),
        Phase::Loading { current, total } => ("Loading layer", count(*current, *total)),
        Phase::Importing { current, total } => ("Importing", count(*current, *total)),
        Phase::Loaded => ("Loaded", none),
    };
    (words.to_owned(), counter)
}

/// Whether an event only moves a counter, so that a newer one makes it needless.
fn is_counter(phase: &Phase) -> bool {
    use Phase::{Downloading, Extracting, Importing, Loading, Pushing};
    matches!(phase, Downloading { .. } | Extracting { .. } | Pushing { .. } | Loading { .. } | Importing { .. })
}

/// What waits to be sent.
#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<ProgressEvent>>,
    changed: Notify,
    /// The work has ended.
    ended: AtomicBool,
}

impl Queue {
    fn push(&self, event: ProgressEvent) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |other: &&mut ProgressEvent| other.id == event.id;
        match waiting.iter_mut().rev().find(same) {
            Some(last)
                if is_counter(&event.phase)
                    && std::mem::discriminant(&last.phase) == std::mem::discriminant(&event.phase) =>
            {
                last.phase = event.phase;
            }
            _ => waiting.push_back(event),
        }
        self.changed.notify_one();
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn take(&self) -> VecDeque<ProgressEvent> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is said before the first event, and after the work.
pub(crate) struct Words<T> {
    /// Said at once, before anything is known: then every failure is told in the stream.
    pub(crate) first: Vec<Message>,
    /// Said before the first event.
    pub(crate) before_events: Vec<Message>,
    /// Whether events are told at all.
    pub(crate) events: bool,
    /// Said of what the work came to.
    pub(crate) last: fn(T) -> Vec<Message>,
}

/// Runs `work`, and tells its progress.
///
/// # Errors
/// The work's own, where it fails before it has told anything.
pub(crate) async fn respond<T, F>(
    shutdown: &CancellationToken,
    words: Words<T>,
    work: impl FnOnce(Progress) -> F,
) -> Result<Response>
where
    T: Send + 'static,
    F: Future<Output = engine::Result<T>> + Send + 'static,
{
    let queue = Arc::new(Queue::default());
    let progress = if words.events {
        let queue = queue.clone();
        Progress::new(move |event| queue.push(event))
    } else {
        Progress::none()
    };
    let (work, end) = (work(progress), queue.clone());
    let task = AbortOnDrop(tokio::spawn(async move {
        let result = work.await;
        end.end();
        result
    }));
    let mut teller = Teller { queue, task: Some(task), before_events: words.before_events, last: words.last };
    let mut first = BytesMut::new();
    words.first.iter().for_each(|message| message.put(&mut first));
    if first.is_empty() {
        match teller.next().await? {
            Some(piece) => first.put(piece),
            None => return Ok(body::stream("application/json", stream::empty())),
        }
    }
    let rest = stream::unfold(Some(teller), |teller| async {
        let mut teller = teller?;
        match teller.next().await {
            Ok(Some(piece)) => {
                if teller.task.is_some() {
                    teller.rest().await;
                }
                Some((piece, Some(teller)))
            }
            Ok(None) => None,
            Err(error) => {
                let mut piece = teller.drain();
                Message::failure(&error).put(&mut piece);
                Some((piece.freeze(), None))
            }
        }
    });
    let pieces = futures_util::StreamExt::chain(stream::once(std::future::ready(first.freeze())), rest);
    Ok(body::stream_until(shutdown, "application/json", pieces))
}

/// Work whose end nobody waits for any more is given up.
struct AbortOnDrop<T>(JoinHandle<engine::Result<T>>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Turns events and the end of the work into pieces of the stream.
struct Teller<T> {
    queue: Arc<Queue>,
    task: Option<AbortOnDrop<T>>,
    before_events: Vec<Message>,
    last: fn(T) -> Vec<Message>,
}

impl<T: Send + 'static> Teller<T> {
    /// The next piece; `None` after the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let ended = loop {
            let Some(task) = &mut self.task else { return Ok(None) };
            tokio::select! {
                biased;
                ended = &mut task.0 => break ended,
                () = self.queue.changed.notified() => {}
            }
            let piece = self.drain();
            if !piece.is_empty() {
                return Ok(Some(piece.freeze()));
            }
        };
        self.task = None;
        let result = match ended {
            Ok(result) => result?,
            Err(error) => return Err(ApiError::internal(format!("the work was given up: {error}"))),
        };
        let mut piece = self.drain();
        std::mem::take(&mut self.before_events).iter().for_each(|message| message.put(&mut piece));
        (self.last)(result).iter().for_each(|message| message.put(&mut piece));
        Ok(Some(piece.freeze()))
    }

    /// Everything that waits.
    fn drain(&mut self) -> BytesMut {
        let mut piece = BytesMut::new();
        let waiting = self.queue.take();
        if !waiting.is_empty() {
            std::mem::take(&mut self.before_events).iter().for_each(|message| message.put(&mut piece));
        }
        waiting.into_iter().for_each(|event| Message::from(event).put(&mut piece));
        piece
    }

    /// Lets a while go by, unless the work ends before.
    async fn rest(&mut self) {
        let until_end = async {
            while !self.queue.ended.load(Ordering::Acquire) {
                self.queue.changed.notified().await;
            }
        };
        let _ = tokio::time::timeout(INTERVAL, until_end).await;
        // What came in the meantime must not wait for what comes next.
        self.queue.changed.notify_one();
    }
}

#[cfg(test)]
mod tests;

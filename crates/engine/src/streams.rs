//! Output and input of processes as the engine's callers see them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use image::pace;
use image::stream::{BodyReader, ResponseReceiver, ResponseWriter};

use crate::model::Timestamp;
use crate::{Error, Result};

/// Pieces of a client's that are read before anybody asks for them.
const AHEAD: usize = 4;

/// Which of a process's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output; all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a process's output, as it was written.
#[derive(Clone, Debug)]
pub struct OutputChunk {
    /// Where it was written.
    pub stream: OutputStream,
    /// What was written.
    pub bytes: Bytes,
}

/// What a caller wants of an attachment.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// Wants to write to standard input.
    pub stdin: bool,
    /// Wants standard output.
    pub stdout: bool,
    /// Wants standard error.
    pub stderr: bool,
    /// What was logged so far comes first.
    pub logs: bool,
    /// Live output follows.
    pub stream: bool,
    /// Keys that end the attachment and leave the process alone; `None`: ctrl-p, ctrl-q.
    pub detach_keys: Option<String>,
}

/// Which lines of a log.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Lines to come follow, until the container ends.
    pub follow: bool,
    /// Lines from then on.
    pub since: Option<Timestamp>,
    /// Lines until then.
    pub until: Option<Timestamp>,
    /// The last so many lines; `None`: all.
    pub tail: Option<usize>,
}

/// A line of a log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// Where it was written.
    pub stream: OutputStream,
    /// When it was read.
    pub time: Timestamp,
    /// The line, with its line feed where it had one.
    pub bytes: Bytes,
    /// Attributes of the log driver (labels, env).
    pub attributes: Vec<(String, String)>,
}

/// Bytes that come piece by piece.
pub struct ByteStream(Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>);

impl ByteStream {
    /// From any stream of pieces.
    pub fn new(stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// What `work` writes, on a thread that the client who takes it may hold up. Its failure is the last piece.
    pub(crate) fn produced(
        thread: pace::Thread,
        work: impl FnOnce(ResponseWriter) -> Result<()> + Send + 'static,
    ) -> Self {
        let (writer, pieces) = image::stream::response(thread.pace());
        let worker = tokio::spawn(thread.run(move || work(writer)));
        Self::until_done(pieces, async move {
            match worker.await {
                Ok(done) => done.map_err(crate::images::error).flatten(),
                Err(lost) => Err(Error::system(lost.to_string())),
            }
        })
    }

    /// The pieces, then the failure of whoever made them, if there was one.
    fn until_done(pieces: ResponseReceiver, done: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        let state = (pieces, Some(Box::pin(done)));
        Self::new(futures_util::stream::unfold(state, |(mut pieces, mut done)| async move {
            if let Some(piece) = pieces.next().await {
                return Some((Ok(piece), (pieces, done)));
            }
            match done.take()?.await {
                Ok(()) => None,
                Err(error) => Some((Err(error), (pieces, None))),
            }
        }))
    }

    /// The same bytes, which break off when `end` comes, with what it says.
    pub(crate) fn until(self, end: impl Future<Output = Error> + Send + 'static) -> Self {
        let state = Some((self, Box::pin(end)));
        Self::new(futures_util::stream::unfold(state, |state| async move {
            let (mut stream, mut end) = state?;
            tokio::select! {
                biased;
                reason = &mut end => Some((Err(reason), None)),
                piece = stream.next() => piece.map(|piece| (piece, Some((stream, end)))),
            }
        }))
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.0.next().await
    }

    /// The same bytes, which break off where the client sends nothing for longer than `pace` allows: also while nobody reads them
    /// yet, as a task reads a little ahead.
    pub(crate) fn paced(mut self, pace: pace::Pace) -> Self {
        // An end is told as `None`: a task that is lost is no end.
        let (to, from) = tokio::sync::mpsc::channel(AHEAD);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = pace.unless_stalled(self.next()) => next,
                    // Where nobody wants more, nobody waits for a client that sends none.
                    () = to.closed() => return,
                };
                let piece = match next {
                    Some(piece) => piece,
                    None => {
                        tracing::info!("a client is given up that sends nothing while others wait");
                        Some(Err(Error::invalid("the client sent nothing for a while, and others wait")))
                    }
                };
                let last = !matches!(piece, Some(Ok(_)));
                if to.send(piece).await.is_err() || last {
                    return;
                }
            }
        });
        Self::new(futures_util::stream::unfold(Some(from), |from| async move {
            let mut from = from?;
            match from.recv().await {
                Some(Some(Ok(bytes))) => Some((Ok(bytes), Some(from))),
                Some(Some(Err(error))) => Some((Err(error), None)),
                Some(None) => None,
                None => Some((Err(Error::system("whoever read from the client was lost")), None)),
            }
        }))
    }

    /// The same bytes for a thread that reads them, and their failure.
    pub fn into_reader(mut self) -> BodyReader {
        let (sender, reader) = image::stream::body();
        tokio::spawn(async move {
            loop {
                let piece = tokio::select! {
                    piece = self.next() => piece,
                    () = sender.unwanted() => return,
                };
                match piece {
                    None => return sender.finish().await,
                    Some(Ok(bytes)) => {
                        if !sender.send(bytes).await {
                            return;
                        }
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a body broke off");
                        return sender.fail(error).await;
                    }
                }
            }
        });
        reader
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

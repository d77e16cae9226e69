//! Archives between threads that read and write them and the connection.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use image::stream::BodyReader;
use tokio::runtime::Handle;

use super::error::{Error, Result};
use super::request::Body;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait.
const QUEUE: usize = 4;

/// A body that a thread writes.
pub(super) struct Upload {
    failure: Arc<Mutex<Option<Error>>>,
}

/// Where the thread writes it.
pub(super) struct Sink {
    sender: Sender<Bytes, io::Error>,
    runtime: Handle,
    piece: Vec<u8>,
}

impl Upload {
    /// Runs `write` in a thread. Where it fails, the request breaks off, so that the daemon never takes what was
    /// written so far for all of it.
    pub(super) fn new(write: impl FnOnce(&mut Sink) -> Result<()> + Send + 'static) -> (Upload, Body) {
        let (sender, channel) = Channel::new(QUEUE);
        let failure = Arc::new(Mutex::new(None));
        let (runtime, theirs) = (Handle::current(), Arc::clone(&failure));
        tokio::task::spawn_blocking(move || {
            let mut sink = Sink { sender, runtime, piece: Vec::new() };
            let outcome = write(&mut sink).and_then(|()| sink.flush().map_err(Error::io("sending the archive")));
            if let Err(error) = outcome {
                let broken = io::Error::other(error.to_string());
                // A daemon that takes no more has said why.
                if !matches!(&error, Error::Io(_, cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
                    *theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                sink.sender.abort(broken);
            }
        });
        (Upload { failure }, channel.boxed_unsync())
    }

    /// What the request came to: where the thread failed, that is why the request did.
    pub(super) fn outcome<T>(&self, outcome: Result<T>) -> Result<T> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(failure) => Err(failure),
            None => outcome,
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.runtime.block_on(self.sender.send_data(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The body of an answer, as a thread reads it. Where the connection breaks, the thread sees an error, not an end.
pub(super) fn download(response: Response<Incoming>) -> BodyReader {
    let (sender, reader) = image::stream::body();
    tokio::spawn(async move {
        let mut body = response.into_body();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if !sender.send(data).await {
                        return;
                    }
                }
                Some(Err(_)) => return,
                None => return sender.finish().await,
            }
        }
    });
    reader
}

/// Runs something that blocks.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::Failed(format!("the work was given up: {error}"))),
    }
}

//! Streams between asynchronous tasks and the threads that read and write archives.

use bytes::{Buf as _, Bytes};
use std::io::{self, Read, Write};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::pace::Pace;

/// Pieces that wait.
const QUEUE: usize = 16;

/// Bytes of an outgoing piece.
const PIECE: usize = 64 << 10;

/// A stream from a task to a thread: what a client sends. The thread sees an error, not an end, where the sender is
/// dropped without [`BodySender::finish`], and the reason where [`BodySender::fail`] gave one.
pub fn body() -> (BodySender, BodyReader) {
    let (to, from) = mpsc::channel(QUEUE);
    (BodySender(to), BodyReader { from, present: Bytes::new(), ended: false })
}

/// A stream from a thread to a task: what a client is sent. The writer fails where the client takes nothing for longer
/// than `pace` allows. Made in the context of a runtime.
pub fn response(pace: Pace) -> (ResponseWriter, ResponseReceiver) {
    let (to, from) = mpsc::channel(QUEUE);
    (ResponseWriter { to, pace, runtime: Handle::current(), piece: Vec::new() }, ResponseReceiver(from))
}

/// The task's end of [`body`].
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<Piece>);

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
    Failed(String),
}

impl BodySender {
    /// Sends the next bytes; waits for the thread. `false` where nobody reads any more.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Comes when nobody reads any more.
    pub async fn unwanted(&self) {
        self.0.closed().await;
    }

    /// Says that this was all.
    pub async fn finish(self) {
        let _ = self.0.send(Piece::End).await;
    }

    /// Says why no more comes, and that it was not all.
    pub async fn fail(self, reason: impl std::fmt::Display) {
        let _ = self.0.send(Piece::Failed(reason.to_string())).await;
    }
}

/// The thread's end of [`body`]. Blocks while nothing has come.
#[derive(Debug)]
pub struct BodyReader {
    from: mpsc::Receiver<Piece>,
    present: Bytes,
    ended: bool,
}

impl Read for BodyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.present.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.present = bytes,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(reason)) => return Err(io::Error::other(reason)),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sender went away in the middle")),
            }
        }
        let taken = self.present.len().min(into.len());
        self.present.copy_to_slice(&mut into[..taken]);
        Ok(taken)
    }
}

/// The thread's end of [`response`]. Blocks while the client takes nothing; fails once it has gone.
#[derive(Debug)]
pub struct ResponseWriter {
    to: mpsc::Sender<Bytes>,
    pace: Pace,
    runtime: Handle,
    piece: Vec<u8>,
}

impl Write for ResponseWriter {
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
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE + PIECE / 4));
        match self.runtime.block_on(self.pace.unless_stalled(self.to.send(piece.into()))) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            None => Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing, and others wait")),
        }
    }
}

/// The task's end of [`response`].
#[derive(Debug)]
pub struct ResponseReceiver(mpsc::Receiver<Bytes>);

impl ResponseReceiver {
    /// The next piece; `None` when the writer is gone, be it at the end or because of an error, which whoever ran it
    /// knows.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_task_sends_a_thread_reads() {
        let (sender, mut reader) = body();
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for _ in 0..100 {
            assert!(sender.send(Bytes::from_static(b"piece ")).await);
        }
        sender.finish().await;
        assert_eq!(thread.join().unwrap().unwrap(), b"piece ".repeat(100));
    }

    #[test]
    fn a_sender_that_vanishes_is_no_end() {
        let (sender, mut reader) = body();
        drop(sender);
        assert_eq!(reader.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn why_a_sender_gives_up_is_told() {
        let (sender, mut reader) = body();
        sender.fail("nobody wants it any more").await;
        let error = tokio::task::spawn_blocking(move || reader.read(&mut [0; 1]).unwrap_err()).await.unwrap();
        assert_eq!(error.to_string(), "nobody wants it any more");
    }
}

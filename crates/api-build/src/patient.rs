//! A stream whose other side has to go on: a thread that reads or writes it is not held for as long as somebody likes to say nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream that fails where nothing can be read or written for a while.
pub(crate) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// The end of it, while something is waited for.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Patient<S> {
        Patient { stream, patience, waiting: None }
    }

    fn waited<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        waiting.as_mut().poll(cx).map(|()| {
            let message = format!("the client did nothing for {} seconds", patience.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        self.waited(cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.waited(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.waited(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.waited(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use tokio::io::AsyncWriteExt as _;
    use tokio_util::io::SyncIoBridge;

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_thread_is_given_back_by_who_says_nothing_and_by_who_takes_nothing() {
        // The other side lives, and does nothing: however long it takes until somebody looks, that is what is found.
        let (ours, _theirs) = tokio::io::duplex(1);
        let mut stream = SyncIoBridge::new(Patient::new(ours, SHORT));
        let thread = tokio::task::spawn_blocking(move || {
            let read = stream.read(&mut [0; 8]).map_err(|e| e.kind());
            let written = stream.write_all(b"more than fits").map_err(|e| e.kind());
            (read, written)
        });
        let timed_out = io::ErrorKind::TimedOut;
        assert_eq!(thread.await.unwrap(), (Err(timed_out), Err(timed_out)));
    }

    #[tokio::test]
    async fn who_goes_on_is_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut stream = SyncIoBridge::new(Patient::new(ours, Duration::MAX));
        let thread = tokio::task::spawn_blocking(move || {
            let mut all = String::new();
            stream.read_to_string(&mut all).map(|_| all)
        });
        theirs.write_all(b"piece by piece").await.unwrap();
        drop(theirs);
        assert_eq!(thread.await.unwrap().unwrap(), "piece by piece");
    }
}

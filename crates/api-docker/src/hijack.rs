//! Connections that stop being HTTP: `attach` and `exec start` turn into a pipe in both directions.
//!
//! A handler that wants the connection makes everything ready first, so that a failure is still an ordinary response,
//! and then hands a [`Takeover`] to the task that drives the connection. That task takes the stream, and every byte
//! that was read beyond the request, out of the HTTP layer. This serves clients that ask with `Upgrade: tcp` and get
//! 101 as well as those that don't and get 200: for both, what follows the head is the process's, up to the close.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;

use crate::body::Response;
use crate::error::{ApiError, Result};

/// A connection of a client.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the socket tells a peer that is gone from one that has closed its sending side only. Of TCP's that is known
    /// only once something was sent to it.
    fn tells_half_closed(&self) -> bool {
        false
    }

    /// The socket beneath, if there is one that can be asked whether the peer is gone.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl ClientStream for UnixStream {
    fn tells_half_closed(&self) -> bool {
        true
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl ClientStream for TlsStream<TcpStream> {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.get_ref().0.as_fd())
    }
}

/// The client of a connection that HTTP is spoken on, which may close its sending side once it has asked.
#[derive(Clone)]
pub(crate) struct Client(Option<Arc<OwnedFd>>);

impl Client {
    /// The client at the other end of `stream`. Of one whose socket does not tell, the HTTP layer takes the end of what it
    /// sends for its own end.
    pub(crate) fn of(stream: &impl ClientStream) -> Self {
        let socket = stream.socket().filter(|_| stream.tells_half_closed());
        Self(socket.and_then(|socket| socket.try_clone_to_owned().ok()).map(Arc::new))
    }

    /// Whether it may close its sending side and is still there.
    pub(crate) fn may_half_close(&self) -> bool {
        self.0.is_some()
    }

    /// Ends when the client is gone altogether.
    pub(crate) async fn gone(self) {
        PeerWatch::of(self.0.as_ref().map(AsFd::as_fd)).gone().await;
    }
}

/// What happens with a connection once it is taken.
pub(crate) type Carry = Box<dyn FnOnce(Taken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A connection's taking.
pub(crate) struct Takeover {
    /// What happens.
    pub(crate) carry: Carry,
    /// It hears by itself that the daemon stops, and says so before it ends.
    pub(crate) says_goodbye: bool,
}

/// A way for a handler to take its connection.
#[derive(Clone)]
pub(crate) struct Hijacker(Arc<Mutex<Option<oneshot::Sender<Takeover>>>>);

/// A connection that was taken out of HTTP.
pub struct Taken {
    early: Bytes,
    stream: Pin<Box<dyn ClientStream>>,
}

impl Hijacker {
    /// A hijacker, and where its takeover arrives.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Takeover>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Takes the connection. Never returns where that works: the task of the connection drops the caller.
    ///
    /// # Errors
    /// 500 where the connection is taken or gone already.
    pub(crate) async fn take(&self, carry: Carry) -> Result<Response> {
        self.take_over(Takeover { carry, says_goodbye: false }).await
    }

    /// The same for what hears by itself that the daemon stops.
    ///
    /// # Errors
    /// As those of [`take`](Self::take).
    pub(crate) async fn take_to_its_end(&self, carry: Carry) -> Result<Response> {
        self.take_over(Takeover { carry, says_goodbye: true }).await
    }

    async fn take_over(&self, takeover: Takeover) -> Result<Response> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match sender.map(|sender| sender.send(takeover)) {
            Some(Ok(())) => std::future::pending().await,
            _ => Err(ApiError::internal("the connection can't be taken over: it is in use already, or gone")),
        }
    }
}

impl Taken {
    /// `early`: what was read from the client beyond its request.
    pub(crate) fn new(stream: impl ClientStream, early: Bytes) -> Self {
        Self { early, stream: Box::pin(stream) }
    }

    /// A future that ends when the client is gone altogether, as opposed to having closed its sending side only.
    pub(crate) fn watch(&self) -> PeerWatch {
        PeerWatch::of(self.stream.socket())
    }

    /// The two directions of the connection.
    pub(crate) fn split(self) -> (tokio::io::ReadHalf<Self>, tokio::io::WriteHalf<Self>) {
        tokio::io::split(self)
    }

    /// Waits until the client has read what was written so far, though not for ever.
    ///
    /// Clients that take their connection out of an HTTP library from below (docker-py) lose what that library read along with the
    /// response's head: the output may come only after it.
    pub(crate) async fn has_been_read(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        const REST: Duration = Duration::from_millis(1);
        // Who does not read at all gets everything at once, sooner or later.
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.is_unread() && tokio::time::Instant::now() < until {
            tokio::time::sleep(REST).await;
        }
    }

    fn is_unread(&mut self) -> bool {
        self.stream.socket().is_some_and(|socket| engine::unread(socket).is_ok_and(|bytes| bytes > 0))
    }

    /// Reads and drops what the client may still be sending, for a short while, and closes. Without that, closing
    /// a socket with unread input resets it, and the client may lose the end of the output.
    pub(crate) async fn finish(mut self) {
        if self.shutdown().await.is_err() {
            return;
        }
        let mut scratch = [0; 4096];
        let drain = async { while matches!(self.read(&mut scratch).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
    }
}

impl AsyncRead for Taken {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        self.stream.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Taken {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

/// Tells when a peer is gone altogether.
pub(crate) struct PeerWatch(Option<UnixStream>);

impl PeerWatch {
    fn of(socket: Option<BorrowedFd<'_>>) -> Self {
        let duplicate = socket.and_then(|socket| socket.try_clone_to_owned().ok());
        // Only its readiness is looked at, which is the same for every kind of socket.
        let duplicate = duplicate.map(std::os::unix::net::UnixStream::from);
        Self(duplicate.and_then(|socket| UnixStream::from_std(socket).ok()))
    }

    /// Ends when the peer is gone; never, where that can't be told.
    pub(crate) async fn gone(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        loop {
            match socket.ready(Interest::WRITABLE).await {
                Ok(ready) if !ready.is_write_closed() => {}
                _ => return,
            }
            // Told that nothing could be written, it waits for the kernel's next word, which comes when the state changes.
            let _ = socket.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Taken) {
        let (client, server) = UnixStream::pair().expect("a pair of sockets");
        (client, Taken::new(server, Bytes::from_static(b"early ")))
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (mut client, mut taken) = pair();
        client.write_all(b"late").await.expect("written");
        client.shutdown().await.expect("closed");
        let mut text = String::new();
        taken.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "early late");
    }

    #[tokio::test]
    async fn a_half_closed_client_is_still_there() {
        let (mut client, taken) = pair();
        let watch = taken.watch();
        client.shutdown().await.expect("closed");
        tokio::select! {
            biased;
            () = watch.gone() => panic!("it only closed its sending side"),
            () = async { for _ in 0..50 { tokio::task::yield_now().await } } => {}
        }
        drop(client);
        watch.gone().await;
    }

    #[tokio::test]
    async fn a_connection_is_taken_once() {
        let (hijacker, mut receiver) = Hijacker::new();
        let first = tokio::spawn({
            let hijacker = hijacker.clone();
            async move { hijacker.take(Box::new(|_| Box::pin(async {}))).await.map(|_| ()) }
        });
        assert!((&mut receiver).await.is_ok());
        let second = hijacker.take(Box::new(|_| Box::pin(async {}))).await;
        assert!(second.is_err());
        first.abort();
    }
}

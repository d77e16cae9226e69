//! Many streams on one connection: `yamux`, and a task that drives it.

use futures_util::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use yamux::{Config, Connection, Mode};

/// One of the streams. Where it is dropped, the other side sees its end: what is over is told from what broke off by what is said on it.
pub(crate) struct Stream {
    stream: Compat<yamux::Stream>,
    /// Of those that were opened here there are [so many](OPENED) at once.
    _one_of: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Streams that there may be at once.
const STREAMS: usize = 128;

/// Streams that one end opens at once: who wants more waits. One too many would end the connection, and what ended here may still
/// be on its way to be forgotten.
const OPENED: usize = STREAMS / 2;

/// Bytes that may wait to be read, of all streams.
const WINDOW: usize = STREAMS * yamux::DEFAULT_CREDIT as usize;

/// Bytes of a frame.
const FRAME: usize = 64 << 10;

/// Streams that the other side opened and that nobody has taken yet.
const WAITING: usize = 16;

/// Opens streams to the other end. Cheap to clone.
#[derive(Clone)]
pub struct Opener {
    asked: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    room: Arc<Semaphore>,
}

/// One end of a connection. Dropped, the connection ends.
pub(crate) struct Mux {
    opener: Opener,
    incoming: mpsc::Receiver<yamux::Stream>,
    _driver: Driver,
}

/// Which end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Client,
    Daemon,
}

/// A task that ends with this.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Mux {
    /// Takes a connection over.
    pub(crate) fn new(connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, side: Side) -> Mux {
        let mut config = Config::default();
        config.set_max_num_streams(STREAMS).set_max_connection_receive_window(Some(WINDOW)).set_split_send_size(FRAME);
        let mode = match side {
            Side::Client => Mode::Client,
            Side::Daemon => Mode::Server,
        };
        let connection = Connection::new(connection.compat(), config, mode);
        let (opener, asked) = mpsc::channel(WAITING);
        let (arrived, incoming) = mpsc::channel(WAITING);
        let _driver = Driver(tokio::spawn(Drive { connection, asked, arrived, opening: None }.drive()));
        let opener = Opener { asked: opener, room: Arc::new(Semaphore::new(OPENED)) };
        Mux { opener, incoming, _driver }
    }

    /// What opens streams.
    pub(crate) fn opener(&self) -> Opener {
        self.opener.clone()
    }

    /// The next stream that the other side opens; `None`: the connection has ended.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await.map(|stream| Stream { stream: stream.compat(), _one_of: None })
    }
}

impl Opener {
    /// Opens a stream, once there is room for one more.
    ///
    /// # Errors
    /// Where the connection has ended.
    pub(crate) async fn open(&self) -> io::Result<Stream> {
        let gone = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection has ended");
        let (answer, opened) = oneshot::channel();
        let one_of = Arc::clone(&self.room).acquire_owned().await.map_err(|_| gone())?;
        self.asked.send(answer).await.map_err(|_| gone())?;
        let stream = opened.await.map_err(|_| gone())?.compat();
        Ok(Stream { stream, _one_of: Some(one_of) })
    }
}

/// What drives a connection.
struct Drive<T> {
    connection: Connection<Compat<T>>,
    asked: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    arrived: mpsc::Sender<yamux::Stream>,
    /// Who waits for a stream.
    opening: Option<oneshot::Sender<yamux::Stream>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drive<T> {
    async fn drive(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        // Who still waits hears that nothing comes.
        self.opening = None;
        let _ = poll_fn(|cx| self.connection.poll_close(cx)).await;
    }

    /// Ready once the connection has ended, or nobody here wants anything of it any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.opening.is_none() {
                match self.asked.poll_recv(cx) {
                    Poll::Ready(Some(answer)) => self.opening = Some(answer),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if self.opening.is_some()
                && let Poll::Ready(opened) = self.connection.poll_new_outbound(cx)
            {
                let Ok(stream) = opened else { return Poll::Ready(()) };
                // Who asked may be gone: the stream then is, too.
                let _ = self.opening.take().map(|answer| answer.send(stream));
                continue;
            }
            match self.connection.poll_next_inbound(cx) {
                // Of more than anybody takes, the other side is told that they are closed.
                Poll::Ready(Some(Ok(stream))) => drop(self.arrived.try_send(stream)),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "the connection of a build broke off");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

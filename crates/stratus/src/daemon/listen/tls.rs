//! TCP, for clients that show a certificate.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// How long a client may take to show its certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A TCP socket behind which everybody has to show a certificate.
pub(in crate::daemon) struct TlsListener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    pub(super) fn new(socket: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { socket, acceptor: TlsAcceptor::from(config) }
    }
}

impl api_docker::Listener for TlsListener {
    type Stream = TlsStream<TcpStream>;
    type Handshake = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    async fn accept(&mut self) -> io::Result<Self::Handshake> {
        let (stream, _) = self.socket.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = self.acceptor.clone();
        let handshake = async move {
            if speaks_plainly(&stream).await? {
                refuse(stream).await?;
                return Err(io::Error::other("it speaks HTTP without TLS"));
            }
            acceptor.accept(stream).await
        };
        Ok(Box::pin(async { tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await? }))
    }
}

/// Whether a client begins with a letter, as requests of HTTP do and nothing of TLS does.
async fn speaks_plainly(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase())
}

/// Tells in plain HTTP what is wrong with that, in the words that dockerd has for it.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n").await?;
    stream.shutdown().await?;
    // What was asked is read, as a close with something unread would take the answer back.
    let mut rest = [0; 4096];
    let mut most = 64;
    while most > 0 && stream.read(&mut rest).await? > 0 {
        most -= 1;
    }
    Ok(())
}

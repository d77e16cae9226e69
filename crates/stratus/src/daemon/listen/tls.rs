//! TCP, for clients that show a certificate.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

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
        let handshake = self.acceptor.accept(stream);
        Ok(Box::pin(async { tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await? }))
    }
}

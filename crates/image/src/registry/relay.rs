//! A proxy on loopback for one program that speaks HTTP by itself: whatever it connects to, wherever it is redirected, it reaches what
//! [`Reach`] allows, through the proxies that registries are reached through. It tells the relay that it is that program by a password.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Registries;
use super::auth::basic_header;
use super::dial::{Connector, DialSettings, ProxyAddress};
use super::error::TransportCause;
use super::reach::Reach;

/// The most bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// The name that goes with the password.
const USER: &str = "relay";

/// A relay that goes on until it is dropped, with all that goes through it.
pub struct Relay {
    address: SocketAddr,
    password: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    connector: Connector,
    proxy: super::ProxyConfig,
    authorization: String,
    /// Bytes that may still come.
    left: AtomicU64,
    /// Why the last connection was not made.
    refused: parking_lot::Mutex<Option<TransportCause>>,
}

impl Registries {
    /// Begins one, for whoever knows the password, which nobody is to guess. No more than so many bytes come through it.
    ///
    /// # Errors
    /// Where nothing can listen on loopback.
    pub async fn relay(&self, reach: &Reach, password: String, limit: u64) -> io::Result<Relay> {
        let config = self.config();
        let settings = DialSettings {
            host: String::new(),
            certificate_dirs: Vec::new(),
            verify: true,
            proxy: config.proxy.clone(),
            timeout: config.connect_timeout,
            reach: Some(reach.clone()),
        };
        let shared = Arc::new(Shared {
            connector: Connector::new(settings),
            proxy: config.proxy.clone(),
            authorization: basic_header(USER, &password),
            left: AtomicU64::new(limit),
            refused: parking_lot::Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Relay { address, password, shared, task })
    }
}

impl Relay {
    /// Its address, as that of a proxy.
    pub fn url(&self) -> String {
        format!("http://{USER}:{}@{}", self.password, self.address)
    }

    /// Why the last connection was not made that the program asked for.
    pub fn refused(&self) -> Option<TransportCause> {
        self.shared.refused.lock().clone()
    }

    /// Whether more was to come than may.
    pub fn is_exhausted(&self) -> bool {
        self.shared.left.load(Ordering::Relaxed) == 0
    }

    /// A port on loopback that leads to one host and port, for what is not HTTP. It goes with what is returned.
    ///
    /// # Errors
    /// Where nothing can listen on loopback.
    pub async fn forward(&self, host: &str, port: u16) -> io::Result<Forward> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (shared, host) = (Arc::clone(&self.shared), host.to_owned());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (shared, host) = (Arc::clone(&shared), host.clone());
                connections.spawn(async move {
                    if let Ok(server) = shared.tunnel(&host, port).await {
                        shared.copy(client, server).await;
                    }
                });
            }
        });
        Ok(Forward { address, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that leads to one host.
pub struct Forward {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Forward {
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // They end with this.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move { shared.serve(client).await });
        while connections.try_join_next().is_some() {}
    }
}

/// What a client asks for.
struct Head {
    method: String,
    target: String,
    /// Those that are not for the relay.
    headers: String,
    authorization: Option<String>,
}

impl Shared {
    async fn serve(&self, mut client: TcpStream) {
        let Ok(head) = read_head(&mut client).await else { return };
        let answer = match self.open(&head).await {
            Ok((server, said)) => {
                let mut server = server;
                let sent = match said {
                    Said::ToClient(text) => client.write_all(text.as_bytes()).await,
                    Said::ToServer(text) => server.write_all(text.as_bytes()).await,
                };
                if sent.is_ok() {
                    self.copy(client, server).await;
                }
                return;
            }
            Err(answer) => answer,
        };
        // Who does not hear it has gone.
        let _ = client.write_all(answer.as_bytes()).await;
    }

    /// Makes the connection; else what to answer.
    async fn open(&self, head: &Head) -> Result<(super::dial::Stream, Said), String> {
        let refused = |status: &str, more: &str, why: &str| {
            format!("HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {}\r\n\r\n{why}", why.len())
        };
        if head.authorization.as_deref() != Some(&*self.authorization) {
            let ask = "Proxy-Authenticate: Basic realm=\"relay\"\r\n";
            return Err(refused("407 Proxy Authentication Required", ask, ""));
        }
        let bad = || refused("400 Bad Request", "", "this is no address");
        let failed = |cause: &TransportCause| refused("502 Bad Gateway", "", &cause.to_string());
        if head.method == "CONNECT" {
            let (host, port) = head.target.rsplit_once(':').ok_or_else(bad)?;
            let port = port.parse().map_err(|_| bad())?;
            let server = self.tunnel(host.trim_matches(['[', ']']), port).await.map_err(|cause| failed(&cause))?;
            return Ok((server, Said::ToClient("HTTP/1.1 200 Connection established\r\n\r\n".to_owned())));
        }
        let target: Uri = head.target.parse().map_err(|_| bad())?;
        let (Some("http"), Some(authority)) = (target.scheme_str(), target.authority()) else { return Err(bad()) };
        let server = self.reached(self.connector.clone().open(target.clone()).await).map_err(|cause| failed(&cause))?;
        // Another proxy is told where to go, and who asks.
        let (asked, more) = match self.proxy.proxy_for(&target).map(ProxyAddress::parse) {
            Some(Ok(proxy)) => {
                let line = proxy.authorization.map(|value| format!("Proxy-Authorization: {value}\r\n"));
                (format!("http://{authority}{}", path(&target)), line.unwrap_or_default())
            }
            _ => (path(&target).to_owned(), String::new()),
        };
        // A second request on the same connection could be for another host.
        let headers = &head.headers;
        Ok((
            server,
            Said::ToServer(format!("{} {asked} HTTP/1.1\r\n{headers}{more}Connection: close\r\n\r\n", head.method)),
        ))
    }

    /// A connection for whatever is spoken.
    async fn tunnel(&self, host: &str, port: u16) -> Result<super::dial::Stream, TransportCause> {
        self.reached(self.connector.clone().tunnel(host, port).await)
    }

    fn reached<T>(&self, outcome: Result<T, TransportCause>) -> Result<T, TransportCause> {
        if let Err(cause) = &outcome {
            *self.refused.lock() = Some(cause.clone());
        }
        outcome
    }

    /// Copies in both directions, until both have ended, or more came than may.
    async fn copy(&self, mut client: TcpStream, server: super::dial::Stream) {
        let mut server = Bounded { inner: server, left: &self.left };
        // How it ended, the program sees by itself.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

/// What is said once there is a connection.
enum Said {
    ToClient(String),
    ToServer(String),
}

fn path(target: &Uri) -> &str {
    target.path_and_query().map_or("/", |path| path.as_str())
}

async fn read_head(client: &mut TcpStream) -> io::Result<Head> {
    let mut bytes = Vec::new();
    // Byte by byte, since what follows belongs to whoever is spoken to.
    while !bytes.ends_with(b"\r\n\r\n") {
        if bytes.len() == HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.push(client.read_u8().await?);
    }
    let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let mut head = Head {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers: String::new(),
        authorization: None,
    };
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match &*name.to_ascii_lowercase() {
            "proxy-authorization" => head.authorization = Some(value.trim().to_owned()),
            "proxy-connection" | "connection" => {}
            _ => head.headers.push_str(&format!("{line}\r\n")),
        }
    }
    Ok(head)
}

/// A connection of which only so many bytes are read.
struct Bounded<'b, S> {
    inner: S,
    left: &'b AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<'_, S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = std::pin::Pin::new(&mut self.inner).poll_read(cx, buf);
        let come = (buf.filled().len() - before) as u64;
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(come));
        if taken.is_err() {
            self.left.store(0, Ordering::Relaxed);
            return std::task::Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        polled
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Bounded<'_, S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

//! Makes connections to registries: looks up the name, dials, goes through a proxy where one is set, and speaks TLS.
//!
//! Errors are kept apart by step, since people mend a wrong name, a closed port, a proxy and a certificate in different ways.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::http::Uri;
use hyper::http::uri::Scheme;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::auth::basic_header;
use super::error::TransportCause;
use super::proxy::ProxyConfig;
use super::reach::Reach;
use super::tls;

/// How long one address may keep the next from being tried too (RFC 8305).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(300);
const PROXY_ANSWER_MAX: usize = 16 * 1024;

/// What a connector needs to know of the registry it makes connections for.
pub(super) struct DialSettings {
    /// The registry, as its certificates' directory is called.
    pub(super) host: String,
    pub(super) certificate_dirs: Vec<PathBuf>,
    pub(super) verify: bool,
    pub(super) proxy: ProxyConfig,
    pub(super) timeout: Duration,
    /// Which addresses may be connected to; `None`: all.
    pub(super) reach: Option<Reach>,
}

/// Makes connections for one registry, also to the servers that it redirects to.
#[derive(Clone)]
pub(super) struct Connector(Arc<(DialSettings, OnceCell<TlsConnector>)>);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that is ready for HTTP.
pub(super) struct Stream {
    inner: Box<dyn Duplex>,
    through_proxy: bool,
}

impl Connector {
    pub(super) fn new(settings: DialSettings) -> Connector {
        Connector(Arc::new((settings, OnceCell::new())))
    }

    async fn connect(self, target: Uri) -> Result<TokioIo<Stream>, TransportCause> {
        self.open(target).await.map(TokioIo::new)
    }

    /// A connection on which requests for an address can be made.
    pub(super) async fn open(self, target: Uri) -> Result<Stream, TransportCause> {
        let (host, port) = host_and_port(&target);
        if target.scheme() == Some(&Scheme::HTTPS) {
            let tunnel = self.tunnel(&host, port).await?;
            let inner = self.handshake(tunnel.inner, &host).await?;
            return Ok(Stream { inner, through_proxy: false });
        }
        let proxy = self.0.0.proxy.proxy_for(&target).map(ProxyAddress::parse).transpose()?;
        let inner = self.first_hop(&host, port, proxy.as_ref()).await?;
        Ok(Stream { inner, through_proxy: proxy.is_some() })
    }

    /// A connection on which anything may be spoken, as TLS is: through the proxy for that.
    pub(super) async fn tunnel(&self, host: &str, port: u16) -> Result<Stream, TransportCause> {
        let address = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target = format!("https://{address}:{port}/").parse::<Uri>();
        let target = target.map_err(|error| TransportCause::Other(error.to_string()))?;
        let proxy = self.0.0.proxy.proxy_for(&target).map(ProxyAddress::parse).transpose()?;
        let mut inner = self.first_hop(host, port, proxy.as_ref()).await?;
        if let Some(proxy) = &proxy {
            open_tunnel(&mut inner, proxy, host, port).await?;
        }
        Ok(Stream { inner, through_proxy: false })
    }

    /// A connection to the proxy, or to the host itself where there is none.
    async fn first_hop(
        &self,
        host: &str,
        port: u16,
        proxy: Option<&ProxyAddress>,
    ) -> Result<Box<dyn Duplex>, TransportCause> {
        let settings = &self.0.0;
        let Some(proxy) = proxy else {
            return Ok(Box::new(dial(host, port, settings.timeout, settings.reach.as_ref()).await?));
        };
        // Where a name leads, the proxy knows: its administrator decides what it reaches.
        if let (Some(reach), Ok(address)) = (&settings.reach, host.parse()) {
            within(reach, host, address)?;
        }
        self.connect_proxy(proxy).await
    }

    async fn connect_proxy(&self, proxy: &ProxyAddress) -> Result<Box<dyn Duplex>, TransportCause> {
        let in_words = |cause: TransportCause| TransportCause::Proxy(cause.to_string());
        let stream = dial(&proxy.host, proxy.port, self.0.0.timeout, None).await.map_err(in_words)?;
        match proxy.is_tls {
            true => self.handshake(Box::new(stream), &proxy.host).await.map_err(in_words),
            false => Ok(Box::new(stream)),
        }
    }

    async fn handshake(&self, stream: Box<dyn Duplex>, host: &str) -> Result<Box<dyn Duplex>, TransportCause> {
        let (settings, tls) = &*self.0;
        let connector = tls.get_or_try_init(|| tls_connector(settings)).await?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TransportCause::Tls(format!("{host:?} is not a name that a certificate can have")))?;
        match tokio::time::timeout(settings.timeout, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(tls::handshake_error(&error, host)),
            Err(_) => Err(TransportCause::Other("net/http: TLS handshake timeout".into())),
        }
    }
}

async fn tls_connector(settings: &DialSettings) -> Result<TlsConnector, TransportCause> {
    let (dirs, host, verify) = (settings.certificate_dirs.clone(), settings.host.clone(), settings.verify);
    let config = tokio::task::spawn_blocking(move || tls::client_config(&dirs, &host, verify))
        .await
        .map_err(|error| TransportCause::Other(error.to_string()))??;
    Ok(TlsConnector::from(Arc::new(config)))
}

fn host_and_port(target: &Uri) -> (String, u16) {
    let usual = if target.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = target.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    (host, target.port_u16().unwrap_or(usual))
}

/// The addresses of a host; an address as a name is its own.
pub(super) async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, TransportCause> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |reason: &str| {
        let resolver = std::fs::read_to_string("/etc/resolv.conf").ok().and_then(|text| first_resolver(&text));
        TransportCause::Lookup { host: host.to_owned(), resolver, reason: reason.to_owned() }
    };
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| {
        let text = error.to_string();
        match text.rsplit(": ").next() {
            Some("Name or service not known" | "No address associated with hostname") => failed("no such host"),
            Some(reason) => failed(reason),
            None => failed(&text),
        }
    })?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.dedup();
    if addresses.is_empty() { Err(failed("no such host")) } else { Ok(addresses) }
}

/// Whom the system asks for names first (resolv.conf(5)).
fn first_resolver(resolv_conf: &str) -> Option<IpAddr> {
    let address = resolv_conf.lines().find_map(|line| line.trim_start().strip_prefix("nameserver"))?;
    address.trim().parse().ok()
}

/// Refuses an address that is not to be connected to.
fn within(reach: &Reach, host: &str, address: IpAddr) -> Result<(), TransportCause> {
    match reach.allows(address) {
        true => Ok(()),
        false => Err(TransportCause::OutOfReach { host: host.to_owned(), address }),
    }
}

/// Connects to the first address that answers; the next one is tried as soon as one fails or dawdles. A host that has an address
/// out of reach is refused as a whole: it is nobody's by accident.
async fn dial(host: &str, port: u16, timeout: Duration, reach: Option<&Reach>) -> Result<TcpStream, TransportCause> {
    let addresses = lookup(host, port).await?;
    if let Some(reach) = reach {
        addresses.iter().try_for_each(|address| within(reach, host, address.ip()))?;
    }
    let mut addresses = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut first_failure = None;
    loop {
        if let Some(address) = addresses.next() {
            tries.push(dial_address(address, timeout));
        }
        let dawdles = tokio::time::sleep(NEXT_ADDRESS_AFTER);
        tokio::select! {
            done = tries.next() => match done {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(cause)) => { first_failure.get_or_insert(cause); }
                None => return Err(first_failure.unwrap_or(TransportCause::Closed)),
            },
            () = dawdles, if addresses.len() > 0 => {}
        }
    }
}

async fn dial_address(address: SocketAddr, timeout: Duration) -> Result<TcpStream, TransportCause> {
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(TransportCause::Dial { address, reason: reason(&error) }),
        Err(_) => return Err(TransportCause::DialTimeout { address }),
    };
    // Requests are written whole, so waiting for more to send only adds delay. Without it transfers still work.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "no TCP_NODELAY");
    }
    Ok(stream)
}

/// The kernel's word for an error, as Go writes it: without its number, in small letters.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "i/o error".to_owned(),
    }
}

/// A proxy's address in parts.
pub(super) struct ProxyAddress {
    host: String,
    port: u16,
    is_tls: bool,
    /// The value of `Proxy-Authorization`, where the address carries a name and password.
    pub(super) authorization: Option<String>,
}

impl ProxyAddress {
    pub(super) fn parse(text: &str) -> Result<ProxyAddress, TransportCause> {
        // The address may hold a password: it is not repeated in the error.
        let bad =
            || TransportCause::Proxy("the proxy's address is not valid: give http://[user:password@]host:port".into());
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let (scheme, rest) = with_scheme.split_once("://").ok_or_else(bad)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            other => return Err(TransportCause::Proxy(format!("proxies of the kind {other}:// are not supported"))),
        };
        let uri: Uri = format!("{scheme}://{address}").parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            basic_header(&super::url::percent_decode(name), &super::url::percent_decode(password))
        });
        Ok(ProxyAddress { host, port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), is_tls, authorization })
    }
}

/// Asks a proxy for a connection to the target (RFC 9110 section 9.3.6).
async fn open_tunnel(
    stream: &mut Box<dyn Duplex>,
    proxy: &ProxyAddress,
    host: &str,
    port: u16,
) -> Result<(), TransportCause> {
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let authorization =
        proxy.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    let failed = |error: io::Error| TransportCause::Proxy(reason(&error));
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    // Byte by byte, since what follows the head belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == PROXY_ANSWER_MAX {
            return Err(TransportCause::Proxy("the proxy's answer is too long".into()));
        }
        answer.push(stream.read_u8().await.map_err(failed)?);
    }
    let head = String::from_utf8_lossy(&answer);
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(TransportCause::Proxy(format!("the proxy answered {status:?} to CONNECT {target}"))),
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = TransportCause;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().connect(target))
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.through_proxy)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_resolver_is_named() {
        let resolver = first_resolver("# x\nsearch a\nnameserver fd00::1\nnameserver 192.0.2.1\n");
        assert_eq!(resolver.map(|resolver| resolver.to_string()).as_deref(), Some("fd00::1"));
        assert_eq!(first_resolver("search a\n"), None);
    }

    #[test]
    fn proxies_are_read_without_repeating_their_passwords() {
        let proxy = ProxyAddress::parse("http://ann:p%40ss@proxy.example:3128/").unwrap();
        assert_eq!((&*proxy.host, proxy.port, proxy.is_tls), ("proxy.example", 3128, false));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic YW5uOnBAc3M="));
        assert!(ProxyAddress::parse("proxy.example:3128").unwrap().authorization.is_none());
        assert!(ProxyAddress::parse("https://[::1]").is_ok_and(|proxy| proxy.is_tls && proxy.port == 443));
        for bad in ["socks5://geheim@x", "http://geheim@", "http://ann:geheim@a b"] {
            let error = ProxyAddress::parse(bad).err().unwrap().to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}

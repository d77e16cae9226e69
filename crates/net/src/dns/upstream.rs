//! Other servers: the host's, which are read live, and how one of them is asked.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};

use super::resolv::{NameServer, ResolvConf};
use super::sockets::{Inside, open_client};
use super::{Transport, random, wire};

/// The port of name servers.
pub(super) const DNS_PORT: u16 = 53;

/// How long one server may take to answer: as long as Docker waits. Clients wait for 5 seconds (resolv.conf(5)).
const TIMEOUT: Duration = Duration::from_secs(4);

/// Servers of a `resolv.conf` that are asked, at most (`MAXNS` in resolv.conf(5)).
pub(super) const MAX_SERVERS: usize = 3;

/// What tells that a file has changed: device, inode, size, and time of the last change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// The name servers of the host, as its `resolv.conf` has them now.
pub(super) struct HostServers {
    path: PathBuf,
    port: u16,
    cached: Mutex<(Option<Stamp>, Arc<[SocketAddr]>)>,
}

impl HostServers {
    pub(super) fn new(path: PathBuf, port: u16) -> Self {
        HostServers { path, port, cached: Mutex::new((None, Arc::new([]))) }
    }

    /// The servers; reads the file again where it has changed. None where there is no such file.
    pub(super) fn now(&self) -> Arc<[SocketAddr]> {
        let stamp = fs::metadata(&self.path)
            .ok()
            .map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        let mut cached = self.cached.lock();
        if cached.0 != stamp {
            let text = fs::read(&self.path).unwrap_or_default();
            let servers = ResolvConf::parse(&String::from_utf8_lossy(&text), "").nameservers;
            *cached =
                (stamp, servers.iter().take(MAX_SERVERS).filter_map(|server| address(server, self.port)).collect());
        }
        cached.1.clone()
    }
}

fn address(server: &NameServer, port: u16) -> Option<SocketAddr> {
    match (server.address, &server.zone) {
        (IpAddr::V6(address), Some(zone)) => {
            let scope = zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone.as_str()).ok())?;
            Some(SocketAddrV6::new(address, port, 0, scope).into())
        }
        (address, _) => Some(SocketAddr::new(address, port)),
    }
}

/// Asks a server, from the sandbox's namespace where one is given, and returns its reply as it came, but for the
/// identifier, which is the query's again.
pub(super) async fn ask(
    server: SocketAddr,
    inside: Option<Inside<'_>>,
    transport: Transport,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    // A new identifier and a new port for each query: both have to be guessed by who would answer in the server's place.
    let sent = wire::with_id(query, random::transaction_id());
    let exchange = async {
        match transport {
            Transport::Udp => ask_udp(server, inside, &sent).await,
            Transport::Tcp => ask_tcp(server, inside, &sent).await,
        }
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn ask_udp(server: SocketAddr, inside: Option<Inside<'_>>, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = open_client(inside, move || make(server, SocketType::DGRAM)).await?;
    // A connected socket gets datagrams of that server only, and hears when nobody listens there.
    rustix::net::connect(&socket, &server)?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(query).await?;
    // Some servers send more than the query allows; to cut it is the caller's business.
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        // That the server isn't there is reported as an error, without anything to read.
        let receive = || Ok(rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?.0);
        let len = socket.async_io(Interest::READABLE | Interest::ERROR, receive).await?;
        // Another reply is somebody else's, or answers an earlier question.
        if wire::is_answer(&buffer[..len], query) {
            buffer.truncate(len);
            buffer.shrink_to_fit();
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, inside: Option<Inside<'_>>, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = open_client(inside, move || make(server, SocketType::STREAM)).await?;
    let socket = tokio::net::TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let mut stream = socket.connect(server).await?;
    send_message(&mut stream, query).await?;
    let reply = receive_message(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if wire::is_answer(&reply, query) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn make(server: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

/// Sends a message over TCP, its length before it (RFC 1035, section 4.2.2).
pub(super) async fn send_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // In one piece: a length in a packet of its own would wait for its acknowledgement.
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend(len.to_be_bytes());
    framed.extend(message);
    stream.write_all(&framed).await
}

/// Receives a message over TCP; `None` where the other end has closed before it.
pub(super) async fn receive_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 2];
    match stream.read_exact(&mut len).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = usize::from(u16::from_be_bytes(len));
    // Grows with what arrives, not with what is promised.
    let mut message = Vec::with_capacity(len.min(1024));
    (&mut *stream).take(len as u64).read_to_end(&mut message).await?;
    if message.len() < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(message)) }
}

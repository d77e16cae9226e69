//! Queries of one sandbox, over UDP and over TCP, and those of them that go on to other servers.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::server::{Sandbox, Shared, Upstreams};
use super::sockets::Inside;
use super::upstream::{self, MAX_SERVERS, receive_message, send_message};
use super::{Outcome, SERVER_ADDRESS, Transport, View, answer, wire};

/// Datagrams taken before other tasks get their turn.
const BURST: usize = 32;

/// How long a TCP client may be silent between two queries (RFC 7766, section 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(10);

/// A pause after an error that would come again at once, as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

thread_local! {
    /// Where datagrams are received: one place for each thread of the runtime, none for each sandbox.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers datagrams until the task is ended. Queries under way to other servers end with it.
pub(super) async fn serve_udp(socket: UdpSocket, sandbox: Arc<Sandbox>, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut forwarded = JoinSet::new();
    loop {
        if socket.readable().await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        for _ in 0..BURST {
            let received = receive(&socket, &sandbox, &shared);
            let pause = if received.is_ok() { sandbox.pace.count(Instant::now()) } else { Duration::ZERO };
            match received {
                Ok((from, _, Outcome::Reply(reply))) => drop(socket.try_send_to(&reply, from)),
                Ok((from, query, Outcome::Forward { max_len })) => {
                    let (socket, sandbox, shared) = (socket.clone(), sandbox.clone(), shared.clone());
                    forwarded.spawn(async move {
                        let reply = forward(&query, Transport::Udp, max_len, &sandbox, &shared).await;
                        let _ = socket.send_to(&reply, from).await;
                    });
                }
                Ok((_, _, Outcome::Drop)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An earlier answer found nobody.
                Err(_) => {}
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        while forwarded.try_join_next().is_some() {}
        tokio::task::yield_now().await;
    }
}

/// Takes one datagram, and decides about it; the query itself only where it has to be kept.
fn receive(socket: &UdpSocket, sandbox: &Sandbox, shared: &Shared) -> io::Result<(SocketAddr, Vec<u8>, Outcome)> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(usize::from(u16::MAX), 0);
        let (len, from) = socket.try_recv_from(buffer)?;
        let outcome = decide(&buffer[..len], Transport::Udp, sandbox, shared);
        let query = if matches!(outcome, Outcome::Forward { .. }) { buffer[..len].to_vec() } else { Vec::new() };
        Ok((from, query, outcome))
    })
}

fn decide(query: &[u8], transport: Transport, sandbox: &Sandbox, shared: &Shared) -> Outcome {
    let dns = sandbox.dns.read();
    answer(query, transport, View { sandbox: &dns.id, source: &*shared.source, ndots_set: dns.ndots_set })
}

/// Accepts connections until the task is ended. All of them end with it.
pub(super) async fn serve_tcp(listener: TcpListener, sandbox: Arc<Sandbox>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if connections.len() < shared.config.max_connections_per_sandbox => {
                connections.spawn(serve_connection(stream, sandbox.clone(), shared.clone()));
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Answers one query after the other, as long as the client has some.
async fn serve_connection(mut stream: TcpStream, sandbox: Arc<Sandbox>, shared: Arc<Shared>) {
    while let Ok(Ok(Some(query))) = tokio::time::timeout(IDLE, receive_message(&mut stream)).await {
        tokio::time::sleep(sandbox.pace.count(Instant::now())).await;
        let reply = match decide(&query, Transport::Tcp, &sandbox, &shared) {
            Outcome::Reply(reply) => reply,
            Outcome::Forward { max_len } => forward(&query, Transport::Tcp, max_len, &sandbox, &shared).await,
            Outcome::Drop => return,
        };
        if !matches!(tokio::time::timeout(IDLE, send_message(&mut stream, &reply)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Asks other servers, one after the other, and returns the first reply that is no failure, for the client; a failure where
/// none has one.
async fn forward(query: &[u8], transport: Transport, max_len: usize, sandbox: &Sandbox, shared: &Shared) -> Vec<u8> {
    let (Ok(_ours), Ok(_all)) = (sandbox.permits.try_acquire(), shared.permits.try_acquire()) else {
        tracing::debug!(sandbox = sandbox.dns.read().id, "too many name queries are under way");
        return wire::failure(query, ResponseCode::Refused);
    };
    let (servers, from_inside) = servers(sandbox, shared);
    let inside = from_inside.then_some(Inside { openers: &shared.openers, namespace: &sandbox.namespace });
    let id = wire::header(query).map_or(0, |header| header.id);
    for server in servers {
        match upstream::ask(server, inside, transport, query).await {
            Ok(reply) if is_final(&reply) => return wire::to_client(reply, id, max_len),
            Ok(_) => tracing::debug!(%server, "the name server failed or refused"),
            Err(error) => tracing::debug!(%server, %error, "the name server did not answer"),
        }
    }
    wire::failure(query, ResponseCode::ServFail)
}

/// The servers to ask for a sandbox, and whether from its namespace.
fn servers(sandbox: &Sandbox, shared: &Shared) -> (Vec<SocketAddr>, bool) {
    let dns = sandbox.dns.read();
    let chosen = |servers: &[std::net::IpAddr], may: fn(&std::net::IpAddr) -> bool| {
        let addresses = servers.iter().filter(|server| may(server)).take(MAX_SERVERS);
        addresses.map(|server| SocketAddr::new(*server, shared.config.upstream_port)).collect()
    };
    match &dns.upstreams {
        // Itself it would ask for ever.
        Upstreams::Sandbox(servers) => (chosen(servers, |server| *server != SERVER_ADDRESS), true),
        Upstreams::Host if dns.is_external => (shared.host.now().to_vec(), false),
        // The host's own loopback is nobody's in a machine.
        Upstreams::Machine(servers) if dns.is_external => {
            (chosen(servers, |server| !server.to_canonical().is_loopback()), false)
        }
        Upstreams::Host | Upstreams::Machine(_) => (Vec::new(), false),
    }
}

/// Whether no other server need be asked. A refusal may be that server's alone.
fn is_final(reply: &[u8]) -> bool {
    let code = wire::header(reply).map(|header| header.response_code);
    code.is_some_and(|code| code != ResponseCode::ServFail.low() && code != ResponseCode::Refused.low())
}

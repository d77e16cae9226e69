//! Sockets in a sandbox's network namespace.

use std::io;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::thread::LinkNameSpaceType;

use super::{DnsError, SERVER_ADDRESS};
use crate::nft::{ChainKind, Hook, Nft, Priority, Protocol, Rule, Table, Transaction};

/// The table of the redirection. It lives in the sandbox's namespace and goes with it.
const TABLE: &str = "stratus-dns";

/// How often a port that is free for UDP may be taken for TCP before that counts as an error.
const ATTEMPTS: usize = 16;

/// A sandbox's sockets, not blocking.
pub(super) struct Listening {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    /// The port of both, on 127.0.0.11.
    pub(super) port: u16,
}

/// Moves the calling thread into a network namespace. The thread should end soon: it keeps the namespace alive.
pub(super) fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Runs `work` on a thread of its own, which may enter namespaces and ends afterwards.
pub(super) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("dns-netns".into()).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Opens a sandbox's sockets in the namespace `namespace`, where the calling thread stays, and leads port 53 to them.
///
/// With `port`, the sockets are bound to the port that an earlier daemon got, where port 53 leads already. Where it leads
/// nowhere, or somebody took the port in the meantime, they get another one.
pub(super) fn open(sandbox: &str, namespace: BorrowedFd<'_>, port: Option<u16>) -> Result<Listening, DnsError> {
    let failed = |what| move |source| DnsError::Socket { what, sandbox: sandbox.to_owned(), source };
    let not_redirected =
        |source| DnsError::Redirect { sandbox: sandbox.to_owned(), source: Box::<crate::Error>::new(source) };
    enter(namespace).map_err(failed("enter the network namespace"))?;
    let redirection = Redirection::look().map_err(not_redirected)?;
    if let (Some(port), true) = (port, redirection.is_there) {
        match bind(port) {
            Ok(listening) => return Ok(listening),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed("bind")(error)),
        }
    }
    let listening = bind_anywhere().map_err(failed("bind"))?;
    redirection.redirect_port53(listening.port).map_err(not_redirected)?;
    Ok(listening)
}

/// Binds both sockets to a port that is free for both.
fn bind_anywhere() -> io::Result<Listening> {
    let mut attempt = 1;
    loop {
        match bind(0) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < ATTEMPTS => attempt += 1,
            outcome => return outcome,
        }
    }
}

fn bind(port: u16) -> io::Result<Listening> {
    let udp = UdpSocket::bind(SocketAddrV4::new(SERVER_ADDRESS, port))?;
    let port = udp.local_addr()?.port();
    let tcp = TcpListener::bind(SocketAddrV4::new(SERVER_ADDRESS, port))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(Listening { udp, tcp, port })
}

/// What leads packets for 127.0.0.11:53 to another port, in one namespace.
struct Redirection {
    nft: Nft,
    table: Table,
    is_there: bool,
}

impl Redirection {
    /// Looks whether there is one in the calling thread's namespace.
    fn look() -> crate::Result<Self> {
        let nft = Nft::open()?;
        let table = Table { family: Protocol::Ipv4, name: TABLE.to_owned() };
        let is_there = nft.tables(table.family)?.contains(&table.name);
        Ok(Redirection { nft, table, is_there })
    }

    /// Leads them to a port on the same address, in place of wherever they were led before.
    fn redirect_port53(self, port: u16) -> crate::Result<()> {
        const CHAIN: &str = "output";
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let mut transaction = Transaction::new("lead port 53 to the name server");
        // Only where it is there: closing the socket after a deletion waits until the kernel has freed what was deleted,
        // which takes 5 to 25 ms.
        if self.is_there {
            transaction.delete_table(&self.table);
        }
        transaction.add_table(&self.table);
        transaction.add_base_chain(&self.table, CHAIN, ChainKind::Nat, Hook::Output, Priority::DestinationNat);
        let server = SERVER_ADDRESS.into();
        for transport in [UDP, TCP] {
            let rule = Rule::new().destination(server).port(transport, 53).redirect_to(server, port);
            transaction.add_rule(&self.table, CHAIN, &rule);
        }
        self.nft.commit(transaction)
    }
}

/// A socket towards another server: a client's, made in the sandbox's namespace or, without one, in the daemon's. Not
/// blocking, and not connected.
pub(super) async fn open_client(
    namespace: Option<&OwnedFd>,
    make: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static,
) -> io::Result<OwnedFd> {
    let Some(namespace) = namespace else { return make() };
    let namespace = namespace.try_clone()?;
    let (done, socket) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("dns-netns".into()).spawn(move || {
        let _ = done.send(enter(std::os::fd::AsFd::as_fd(&namespace)).and_then(|()| make()));
    })?;
    socket.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn both_sockets_share_a_port() {
        let listening = bind_anywhere().unwrap();
        assert_eq!(listening.udp.local_addr().unwrap(), listening.tcp.local_addr().unwrap());
        assert_eq!(listening.udp.local_addr().unwrap().ip(), Ipv4Addr::new(127, 0, 0, 11));
        assert_eq!(bind(listening.port).err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
    }
}

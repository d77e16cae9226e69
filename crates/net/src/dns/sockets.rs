//! Sockets in a sandbox's network namespace.

use std::io;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use parking_lot::Mutex;
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

/// The thread that opens sockets towards other servers in sandboxes' namespaces, one after the other: there is one, however
/// many queries come. It starts with the first, and returns home after each, so as to keep nobody's namespace alive.
pub(super) struct Openers {
    most: usize,
    queue: Mutex<Option<SyncSender<Order>>>,
}

/// Where a socket is wanted, how it is made, and who waits for it.
struct Order {
    namespace: OwnedFd,
    make: Box<dyn FnOnce() -> io::Result<OwnedFd> + Send>,
    reply: tokio::sync::oneshot::Sender<io::Result<OwnedFd>>,
}

/// A sandbox' namespace, as a place to open sockets in.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) openers: &'a Openers,
    pub(super) namespace: &'a OwnedFd,
}

impl Openers {
    /// `most`: how many may wait at the same time.
    pub(super) fn new(most: usize) -> Openers {
        Openers { most, queue: Mutex::default() }
    }

    fn order(&self, order: Order) -> io::Result<()> {
        let mut queue = self.queue.lock();
        let sender = match &mut *queue {
            Some(sender) => sender,
            None => {
                let (sender, orders) = sync_channel(self.most);
                let home = crate::NetNs::of_this_thread().map_err(io::Error::other)?;
                std::thread::Builder::new().name("dns-sockets".into()).spawn(move || open_all(&home, &orders))?;
                queue.insert(sender)
            }
        };
        sender.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
            TrySendError::Disconnected(_) => io::Error::other("the thread that opens sockets has ended"),
        })
    }
}

/// Until the server is dropped.
fn open_all(home: &crate::NetNs, orders: &Receiver<Order>) {
    for Order { namespace, make, reply } in orders {
        // Whoever ordered may have given up.
        let _ = reply.send(enter(namespace.as_fd()).and_then(|()| make()));
        if let Err(error) = enter(home.as_fd()) {
            tracing::warn!(%error, "a thread could not return to the host's network namespace");
        }
    }
}

/// A socket towards another server: a client's, made in the sandbox's namespace or, without one, in the daemon's. Not
/// blocking, and not connected.
pub(super) async fn open_client(
    inside: Option<Inside<'_>>,
    make: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static,
) -> io::Result<OwnedFd> {
    let Some(Inside { openers, namespace }) = inside else { return make() };
    let (reply, socket) = tokio::sync::oneshot::channel();
    openers.order(Order { namespace: namespace.try_clone()?, make: Box::new(make), reply })?;
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

    #[test]
    fn one_thread_opens_the_sockets_of_all_and_keeps_no_namespace() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let inode = |namespace: &OwnedFd| rustix::fs::fstat(namespace).unwrap().st_ino;
        let here: OwnedFd = crate::NetNs::of_this_thread().unwrap().into();
        let make_namespace = || {
            let inside = || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
                OwnedFd::from(crate::NetNs::of_this_thread().unwrap())
            };
            std::thread::spawn(inside).join().unwrap()
        };
        let (openers, namespaces) = (Openers::new(4), [make_namespace(), make_namespace()]);
        let mut threads = std::collections::BTreeSet::new();
        for n in 0..20 {
            let inside = Inside { openers: &openers, namespace: &namespaces[n % 2] };
            let (tell, told) = std::sync::mpsc::channel();
            let make = move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
                Ok(crate::NetNs::of_this_thread().map_err(io::Error::other)?.into())
            };
            let there = runtime.block_on(open_client(Some(inside), make)).unwrap();
            assert_eq!(inode(&there), inode(&namespaces[n % 2]));
            threads.insert(told.recv().unwrap());
        }
        assert_eq!(threads.len(), 1);
        let thread = threads.pop_first().unwrap();
        let at = format!("/proc/self/task/{thread}/ns/net");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::fs::metadata(&at).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).ok() != Some(inode(&here)) {
            assert!(std::time::Instant::now() < end, "the thread stays in a sandbox' namespace");
            std::thread::yield_now();
        }
    }
}

//! The forwarder's one thread: what epoll(7) reports, and who is asked to deal with it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{FlockOperation, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};

use super::arena::{Arena, Key};
use super::pipes::Pipes;
use super::protocol::{Hold, MAX_MESSAGE};
use super::tcp::{Broken, Connection, Next, Side};
use super::udp::{MAX_DATAGRAM, Session, UdpListener};
use super::upgrade::Upgrade;
use super::{Config, LOCK_FILE, Program, SOCKET_FILE, socket_address};

/// Events taken from the kernel at once.
const EVENTS: usize = 128;

/// What one ready listener, or one ready datagram socket, may do before others get their turn.
pub(super) const BURST: usize = 64;

/// Descriptors kept from proxied connections and UDP clients, so that control connections and logs find some.
const RESERVED_DESCRIPTORS: u64 = 64;

/// Descriptors of a connection with bytes under way in both directions: two sockets and two pipes.
const CONNECTION_DESCRIPTORS: u64 = 6;

/// What a descriptor in the epoll set stands for.
pub(super) enum Entry {
    /// Where daemons connect to.
    ControlListener(OwnedFd),
    /// A daemon.
    Control(OwnedFd),
    /// A held socket that nothing arrives at, and that isn't watched.
    Idle(OwnedFd),
    /// A TCP port; without a target, whoever gets here is turned away.
    TcpListener { socket: OwnedFd, target: Option<SocketAddr> },
    /// A proxied TCP connection.
    Connection(Box<Connection>),
    /// A proxied UDP port.
    UdpListener(UdpListener),
    /// One client of a proxied UDP port.
    Session(Session),
    /// A program that is tried before it takes this one's place.
    Probe(OwnedFd),
}

/// A held port.
pub(super) struct Holding {
    pub(super) hold: Hold,
    pub(super) local: SocketAddr,
    pub(super) entry: Key,
}

/// The state of the process.
pub(super) struct Forwarder {
    pub(super) config: Config,
    pub(super) program: Program,
    pub(super) epoll: OwnedFd,
    pub(super) entries: Arena<Entry>,
    pub(super) holdings: BTreeMap<String, Holding>,
    /// The lock file, locked, while this is the forwarder of its run directory.
    pub(super) lock: Option<OwnedFd>,
    /// There until it is told to end.
    pub(super) control_listener: Option<Key>,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) controls: Vec<Key>,
    pub(super) connections: usize,
    pub(super) sessions: usize,
    pub(super) refused: u64,
    /// Connections that have more to move than one turn allows.
    queue: VecDeque<Key>,
    /// Sessions by the time at which they are looked at again, soonest first: all are kept equally long.
    pub(super) expiry: VecDeque<(Instant, Key)>,
    pipes: Pipes,
    /// Given up for a moment when descriptors run out, to be able to accept a connection and close it.
    pub(super) spare: Option<OwnedFd>,
    pub(super) buffer: Box<[u8]>,
    journal: Journal,
}

impl Forwarder {
    /// Takes the run directory (one forwarder each), and listens in it.
    pub(super) fn open(config: Config, program: Program) -> io::Result<Self> {
        let lock = lock(&config)?;
        let socket_path = config.run_dir.join(SOCKET_FILE);
        match rustix::fs::unlink(&socket_path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // bind(2) takes the mode of the new file from the socket.
        rustix::fs::fchmod(&socket, FileMode::RUSR | FileMode::WUSR)?;
        let (address, _dir) = socket_address(&config.run_dir)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, 16)?;
        Self::assemble(config, program, lock, socket)
    }

    /// A forwarder that holds nothing yet, of a run directory that is its own.
    pub(super) fn assemble(mut config: Config, program: Program, lock: OwnedFd, listener: OwnedFd) -> io::Result<Self> {
        let available = raise_descriptor_limit().saturating_sub(RESERVED_DESCRIPTORS);
        let at_most =
            |wanted: usize, descriptors: u64| wanted.min(usize::try_from(descriptors).unwrap_or(usize::MAX)).max(1);
        // Half for connections, a quarter for UDP clients, and what is left for the ports themselves.
        config.max_connections = at_most(config.max_connections, available / 2 / CONNECTION_DESCRIPTORS);
        config.max_sessions = at_most(config.max_sessions, available / 4);
        let mut forwarder = Forwarder {
            config,
            program,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            entries: Arena::new(),
            holdings: BTreeMap::new(),
            lock: Some(lock),
            control_listener: None,
            upgrade: None,
            controls: Vec::new(),
            connections: 0,
            sessions: 0,
            refused: 0,
            queue: VecDeque::new(),
            expiry: VecDeque::new(),
            pipes: Pipes::default(),
            spare: open_spare(),
            buffer: vec![0; MAX_DATAGRAM.max(MAX_MESSAGE)].into_boxed_slice(),
            journal: Journal::default(),
        };
        let key = forwarder.entries.insert(Entry::ControlListener(listener));
        forwarder.watch_level(key)?;
        forwarder.control_listener = Some(key);
        Ok(forwarder)
    }

    /// Serves until it is told to end.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        while self.control_listener.is_some() {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                let (key, tag) = Key::from_u64(event.data.u64());
                self.dispatch(key, tag, event.flags);
            }
            // Each that waits now gets one turn; what it puts back waits for the next round.
            for _ in 0..self.queue.len() {
                if let Some(key) = self.queue.pop_front() {
                    self.take_turn(key);
                }
            }
            self.expire_sessions(Instant::now());
        }
        Ok(())
    }

    /// How long to sleep where nothing happens.
    fn timeout(&self) -> Option<Timespec> {
        if !self.queue.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let (due, _) = self.expiry.front()?;
        // A millisecond more, as epoll rounds down: waking up too early would mean waking up twice.
        let wait = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Some(Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) })
    }

    fn dispatch(&mut self, key: Key, tag: bool, flags: EventFlags) {
        match self.entries.get_mut(key) {
            None | Some(Entry::Idle(_)) => {}
            Some(Entry::ControlListener(_)) => self.accept_controls(key),
            Some(Entry::Control(_)) => self.serve_control(key),
            Some(Entry::TcpListener { .. }) => self.accept_connections(key),
            Some(Entry::UdpListener(_)) => self.forward_datagrams(key),
            Some(Entry::Session(_)) => self.return_datagrams(key),
            Some(Entry::Probe(_)) => self.end_probe(key),
            Some(Entry::Connection(connection)) => {
                let side = if tag { Side::Target } else { Side::Client };
                let outcome = connection.on_event(side, flags, &mut self.pipes);
                self.settle(key, outcome);
            }
        }
    }

    fn take_turn(&mut self, key: Key) {
        if let Some(Entry::Connection(connection)) = self.entries.get_mut(key) {
            connection.is_queued = false;
            let outcome = connection.turn(&mut self.pipes);
            self.settle(key, outcome);
        }
    }

    fn settle(&mut self, key: Key, outcome: Result<Next, Broken>) {
        match outcome {
            Ok(Next::Wait) => {}
            Ok(Next::Again) => {
                if let Some(Entry::Connection(connection)) = self.entries.get_mut(key)
                    && !connection.is_queued
                {
                    connection.is_queued = true;
                    self.queue.push_back(key);
                }
            }
            Ok(Next::Close) => drop(self.remove_connection(key)),
            Err(broken) => {
                if matches!(broken.errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM) {
                    self.journal.note(|| format!("cannot {}: {}", broken.what, broken.errno));
                }
                if let Some(connection) = self.remove_connection(key) {
                    // A target that refuses closes the client's connection; a connection that broke is reset.
                    if !connection.is_connecting() {
                        connection.reset();
                    }
                }
            }
        }
    }

    fn remove_connection(&mut self, key: Key) -> Option<Connection> {
        match self.entries.remove(key) {
            Some(Entry::Connection(connection)) => {
                self.connections -= 1;
                Some(*connection)
            }
            _ => None,
        }
    }

    /// Takes what waits at a published TCP port.
    fn accept_connections(&mut self, key: Key) {
        for _ in 0..BURST {
            let Some(Entry::TcpListener { socket, target }) = self.entries.get(key) else { return };
            let target = *target;
            match rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(client) => match target {
                    Some(target) if self.connections < self.config.max_connections => self.connect(client, target),
                    // Closing says no; a reserved port is reached only where no rule carries its packets elsewhere.
                    Some(_) => self.refused += 1,
                    None => {}
                },
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => return self.turn_one_away(key),
                // Nothing waits, or the network failed before it was accepted (accept(2)).
                Err(_) => return,
            }
        }
    }

    /// Without a descriptor left, a waiting connection would be reported without end: use the spare one to close it.
    fn turn_one_away(&mut self, key: Key) {
        self.refused += 1;
        self.journal.note(|| "out of file descriptors: connections are turned away".to_owned());
        drop(self.spare.take());
        if let Some(Entry::TcpListener { socket, .. }) = self.entries.get(key) {
            drop(rustix::net::accept_with(socket, SocketFlags::CLOEXEC));
        }
        self.spare = open_spare();
    }

    fn connect(&mut self, client: OwnedFd, target: SocketAddr) {
        let connection = match Connection::open(client, target) {
            Ok(connection) => connection,
            Err(errno) => return self.journal.note(|| format!("cannot connect to {target}: {errno}")),
        };
        let key = self.entries.insert(Entry::Connection(Box::new(connection)));
        self.connections += 1;
        let Some(Entry::Connection(connection)) = self.entries.get(key) else { return };
        let watched = [(Side::Client, false), (Side::Target, true)].into_iter().try_for_each(|(side, tag)| {
            let datum = EventData::new_u64(key.to_u64(tag));
            epoll::add(&self.epoll, connection.socket(side), datum, Connection::INTEREST)
        });
        if let Err(errno) = watched {
            self.journal.note(|| format!("cannot watch a connection to {target}: {errno}"));
            self.remove_connection(key);
        }
    }

    /// Watches an entry's descriptor until it is removed; reported as long as something waits there.
    pub(super) fn watch_level(&mut self, key: Key) -> rustix::io::Result<()> {
        let socket = match self.entries.get(key) {
            Some(
                Entry::ControlListener(socket)
                | Entry::Control(socket)
                | Entry::Probe(socket)
                | Entry::TcpListener { socket, .. },
            ) => socket.as_fd(),
            Some(Entry::UdpListener(listener)) => listener.socket().as_fd(),
            Some(Entry::Session(session)) => session.socket().as_fd(),
            Some(Entry::Idle(_) | Entry::Connection(_)) | None => return Ok(()),
        };
        epoll::add(&self.epoll, socket, EventData::new_u64(key.to_u64(false)), EventFlags::IN)
    }

    /// Stops to watch a descriptor of which somebody else may have a duplicate: closing it is not enough (epoll(7)).
    pub(super) fn unwatch(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.epoll, socket);
    }

    pub(super) fn complain(&mut self, what: impl FnOnce() -> String) {
        self.journal.note(what);
    }
}

/// Takes the lock that the one forwarder of a run directory holds.
fn lock(config: &Config) -> io::Result<OwnedFd> {
    let path = config.run_dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => Err(io::Error::other("another one runs there")),
        Err(errno) => Err(errno.into()),
    }
}

/// Raises the soft limit of descriptors to the hard one, and returns it.
fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

pub(super) fn open_spare() -> Option<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty()).ok()
}

/// Complaints, at most one a second, so that a full log is no second fault.
#[derive(Default)]
struct Journal {
    last: Option<Instant>,
    kept_back: u64,
}

impl Journal {
    fn note(&mut self, what: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            self.kept_back += 1;
            return;
        }
        let more = match std::mem::take(&mut self.kept_back) {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        self.last = Some(now);
        let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("stratus forward: {}{more}\n", what()));
    }
}

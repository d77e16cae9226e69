//! What daemons ask for, and the datagrams of UDP ports: the parts of the forwarder that are not TCP.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, sockopt};

use super::arena::Key;
use super::protocol::{self, Held, Hold, MAX_KEY, Mode, Proto, Refusal, Reply, Request, Status};
use super::server::{BURST, Entry, Forwarder, Holding, open_spare};
use super::udp::{Peer, Session, UdpListener};
use super::{SOCKET_FILE, bind};

/// Daemons (or whoever looks on behalf of one) that are connected at the same time.
const MAX_CONTROLS: usize = 16;

/// Bytes of keys and addresses in one page of a list.
const PAGE: usize = 24 << 10;

/// How often an idle session may be passed over before it has to make room for a new one.
const PASSES: usize = 8;

impl Forwarder {
    pub(super) fn accept_controls(&mut self, key: Key) {
        let client = match self.accept_control(key) {
            Err(Errno::MFILE | Errno::NFILE) => self.accept_with_the_spare_one(key),
            accepted => accepted,
        };
        let Ok(client) = client else { return };
        // The file's mode says the same; a descriptor that was passed around does not.
        let uid = sockopt::socket_peercred(&client).map(|credentials| credentials.uid);
        if uid != Ok(rustix::process::geteuid()) || self.controls.len() >= MAX_CONTROLS {
            return self.complain(|| format!("a control connection of {uid:?} was turned away"));
        }
        let control = self.entries.insert(Entry::Control(client));
        self.controls.push(control);
        if let Err(errno) = self.watch_level(control) {
            self.complain(|| format!("cannot watch a control connection: {errno}"));
            self.hang_up(control);
        }
    }

    fn accept_control(&self, key: Key) -> Result<OwnedFd, Errno> {
        let Some(Entry::ControlListener(socket)) = self.entries.get(key) else { return Err(Errno::AGAIN) };
        rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    /// Without a descriptor left: a UDP client makes room for the daemon. Where there is none, the daemon is turned away, as
    /// it would be reported without end.
    fn accept_with_the_spare_one(&mut self, key: Key) -> Result<OwnedFd, Errno> {
        self.complain(|| "out of file descriptors: a control connection found none".to_owned());
        drop(self.spare.take());
        self.make_room();
        let accepted = self.accept_control(key);
        self.spare = open_spare();
        if self.spare.is_some() {
            return accepted;
        }
        drop(accepted);
        self.spare = open_spare();
        Err(Errno::MFILE)
    }

    pub(super) fn serve_control(&mut self, key: Key) {
        let Some(Entry::Control(socket)) = self.entries.get(key) else { return };
        let received = match protocol::recv(socket, &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok(received) if received.len > 0 => received,
            Err(Errno::AGAIN) => return,
            Ok(_) | Err(_) => return self.hang_up(key),
        };
        let request = if received.cut_short { None } else { protocol::decode(&self.buffer[..received.len]) };
        let (reply, fd) = match request {
            Some(Request::Upgrade) => match self.plan_upgrade(key, received.fd) {
                // The answer comes when it is done.
                Ok(()) => return,
                Err(refusal) => (Reply::Refused(refusal), None),
            },
            Some(request) => self.answer(request, received.fd),
            None => (Reply::Refused(Refusal::NotUnderstood), None),
        };
        self.reply(key, &reply, fd.as_ref().map(AsFd::as_fd));
    }

    pub(super) fn reply(&mut self, key: Key, reply: &Reply, fd: Option<BorrowedFd<'_>>) {
        let Some(Entry::Control(socket)) = self.entries.get(key) else { return };
        let sent =
            protocol::encode(reply).is_ok_and(|bytes| protocol::send(socket, &bytes, fd, SendFlags::DONTWAIT).is_ok());
        // Whoever asks and does not read the answers has no further questions.
        if !sent {
            self.hang_up(key);
        }
    }

    fn hang_up(&mut self, key: Key) {
        self.cancel_upgrade(key);
        self.entries.remove(key);
        self.controls.retain(|&control| control != key);
    }

    fn answer(&mut self, request: Request, fd: Option<OwnedFd>) -> (Reply, Option<OwnedFd>) {
        let reply = match request {
            Request::Ping => Reply::Pong(self.status()),
            Request::Hold(hold) => to_reply(self.hold(hold, fd)),
            Request::Retarget { key, mode } => to_reply(self.retarget(key, mode)),
            Request::Release { key } => to_reply(self.release(&key).map(|_| ()).ok_or(Refusal::UnknownKey { key })),
            Request::List { after } => self.list(after),
            Request::Fetch { key } => match self.fetch(&key) {
                Some(socket) => return (Reply::Socket, Some(socket)),
                None => Reply::Refused(Refusal::UnknownKey { key }),
            },
            Request::Shutdown => {
                self.shut_down();
                Reply::Done
            }
            // It has an answer of its own.
            Request::Upgrade => Reply::Refused(Refusal::NotUnderstood),
        };
        (reply, None)
    }

    fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            holds: count(self.holdings.len()),
            connections: count(self.connections),
            sessions: count(self.sessions),
            refused: self.refused,
        }
    }

    fn hold(&mut self, hold: Hold, fd: Option<OwnedFd>) -> Result<(), Refusal> {
        if hold.key.is_empty() || hold.key.len() > MAX_KEY {
            return Err(Refusal::BadKey);
        }
        let bad = |why: String| Refusal::BadSocket { key: hold.key.clone(), proto: hold.proto, why };
        let socket = fd.ok_or_else(|| bad("none came with the request".into()))?;
        let local = bind::check(&socket, hold.proto).map_err(bad)?;
        bind::prepare(&socket, hold.proto).map_err(|errno| bad(errno.to_string()))?;
        check_mode(hold.proto, hold.mode)?;
        self.release(&hold.key);
        let entry = self.serve(socket, &hold, local).map_err(bad)?;
        self.holdings.insert(hold.key.clone(), Holding { hold, local, entry });
        Ok(())
    }

    fn retarget(&mut self, key: String, mode: Mode) -> Result<(), Refusal> {
        let Some(holding) = self.holdings.get(&key) else { return Err(Refusal::UnknownKey { key }) };
        check_mode(holding.hold.proto, mode)?;
        let (hold, local) = (Hold { mode, ..holding.hold.clone() }, holding.local);
        let bad = |why: String| Refusal::BadSocket { key: key.clone(), proto: hold.proto, why };
        let socket = self.release(&key).ok_or_else(|| Refusal::UnknownKey { key: key.clone() })?;
        let entry = self.serve(socket, &hold, local).map_err(bad)?;
        self.holdings.insert(key.clone(), Holding { hold, local, entry });
        Ok(())
    }

    /// Puts a socket to work.
    pub(super) fn serve(&mut self, socket: OwnedFd, hold: &Hold, local: SocketAddr) -> Result<Key, String> {
        let entry = match (hold.proto, hold.mode) {
            (Proto::Tcp, Mode::Reserve) => Entry::TcpListener { socket, target: None },
            (Proto::Tcp, Mode::Proxy { target }) => Entry::TcpListener { socket, target: Some(target) },
            (Proto::Udp, Mode::Proxy { target }) => {
                Entry::UdpListener(UdpListener::open(socket, target, local).map_err(|errno| errno.desc().to_owned())?)
            }
            (Proto::Udp, Mode::Reserve) => {
                // Nobody reads what gets here: let the kernel keep as little of it as it can.
                let _ = sockopt::set_socket_recv_buffer_size(&socket, 1);
                Entry::Idle(socket)
            }
            (Proto::Sctp, _) => Entry::Idle(socket),
        };
        let key = self.entries.insert(entry);
        if let Err(errno) = self.watch_level(key) {
            self.entries.remove(key);
            return Err(errno.to_string());
        }
        Ok(key)
    }

    /// Takes a port out of service; what it accepted lives on.
    fn release(&mut self, key: &str) -> Option<OwnedFd> {
        let holding = self.holdings.remove(key)?;
        let socket = match self.entries.remove(holding.entry)? {
            Entry::Idle(socket) | Entry::TcpListener { socket, .. } => socket,
            Entry::UdpListener(listener) => {
                for &session in listener.sessions.values() {
                    self.entries.remove(session);
                    self.sessions -= 1;
                }
                listener.into_socket()
            }
            Entry::ControlListener(_)
            | Entry::Control(_)
            | Entry::Connection(_)
            | Entry::Session(_)
            | Entry::Probe(_) => return None,
        };
        self.unwatch(&socket);
        Some(socket)
    }

    fn list(&self, after: Option<String>) -> Reply {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut held = Vec::new();
        let mut size = 0;
        for (key, Holding { hold, local, .. }) in self.holdings.range((start, Bound::Unbounded)) {
            if size > PAGE {
                return Reply::Holds { held, more: true };
            }
            // Addresses take at most 30 bytes each.
            size += key.len() + 64;
            held.push(Held { hold: hold.clone(), local: *local });
        }
        Reply::Holds { held, more: false }
    }

    fn fetch(&self, key: &str) -> Option<OwnedFd> {
        let socket = match self.entries.get(self.holdings.get(key)?.entry)? {
            Entry::Idle(socket) | Entry::TcpListener { socket, .. } => socket,
            Entry::UdpListener(listener) => listener.socket(),
            _ => return None,
        };
        rustix::io::fcntl_dupfd_cloexec(socket, 0).ok()
    }

    /// Gives up ports and name, so that another forwarder can take its place as soon as this one is asked for no more.
    fn shut_down(&mut self) {
        for key in self.holdings.keys().cloned().collect::<Vec<_>>() {
            self.release(&key);
        }
        if let Some(listener) = self.control_listener.take() {
            let _ = rustix::fs::unlink(self.config.run_dir.join(SOCKET_FILE));
            self.entries.remove(listener);
        }
        self.lock = None;
    }

    /// Datagrams from clients to the target.
    pub(super) fn forward_datagrams(&mut self, key: Key) {
        let now = Instant::now();
        for _ in 0..BURST {
            let Some(Entry::UdpListener(listener)) = self.entries.get(key) else { return };
            let Some((len, peer)) = listener.receive(&mut self.buffer) else { return };
            let known = listener.sessions.get(&peer).copied();
            let target = listener.target;
            let Some(session) = known.or_else(|| self.open_session(key, peer, target, now)) else { continue };
            if let Some(Entry::Session(session)) = self.entries.get_mut(session) {
                session.last_used = now;
                session.send(&self.buffer[..len]);
            }
        }
    }

    /// Datagrams from the target to its client.
    pub(super) fn return_datagrams(&mut self, key: Key) {
        for _ in 0..BURST {
            let Some(Entry::Session(session)) = self.entries.get_mut(key) else { return };
            let Some(len) = session.receive(&mut self.buffer) else { return };
            session.last_used = Instant::now();
            let (listener, peer) = (session.listener, session.peer);
            if let Some(Entry::UdpListener(listener)) = self.entries.get(listener) {
                listener.send(&peer, &self.buffer[..len]);
            }
        }
    }

    fn open_session(&mut self, listener: Key, peer: Peer, target: SocketAddr, now: Instant) -> Option<Key> {
        if self.sessions >= self.config.max_sessions {
            self.make_room();
        }
        let mut opened = Session::open(listener, peer, target, now);
        if matches!(opened, Err(Errno::MFILE | Errno::NFILE)) {
            self.make_room();
            opened = Session::open(listener, peer, target, now);
        }
        let session = match opened {
            Ok(session) => session,
            Err(errno) => {
                self.complain(|| format!("cannot send to {target}: {errno}"));
                return None;
            }
        };
        match self.add_session(session, now) {
            Ok(key) => Some(key),
            Err(errno) => {
                self.complain(|| format!("cannot watch a socket: {errno}"));
                None
            }
        }
    }

    pub(super) fn add_session(&mut self, session: Session, last_used: Instant) -> rustix::io::Result<Key> {
        let (listener, peer) = (session.listener, session.peer);
        let key = self.entries.insert(Entry::Session(session));
        if let Err(errno) = self.watch_level(key) {
            self.entries.remove(key);
            return Err(errno);
        }
        self.sessions += 1;
        if let Some(Entry::UdpListener(listener)) = self.entries.get_mut(listener) {
            listener.sessions.insert(peer, key);
        }
        self.expiry.push_back((last_used + self.config.udp_idle, key));
        Ok(key)
    }

    /// Makes up for sessions that were added in another order than that in which they were used.
    pub(super) fn sort_expiry(&mut self) {
        self.expiry.make_contiguous().sort_by_key(|&(due, _)| due);
    }

    /// Forgets clients that were silent for too long.
    pub(super) fn expire_sessions(&mut self, now: Instant) {
        while let Some(&(due, key)) = self.expiry.front() {
            if due > now {
                return;
            }
            self.expiry.pop_front();
            let Some(Entry::Session(session)) = self.entries.get(key) else { continue };
            let until = session.last_used + self.config.udp_idle;
            if until > now {
                self.expiry.push_back((until, key));
            } else {
                self.close_session(key);
            }
        }
    }

    /// Forgets the client that was silent longest, or nearly: those seen since they were last looked at are passed over.
    fn make_room(&mut self) {
        let mut passes = 0;
        while let Some((due, key)) = self.expiry.pop_front() {
            let Some(Entry::Session(session)) = self.entries.get(key) else { continue };
            let until = session.last_used + self.config.udp_idle;
            if until > due && passes < PASSES {
                passes += 1;
                self.expiry.push_back((until, key));
            } else {
                return self.close_session(key);
            }
        }
    }

    fn close_session(&mut self, key: Key) {
        let Some(Entry::Session(session)) = self.entries.remove(key) else { return };
        self.sessions -= 1;
        if let Some(Entry::UdpListener(listener)) = self.entries.get_mut(session.listener) {
            listener.sessions.remove(&session.peer);
        }
    }
}

fn check_mode(proto: Proto, mode: Mode) -> Result<(), Refusal> {
    match (proto, mode) {
        (Proto::Sctp, Mode::Proxy { .. }) => Err(Refusal::CannotProxy { proto }),
        _ => Ok(()),
    }
}

fn to_reply(outcome: Result<(), Refusal>) -> Reply {
    match outcome {
        Ok(()) => Reply::Done,
        Err(refusal) => Reply::Refused(refusal),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

//! A connected daemon.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;

use super::Keeper;
use super::poller::Token;
use super::slots::Key;
use crate::protocol::{Event, Failure, FromKeeper, PROTOCOL, Reply, ToKeeper};
use crate::wire::{self, Packet, WireError};

/// As many daemons at a time.
const MAX_CONNECTIONS: usize = 64;
/// A daemon that lets this much pile up does not read any more: it is cut off, and asks for everything when it connects again.
const MAX_QUEUED: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) greeted: bool,
    /// What the socket did not take yet.
    pub(super) queue: VecDeque<Packet>,
    pub(super) queued: usize,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Connection {
        Connection { socket, greeted: false, queue: VecDeque::new(), queued: 0 }
    }
}

/// A request came without what belongs to it.
fn no_descriptor() -> Failure {
    let errno = rustix::io::Errno::MFILE.raw_os_error();
    Failure::System { tried: "receive the descriptors of".into(), on: "a request".into(), errno }
}

pub(super) const RELEASE: &str = env!("CARGO_PKG_VERSION");

impl Keeper {
    pub(super) fn accept(&mut self) {
        use rustix::net::SocketFlags;
        let socket = match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => return self.turn_away(),
            // The peer has gone again.
            Err(_) => return,
        };
        let own = rustix::process::geteuid();
        let allowed =
            rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own || peer.uid.is_root());
        if !allowed || self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let key = self.connections.insert(Connection::new(socket));
        let Some(connection) = self.connections.get(key) else { return };
        if self.poller.add(&connection.socket, Token::Connection(key), self.interest(connection)).is_err() {
            self.connections.remove(key);
        }
    }

    /// No descriptor is left for a connection, which would be offered again and again: it is taken on the spare one, and closed.
    fn turn_away(&mut self) {
        self.spare = None;
        drop(rustix::net::accept(&self.listener));
        self.spare = rustix::io::fcntl_dupfd_cloexec(&self.null, 3).ok();
        self.complain("no descriptor is left for another connection");
    }

    /// What is waited for on a connection. Requests stay where they are while the keeper is about to become another program.
    pub(super) fn interest(&self, connection: &Connection) -> EventFlags {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, !self.is_about_to_upgrade());
        interest.set(EventFlags::OUT, !connection.queue.is_empty());
        interest
    }

    /// Waits on a connection for what is of interest now.
    pub(super) fn watch_connection(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key) else { return };
        if self.poller.modify(&connection.socket, Token::Connection(key), self.interest(connection)).is_err() {
            self.drop_connection(key);
        }
    }

    pub(super) fn on_connection(&mut self, key: Key, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.flush_connection(key);
        }
        let Some(connection) = self.connections.get(key) else { return };
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        match wire::receive::<ToKeeper>(connection.socket.as_fd(), &mut self.receive_buffer) {
            Ok(Some((message, descriptors))) => self.on_message(key, message, descriptors),
            Err(error) if error.would_block() => {}
            Err(error @ WireError::NoDescriptor { number: 0 }) => self.refuse(key, &error.to_string()),
            Err(WireError::NoDescriptor { number }) => self.respond(key, number, Err(no_descriptor()), Vec::new()),
            Ok(None) | Err(_) => self.drop_connection(key),
        }
    }

    fn on_message(&mut self, key: Key, message: ToKeeper, descriptors: Vec<OwnedFd>) {
        match message {
            ToKeeper::Hello { protocol: PROTOCOL } => {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.greeted = true;
                }
                let pid = std::process::id();
                self.send(
                    key,
                    &FromKeeper::Welcome { protocol: PROTOCOL, release: RELEASE.to_owned(), pid },
                    Vec::new(),
                );
                if let Some(kind) = self.home.away_from() {
                    let away_from = Some(kind.name().to_owned());
                    self.send(key, &FromKeeper::Event(Event::Whereabouts { away_from }), Vec::new());
                }
            }
            ToKeeper::Hello { protocol } => {
                let reason = format!("version {protocol} of the protocol is not spoken here; upgrade the keeper");
                self.send(key, &FromKeeper::Refused { reason, protocol: PROTOCOL }, Vec::new());
            }
            ToKeeper::Upgrade => self.plan_upgrade(key, descriptors),
            ToKeeper::Request { number, body } => {
                let greeted = self.connections.get(key).is_some_and(|connection| connection.greeted);
                if !greeted {
                    let reason = "greet first".to_owned();
                    self.send(key, &FromKeeper::Refused { reason, protocol: PROTOCOL }, Vec::new());
                    return self.drop_connection(key);
                }
                self.on_request(key, number, body, descriptors);
            }
        }
    }

    pub(super) fn respond(&mut self, key: Key, number: u64, result: Result<Reply, Failure>, descriptors: Vec<OwnedFd>) {
        if number != 0 {
            self.send(key, &FromKeeper::Response { number, result }, descriptors);
        }
    }

    /// Tells every daemon.
    pub(super) fn announce(&mut self, event: Event) {
        let message = FromKeeper::Event(event);
        for key in self.connections.keys() {
            if self.connections.get(key).is_some_and(|connection| connection.greeted) {
                self.send(key, &message, Vec::new());
            }
        }
    }

    pub(super) fn send(&mut self, key: Key, message: &FromKeeper, descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let packet = match Packet::encode(message, descriptors) {
            Ok(packet) => packet,
            Err(error) => {
                self.complain(&format!("a message could not be made: {error}"));
                return self.drop_connection(key);
            }
        };
        if connection.queue.is_empty() {
            match packet.send(connection.socket.as_fd()) {
                Ok(()) => return,
                Err(error) if error.would_block() => {}
                Err(_) => return self.drop_connection(key),
            }
        }
        connection.queued += packet.weight();
        connection.queue.push_back(packet);
        if connection.queued > MAX_QUEUED {
            self.complain("a daemon does not read; its connection is closed");
            return self.drop_connection(key);
        }
        if connection.queue.len() == 1 {
            self.watch_connection(key);
        }
    }

    fn flush_connection(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        while let Some(packet) = connection.queue.front() {
            match packet.send(connection.socket.as_fd()) {
                Ok(()) => {
                    connection.queued -= packet.weight();
                    connection.queue.pop_front();
                }
                Err(error) if error.would_block() => return,
                Err(_) => return self.drop_connection(key),
            }
        }
        self.watch_connection(key);
    }

    pub(super) fn drop_connection(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(key) {
            self.poller.remove(&connection.socket);
            self.cancel_upgrade(key);
            self.kill_bound_to(key);
        }
    }
}

//! One TCP connection through the forwarder: two sockets, and the bytes between them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};
use rustix::pipe::SpliceFlags;
use serde::{Deserialize, Serialize};

use super::pipes::{Pipe, Pipes};
use super::upgrade::{Arrived, Luggage, Place};

/// Bytes of one splice, as many as a pipe holds by default (pipe(7)).
const CHUNK: usize = 64 << 10;

/// Bytes that one direction moves before others get their turn.
const TURN: usize = 1 << 20;

/// A peer that has vanished is noticed after about two minutes of silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Which of a connection's two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Target,
}

/// What a connection wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until an event comes.
    Wait,
    /// Another turn: it had more to move than one turn allows.
    Again,
    /// To be removed. Both streams have ended, or one end has broken.
    Close,
}

/// A socket, and what edge-triggered epoll said about it last.
struct End {
    socket: OwnedFd,
    readable: bool,
    writable: bool,
}

impl End {
    fn note(&mut self, flags: EventFlags) {
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        self.readable |= broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.writable |= broken || flags.contains(EventFlags::OUT);
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Holds `queued` bytes; none while there are none.
    pipe: Option<Pipe>,
    queued: usize,
    /// Over: the source has ended and the destination was told so after the last byte, or the destination takes no more.
    ended: bool,
    /// The source has ended.
    source_ended: bool,
}

/// A [`Connection`] on its way to another program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedConnection {
    client: Place,
    target: Place,
    is_connecting: bool,
    to_target: SavedFlow,
    to_client: SavedFlow,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedFlow {
    /// Its two ends.
    pipe: Option<(Place, Place)>,
    queued: usize,
    source_ended: bool,
    ended: bool,
}

/// A connection: the client that was accepted, the target that is being or has been connected to.
pub(super) struct Connection {
    client: End,
    target: End,
    is_connecting: bool,
    to_target: Flow,
    to_client: Flow,
    /// It waits for another turn.
    pub(super) is_queued: bool,
}

impl Connection {
    /// Starts to connect `client` to `target`. Nothing flows before [`Connection::on_event`] reports the connection.
    pub(super) fn open(client: OwnedFd, target: SocketAddr) -> rustix::io::Result<Self> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        for end in [&client, &socket] {
            sockopt::set_tcp_nodelay(end, true)?;
            sockopt::set_tcp_keepidle(end, KEEPALIVE_IDLE)?;
            sockopt::set_tcp_keepintvl(end, KEEPALIVE_INTERVAL)?;
            sockopt::set_tcp_keepcnt(end, KEEPALIVE_PROBES)?;
            sockopt::set_socket_keepalive(end, true)?;
        }
        match rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &target)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        Ok(Connection {
            client: End { socket: client, readable: false, writable: false },
            target: End { socket, readable: false, writable: false },
            is_connecting: true,
            to_target: Flow::default(),
            to_client: Flow::default(),
            is_queued: false,
        })
    }

    /// What another program needs to go on with it.
    pub(super) fn save<'a>(&'a self, luggage: &mut Luggage<'a>) -> SavedConnection {
        SavedConnection {
            client: luggage.put(&self.client.socket),
            target: luggage.put(&self.target.socket),
            is_connecting: self.is_connecting,
            to_target: self.to_target.save(luggage),
            to_client: self.to_client.save(luggage),
        }
    }

    /// Takes over from another program. The first events tell what can be read and written.
    pub(super) fn restore(saved: SavedConnection, arrived: &mut Arrived) -> io::Result<Self> {
        let mut end =
            |place| Ok::<_, io::Error>(End { socket: arrived.take(place)?, readable: false, writable: false });
        Ok(Connection {
            client: end(saved.client)?,
            target: end(saved.target)?,
            is_connecting: saved.is_connecting,
            to_target: Flow::restore(saved.to_target, arrived)?,
            to_client: Flow::restore(saved.to_client, arrived)?,
            is_queued: false,
        })
    }

    /// The socket of one side, to watch for [`Connection::INTEREST`].
    pub(super) fn socket(&self, side: Side) -> &OwnedFd {
        match side {
            Side::Client => &self.client.socket,
            Side::Target => &self.target.socket,
        }
    }

    /// What both sockets are watched for. Edge-triggered: one registration for life, and no event twice.
    pub(super) const INTEREST: EventFlags =
        EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

    /// Takes note of an event, and moves what can be moved.
    pub(super) fn on_event(&mut self, side: Side, flags: EventFlags, pipes: &mut Pipes) -> Result<Next, Broken> {
        match side {
            Side::Client => self.client.note(flags),
            Side::Target => self.target.note(flags),
        }
        if self.is_connecting {
            match side {
                Side::Target => match sockopt::socket_error(&self.target.socket) {
                    Ok(Ok(())) if self.target.writable => self.is_connecting = false,
                    Ok(Ok(())) => return Ok(Next::Wait),
                    Ok(Err(errno)) | Err(errno) => return Err(Broken { what: "connect to the target", errno }),
                },
                // The client gave up before the target answered.
                Side::Client if flags.intersects(EventFlags::ERR | EventFlags::HUP) => return Ok(Next::Close),
                Side::Client => return Ok(Next::Wait),
            }
        }
        self.turn(pipes)
    }

    /// Moves bytes both ways until neither can go on, or its turn is over.
    ///
    /// An end that takes no more (a web server that refuses an upload half-way) may still have something to say, so that
    /// a failed write ends its own direction only. A failed read breaks the connection.
    pub(super) fn turn(&mut self, pipes: &mut Pipes) -> Result<Next, Broken> {
        let more_up = self.to_target.pump(&mut self.client, &mut self.target, pipes)?;
        let more_down = self.to_client.pump(&mut self.target, &mut self.client, pipes)?;
        Ok(if self.to_target.ended && self.to_client.ended {
            Next::Close
        } else if more_up || more_down {
            Next::Again
        } else {
            Next::Wait
        })
    }

    /// Whether the target has not answered yet.
    pub(super) fn is_connecting(&self) -> bool {
        self.is_connecting
    }

    /// Ends both connections with a reset: what got through was not all, and neither end may take it for all.
    pub(super) fn reset(self) {
        for end in [&self.client, &self.target] {
            let _ = sockopt::set_socket_linger(&end.socket, Some(Duration::ZERO));
        }
    }
}

/// A connection that did not end as its peers wanted.
#[derive(Debug)]
pub(super) struct Broken {
    /// What was tried.
    pub(super) what: &'static str,
    /// What the system said.
    pub(super) errno: Errno,
}

impl Flow {
    fn save<'a>(&'a self, luggage: &mut Luggage<'a>) -> SavedFlow {
        let pipe = self.pipe.as_ref().map(|pipe| (luggage.put(&pipe.reader), luggage.put(&pipe.writer)));
        SavedFlow { pipe, queued: self.queued, source_ended: self.source_ended, ended: self.ended }
    }

    fn restore(saved: SavedFlow, arrived: &mut Arrived) -> io::Result<Self> {
        let pipe = match saved.pipe {
            Some((reader, writer)) => Some(Pipe { reader: arrived.take(reader)?, writer: arrived.take(writer)? }),
            None => None,
        };
        Ok(Flow { pipe, queued: saved.queued, source_ended: saved.source_ended, ended: saved.ended })
    }

    /// Moves bytes from `source` to `destination`; true where its turn ended before the bytes did.
    fn pump(&mut self, source: &mut End, destination: &mut End, pipes: &mut Pipes) -> Result<bool, Broken> {
        let mut moved = 0;
        while !self.ended {
            let before = (self.queued, self.source_ended);
            self.fill(source, pipes)?;
            moved += self.drain(destination, pipes);
            if self.source_ended && self.queued == 0 {
                self.end(destination);
            }
            if moved >= TURN {
                return Ok(true);
            }
            // Bytes that stay queued mean that the destination is full, and its next event goes on from here.
            let filled_nothing = before == (self.queued, self.source_ended);
            if self.queued > 0 || (filled_nothing && !source.readable) {
                break;
            }
        }
        Ok(false)
    }

    /// Fills the pipe from the source, once.
    fn fill(&mut self, source: &mut End, pipes: &mut Pipes) -> Result<(), Broken> {
        if self.source_ended || !source.readable {
            return Ok(());
        }
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => pipes.take().map_err(|errno| Broken { what: "make a pipe", errno })?,
        };
        let outcome = splice(&source.socket, &pipe.writer, CHUNK);
        match outcome {
            Ok(0) => self.source_ended = true,
            Ok(count) => self.queued += count,
            // With bytes in the pipe this may be the pipe that is full, not the source that is empty: ask again later.
            Err(Errno::AGAIN) if self.queued == 0 => source.readable = false,
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(Broken { what: "read", errno }),
        }
        self.keep_or_give_back(pipe, pipes);
        Ok(())
    }

    /// Empties the pipe into the destination as far as that takes it. Where it takes nothing any more, this direction ends.
    fn drain(&mut self, destination: &mut End, pipes: &mut Pipes) -> usize {
        let Some(pipe) = self.pipe.take() else { return 0 };
        let mut moved = 0;
        while self.queued > 0 && destination.writable {
            match splice(&pipe.reader, &destination.socket, self.queued) {
                Ok(count @ 1..) => {
                    self.queued -= count.min(self.queued);
                    moved += count;
                }
                Err(Errno::AGAIN) => destination.writable = false,
                Ok(0) | Err(_) => {
                    // What is left in the pipe goes with it.
                    self.ended = true;
                    self.queued = 0;
                    return moved;
                }
            }
        }
        self.keep_or_give_back(pipe, pipes);
        moved
    }

    fn keep_or_give_back(&mut self, pipe: Pipe, pipes: &mut Pipes) {
        if self.queued > 0 {
            self.pipe = Some(pipe);
        } else {
            pipes.give_back(pipe);
        }
    }

    /// Tells the destination that nothing more comes; the other direction goes on. Fails where it has closed already.
    fn end(&mut self, destination: &End) {
        self.ended = true;
        let _ = rustix::net::shutdown(&destination.socket, Shutdown::Write);
    }
}

fn splice(from: &OwnedFd, to: &OwnedFd, len: usize) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        rustix::pipe::splice(from, None, to, None, len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
    })
}

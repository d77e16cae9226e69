//! Netlink sockets. The kernel answers a request before the sending call returns, so nothing here ever waits, except
//! for [`Socket::wait`].

use super::{HEADER, Message, align, flag};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use thiserror::Error;

/// What a socket talks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Links, addresses, routes.
    Route,
    /// nftables.
    Netfilter,
}

/// What the kernel said to a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", std::io::Error::from(*errno))]
pub(crate) struct NetlinkError {
    /// The error number.
    pub(crate) errno: Errno,
    /// Which of the messages of a batch it was, from 0.
    pub(crate) index: usize,
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> NetlinkError {
        NetlinkError { errno, index: 0 }
    }
}

/// A netlink socket of the namespace that it was opened in.
pub(crate) struct Socket {
    fd: OwnedFd,
    /// The last sequence number, and a buffer to receive in. A socket is used by one thread at a time.
    state: RefCell<State>,
}

struct State {
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a listing gave: each object's message type and payload.
pub(crate) type Objects = Vec<(u16, Vec<u8>)>;

/// A message as it came.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// How often a listing is begun again. Each interruption means that somebody else's change got through.
const DUMP_ATTEMPTS: usize = 100;

/// Message types below the families' own (`NLMSG_*`).
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// A dump was interrupted by a change, and may miss or repeat something (`NLM_F_DUMP_INTR`).
const INTERRUPTED: u16 = 0x10;
/// Frames of a transaction of nfnetlink (`NFNL_MSG_BATCH_*`).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: Family) -> Result<Socket, Errno> {
        Socket::open_for(family, 0)
    }

    /// As [`Socket::open`], subscribed to groups of notifications (a bit each).
    pub(crate) fn open_for(family: Family, groups: u32) -> Result<Socket, Errno> {
        let protocol = match family {
            // NETLINK_ROUTE is 0, and so the default.
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Socket { fd, state: RefCell::new(State { sequence: 0, buffer: Vec::new() }) })
    }

    /// Sends messages in one system call and returns when all are done. Later ones are tried where an earlier one failed;
    /// the first failure is told.
    pub(crate) fn request(&self, messages: &[Message]) -> Result<(), NetlinkError> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        let state = &mut *self.state.borrow_mut();
        let first = state.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::len).sum());
        for (index, message) in messages.iter().enumerate() {
            state.sequence = state.sequence.wrapping_add(1);
            // One answer to the last message is enough: failures are always answered.
            let acknowledged = if index == last { message.clone().with_flags(flag::ACK) } else { message.clone() };
            acknowledged.finish(state.sequence, &mut bytes);
        }
        self.send(&bytes)?;
        self.collect(state, first, last, None)
    }

    /// Sends messages as one transaction of nftables: all are done, or none.
    pub(crate) fn transact(&self, messages: &[Message]) -> Result<(), NetlinkError> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        let state = &mut *self.state.borrow_mut();
        let frame = |kind| Message::new(kind, 0).fixed(&[0, 0, NFTABLES.to_be_bytes()[0], NFTABLES.to_be_bytes()[1]]);
        let begin = state.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(64 + messages.iter().map(Message::len).sum::<usize>());
        frame(BATCH_BEGIN).finish(begin, &mut bytes);
        state.sequence = begin;
        for (index, message) in messages.iter().enumerate() {
            state.sequence = state.sequence.wrapping_add(1);
            let acknowledged = if index == last { message.clone().with_flags(flag::ACK) } else { message.clone() };
            acknowledged.finish(state.sequence, &mut bytes);
        }
        state.sequence = state.sequence.wrapping_add(1);
        frame(BATCH_END).finish(state.sequence, &mut bytes);
        // A whole transaction is one datagram, which the default buffer may be too small for.
        if bytes.len() > 100_000 {
            let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, 2 * bytes.len());
            let _ = sockopt::set_socket_recv_buffer_size_force(&self.fd, 2 * bytes.len());
        }
        self.send(&bytes)?;
        self.collect(state, begin.wrapping_add(1), last, Some(begin))
    }

    /// Sends a message under the next number, which the answers have.
    fn ask(&self, state: &mut State, message: &Message) -> Result<u32, NetlinkError> {
        state.sequence = state.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(message.len());
        message.finish(state.sequence, &mut bytes);
        self.send(&bytes)?;
        Ok(state.sequence)
    }

    /// Asks for one object; its payload is given to `read`.
    pub(crate) fn get<T>(&self, message: Message, read: impl FnOnce(&[u8]) -> T) -> Result<T, NetlinkError> {
        let state = &mut *self.state.borrow_mut();
        let sequence = self.ask(state, &message)?;
        loop {
            for received in self.receive(&mut state.buffer)? {
                if received.sequence == sequence {
                    return match received.kind {
                        ERROR => Err(error_of(&received, 0).unwrap_or(Errno::NODATA.into())),
                        _ => Ok(read(received.payload)),
                    };
                }
            }
        }
    }

    /// Asks for all objects of a kind; gives each one's message type and payload. A listing that a change interrupted is
    /// begun again.
    pub(crate) fn dump(&self, message: Message) -> Result<Objects, NetlinkError> {
        let message = message.with_flags(flag::DUMP);
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(objects) = self.try_dump(&message)? {
                return Ok(objects);
            }
        }
        Err(Errno::INTR.into())
    }

    /// One attempt; `None` where it was interrupted.
    fn try_dump(&self, message: &Message) -> Result<Option<Objects>, NetlinkError> {
        let state = &mut *self.state.borrow_mut();
        let sequence = self.ask(state, message)?;
        let (mut objects, mut interrupted) = (Vec::new(), false);
        loop {
            for received in self.receive(&mut state.buffer)? {
                if received.sequence != sequence {
                    continue;
                }
                interrupted |= received.flags & INTERRUPTED != 0;
                if received.kind != ERROR && received.kind != DONE {
                    objects.push((received.kind, received.payload.to_vec()));
                    continue;
                }
                return match error_of(&received, 0) {
                    Some(error) if error.errno == Errno::INTR => Ok(None),
                    Some(error) => Err(error),
                    None => Ok((!interrupted).then_some(objects)),
                };
            }
        }
    }

    /// Waits for notifications and gives each one's type and payload to `read`; gives `false` when `stop` becomes readable
    /// or its other end is closed. `ENOBUFS` says that some were lost.
    pub(crate) fn wait(&self, stop: BorrowedFd<'_>, mut read: impl FnMut(u16, &[u8])) -> Result<bool, Errno> {
        let mut poll = [PollFd::new(&self.fd, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        match rustix::event::poll(&mut poll, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if !poll[1].revents().is_empty() {
            return Ok(false);
        }
        if poll[0].revents().is_empty() {
            return Ok(true);
        }
        let state = &mut *self.state.borrow_mut();
        for received in self.receive(&mut state.buffer)? {
            read(received.kind, received.payload);
        }
        Ok(true)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        loop {
            match rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &kernel) {
                Err(Errno::INTR) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Reads answers until the one to the last message, or one to the frame of the batch. The first failure counts.
    fn collect(&self, state: &mut State, first: u32, last: usize, frame: Option<u32>) -> Result<(), NetlinkError> {
        let mut failure: Option<NetlinkError> = None;
        loop {
            for received in self.receive(&mut state.buffer)? {
                if received.kind != ERROR {
                    continue;
                }
                if Some(received.sequence) == frame {
                    // The frame of a batch is answered only where the batch as a whole failed.
                    if let Some(error) = error_of(&received, 0) {
                        return Err(failure.unwrap_or(error));
                    }
                    continue;
                }
                let index = received.sequence.wrapping_sub(first) as usize;
                if index > last {
                    continue;
                }
                if let (None, Some(error)) = (&failure, error_of(&received, index)) {
                    failure = Some(error);
                }
                if index == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Receives one datagram. Answers are there already when a request returned: having to wait is an error.
    fn receive<'a>(&self, buffer: &'a mut Vec<u8>) -> Result<impl Iterator<Item = Received<'a>> + use<'a>, Errno> {
        buffer.resize(32 * 1024, 0);
        let length = loop {
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                result => break result?.0,
            }
        };
        let mut rest = &buffer[..length];
        Ok(std::iter::from_fn(move || {
            let word = |at: usize| Some(u32::from_ne_bytes(rest.get(at..at + 4)?.try_into().ok()?));
            let (length, sequence) = (word(0)? as usize, word(8)?);
            let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
            let flags = u16::from_ne_bytes(rest.get(6..8)?.try_into().ok()?);
            let payload = rest.get(HEADER..length)?;
            rest = rest.get(align(length)..).unwrap_or(&[]);
            Some(Received { kind, flags, sequence, payload })
        }))
    }
}

/// The failure in an answer; `None` where it acknowledges.
fn error_of(received: &Received<'_>, index: usize) -> Option<NetlinkError> {
    let code = received.payload.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    // DONE of a dump carries a length of 0 or above.
    if code >= 0 {
        return None;
    }
    Some(NetlinkError { errno: Errno::from_raw_os_error(code.saturating_neg().min(4095)), index })
}

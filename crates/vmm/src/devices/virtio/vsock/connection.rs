//! A connection between a guest's port and a socket of the host.
//!
//! Both sides say how much they have room for, and how much they have passed on: nobody sends what the other has no room for (5.10.6.3). What
//! the guest sent and the socket does not take yet is kept here, never more than [`ROOM`]: a guest that sends more is cut off.

use super::super::buffers::Buffers;
use super::packet::{Header, NO_MORE_RECEIVED, NO_MORE_SENT, STREAM, op};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Bytes of what the guest sent that are kept until the socket takes them.
pub(super) const ROOM: u32 = 64 << 10;
/// Ticks that a guest has to answer a connection, and a client to say what it wants.
const PATIENCE: u8 = 10;
/// Bytes that are copied at once.
const PIECE: usize = 4096;

/// The two ends: the guest's port and the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host asked for it; the guest is to be told.
    ToRequest,
    /// The guest was told, and has not answered.
    Requested,
    /// The guest asked for it; it is to be told that it has it.
    ToConfirm,
    /// Both have it.
    Established,
    /// It is over on this side; the guest is to be told.
    ToReset,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    ports: Ports,
    stream: UnixStream,
    phase: Phase,
    /// What the guest sent, and the socket has not taken.
    kept: VecDeque<u8>,
    /// How much of what the guest sent the socket has taken, and what the guest knows of that.
    passed_on: Wrapping<u32>,
    told_passed_on: Wrapping<u32>,
    /// How much was sent to the guest; what it has room for, and has passed on.
    sent: Wrapping<u32>,
    guest_room: u32,
    guest_passed_on: Wrapping<u32>,
    /// The socket has something to be read, as far as anybody knows.
    readable: bool,
    /// The socket said that no more comes, and the guest was told so.
    end_seen: bool,
    end_told: bool,
    /// The guest sends no more, or receives no more.
    guest_sends_no_more: bool,
    guest_receives_no_more: bool,
    /// It waits for its turn to send something.
    is_due: bool,
    is_watched: bool,
    /// Ticks since the guest was told of it, while it has not answered.
    waited: u8,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lives,
    /// Both sides know that it is over.
    Over,
}

impl Connection {
    /// One that the host asked for.
    pub(super) fn of_host(ports: Ports, stream: UnixStream) -> Connection {
        Connection::new(ports, stream, Phase::ToRequest)
    }

    /// One that the guest asked for by that packet.
    pub(super) fn of_guest(ports: Ports, stream: UnixStream, request: &Header) -> Connection {
        let mut connection = Connection::new(ports, stream, Phase::ToConfirm);
        connection.take_credit(request);
        connection
    }

    fn new(ports: Ports, stream: UnixStream, phase: Phase) -> Connection {
        Connection {
            ports,
            stream,
            phase,
            kept: VecDeque::new(),
            passed_on: Wrapping(0),
            told_passed_on: Wrapping(0),
            sent: Wrapping(0),
            guest_room: 0,
            guest_passed_on: Wrapping(0),
            readable: true,
            end_seen: false,
            end_told: false,
            guest_sends_no_more: false,
            guest_receives_no_more: false,
            is_due: false,
            is_watched: false,
            waited: 0,
        }
    }

    /// Some time has passed, in which the machine ran: a guest that does not answer is waited for no longer.
    pub(super) fn tick(&mut self) {
        if self.phase == Phase::Requested {
            self.waited += 1;
            if self.waited >= PATIENCE {
                self.fail();
            }
        }
    }

    /// Whether time matters to it.
    pub(super) fn is_waiting(&self) -> bool {
        self.phase == Phase::Requested
    }

    /// Whether the guest, which has forgotten it by now, had sent all that it wanted to, and the socket has not taken it all.
    pub(super) fn is_to_be_drained(&self) -> bool {
        self.guest_sends_no_more && !self.kept.is_empty()
    }

    /// Whether there is anything of the socket that is to be known. While the guest has not answered, that is whether the client gave up; of a socket of which
    /// nothing is to be known its end is told over and over.
    pub(super) fn is_to_be_watched(&self) -> bool {
        self.phase == Phase::Requested || self.wants_to_read() || self.wants_to_write()
    }

    /// Whether it is watched: kept for who does that.
    pub(super) fn watched(&mut self) -> &mut bool {
        &mut self.is_watched
    }

    /// The socket is gone, as far as its other end is concerned.
    pub(super) fn hung_up(&mut self) {
        if self.phase == Phase::Requested {
            self.fail();
        }
    }

    /// Whether the socket is to be asked when it takes more.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether the socket is to be asked when there is more to be read.
    pub(super) fn wants_to_read(&self) -> bool {
        !self.readable && !self.end_seen
    }

    /// The socket has something to be read, or its end.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// The socket is gone: nobody is there to read what the guest sends.
    pub(super) fn fail(&mut self) {
        self.phase = Phase::ToReset;
        self.kept.clear();
    }

    /// Takes a packet of the guest's.
    pub(super) fn receive(&mut self, header: &Header, data: &mut Buffers<'_>) -> Fate {
        self.take_credit(header);
        match (header.op, self.phase) {
            (op::RESET, _) => return Fate::Over,
            (op::RESPONSE, Phase::Requested) => {
                self.phase = Phase::Established;
                // The host's side waits for this line, as with Firecracker's.
                if writeln!(&self.stream, "OK {}", self.ports.host).is_err() {
                    self.fail();
                }
            }
            (op::DATA, Phase::Established) => self.keep(header, data),
            (op::SHUTDOWN, Phase::Established) => {
                self.guest_sends_no_more |= header.flags & NO_MORE_SENT != 0;
                self.guest_receives_no_more |= header.flags & NO_MORE_RECEIVED != 0;
                self.pass_on();
            }
            // The next packet of whatever kind tells.
            (op::CREDIT_REQUEST, Phase::Established) => self.told_passed_on = self.passed_on - Wrapping(ROOM),
            (op::CREDIT, Phase::Established) | (_, Phase::ToReset) => {}
            _ => self.fail(),
        }
        Fate::Lives
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_room = header.room;
        self.guest_passed_on = Wrapping(header.passed_on);
    }

    fn keep(&mut self, header: &Header, data: &mut Buffers<'_>) {
        let length = header.length as usize;
        if self.guest_sends_no_more || length > data.len() || self.kept.len() + length > ROOM as usize {
            return self.fail();
        }
        let mut left = length;
        let mut piece = [0; PIECE];
        while left > 0 {
            let read = data.read(&mut piece[..left.min(PIECE)]);
            self.kept.extend(&piece[..read]);
            left -= read;
        }
        self.pass_on();
    }

    /// Writes to the socket what it takes.
    pub(super) fn pass_on(&mut self) {
        while !self.kept.is_empty() {
            let (front, _) = self.kept.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.kept.drain(..count);
                    self.passed_on += count as u32;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.fail(),
            }
        }
        // What was kept for a slow reader is given back.
        self.kept.shrink_to(PIECE);
        if self.guest_sends_no_more {
            // It fails only where the other end is gone, which reading tells, too.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        if self.guest_sends_no_more && self.guest_receives_no_more {
            self.fail();
        }
    }

    /// How much of the guest's room is free, in bytes.
    fn credit(&self) -> u32 {
        self.guest_room.saturating_sub((self.sent - self.guest_passed_on).0)
    }

    /// Its ends.
    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether it waits for its turn.
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Whether it is to wait for its turn from now on: it has something for the guest, and does not wait yet.
    pub(super) fn becomes_due(&mut self) -> bool {
        let becomes = !self.is_due && self.has_something();
        self.is_due |= becomes;
        becomes
    }

    /// Whether there is something to be sent to the guest.
    fn has_something(&self) -> bool {
        match self.phase {
            Phase::ToRequest | Phase::ToConfirm | Phase::ToReset => true,
            Phase::Requested => false,
            Phase::Established => {
                self.owes_credit()
                    || self.ends()
                    || (self.readable && !self.end_seen && !self.guest_receives_no_more && self.credit() > 0)
            }
        }
    }

    fn owes_credit(&self) -> bool {
        (self.passed_on - self.told_passed_on).0 >= ROOM / 2
    }

    fn ends(&self) -> bool {
        self.end_seen && !self.end_told
    }

    /// Fills `buffers`, which a header fits into, with a packet for the guest. Returns how long it is, in bytes, if there is one, and whether the
    /// connection goes on.
    pub(super) fn send(&mut self, guest_cid: u64, buffers: &mut Buffers<'_>) -> (Option<u32>, Fate) {
        self.is_due = false;
        let Some(mut front) = buffers.take(super::packet::HEADER) else { return (None, Fate::Lives) };
        let (what, flags, length) = match self.phase {
            Phase::ToRequest => {
                self.phase = Phase::Requested;
                (op::REQUEST, 0, 0)
            }
            Phase::ToConfirm => {
                self.phase = Phase::Established;
                (op::RESPONSE, 0, 0)
            }
            Phase::ToReset => (op::RESET, 0, 0),
            Phase::Requested => return (None, Fate::Lives),
            Phase::Established => match self.read(buffers) {
                0 if self.ends() => {
                    self.end_told = true;
                    let rest = if self.is_hung_up() { NO_MORE_RECEIVED } else { 0 };
                    (op::SHUTDOWN, NO_MORE_SENT | rest, 0)
                }
                0 if self.phase == Phase::ToReset => (op::RESET, 0, 0),
                0 if self.owes_credit() => (op::CREDIT, 0, 0),
                0 => return (None, Fate::Lives),
                length => (op::DATA, 0, length),
            },
        };
        self.told_passed_on = self.passed_on;
        let header = Header {
            source_cid: super::HOST_CID,
            destination_cid: guest_cid,
            source_port: self.ports.host,
            destination_port: self.ports.guest,
            length,
            type_: STREAM,
            op: what,
            flags,
            room: ROOM,
            passed_on: self.passed_on.0,
        };
        front.write(&header.bytes());
        let fate = if what == op::RESET { Fate::Over } else { Fate::Lives };
        (Some(super::packet::HEADER as u32 + length), fate)
    }

    /// Whether the other end of the socket is closed, and not only for what it sends.
    fn is_hung_up(&self) -> bool {
        let mut asked = [PollFd::new(&self.stream, PollFlags::empty())];
        let no_time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&no_time)).is_ok() && asked[0].revents().contains(PollFlags::HUP)
    }

    /// Reads what the socket has into the guest's buffers, as far as the guest has room. Returns how many bytes.
    fn read(&mut self, buffers: &mut Buffers<'_>) -> u32 {
        if !self.readable || self.end_seen || self.guest_receives_no_more {
            return 0;
        }
        let most = buffers.len().min(self.credit() as usize);
        let Some(mut room) = buffers.take(most).filter(|room| room.len() > 0) else { return 0 };
        let mut first = true;
        let count = room.transfer(|list| {
            if !std::mem::take(&mut first) {
                return Ok(0);
            }
            // SAFETY: each buffer is a part of the guest's memory, mapped for as long as the buffers live, to which nothing has references.
            let count = unsafe { libc::readv(self.stream.as_raw_fd(), list.as_ptr(), list.len() as i32) };
            usize::try_from(count).map_err(|_| io::Error::last_os_error())
        });
        match count {
            Ok(0) => self.end_seen = true,
            Ok(count) => {
                self.sent += count as u32;
                return count as u32;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_) => self.fail(),
        }
        0
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A client of the host that has not said yet which port it wants.
#[derive(Debug)]
pub(super) struct Caller {
    stream: UnixStream,
    line: Vec<u8>,
    waited: u8,
}

/// The longest line: `CONNECT 4294967295\n`.
const LINE: usize = 20;

impl Caller {
    pub(super) fn new(stream: UnixStream) -> Caller {
        Caller { stream, line: Vec::with_capacity(LINE), waited: 0 }
    }

    /// Some time has passed. Returns whether it is waited for any longer.
    pub(super) fn tick(&mut self) -> bool {
        self.waited += 1;
        self.waited < PATIENCE
    }

    /// Reads on. `Ok(None)`: the line is not whole yet. `Err`: it is none, or the client is gone.
    pub(super) fn port(&mut self) -> Result<Option<u32>, ()> {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(1) if byte == *b"\n" => break,
                Ok(1) if self.line.len() < LINE => self.line.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(()),
            }
        }
        let line = std::str::from_utf8(&self.line).map_err(drop)?;
        let port = line.strip_prefix("CONNECT ").ok_or(())?;
        port.trim_end_matches('\r').parse().map(Some).map_err(drop)
    }

    /// Its connection.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

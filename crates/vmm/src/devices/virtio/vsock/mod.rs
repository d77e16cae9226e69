//! Sockets between a guest and its host, without a network (5.10).
//!
//! The host's end is a Unix socket, as Firecracker has it: who connects to it and writes `CONNECT PORT` is connected to that port of the guest,
//! and reads `OK` and a number first. Who is at the host's ports, for the guest, says whoever made the machine ([`Dial`]).
//!
//! - [`packet`]: what goes over the rings
//! - [`connection`]: one connection, its credit, its ends
//! - here: which connections there are, and whose turn it is

mod connection;
mod packet;

use super::Device;
use super::queue::{Nonsense, Position, Queue, Request, Source};
use crate::parts::{Dial, VsockParts};
use connection::{Caller, Connection, Fate, Ports};
use packet::{Header, STREAM, op};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Its number.
const KIND: u32 = 19;
/// The host's address (5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// The first address that a guest may have.
const FIRST_CID: u32 = 3;
/// Connections, and clients that have not said what they want, of one machine.
const MOST: usize = 1024;
/// Clients that have not said what they want: beyond these, who has been silent for longest goes.
const MOST_CALLERS: usize = 64;
/// Clients that are taken in at once.
const MOST_AT_ONCE: usize = 32;
/// Packets that answer what belongs to no connection, and wait for the guest to have room. More are forgotten: the guest had its chance.
const MOST_ANSWERS: usize = 256;
/// The first port of the host's side of connections that the host asked for: those below are for who listens.
const FIRST_PORT: u32 = 1 << 30;

/// The one event that there is (5.10.6.7).
const TRANSPORT_RESET: u32 = 0;

const RX: usize = 0;
const TX: usize = 1;

/// What an event of the inner epoll instance is about.
const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const CALLER: u64 = 1 << 63;
/// What a tick is, in seconds.
const TICK: i64 = 1;

/// The device.
pub(crate) struct Vsock {
    cid: u64,
    configuration: [u8; 8],
    dial: Dial,
    listener: Option<UnixListener>,
    is_listening: bool,
    epoll: OwnedFd,
    rx: Option<Queue>,
    tx: Option<Queue>,
    /// Where the guest hears of what concerns all connections.
    events: Option<Queue>,
    /// The guest is to be told that all of its connections are over.
    owes_reset: bool,
    connections: BTreeMap<u64, Connection>,
    /// The connection of each pair of ports.
    by_ports: BTreeMap<Ports, u64>,
    callers: BTreeMap<u64, Caller>,
    /// Connections that the guest has ended, and whose sockets have not taken all that it sent.
    drained: BTreeMap<u64, Connection>,
    /// Goes off every second while somebody is waited for who may never come.
    timer: OwnedFd,
    is_ticking: bool,
    answers: VecDeque<Header>,
    /// Of whatever is next accepted or connected.
    next_number: u64,
    next_port: u32,
    /// Connections that have something for the guest, each once, in the order in which it is their turn.
    due: VecDeque<u64>,
}

impl Vsock {
    /// The device with that host's end.
    pub(crate) fn new(parts: VsockParts) -> io::Result<Vsock> {
        let VsockParts { cid, listener, dial } = parts;
        // (5.10.4)
        if cid < FIRST_CID || cid == u32::MAX {
            let why = format!("a guest's address is {FIRST_CID} or more, and less than {}: {cid} is none", u32::MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        }
        Ok(Vsock {
            cid: cid.into(),
            configuration: u64::from(cid).to_le_bytes(),
            dial,
            is_listening: listener.is_some(),
            listener,
            epoll,
            rx: None,
            tx: None,
            events: None,
            owes_reset: false,
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            callers: BTreeMap::new(),
            drained: BTreeMap::new(),
            timer,
            is_ticking: false,
            answers: VecDeque::new(),
            next_number: 0,
            next_port: FIRST_PORT,
            due: VecDeque::new(),
        })
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.callers.len() + self.drained.len() >= MOST
    }

    /// Takes in who connects to the host's end.
    fn accept(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            let stream = match self.listener.as_ref().map(UnixListener::accept) {
                Some(Ok((stream, _))) => stream,
                None => return,
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                // No descriptor is left: asked again once there is one.
                Some(Err(_)) => return self.do_not_listen(),
            };
            if self.is_full() {
                // Whose reader has been slow for longest.
                self.drained.pop_first();
            }
            if self.is_full() || self.rx.is_none() || stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.callers.len() >= MOST_CALLERS {
                // Who has been silent for longest.
                self.callers.pop_first();
            }
            let number = self.number();
            if epoll::add(&self.epoll, &stream, EventData::new_u64(number | CALLER), EventFlags::IN).is_ok() {
                self.callers.insert(number, Caller::new(stream));
                self.start_ticking();
            }
        }
    }

    /// Whoever connects to the host's end waits.
    fn do_not_listen(&mut self) {
        if let Some(listener) = &self.listener
            && std::mem::take(&mut self.is_listening)
        {
            let _ = epoll::delete(&self.epoll, listener);
        }
    }

    /// Who waits is taken in again.
    fn listen(&mut self) {
        if let Some(listener) = self.listener.as_ref().filter(|_| !self.is_listening) {
            let data = EventData::new_u64(LISTENER);
            self.is_listening = epoll::add(&self.epoll, listener, data, EventFlags::IN).is_ok();
        }
    }

    /// A client says which port it wants.
    fn listen_to(&mut self, number: u64) {
        let Some(caller) = self.callers.get_mut(&number) else { return };
        let port = match caller.port() {
            Ok(None) => return,
            Ok(Some(port)) => Some(port),
            Err(()) => None,
        };
        let Some(caller) = self.callers.remove(&number) else { return };
        self.listen();
        // It is closed below where it said nonsense; where it is kept it is watched as a connection from now on.
        let _ = epoll::delete(&self.epoll, &caller);
        if let Some(guest) = port {
            let ports = Ports { guest, host: self.free_port(guest) };
            self.insert(number, ports, Connection::of_host(ports, caller.into_stream()));
            self.start_ticking();
        }
    }

    /// A port of the host that has no connection with that port of the guest.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.by_ports.contains_key(&Ports { guest, host }) {
                return host;
            }
        }
    }

    fn insert(&mut self, number: u64, ports: Ports, connection: Connection) {
        self.by_ports.insert(ports, number);
        self.connections.insert(number, connection);
        self.touched(number);
    }

    fn remove(&mut self, number: u64) {
        // Closing it takes it out of the epoll instance.
        if let Some(mut connection) = self.connections.remove(&number) {
            if connection.is_due() {
                self.due.retain(|other| *other != number);
            }
            if std::mem::take(connection.watched()) {
                let _ = epoll::delete(&self.epoll, &connection);
            }
            self.listen();
            self.by_ports.remove(&connection.ports());
            // What the guest had sent before it ended it is still written out, to who reads slowly.
            let data = EventData::new_u64(number);
            if connection.is_to_be_drained() && epoll::add(&self.epoll, &connection, data, EventFlags::OUT).is_ok() {
                self.drained.insert(number, connection);
            }
        }
    }

    /// A socket takes more of what its guest had sent before it ended the connection, or is gone.
    fn drain(&mut self, number: u64, flags: EventFlags) {
        let Some(connection) = self.drained.get_mut(&number) else { return };
        connection.pass_on();
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) || !connection.is_to_be_drained() {
            self.drained.remove(&number);
            self.listen();
        }
    }

    /// Has time pass from now on.
    fn start_ticking(&mut self) {
        if !self.is_ticking {
            self.is_ticking = self.set_timer(TICK);
        }
    }

    fn set_timer(&self, seconds: i64) -> bool {
        let interval = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let every = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &every).is_ok()
    }

    /// A second has passed, in which the machine ran: who was silent for some of them is waited for no longer.
    fn tick(&mut self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        self.callers.retain(|_, caller| caller.tick());
        self.listen();
        let waiting: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_waiting())
            .map(|(number, _)| *number)
            .collect();
        for number in &waiting {
            if let Some(connection) = self.connections.get_mut(number) {
                connection.tick();
            }
            self.touched(*number);
        }
        if waiting.is_empty() && self.callers.is_empty() {
            self.is_ticking = !self.set_timer(0);
        }
    }

    /// Something happened to a connection: what it waits for may be something else now, and it may have something for the guest.
    fn touched(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN | EventFlags::RDHUP, connection.wants_to_read());
        flags.set(EventFlags::OUT, connection.wants_to_write());
        let (data, is_to_be) = (EventData::new_u64(number), connection.is_to_be_watched());
        let watched = match (std::mem::replace(connection.watched(), is_to_be), is_to_be) {
            (false, true) => epoll::add(&self.epoll, &*connection, data, flags),
            (true, true) => epoll::modify(&self.epoll, &*connection, data, flags),
            (true, false) => epoll::delete(&self.epoll, &*connection),
            (false, false) => Ok(()),
        };
        if watched.is_err() {
            // The host has no room for one more: nobody would ever hear of what happens to it.
            *connection.watched() = false;
            connection.fail();
        }
        if connection.becomes_due() {
            self.due.push_back(number);
        }
    }

    /// Takes a packet of the guest's.
    fn receive(&mut self, mut request: Request<'_>) -> Result<u32, Nonsense> {
        let Some(header) = Header::read(&mut request.readable) else {
            return Err(Nonsense("a packet is shorter than its header".to_owned()));
        };
        // (5.10.6.2): whose address is not right is not answered.
        if header.source_cid != self.cid || header.destination_cid != HOST_CID {
            return Ok(0);
        }
        let ports = Ports { guest: header.source_port, host: header.destination_port };
        match self.by_ports.get(&ports).copied() {
            _ if header.type_ != STREAM => self.answer(header.reset_of()),
            Some(number) => self.pass(number, &header, &mut request),
            None if header.op == op::REQUEST => self.connect(ports, &header),
            None if header.op == op::RESET => {}
            None => self.answer(header.reset_of()),
        }
        Ok(0)
    }

    fn pass(&mut self, number: u64, header: &Header, request: &mut Request<'_>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.receive(header, &mut request.readable) {
            Fate::Lives => self.touched(number),
            Fate::Over => self.remove(number),
        }
    }

    fn answer(&mut self, packet: Header) {
        if self.answers.len() < MOST_ANSWERS {
            self.answers.push_back(packet);
        }
    }

    /// The guest wants to be connected to a port of the host.
    fn connect(&mut self, ports: Ports, request: &Header) {
        let stream = if self.is_full() { Err(io::ErrorKind::QuotaExceeded.into()) } else { (self.dial)(ports.host) };
        match stream.and_then(|stream| stream.set_nonblocking(true).map(|()| stream)) {
            Ok(stream) => {
                let number = self.number();
                self.insert(number, ports, Connection::of_guest(ports, stream, request));
            }
            Err(_) => self.answer(request.reset_of()),
        }
    }

    /// Tells the guest that all of its connections are over, if it is to know, as soon as it has a buffer for that.
    fn tell_reset(&mut self) -> Result<(), Nonsense> {
        let Some(queue) = self.events.as_mut().filter(|_| self.owes_reset) else { return Ok(()) };
        let memory = queue.memory().clone();
        queue.quiet()?;
        while self.owes_reset {
            match queue.next(&memory)? {
                Some(mut request) => {
                    let written = request.writable.write(&TRANSPORT_RESET.to_le_bytes());
                    queue.answer(request.number, written as u32)?;
                    self.owes_reset = false;
                }
                None if queue.wake()? => {}
                None => return Ok(()),
            }
        }
        queue.tell()
    }

    /// Sends what there is to be sent, as long as the guest has buffers for it.
    fn send(&mut self) -> Result<(), Nonsense> {
        let Some(mut queue) = self.rx.take() else { return Ok(()) };
        let sent = queue.fill(self);
        self.rx = Some(queue);
        sent
    }
}

impl Source for Vsock {
    fn has_something(&self) -> bool {
        !self.answers.is_empty() || !self.due.is_empty()
    }

    fn fill(&mut self, request: &mut Request<'_>) -> Result<Option<u32>, Nonsense> {
        // Whatever is next, it fits: what has data would else be asked for it for ever.
        if request.writable.len() <= packet::HEADER {
            return Err(Nonsense("a buffer for a packet has no room for data behind its header".to_owned()));
        }
        if let Some(answer) = self.answers.pop_front() {
            request.writable.write(&answer.bytes());
            return Ok(Some(packet::HEADER as u32));
        }
        let Some(number) = self.due.pop_front() else { return Ok(None) };
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(None) };
        let (length, fate) = connection.send(self.cid, &mut request.writable);
        match fate {
            Fate::Lives => self.touched(number),
            Fate::Over => self.remove(number),
        }
        Ok(length)
    }
}

impl Device for Vsock {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        &[256, 256, 16]
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    /// The guest's address, which it reads again when it hears that its connections are over.
    fn may_change(&self) -> Range<usize> {
        0..8
    }

    fn activate(&mut self, queues: Vec<Option<Queue>>, _features: u64) {
        let mut queues = queues.into_iter();
        self.rx = queues.next().flatten();
        self.tx = queues.next().flatten();
        self.events = queues.next().flatten();
    }

    /// All connections were those of another host's end: the guest is told so (5.10.6.7).
    fn restored(&mut self) -> Result<(), Nonsense> {
        self.owes_reset = true;
        self.tell_reset()
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn ready(&mut self) -> Result<(), Nonsense> {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 32];
        let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.epoll, &mut events, Some(&no_time)).unwrap_or(0);
        for event in &events[..count] {
            // The structure is packed: its fields are copied.
            let (flags, data) = (event.flags, event.data);
            let number = data.u64();
            if number == LISTENER {
                self.accept();
            } else if number == TIMER {
                self.tick();
            } else if number & CALLER != 0 {
                self.listen_to(number & !CALLER);
            } else if let Some(connection) = self.connections.get_mut(&number) {
                if flags.contains(EventFlags::OUT) {
                    connection.pass_on();
                }
                if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                    connection.hung_up();
                }
                connection.set_readable();
                self.touched(number);
            } else {
                self.drain(number, flags);
            }
        }
        self.send()
    }

    fn notified(&mut self, queue: usize) -> Result<(), Nonsense> {
        if queue == TX
            && let Some(mut tx) = self.tx.take()
        {
            let handled = tx.handle(|request| self.receive(request));
            self.tx = Some(tx);
            handled?;
        }
        if matches!(queue, RX | TX) { self.send() } else { self.tell_reset() }
    }

    fn positions(&self) -> Vec<Option<Position>> {
        [&self.rx, &self.tx, &self.events].map(|queue| queue.as_ref().map(Queue::position)).to_vec()
    }

    fn reset(&mut self) {
        (self.rx, self.tx, self.events, self.owes_reset) = (None, None, None, false);
        self.connections.clear();
        self.by_ports.clear();
        self.callers.clear();
        self.drained.clear();
        self.answers.clear();
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffers::Buffers;
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use vm_memory::VolatileSlice;

    fn device() -> Vsock {
        let dial = Box::new(|_| Err(io::ErrorKind::ConnectionRefused.into()));
        Vsock::new(VsockParts { cid: 3, listener: None, dial }).unwrap()
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn addresses_of_others_are_no_guests() {
        for cid in [0, 1, 2, u32::MAX] {
            let dial = Box::new(|_| Err(io::ErrorKind::ConnectionRefused.into()));
            let refused = Vsock::new(VsockParts { cid, listener: None, dial }).err().unwrap().to_string();
            assert!(refused.contains(&format!(": {cid} is none")), "{refused}");
        }
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let mut device = device();
        let ((silent, mut caller), (asked, mut client)) = (pair(), pair());
        device.callers.insert(1, Caller::new(silent));
        let ports = Ports { guest: 5, host: FIRST_PORT };
        device.insert(2, ports, Connection::of_host(ports, asked));
        device.start_ticking();
        // The guest is told of the connection, and does not answer.
        let mut packet = [0; 64];
        let mut buffers = Buffers::default();
        buffers.push(VolatileSlice::from(&mut packet[..])).unwrap();
        device.due.clear();
        let connection = device.connections.get_mut(&2).unwrap();
        assert_eq!(connection.send(3, &mut buffers), (Some(packet::HEADER as u32), Fate::Lives));
        let mut nothing = [0];
        for _ in 0..9 {
            device.tick();
            assert_eq!(caller.read(&mut nothing).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert!(device.is_ticking && device.due.is_empty());
        }
        device.tick();
        assert_eq!(caller.read(&mut nothing).unwrap(), 0);
        // The guest hears that it is over, and then the client does.
        assert_eq!(device.due, [2]);
        device.remove(2);
        assert_eq!(client.read(&mut nothing).unwrap(), 0);
        device.tick();
        assert!(!device.is_ticking);
    }

    #[test]
    fn what_a_guest_sent_before_its_end_reaches_a_slow_reader() {
        let mut device = device();
        let (ours, mut theirs) = pair();
        let ports = Ports { guest: 5, host: 1 };
        let room = Header { room: 1 << 20, ..Header::default() };
        device.insert(1, ports, Connection::of_guest(ports, ours, &room));
        let connection = device.connections.get_mut(&1).unwrap();
        let mut packet = [0; 64];
        let mut buffers = Buffers::default();
        buffers.push(VolatileSlice::from(&mut packet[..])).unwrap();
        connection.send(3, &mut buffers);
        // More than the socket takes, as nobody reads.
        let mut sent = 0;
        while !connection.wants_to_write() {
            let mut data = [7; 1000];
            let mut buffers = Buffers::default();
            buffers.push(VolatileSlice::from(&mut data[..])).unwrap();
            connection.receive(&Header { op: op::DATA, length: 1000, ..room }, &mut buffers);
            sent += 1000;
        }
        let end = |op, flags| Header { op, flags, ..room };
        connection.receive(&end(op::SHUTDOWN, 3), &mut Buffers::default());
        assert_eq!(connection.receive(&end(op::RESET, 0), &mut Buffers::default()), Fate::Over);
        device.remove(1);
        assert_eq!((device.connections.len(), device.by_ports.len(), device.drained.len()), (0, 0, 1));
        let mut read = 0;
        let mut bytes = [0; 5000];
        loop {
            match theirs.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => device.ready().unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((read, device.drained.len()), (sent, 0));
    }
}

//! Going on as another program, with everything that is held.
//!
//! 1. A daemon sends the program's open file. The forwarder starts a probe: the program itself, which is given a copy of the state and
//!    says whether it understands it. Ports and connections are served meanwhile.
//! 2. The state goes into a memory file, that and every descriptor into a socket pair, and the forwarder executes the program in its own
//!    place, with the other end of the pair as its standard input. Descriptors on their way through a socket are open, so no port and no
//!    connection is ever closed: what arrives waits in the kernel, and bytes that were between two sockets wait in their pipes.
//! 3. The new program takes all that out of the pair again, goes on, and tells the daemon.
//!
//! It is one process all the time, and an exec happens or doesn't: whatever is killed at whatever moment, there is exactly one that serves.
//!
//! The state begins with [`STATE`], its version. A program that changes [`Saved`] counts up, and reads the version before too.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::arena::Key;
use super::protocol::{Hold, Refusal, Reply};
use super::server::{Entry, Forwarder, Holding};
use super::tcp::{Connection, SavedConnection, Side};
use super::udp::{Peer, Session};
use super::{Config, PROBE, Program, RESUME};

/// The version of the state's format.
const STATE: u32 = 1;

/// Descriptors of one message; the kernel takes three more (unix(7)).
const BATCH: usize = 250;

/// What the pair may hold; the kernel cuts it to `net.core.wmem_max`, which is enough for a hundred thousand descriptors.
const LINE_SIZE: usize = 1 << 20;

/// An upgrade under way.
pub(super) struct Upgrade {
    requester: Key,
    program: OwnedFd,
    probe: Child,
    /// The probe's entry, which an event tells of when it has ended.
    watch: Key,
}

/// Which of the descriptors that come along with the state.
pub(super) type Place = u32;

/// Everything that the forwarder holds and has not been told by its arguments.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    lock: Place,
    listener: Place,
    controls: Vec<Place>,
    /// Who asked for this, among the controls.
    requester: Option<u32>,
    holdings: Vec<SavedHolding>,
    connections: Vec<SavedConnection>,
    refused: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedHolding {
    hold: Hold,
    local: SocketAddr,
    socket: Place,
    /// Where it is a proxied UDP port.
    sessions: Vec<SavedSession>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSession {
    peer: Peer,
    socket: Place,
    /// How long ago it was used.
    idle: Duration,
}

/// Descriptors that are to go along.
#[derive(Default)]
pub(super) struct Luggage<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Luggage<'a> {
    /// Puts one in, and says at which place.
    pub(super) fn put(&mut self, descriptor: &'a OwnedFd) -> Place {
        self.0.push(descriptor.as_fd());
        (self.0.len() - 1) as Place
    }
}

/// Descriptors that came along.
pub(super) struct Arrived(Vec<Option<OwnedFd>>);

impl Arrived {
    /// Takes the one at a place out; each is somebody's, once.
    pub(super) fn take(&mut self, place: Place) -> io::Result<OwnedFd> {
        let taken = self.0.get_mut(place as usize).and_then(Option::take);
        taken.ok_or_else(|| io::Error::other(format!("descriptor {place} of the state is missing")))
    }
}

impl Forwarder {
    /// A daemon wants an upgrade; it is answered when it is done, or when it turns out to be impossible.
    pub(super) fn plan_upgrade(&mut self, requester: Key, program: Option<OwnedFd>) -> Result<(), Refusal> {
        let refused = |why: String| Refusal::CannotUpgrade { why };
        if self.upgrade.is_some() {
            return Err(refused("another upgrade is under way".into()));
        }
        let program = program.ok_or_else(|| refused("the program's file has to come along".into()))?;
        let failed = |error: io::Error| refused(format!("the program cannot be tried: {error}"));
        let mut probe = self.start_probe(&program).map_err(failed)?;
        match self.watch_probe(&probe) {
            Ok(watch) => {
                self.upgrade = Some(Upgrade { requester, program, probe, watch });
                Ok(())
            }
            Err(error) => {
                end(&mut probe);
                Err(failed(error))
            }
        }
    }

    fn start_probe(&self, program: &OwnedFd) -> io::Result<Child> {
        let (state, _) = self.save(None)?;
        let (ours, theirs) = line()?;
        send_batch(&ours, &[state.as_fd()])?;
        self.command(program, PROBE).stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()
    }

    fn watch_probe(&mut self, probe: &Child) -> io::Result<Key> {
        let pid = i32::try_from(probe.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let key = self.entries.insert(Entry::Probe(process));
        match self.watch_level(key) {
            Ok(()) => Ok(key),
            Err(errno) => {
                self.entries.remove(key);
                Err(errno.into())
            }
        }
    }

    /// The probe has ended: goes on as the new program, and returns only where that is impossible.
    pub(super) fn end_probe(&mut self, watch: Key) {
        let Some(mut upgrade) = self.upgrade.take_if(|upgrade| upgrade.watch == watch) else { return };
        self.entries.remove(watch);
        let why = match upgrade.probe.wait() {
            Ok(status) if status.success() => {
                let error = self.go_on_as(&upgrade.program, upgrade.requester);
                format!("the program cannot be executed: {error}")
            }
            Ok(status) => format!("the program does not understand the state of the one that runs ({status})"),
            Err(error) => format!("the program cannot be tried: {error}"),
        };
        self.complain(|| format!("goes on as the program that it is: {why}"));
        self.reply(upgrade.requester, &Reply::Refused(Refusal::CannotUpgrade { why }), None);
    }

    /// The daemon that wanted an upgrade has gone; the next one asks again.
    pub(super) fn cancel_upgrade(&mut self, requester: Key) {
        if let Some(mut upgrade) = self.upgrade.take_if(|upgrade| upgrade.requester == requester) {
            self.entries.remove(upgrade.watch);
            end(&mut upgrade.probe);
        }
    }

    /// Returns only if it failed, with everything as it was.
    fn go_on_as(&self, program: &OwnedFd, requester: Key) -> io::Error {
        let packed = || {
            let (state, luggage) = self.save(Some(requester))?;
            let (ours, theirs) = line()?;
            send_batch(&ours, &[state.as_fd()])?;
            luggage.0.chunks(BATCH).try_for_each(|batch| send_batch(&ours, batch))?;
            Ok((ours, theirs))
        };
        match packed() {
            Ok((_ours, theirs)) => {
                let error = self.command(program, RESUME).stdin(Stdio::from(theirs)).exec();
                super::close_line();
                error
            }
            Err(error) => error,
        }
    }

    /// The new program, with the arguments of this one. Descriptors have `CLOEXEC`, which is after the path was followed.
    fn command(&self, program: &OwnedFd, how: &str) -> Command {
        let Program { name, arguments } = &self.program;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.arg0(name).args(arguments).arg(how);
        command
    }

    /// The state in a memory file, and the descriptors that it names.
    fn save(&self, requester: Option<Key>) -> io::Result<(OwnedFd, Luggage<'_>)> {
        let mut luggage = Luggage::default();
        let (Some(lock), Some(Entry::ControlListener(listener))) =
            (&self.lock, self.control_listener.and_then(|key| self.entries.get(key)))
        else {
            return Err(io::Error::other("it is about to end"));
        };
        let controls: Vec<(Key, &OwnedFd)> = self.controls.iter().filter_map(|&key| self.control(key)).collect();
        let requester = controls.iter().position(|(key, _)| Some(*key) == requester).map(|index| index as u32);
        let saved = Saved {
            lock: luggage.put(lock),
            listener: luggage.put(listener),
            controls: controls.into_iter().map(|(_, socket)| luggage.put(socket)).collect(),
            requester,
            holdings: self.holdings.values().filter_map(|holding| self.save_holding(holding, &mut luggage)).collect(),
            connections: self
                .entries
                .values()
                .filter_map(|entry| match entry {
                    Entry::Connection(connection) => Some(connection.save(&mut luggage)),
                    _ => None,
                })
                .collect(),
            refused: self.refused,
        };
        let bytes = postcard::to_extend(&saved, STATE.to_le_bytes().to_vec()).map_err(io::Error::other)?;
        let state = rustix::fs::memfd_create(c"stratus-forward-state", MemfdFlags::CLOEXEC)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::write(&state, rest)?;
            rest = &rest[written..];
        }
        Ok((state, luggage))
    }

    fn control(&self, key: Key) -> Option<(Key, &OwnedFd)> {
        match self.entries.get(key)? {
            Entry::Control(socket) => Some((key, socket)),
            _ => None,
        }
    }

    fn save_holding<'a>(&'a self, holding: &'a Holding, luggage: &mut Luggage<'a>) -> Option<SavedHolding> {
        let (socket, sessions) = match self.entries.get(holding.entry)? {
            Entry::Idle(socket) | Entry::TcpListener { socket, .. } => (luggage.put(socket), Vec::new()),
            Entry::UdpListener(listener) => {
                let socket = luggage.put(listener.socket());
                let sessions = listener.sessions.values().filter_map(|&key| match self.entries.get(key)? {
                    Entry::Session(session) => Some(SavedSession {
                        peer: session.peer,
                        socket: luggage.put(session.socket()),
                        idle: session.last_used.elapsed(),
                    }),
                    _ => None,
                });
                (socket, sessions.collect())
            }
            _ => return None,
        };
        Some(SavedHolding { hold: holding.hold.clone(), local: holding.local, socket, sessions })
    }

    /// Goes on where the program before was; its standard input is what that has packed.
    pub(super) fn resume(config: Config, program: Program) -> io::Result<Self> {
        let line = rustix::stdio::stdin();
        let state = receive_batch(line)?.and_then(|batch| batch.into_iter().next());
        let saved = read(&state.ok_or_else(|| io::Error::other("no state came with the standard input"))?)?;
        let mut arrived = Vec::new();
        while let Some(batch) = receive_batch(line)? {
            arrived.extend(batch.into_iter().map(Some));
        }
        super::close_line();
        let mut arrived = Arrived(arrived);
        let (lock, listener) = (arrived.take(saved.lock)?, arrived.take(saved.listener)?);
        let mut forwarder = Forwarder::assemble(config, program, lock, listener)?;
        forwarder.refused = saved.refused;
        for holding in saved.holdings {
            forwarder.resume_holding(holding, &mut arrived)?;
        }
        forwarder.sort_expiry();
        for connection in saved.connections {
            let connection = Connection::restore(connection, &mut arrived)?;
            forwarder.carry(connection)?;
        }
        for place in saved.controls {
            let key = forwarder.entries.insert(Entry::Control(arrived.take(place)?));
            forwarder.controls.push(key);
            forwarder.watch_level(key)?;
        }
        if let Some(&requester) = saved.requester.and_then(|index| forwarder.controls.get(index as usize)) {
            forwarder.reply(requester, &Reply::Done, None);
        }
        Ok(forwarder)
    }

    fn resume_holding(&mut self, saved: SavedHolding, arrived: &mut Arrived) -> io::Result<()> {
        let SavedHolding { hold, local, socket, sessions } = saved;
        let entry = self.serve(arrived.take(socket)?, &hold, local).map_err(io::Error::other)?;
        let now = Instant::now();
        for SavedSession { peer, socket, idle } in sessions {
            let last_used = now.checked_sub(idle).unwrap_or(now);
            let session = Session::restore(arrived.take(socket)?, entry, peer, last_used);
            self.add_session(session, last_used)?;
        }
        self.holdings.insert(hold.key.clone(), Holding { hold, local, entry });
        Ok(())
    }

    /// Watches a connection that is there already. What can be read or written by now is reported at once.
    fn carry(&mut self, connection: Connection) -> io::Result<()> {
        let key = self.entries.insert(Entry::Connection(Box::new(connection)));
        self.connections += 1;
        let Some(Entry::Connection(connection)) = self.entries.get(key) else { return Ok(()) };
        for (side, tag) in [(Side::Client, false), (Side::Target, true)] {
            let datum = EventData::new_u64(key.to_u64(tag));
            epoll::add(&self.epoll, connection.socket(side), datum, Connection::INTEREST)?;
        }
        Ok(())
    }
}

/// Ends a child, and takes its status.
fn end(child: &mut Child) {
    // It may have ended by itself, which is as good.
    let _ = child.kill();
    let _ = child.wait();
}

/// Says whether the state at the standard input is understood, and touches nothing.
pub(super) fn probe() -> Result<(), String> {
    let state = receive_batch(rustix::stdio::stdin()).map_err(|error| format!("cannot receive the state: {error}"))?;
    let state = state.and_then(|batch| batch.into_iter().next()).ok_or("no state came with the standard input")?;
    read(&state).map(drop).map_err(|error| error.to_string())
}

fn read(state: &OwnedFd) -> io::Result<Saved> {
    let size = usize::try_from(rustix::fs::fstat(state)?.st_size).unwrap_or(0);
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match rustix::io::pread(state, &mut bytes[filled..], filled as u64)? {
            0 => return Err(io::Error::other("the state is cut short")),
            count => filled += count,
        }
    }
    match bytes.split_first_chunk() {
        Some((version, body)) if u32::from_le_bytes(*version) == STATE => {
            postcard::from_bytes(body).map_err(|error| io::Error::other(format!("the state is damaged: {error}")))
        }
        _ => Err(io::Error::other(format!("the state is not of version {STATE}"))),
    }
}

/// A socket pair, whose messages wait in it until somebody takes them.
fn line() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    sockopt::set_socket_send_buffer_size(&ours, LINE_SIZE)?;
    Ok((ours, theirs))
}

fn send_batch(line: &OwnedFd, batch: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(batch));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(line, &[io::IoSlice::new(&[0])], &mut control, flags)?;
    Ok(())
}

/// The descriptors of the next message; `None` after the last.
fn receive_batch(line: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(line, &mut [io::IoSliceMut::new(&mut byte)], &mut control, flags)
    })?;
    let mut batch = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            batch.extend(descriptors);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("the descriptors of the state do not all fit into this process"));
    }
    Ok((message.bytes > 0).then_some(batch))
}

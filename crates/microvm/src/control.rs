//! What a machine's process and those who want something of it say to each other, over a Unix stream socket.
//!
//! Frames: the length of the body in four bytes, the least first, and the body, encoded by postcard. With [`ToMachine::Run`] come the descriptors
//! of the process's standard streams. Both ends are of one version: whoever speaks is made by the program that the machine was started by, or is
//! told that it is not ([`Hello`]).

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::configuration::{Network, Root};
use guest_protocol::host::Fitting;
use guest_protocol::message::{Blob, ContainerId, Exit, Failure, Reply, Request, Streams, TerminalSize};
use guest_protocol::plain;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vmm::{MemorySize, Processor, SnapshotFiles, VcpuCount, WorkingSet};

use crate::driver::Extent;
use crate::plan::Card;

/// Grows by one with every change of a type here or of [`guest_protocol`]'s requests.
pub const VERSION: u32 = 9;
/// The most bytes of one body: a plan, or a piece of a file, and what is around it.
const BODY_MAX: usize = 4 << 20;
/// How long an answer is waited for, from its question to its last byte: of a guest that is emulated on a busy host, or for a machine to be written to a slow
/// disk.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How much is read at once.
const PIECE: usize = 64 << 10;
/// The most descriptors that come with a message, and that are kept until it is whole.
const FDS_MAX: usize = 3;

/// The first frame of either end. Its form never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
}

/// To the machine's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToMachine {
    /// Run a further process in a container, whose streams are the descriptors that come along: three, or a terminal's one. The connection
    /// stands for it: what ends the one ends the other.
    Run {
        /// Whose.
        container: ContainerId,
        /// An `ExecPlan` of `sandbox`.
        plan: Blob,
        /// Its streams.
        streams: Streams,
    },
    /// Send the connection's process a signal.
    Signal(i32),
    /// Set the size of the connection's process's terminal.
    Resize(TerminalSize),
    /// Save the machine into two empty files, whose descriptors come along: of everything but the memory, and of the memory. It rests then for as long as the connection
    /// lasts, so that what belongs together can be copied, or the machine be ended, and goes on with its end.
    Save,
    /// End the machine as it was saved, for the connection that it rests for: its process ends as one that was killed, and nothing goes on before. Who asks for that
    /// and is gone right after has been heard.
    End,
    /// Have so much memory from now on, beside what other containers brought along.
    Memory(MemorySize),
    /// Be on another network from now on.
    Network(Box<NetworkWish>),
    /// Say which pages of what it went on from the machine has touched.
    Touched,
    /// Ask the agent for something; not for what belongs to the machine's process itself ([`is_for_others`]).
    Ask(Request),
    /// A layer of the container that the connection will stand for, whose descriptor comes along: the lowest one first. Nothing is answered.
    Layer,
    /// Run another container, whose first process's streams come along as with [`ToMachine::Run`]. The connection stands for it.
    Join(Box<Join>),
    /// Hold a container that came still until it is asked to go on, whoever is connected by then. What is not there is not held: that it goes on is granted.
    Pause(ContainerId, bool),
    /// Be so many bytes larger from now on than without that container, which came.
    MemoryFor(ContainerId, u64),
    /// Say whose file system is there for the volumes of containers that come, and keep it for as long as the connection lasts.
    KeepFiles,
    /// Have that file system come, whose server is at the other end of the socket that comes along. It is kept as by [`ToMachine::KeepFiles`].
    Files(FileServerId),
    /// Kill the process of a container, so that the guest writes what that has written before its end is told; with the first one's the machine ends, as after any end. Answered by
    /// [`Reply::Done`] once the agent is being told, or where that is under way; not answered, but by the connection's end, where there is none to be told.
    Kill(ContainerId),
}

/// What serves the volumes of containers that come, by a number that none has which the machine had before: by that it is known which one the machine is connected with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileServerId(pub u32);

/// A container that comes into a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// A number that no other one in this machine has, had, or will have.
    pub container: ContainerId,
    /// Its root file system; what is below it are the layers that came before.
    pub root: Root,
    /// By how many bytes the machine grows for it.
    pub memory: u64,
    /// An `InitPlan` of `sandbox`.
    pub plan: Blob,
    /// It shares a PID namespace with another one in the machine.
    pub shares_processes: bool,
    /// Its streams.
    pub streams: Streams,
}

/// The most layers of a container: overlayfs takes no more below one.
pub(crate) const LAYERS_MAX: usize = 500;

/// From the machine's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromMachine {
    /// The process runs; what was left out.
    Started(Vec<String>),
    /// It does not.
    Refused(Failure),
    /// It has ended.
    Exited(Exit),
    /// What came of a [`ToMachine::Save`].
    Saved(Result<Saved, Failure>),
    /// What came of a [`ToMachine::Memory`] or a [`ToMachine::MemoryFor`].
    Resized(Result<(), Failure>),
    /// What came of a [`ToMachine::Network`].
    Networked(Result<(), Failure>),
    /// What came of a [`ToMachine::Touched`]: nothing where its memory does not come as it is touched.
    Touched(Option<WorkingSet>),
    /// What came of a [`ToMachine::KeepFiles`]: what serves the file system, if one is there.
    HasFiles(Option<FileServerId>),
    /// What came of a [`ToMachine::Ask`], a [`ToMachine::Pause`] or a [`ToMachine::Files`], in the order in which they came.
    Answer(Result<Reply, Failure>),
}

/// The network that a machine is to be on: all of it, whatever it is on before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkWish {
    /// Its network cards. Those that it has, and that are not named, go; others come.
    pub cards: Vec<Card>,
    /// What the guest makes of them.
    pub network: Network,
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// How much of it.
    pub extent: Extent,
    /// The machine's processors.
    pub vcpus: VcpuCount,
    /// What kind of processors those are.
    pub processor: Processor,
    /// Its memory at its start.
    pub memory: MemorySize,
    /// Memory that it can have.
    pub most_memory: MemorySize,
    /// The addresses of its network cards, by their places.
    pub cards: Vec<Option<[u8; 6]>>,
    /// It has a place for the file system of containers that come ([`Hardware::files_place`](crate::Hardware::files_place)).
    pub files_place: bool,
    /// How much of the container's standard output and error had been taken by then: what was written behind that comes of whoever goes on.
    pub outputs: [u64; 2],
}

/// Whether somebody else than the machine's process may ask for that.
pub(crate) fn is_for_others(request: &Request) -> bool {
    matches!(
        request,
        Request::Stats { .. }
            | Request::Memory { .. }
            | Request::Processes { .. }
            | Request::File { .. }
            | Request::Freeze { .. }
            | Request::Limit { .. }
    )
}

/// A stream that can't be read: who is there does not speak this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came over the machine's control socket is no message")]
pub struct Garbled;

/// What has come, until it is whole.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Decoder {
    /// Reads what is there, and says how many bytes: none at the end of the stream, `None` where nothing is there yet.
    pub(crate) fn read(&mut self, socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<Option<usize>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let start = self.bytes.len();
        self.bytes.resize(start + PIECE, 0);
        let mut slices = [IoSliceMut::new(&mut self.bytes[start..])];
        let received = rustix::net::recvmsg(socket, &mut slices, &mut control, flags | RecvFlags::CMSG_CLOEXEC);
        let count = received.as_ref().map_or(0, |received| received.bytes);
        self.bytes.truncate(start + count);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.fds.extend(rights);
            }
        }
        // Whoever sends more and more of them, and no message, would have the process open them all.
        self.fds.truncate(FDS_MAX);
        match received {
            Ok(_) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The next message that is whole.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Garbled> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > BODY_MAX {
            return Err(Garbled);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = postcard::from_bytes(body).map_err(|_| Garbled)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }

    /// The descriptors that have come and were not taken.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.fds.drain(..).collect()
    }
}

/// A frame of a message.
///
/// # Errors
/// It is longer than a body may be.
pub(crate) fn frame(message: &impl Serialize) -> Result<Vec<u8>, Garbled> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(|_| Garbled)?;
    let length = bytes.len() - 4;
    if length > BODY_MAX {
        return Err(Garbled);
    }
    // Fits: it is at most `BODY_MAX`.
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Writes all of a frame, and with its first byte the descriptors. Waits for room.
pub(crate) fn send(socket: BorrowedFd<'_>, frame: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let mut rest = frame;
    while !rest.is_empty() {
        match rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
            Ok(count) => {
                rest = &rest[count..];
                control.clear();
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut poll = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
                let _ = rustix::event::poll(&mut poll, None);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A connection to a machine's process, for somebody who waits for each answer.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    patience: Duration,
}

impl Connection {
    /// Takes up a connected stream socket, and says hello.
    ///
    /// # Errors
    /// Nobody is there, or somebody of another version.
    pub fn new(socket: OwnedFd) -> Result<Self, ConnectionError> {
        Self::greet(socket, PATIENCE)
    }

    fn greet(socket: OwnedFd, patience: Duration) -> Result<Self, ConnectionError> {
        let mut connection = Self { socket, decoder: Decoder::default(), patience };
        connection.send(&Hello { version: VERSION }, &[])?;
        let Hello { version } = connection.receive()?;
        if version != VERSION {
            return Err(ConnectionError::Version { machine: version });
        }
        Ok(connection)
    }

    /// Connects to the socket of a machine.
    ///
    /// # Errors
    /// As [`Connection::new`].
    pub fn open(path: &Path) -> Result<Self, ConnectionError> {
        Self::open_within(path, PATIENCE)
    }

    /// As [`Connection::open`], for somebody who waits no longer than that for any answer.
    ///
    /// # Errors
    /// As [`Connection::new`].
    pub fn open_within(path: &Path, patience: Duration) -> Result<Self, ConnectionError> {
        let stream = std::os::unix::net::UnixStream::connect(path);
        let stream = stream.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Self::greet(stream.into(), patience)
    }

    /// Asks the agent. The machine's process has held the answer against the request, and is not believed in that: a guest may have taken it over.
    ///
    /// # Errors
    /// The machine is gone, or its answer is none to that. What the agent refuses is in the answer.
    pub fn ask(&mut self, request: Request) -> Result<Result<Reply, Failure>, ConnectionError> {
        let fitting = Fitting::of(&request);
        self.send(&ToMachine::Ask(request), &[])?;
        match self.receive()? {
            FromMachine::Answer(Ok(reply)) if !fitting.is(&reply) => Err(Garbled.into()),
            FromMachine::Answer(mut answer) => {
                plain::answer(&mut answer);
                Ok(answer)
            }
            _ => Err(Garbled.into()),
        }
    }

    /// Saves the machine, which rests until this connection is dropped.
    ///
    /// # Errors
    /// The machine is gone. Why it could not be saved is in the answer.
    pub fn save(&mut self, into: &SnapshotFiles) -> Result<Result<Saved, Failure>, ConnectionError> {
        self.send(&ToMachine::Save, &[into.state.as_fd(), into.memory.as_fd()])?;
        match self.receive()? {
            FromMachine::Saved(answer) => Ok(answer.map_err(|mut failure| {
                plain::failure(&mut failure);
                failure
            })),
            _ => Err(Garbled.into()),
        }
    }

    /// Ends a machine that was [saved](Self::save), as it was saved.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn end(&self) -> Result<(), ConnectionError> {
        self.send(&ToMachine::End, &[])
    }

    /// Has the machine have so much memory. Its guest takes it, or leaves it, as it finds the time.
    ///
    /// # Errors
    /// The machine is gone. Why it can't have as much is in the answer.
    pub fn resize(&mut self, memory: MemorySize) -> Result<Result<(), Failure>, ConnectionError> {
        self.resized(&ToMachine::Memory(memory))
    }

    /// Has the machine be so many bytes larger than without a container that came into it.
    ///
    /// # Errors
    /// As [`Connection::resize`].
    pub fn resize_for(&mut self, container: ContainerId, bytes: u64) -> Result<Result<(), Failure>, ConnectionError> {
        self.resized(&ToMachine::MemoryFor(container, bytes))
    }

    fn resized(&mut self, wish: &ToMachine) -> Result<Result<(), Failure>, ConnectionError> {
        self.send(wish, &[])?;
        match self.receive()? {
            FromMachine::Resized(answer) => Ok(answer.map_err(|mut failure| {
                plain::failure(&mut failure);
                failure
            })),
            _ => Err(Garbled.into()),
        }
    }

    /// Has a container that came into the machine be held still, or go on, beyond the end of this connection.
    ///
    /// # Errors
    /// The machine is gone. Why it is not so is in the answer: then nothing holds it.
    pub fn pause(&mut self, container: ContainerId, paused: bool) -> Result<Result<(), Failure>, ConnectionError> {
        self.send(&ToMachine::Pause(container, paused), &[])?;
        self.done()
    }

    /// The answer to what has nothing to say but that it is done.
    fn done(&mut self) -> Result<Result<(), Failure>, ConnectionError> {
        match self.receive()? {
            FromMachine::Answer(Ok(Reply::Done)) => Ok(Ok(())),
            FromMachine::Answer(Err(mut failure)) => {
                plain::failure(&mut failure);
                Ok(Err(failure))
            }
            _ => Err(Garbled.into()),
        }
    }

    /// What serves the file system that the machine has for the volumes of containers that come, if it has one. It stays there until the end of this connection at least.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn keep_files(&mut self) -> Result<Option<FileServerId>, ConnectionError> {
        self.send(&ToMachine::KeepFiles, &[])?;
        match self.receive()? {
            FromMachine::HasFiles(server) => Ok(server),
            _ => Err(Garbled.into()),
        }
    }

    /// Has that file system come, with a connection to its [server](crate::files). It stays there until the end of this connection at least.
    ///
    /// # Errors
    /// The machine is gone. Why it can't come is in the answer.
    pub fn files(&mut self, id: FileServerId, server: BorrowedFd<'_>) -> Result<Result<(), Failure>, ConnectionError> {
        self.send(&ToMachine::Files(id), &[server])?;
        self.done()
    }

    /// Has the machine be on another network. Whoever gives up waiting has its cards gone that were to go; others may have come.
    ///
    /// # Errors
    /// The machine is gone, or does not answer. Why it could not be done is in the answer.
    pub fn network(&mut self, wish: NetworkWish) -> Result<Result<(), Failure>, ConnectionError> {
        self.send(&ToMachine::Network(Box::new(wish)), &[])?;
        match self.receive()? {
            FromMachine::Networked(answer) => Ok(answer.map_err(|mut failure| {
                plain::failure(&mut failure);
                failure
            })),
            _ => Err(Garbled.into()),
        }
    }

    /// Has the process of a container killed within the machine, whose end is told once what it has written is where it belongs: this does not wait for it.
    ///
    /// # Errors
    /// The machine is gone, does not run, or rests, or has no such container.
    pub fn kill(&mut self, container: ContainerId) -> Result<(), ConnectionError> {
        self.send(&ToMachine::Kill(container), &[])?;
        self.done()?.map_err(|_| Garbled.into())
    }

    /// Asks which pages of what it went on from the machine has touched, if it can tell.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn touched(&mut self) -> Result<Option<WorkingSet>, ConnectionError> {
        self.send(&ToMachine::Touched, &[])?;
        match self.receive()? {
            FromMachine::Touched(touched) => Ok(touched),
            _ => Err(Garbled.into()),
        }
    }

    pub(crate) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), ConnectionError> {
        Ok(send(self.socket.as_fd(), &frame(message)?, fds)?)
    }

    /// The next message, waited for: however it comes, all of it has to be there in time.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ConnectionError> {
        let until = Instant::now() + self.patience;
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(message);
            }
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(ConnectionError::Silent);
            }
            let mut readable = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut readable, Some(&timespec(rest))) {
                Ok(0) => return Err(ConnectionError::Silent),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if self.decoder.read(self.socket.as_fd(), RecvFlags::DONTWAIT)? == Some(0) {
                return Err(ConnectionError::Gone);
            }
        }
    }

    /// The next message, where one is there.
    pub(crate) fn try_receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ConnectionError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            match self.decoder.read(self.socket.as_fd(), RecvFlags::DONTWAIT)? {
                Some(0) => return Err(ConnectionError::Gone),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A time as the kernel takes it. Rounded up: what is waited for would not be due yet, and be waited for again and again.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    let rounded = duration + Duration::from_micros(999);
    Timespec { tv_sec: rounded.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: rounded.subsec_nanos().into() }
}

/// Why nobody answers for a machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The socket failed.
    #[error("speak to the microVM: {}", std::io::Error::from(*.0))]
    Socket(#[from] Errno),
    /// Its process has ended.
    #[error("the microVM is gone")]
    Gone,
    /// It says nothing for too long: its guest hangs, or keeps its agent from running.
    #[error("the microVM does not answer: it may have more to do than its processors can")]
    Silent,
    /// It does not speak this.
    #[error(transparent)]
    Garbled(#[from] Garbled),
    /// It was started by another version of this program.
    #[error(
        "the microVM was started by another version of stratus (it speaks {machine}, this one {VERSION}): restart it"
    )]
    Version {
        /// What it speaks.
        machine: u32,
    },
}

/// Entry point for fuzzing: what comes to either end, the machine's process and whoever speaks with it, in pieces of any length. It may not panic;
/// what is read is the same however it comes, and the same again once it was written.
pub fn fuzz(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else { return };
    let pieces = usize::from(*piece).max(1);
    fuzz_end::<ToMachine>(stream, pieces);
    fuzz_end::<FromMachine>(stream, pieces);
}

fn fuzz_end<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(stream: &[u8], pieces: usize) {
    let read = |pieces: usize| {
        let (mut decoder, mut messages, mut greeted) = (Decoder::default(), Vec::new(), false);
        for piece in stream.chunks(pieces) {
            decoder.bytes.extend_from_slice(piece);
            loop {
                let next = match greeted {
                    true => decoder.next::<T>().map(|next| next.map(|message| messages.push(message))),
                    false => decoder.next::<Hello>().map(|next| next.map(|_| greeted = true)),
                };
                match next {
                    Ok(Some(())) => {}
                    Ok(None) => break,
                    Err(Garbled) => return (messages, true),
                }
            }
            assert!(decoder.bytes.len() < 4 + BODY_MAX + pieces, "more is kept than one message");
        }
        (messages, false)
    };
    let (messages, garbled) = read(stream.len().max(1));
    assert_eq!(read(pieces), (messages.iter().map(again).collect(), garbled));
}

/// A message that was written and read.
fn again<T: DeserializeOwned + Serialize>(message: &T) -> T {
    let bytes = frame(message).expect("a message that came in a frame fits into one");
    let mut decoder = Decoder { bytes, ..Decoder::default() };
    decoder.next().expect("what is written can be read").expect("and is whole")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_that_comes_byte_by_byte_is_not_waited_for_for_ever() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let patience = Duration::from_millis(200);
        let mut connection = Connection { socket: theirs.into(), decoder: Decoder::default(), patience };
        // Somebody who always says a little more: to its end, as it is not waited for.
        let speaker = std::thread::spawn(move || {
            let bytes = frame(&FromMachine::Refused(Failure::Refused { why: "x".repeat(1 << 20) })).unwrap();
            for byte in bytes {
                if std::io::Write::write_all(&mut ours, &[byte]).is_err() {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            true
        });
        assert!(matches!(connection.receive::<FromMachine>(), Err(ConnectionError::Silent)));
        drop(connection);
        assert!(!speaker.join().unwrap(), "all of it was waited for");
    }

    #[test]
    fn messages_come_whole_with_their_descriptors_in_whatever_pieces() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let run = ToMachine::Run {
            container: ContainerId(1),
            plan: Blob(vec![7; 200_000]),
            streams: Streams::Pipes { stdin: false },
        };
        let frames = [frame(&Hello { version: VERSION }).unwrap(), frame(&run).unwrap()].concat();
        let file = std::fs::File::open("/dev/null").unwrap();
        let writer = std::thread::spawn(move || {
            send(ours.as_fd(), &frames[..3], &[]).unwrap();
            send(ours.as_fd(), &frames[3..], &[file.as_fd(), file.as_fd(), file.as_fd()]).unwrap();
        });
        let mut connection = Connection { socket: theirs.into(), decoder: Decoder::default(), patience: PATIENCE };
        assert_eq!(connection.receive::<Hello>().unwrap(), Hello { version: VERSION });
        assert_eq!(connection.receive::<ToMachine>().unwrap(), run);
        assert_eq!(connection.decoder.take_fds().len(), 3);
        writer.join().unwrap();
        assert!(matches!(connection.receive::<ToMachine>(), Err(ConnectionError::Gone)));
    }

    #[test]
    fn an_answer_that_fits_no_request_is_not_taken() {
        use guest_protocol::files::{At, FileReply, FileRequest, Handle, Tree};
        let at = At { tree: Tree::Root, path: Blob(b"/".to_vec()) };
        let read = FileRequest::Read { handle: Handle(1), offset: 0, length: 4 };
        for (request, reply, fits) in [
            (FileRequest::ReadLink(at.clone()), FileReply::Link(Blob::default()), true),
            (FileRequest::ReadLink(at), FileReply::Done, false),
            (read.clone(), FileReply::Bytes(Blob(vec![0; 4])), true),
            (read, FileReply::Bytes(Blob(vec![0; 5])), false),
        ] {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            let answer = frame(&FromMachine::Answer(Ok(Reply::File(reply)))).unwrap();
            send(ours.as_fd(), &answer, &[]).unwrap();
            let mut connection = Connection { socket: theirs.into(), decoder: Decoder::default(), patience: PATIENCE };
            let request = Request::File { container: crate::container::CONTAINER, request };
            let heard = connection.ask(request);
            assert_eq!(heard.is_ok(), fits, "{heard:?}");
        }
    }

    #[test]
    fn a_machine_of_another_version_is_told_as_that() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        send(ours.as_fd(), &frame(&Hello { version: VERSION + 1 }).unwrap(), &[]).unwrap();
        let error = Connection::new(theirs.into()).unwrap_err().to_string();
        let said = format!("another version of stratus (it speaks {}, this one {VERSION}): restart it", VERSION + 1);
        assert!(error.contains(&said), "{error}");
    }

    #[test]
    fn who_sends_descriptors_without_end_has_few_of_them_kept() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut decoder = Decoder::default();
        for _ in 0..10 {
            send(ours.as_fd(), &[0], &[file.as_fd(), file.as_fd()]).unwrap();
            assert_eq!(decoder.read(theirs.as_fd(), RecvFlags::empty()), Ok(Some(1)));
        }
        assert_eq!(decoder.take_fds().len(), FDS_MAX);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(data: Vec<u8>) {
            fuzz(&data);
        }

        #[test]
        fn what_follows_a_hello_is_read_or_refused(piece: u8, bodies in proptest::collection::vec(any::<Vec<u8>>(), 1..4)) {
            let mut data = vec![piece];
            data.extend(frame(&Hello { version: VERSION }).unwrap());
            for body in bodies {
                data.extend((body.len() as u32).to_le_bytes());
                data.extend(body);
            }
            fuzz(&data);
        }
    }
}

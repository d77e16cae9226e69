//! The messages.
//!
//! A conversation begins with the guest's [`ToHost::Hello`], which the host answers by [`ToGuest::Greeting`]. From then on the host may have
//! any number of requests under way, told apart by numbers of its own choice, and the guest does them in the order in which they come.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::configuration::{Identity, Machine, Network, Root};
use crate::files::{FileReply, FileRequest};
use crate::frame::MAX_MESSAGE;
use crate::observe::{MachineStats, MemoryDetails, RunningProcess};

/// A process of the host's choice, the number of which is never used again in a machine's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(u32);

impl ProcessId {
    /// The largest: two bits of a channel are the stream's.
    pub const MAX: u32 = u32::MAX >> 2;

    /// `None` for 0 and what is more than [`ProcessId::MAX`].
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A container of the host's choice; a pod's machine has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(pub u32);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Stream {
    /// Standard input, or what is typed.
    Stdin = 1,
    /// Standard output, or all that a terminal shows.
    Stdout = 2,
    /// Standard error.
    Stderr = 3,
}

/// Bytes that travel as one piece.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer).map(|bytes| Self(bytes.to_vec()))
    }
}

/// From the host to the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToGuest {
    /// The answer to the guest's hello; credits for what runs follow.
    Greeting(Greeting),
    /// Something to do.
    Request {
        /// Chosen by the host, and repeated in the answer.
        number: u64,
        /// What.
        body: Request,
    },
    /// The answer to a [`ToHost::Name`].
    NameAnswer {
        /// Which.
        number: u64,
        /// A message of DNS; empty: none could be had.
        answer: Blob,
    },
}

/// The host's side of the greeting. Its form never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The version that is spoken: the guest's own, or the guest ends the conversation.
    pub protocol: u32,
    /// The hello that it answers; another one's is not meant for this conversation.
    pub conversation: u64,
    /// Where each running process's streams go on. What is not named here goes on where the guest said.
    pub resume: Vec<Resume>,
}

/// Where a process's output goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Whose.
    pub process: ProcessId,
    /// Standard output: everything before this offset was taken, and up to the other may be sent.
    pub stdout: (u64, u64),
    /// Standard error, likewise.
    pub stderr: (u64, u64),
}

/// From the guest to the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToHost {
    /// The first message of a conversation.
    Hello(Hello),
    /// What came of a request.
    Answer {
        /// The request's number.
        number: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// A process has ended. Its output may still be on its way, and may be open in other hands.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        exit: Exit,
    },
    /// Somebody inside asks for a name: [`ToGuest::NameAnswer`]. Who waits too long asks again, so that none has to be answered.
    Name {
        /// Chosen by the guest.
        number: u64,
        /// The question came by TCP, so that the answer may be of any length; else it is cut for UDP by whoever answers.
        tcp: bool,
        /// A message of DNS.
        query: Blob,
    },
}

/// Who the guest is, and what it holds. Its form never changes, but for what [`Held`] says of processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol that it speaks.
    pub protocol: u32,
    /// Its release, as `CARGO_PKG_VERSION`.
    pub release: String,
    /// Chosen at random when it booted: a host that was connected to it before knows it again. Clones of one snapshot have the same.
    pub boot: [u8; 16],
    /// Which conversation since it booted this is, from 1 on.
    pub conversation: u64,
    /// What it can do beyond [`crate::PROTOCOL`]: bits of [`feature`].
    pub features: u64,
    /// [`Request::Configure`] was done.
    pub configured: bool,
    /// What runs, and what has ended and was not forgotten.
    pub processes: Vec<Held>,
}

/// A process that the guest holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Which.
    pub process: ProcessId,
    /// Its container.
    pub container: ContainerId,
    /// It is a terminal's.
    pub terminal: bool,
    /// How it ended; `None`: it runs, or sets itself up.
    pub exit: Option<Exit>,
    /// Standard input: how much was taken; `None`: the host writes none.
    pub stdin: Option<u64>,
    /// Standard output and error.
    pub outputs: [Position; 2],
}

/// How far a process's output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Everything before was taken by a host, and is not kept any more.
    pub taken: u64,
    /// Everything before was written by the process.
    pub written: u64,
    /// Nothing more will come behind that.
    pub ended: bool,
}

/// What a host can ask for. Each may be repeated: what is done already is answered as if it were done now, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Make the machine what it is to be: [`Reply::Done`].
    Configure(Box<Machine>),
    /// Make a container's root file system, and what is mounted into it: [`Reply::Done`].
    MakeRoot(Box<Root>),
    /// Run a process: [`Reply::Started`], when its program runs.
    Start(Box<Start>),
    /// Send a signal: [`Reply::Done`], also where it has ended. Not repeated by itself: a signal may arrive twice.
    Signal {
        /// To which process.
        process: ProcessId,
        /// Its number, 1 to 64.
        signal: i32,
        /// To all of its container's.
        everyone: bool,
    },
    /// Set a terminal's size: [`Reply::Done`].
    Resize {
        /// Whose.
        process: ProcessId,
        /// The new size.
        size: TerminalSize,
    },
    /// Forget a process, with the output that was not taken; one that runs is killed: [`Reply::Done`].
    Forget {
        /// Which.
        process: ProcessId,
    },
    /// What is used: [`Reply::Stats`].
    Stats {
        /// By which container.
        container: ContainerId,
    },
    /// What runs: [`Reply::Processes`].
    Processes {
        /// In which container.
        container: ContainerId,
    },
    /// Stop a container's processes, or let them go on: [`Reply::Done`], when all of them are.
    Freeze {
        /// Which.
        container: ContainerId,
        /// Stop them.
        frozen: bool,
    },
    /// Something with a container's files: [`Reply::File`].
    File {
        /// Whose.
        container: ContainerId,
        /// What.
        request: FileRequest,
    },
    /// Become another, after going on from a snapshot: [`Reply::Done`], when all of it is so.
    Renew(Box<Identity>),
    /// Change the limits of a container that runs, as [`Root::limits`](crate::configuration::Root::limits) says them: [`Reply::Done`].
    Limit {
        /// Whose.
        container: ContainerId,
        /// Files of its control group, and what is written to them.
        limits: Vec<(String, String)>,
    },
    /// End all, write everything to the disks, and end the machine: [`Reply::Done`] comes before the machine's end.
    Shutdown {
        /// How.
        how: End,
    },
    /// Have another network: [`Reply::Done`], when all of it is so.
    Network(Box<Network>),
    /// Take a container's root file system away, with all that it changed and what of it is left running: [`Reply::Done`], also where there is none. Its number is never used again.
    /// Guests with [`feature::SEVERAL`] know it.
    RemoveRoot {
        /// Whose.
        container: ContainerId,
    },
    /// What a container's memory is in: [`Reply::Memory`]. Guests with [`feature::MEMORY`] know it.
    Memory {
        /// Of which container.
        container: ContainerId,
    },
}

/// What guests can do beyond [`crate::PROTOCOL`] ([`Hello::features`]).
pub mod feature {
    /// Several containers beside each other, which come and go.
    pub const SEVERAL: u64 = 1;
    /// File systems that come while the machine runs, and go ([`VolumeKind::Plugged`](crate::configuration::VolumeKind::Plugged)).
    pub const PLUGGED_FILES: u64 = 2;
    /// PID namespaces that containers share ([`place::pid_namespace`](crate::place::pid_namespace)).
    pub const PID_NAMESPACES: u64 = 4;
    /// What memory is in ([`Request::Memory`](super::Request::Memory)).
    pub const MEMORY: u64 = 8;
}

/// How a machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It is powered off.
    PowerOff,
    /// It is reset, for a hypervisor that ends with that.
    Reset,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Its number.
    pub process: ProcessId,
    /// Its container.
    pub container: ContainerId,
    /// What it does before its program.
    pub plan: Plan,
    /// Its standard streams.
    pub streams: Streams,
    /// How many bytes of each output may be sent before any is taken.
    pub window: u32,
    /// How many bytes of each output are kept while nobody takes them; then the process waits.
    pub kept: u32,
}

/// A plan of `sandbox`, encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Plan {
    /// A container's first process: an `InitPlan`.
    Init(Blob),
    /// A further one: an `ExecPlan`.
    Exec(Blob),
}

/// What a process's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// Pipes; without `stdin`, standard input is empty.
    Pipes {
        /// The host writes to standard input, and ends it.
        stdin: bool,
    },
    /// A terminal, which the plan makes.
    Terminal {
        /// Its size.
        size: TerminalSize,
    },
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// To [`Request::Start`].
    Started {
        /// What was left out that no start should die of; for people.
        warnings: Vec<String>,
    },
    /// To [`Request::Stats`].
    Stats(Box<MachineStats>),
    /// To [`Request::Processes`].
    Processes(Vec<RunningProcess>),
    /// To [`Request::File`].
    File(FileReply),
    /// To [`Request::Memory`].
    Memory(Box<MemoryDetails>),
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The guest does not hold that.
    Unknown {
        /// What.
        what: String,
    },
    /// It can't be done in this state, or makes no sense.
    Refused {
        /// Why.
        why: String,
    },
    /// The kernel refused.
    System {
        /// What was tried.
        tried: Cow<'static, str>,
        /// On what.
        on: String,
        /// Its reason.
        errno: i32,
    },
    /// The program could not be executed. Docker's exit status is 127 for `ENOENT` and `ENOTDIR`, and 126 otherwise.
    Program {
        /// The kernel's reason.
        errno: i32,
        /// The whole of it, for people.
        text: String,
    },
    /// The process failed before its program.
    Sandbox {
        /// The kernel's reason; 0: none.
        errno: i32,
        /// The whole of it, for people.
        text: String,
    },
    /// The process ended before its program ran.
    Died {
        /// How.
        status: Status,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { what } => write!(f, "the guest holds no {what}"),
            Self::Refused { why } => f.write_str(why),
            Self::System { tried, on, errno } => {
                write!(f, "in the guest: {tried} {on}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Program { text, .. } | Self::Sandbox { text, .. } => f.write_str(text),
            Self::Died { status } => write!(f, "the process ended before its program ran: {status}"),
        }
    }
}

impl std::error::Error for Failure {}

/// How a process ended, and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How.
    pub status: Status,
    /// What it used, with those of its children that it waited for.
    pub usage: Usage,
    /// How much had been written to its standard output and error by then. What comes behind that is of others, who have them open still.
    pub outputs: [u64; 2],
    /// Of a container's first process: something in the container was killed for want of memory.
    pub oom_killed: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself.
    Code(u8),
    /// By a signal.
    Signal(u8),
}

impl Status {
    /// As a shell has it: 128 and the signal's number.
    pub fn shell(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal | 128,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a process used (getrusage(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode, in microseconds.
    pub user: u64,
    /// Processor time in kernel mode, in microseconds.
    pub system: u64,
    /// The most memory that it had at once, in KiB.
    pub memory: u64,
}

/// A message that could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsendable {
    /// It is longer than [`MAX_MESSAGE`].
    TooLong(usize),
    /// It has no encoding.
    Encoding(postcard::Error),
}

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(size) => write!(f, "a message of {size} bytes: {MAX_MESSAGE} is the most"),
            Self::Encoding(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Unsendable {}

/// The body of a message.
///
/// # Errors
/// It is too long.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, Unsendable> {
    let body = postcard::to_stdvec(message).map_err(Unsendable::Encoding)?;
    if body.len() > MAX_MESSAGE { Err(Unsendable::TooLong(body.len())) } else { Ok(body) }
}

/// Reads the body of a message, all of it.
///
/// # Errors
/// It is none, or has something behind it.
pub fn decode<'de, M: Deserialize<'de>>(body: &'de [u8]) -> Result<M, postcard::Error> {
    match postcard::take_from_bytes(body)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

//! What a daemon and its keeper say to each other.
//!
//! Each message is one datagram of a `SOCK_SEQPACKET` socket, encoded with postcard; descriptors travel beside it as `SCM_RIGHTS`
//! (see [`crate::wire`] for the framing). A daemon opens with [`ToKeeper::Hello`] and hears [`FromKeeper::Welcome`] or
//! [`FromKeeper::Refused`]. After that it may have any number of requests under way, told apart by numbers of its own choice.
//!
//! **Stability.** A daemon may be newer than its keeper, as a keeper outlives daemons. The variants [`ToKeeper::Hello`],
//! [`ToKeeper::Upgrade`], [`FromKeeper::Welcome`], [`FromKeeper::Refused`] and [`FromKeeper::Upgraded`] never change and never move,
//! so that any daemon can bring any keeper up to its own version. Everything else belongs to [`PROTOCOL`], which grows by one when
//! a type below changes in another way than by new variants at the end of an enum.

mod state;
mod streams;

pub use state::{EntryInfo, Exit, ExitStatus, State, Stats, UnixNanos, Usage};
pub use streams::{AttachOptions, Framing, LogConfig, Recovery, Rotation, Stdio, Stream, TerminalSize};

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::wire::Message;

/// The version of the requests, replies and events that this build speaks.
pub const PROTOCOL: u32 = 5;

/// The longest id of a sandbox or an exec, in bytes.
pub const MAX_ID: usize = 128;

/// From a daemon to the keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// The first message of a connection.
    Hello {
        /// The version that the daemon wants to speak.
        protocol: u32,
    },
    /// Go on as the program whose executable file is the attached descriptor, with everything that is held. Allowed without a
    /// greeting. Answered by [`FromKeeper::Upgraded`] by the new program, or by [`FromKeeper::Refused`] by the old one.
    Upgrade,
    /// Something to do.
    Request {
        /// Chosen by the daemon, and repeated in the response. 0: no response is wanted.
        number: u64,
        /// What is to be done.
        body: Request,
    },
}

/// From the keeper to a daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// The answer to a greeting in a version that the keeper speaks. Events follow from here on.
    Welcome {
        /// The version that is spoken.
        protocol: u32,
        /// The keeper's own release, as `CARGO_PKG_VERSION`.
        release: String,
        /// The keeper's process id in its own namespace.
        pid: u32,
    },
    /// A greeting or an upgrade was refused; the reason is for people.
    Refused {
        /// Why, and what to do.
        reason: String,
        /// The version that the keeper speaks.
        protocol: u32,
    },
    /// An upgrade is done: this is the new program.
    Upgraded {
        /// Its release, as `CARGO_PKG_VERSION`.
        release: String,
        /// The version that it speaks; greet again when it is another one.
        protocol: u32,
    },
    /// The outcome of a request.
    Response {
        /// The request's number.
        number: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// Something happened; sent to every daemon that is connected.
    Event(Event),
}

impl Message for ToKeeper {
    fn number(&self) -> u64 {
        match self {
            ToKeeper::Request { number, .. } => *number,
            ToKeeper::Hello { .. } | ToKeeper::Upgrade => 0,
        }
    }
}

impl Message for FromKeeper {
    fn number(&self) -> u64 {
        match self {
            FromKeeper::Response { number, .. } => *number,
            FromKeeper::Welcome { .. }
            | FromKeeper::Refused { .. }
            | FromKeeper::Upgraded { .. }
            | FromKeeper::Event(_) => 0,
        }
    }
}

/// What a daemon can ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Make a sandbox, and start it if wanted: [`Reply::Created`].
    ///
    /// Attached descriptors: one sink for each of `attach`, in order, then whatever the plan refers to, then what
    /// `sandbox::open_trees` opens for it.
    Create {
        /// The name by which everything else refers to it. Unique among sandboxes and execs.
        id: String,
        /// An encoded `sandbox::plan::InitPlan`.
        plan: Blob,
        /// Its standard streams.
        stdio: Stdio,
        /// Where its output is written.
        log: LogConfig,
        /// Attachments that are there before the first byte.
        attach: Vec<AttachOptions>,
        /// What a daemon needs to take it down if the keeper is killed.
        recovery: Recovery,
        /// Start it at once. The response then comes when its program runs, or failed to.
        start: bool,
        /// It ends with the connection that asks for it, as nobody could make anything of what it does afterwards: it is killed,
        /// with all that is in its cgroups. Else a vanished daemon changes nothing.
        bound: bool,
    },
    /// Start what was created with `start: false`: [`Reply::Started`], when the program runs.
    Start {
        /// The sandbox.
        id: String,
    },
    /// Run another process in a running sandbox: [`Reply::Created`]. It is held like a sandbox, but not logged.
    ///
    /// Attached descriptors: one sink for each of `attach`, in order, then whatever the plan refers to.
    Exec {
        /// The sandbox.
        sandbox: String,
        /// The name of the new process. Unique among sandboxes and execs.
        id: String,
        /// An encoded `sandbox::plan::ExecPlan`.
        plan: Blob,
        /// Its standard streams.
        stdio: Stdio,
        /// Attachments that are there before the first byte.
        attach: Vec<AttachOptions>,
        /// It is the daemon's own, as a health check is: with that daemon ends whoever waits for it. To the keeper it is as any
        /// other; the next daemon is told ([`EntryInfo::own`]).
        own: bool,
    },
    /// Receive output from now on through the attached descriptor: [`Reply::Attached`].
    Attach {
        /// A sandbox or an exec.
        id: String,
        /// What is wanted.
        options: AttachOptions,
    },
    /// End an attachment: [`Reply::Done`]. Closing the sink's other end does the same.
    Detach {
        /// The number in [`Reply::Attached`] or [`Reply::Created`].
        attachment: u64,
    },
    /// Close the keeper's end of standard input: [`Reply::Done`]. The process sees the end of file once every daemon has closed the
    /// ends that it was given; [`Event::StdinClosed`] tells it to. Does nothing on a terminal, which has no such end.
    CloseStdin {
        /// A sandbox or an exec.
        id: String,
    },
    /// Set a terminal's size: [`Reply::Done`].
    Resize {
        /// A sandbox or an exec.
        id: String,
        /// The new size.
        size: TerminalSize,
    },
    /// Send a signal to the process: [`Reply::Done`].
    Signal {
        /// A sandbox or an exec.
        id: String,
        /// The signal's number, 1 to 64.
        signal: i32,
    },
    /// Everything that is held: [`Reply::Entries`].
    List,
    /// One thing that is held: [`Reply::Entries`] with one element.
    Inspect {
        /// A sandbox or an exec.
        id: String,
    },
    /// Let go of something that has exited or was created and never started (which ends it): [`Reply::Done`]. Its streams are
    /// closed, whoever else still holds them. Unknown ids are not an error, so that it can be repeated.
    Forget {
        /// A sandbox or an exec.
        id: String,
    },
    /// Write a sandbox's log elsewhere from now on: [`Reply::Done`].
    SetLog {
        /// The sandbox.
        id: String,
        /// Where to.
        log: LogConfig,
    },
    /// Open the log's file again by its name, after somebody moved it away: [`Reply::Done`].
    ReopenLog {
        /// The sandbox.
        id: String,
    },
    /// Put a compressed copy in the place of a rotated log file, wherever further rotations have moved it: [`Reply::Done`], also if
    /// the file was removed by rotation meanwhile (the copy is removed then). See [`Event::LogRotated`].
    AdoptCompressed {
        /// The sandbox.
        id: String,
        /// The inode of the rotated file that was compressed.
        inode: u64,
        /// The compressed copy, in the same directory.
        copy: PathBuf,
    },
    /// The keeper's own figures: [`Reply::Stats`].
    Stats,
    /// End the keeper: [`Reply::Done`], then the connection closes.
    Shutdown {
        /// Kill everything that runs first. Without it, a keeper that holds something running answers [`Failure::Busy`].
        kill: bool,
    },
}

/// The good outcome of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// To [`Request::Create`] and [`Request::Exec`].
    ///
    /// Attached descriptor: if an attachment asked for standard input and there is one, the end to write to (see
    /// [`Reply::Attached`]).
    Created {
        /// The process's id as the keeper sees it.
        pid: u32,
        /// One number for each attachment of the request.
        attachments: Vec<u64>,
        /// What could not be done and did not have to be; for people.
        warnings: Vec<String>,
    },
    /// To [`Request::Start`].
    Started {
        /// As in [`Reply::Created`].
        warnings: Vec<String>,
    },
    /// To [`Request::Attach`].
    ///
    /// Attached descriptor, if standard input was asked for and is open: the end to write to; a pipe or a terminal, shared with
    /// the keeper and with other attachments, and in non-blocking mode. A terminal that the process has not opened yet has none:
    /// attach again after the start.
    Attached {
        /// The number of this attachment.
        attachment: u64,
        /// Whether the streams are a terminal.
        terminal: bool,
    },
    /// To [`Request::List`] and [`Request::Inspect`].
    Entries(Vec<EntryInfo>),
    /// To [`Request::Stats`].
    Stats(Stats),
}

/// Why a request was not done. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// No sandbox or exec has this id.
    #[error("the keeper holds nothing named {id}")]
    Unknown {
        /// The id.
        id: String,
    },
    /// The id is taken.
    #[error("{id} is already in use; forget it first")]
    InUse {
        /// The id.
        id: String,
    },
    /// The id is empty, too long, or holds other characters than letters, digits, `_`, `.` and `-`.
    #[error("{id:?} cannot be an id: 1 to {MAX_ID} of letters, digits, '_', '.' and '-' are")]
    InvalidId {
        /// The id, cut short.
        id: String,
    },
    /// The request does not fit what the process is doing.
    #[error("{id} is {state}, so it cannot {wanted}")]
    WrongState {
        /// The id.
        id: String,
        /// The state that it is in.
        state: State,
        /// What was asked of it: `start`, `run another process`, …
        wanted: Cow<'static, str>,
    },
    /// An argument makes no sense.
    #[error("{what} is invalid: {why}")]
    Invalid {
        /// Which argument.
        what: Cow<'static, str>,
        /// What is wrong with it.
        why: String,
    },
    /// The new process failed before its program ran.
    #[error("{text}")]
    Sandbox {
        /// The step that failed, one of `sandbox`'s names for them.
        step: String,
        /// The system's error number, if it was the system that refused.
        errno: Option<i32>,
        /// The whole of it, for people.
        text: String,
    },
    /// The program itself could not be executed. Docker's exit status for it is 127 for `ENOENT`, and 126 otherwise.
    #[error("{text}")]
    Program {
        /// The system's error number: `ENOENT`, `EACCES`, `ENOEXEC`, …
        errno: i32,
        /// The whole of it, for people.
        text: String,
    },
    /// The new process was killed before its program ran.
    #[error("{id} ended before its program ran: {status}")]
    Died {
        /// The id.
        id: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The keeper could not do something that it needs.
    #[error("{tried} {on}: {}", crate::errno_text(*.errno))]
    System {
        /// What was tried.
        tried: Cow<'static, str>,
        /// On what.
        on: String,
        /// The system's error number.
        errno: i32,
    },
    /// Descriptors are missing from the message, or superfluous.
    #[error("{expected} descriptors belong to this request, {got} came with it")]
    Descriptors {
        /// How many were needed at least.
        expected: usize,
        /// How many there were.
        got: usize,
    },
    /// The keeper still holds running sandboxes.
    #[error("{running} sandboxes and processes still run; stop them, or ask for them to be killed")]
    Busy {
        /// How many.
        running: u32,
    },
    /// The keeper is about to end.
    #[error("the keeper is shutting down")]
    ShuttingDown,
}

/// What the keeper tells every connected daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A process that ran has ended. Everything that it wrote before has been read, but for what a slow attachment holds up.
    Exited {
        /// The sandbox or exec.
        id: String,
        /// How it ended.
        exit: Exit,
        /// Another process still holds its output open: [`Event::OutputEnded`] follows when that has ended.
        output_open: bool,
    },
    /// The output of an exited process has come to its end.
    OutputEnded {
        /// The sandbox or exec.
        id: String,
    },
    /// Standard input was closed: close every end of it that you were given.
    StdinClosed {
        /// The sandbox or exec.
        id: String,
    },
    /// A log could not be written, and the lines since then are lost. The process runs on.
    LogFailing {
        /// The sandbox.
        id: String,
        /// The system's error number, as `ENOSPC`.
        errno: i32,
    },
    /// A log is written again after [`Event::LogFailing`].
    LogDropped {
        /// The sandbox.
        id: String,
        /// How many lines (of the log, not of the output) are lost.
        count: u64,
    },
    /// A log was rotated and its configuration asks for compression: compress `path` to a new file beside it, then ask for
    /// [`Request::AdoptCompressed`].
    LogRotated {
        /// The sandbox.
        id: String,
        /// The file's name right after the rotation.
        path: PathBuf,
        /// Its inode, by which it is known after further rotations.
        inode: u64,
    },
    /// The keeper enters namespaces for a moment when it begins something in them, and could not return to one of its own; or it has
    /// returned. As long as it is away it begins nothing that would be in the wrong place, and is upgraded by nobody.
    Whereabouts {
        /// The name of the namespace that it can't return to. `None`: it is where it belongs.
        away_from: Option<String>,
    },
}

/// Bytes, encoded as bytes and not as a sequence of numbers.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

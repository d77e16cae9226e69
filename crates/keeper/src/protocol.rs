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

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of the requests, replies and events that this build speaks.
pub const PROTOCOL: u32 = 1;

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

/// What a daemon can ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Make a sandbox, and start it if wanted: [`Reply::Created`].
    ///
    /// Attached descriptors: one sink for each of `attach`, in order, then whatever the plan refers to.
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
}

/// A process's standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// A pipe each for standard output and standard error.
    Pipes {
        /// Standard input is a pipe; otherwise `/dev/null`.
        stdin: bool,
        /// Close standard input when the first attachment that has it ends.
        stdin_once: bool,
    },
    /// A terminal of the sandbox's own.
    Terminal {
        /// Its first size.
        size: TerminalSize,
    },
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What an attachment receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOptions {
    /// Give the end of standard input to write to.
    pub stdin: bool,
    /// Standard output, or the terminal.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// How output is put into the sink.
    pub framing: Framing,
}

/// How output is put into a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Framing {
    /// As it is. For terminals, or for one stream alone.
    Raw,
    /// Each piece after a header of 8 bytes: the stream's number (1 or 2), three zeros, the piece's length as a big-endian `u32`.
    /// The order of pieces is the order in which they were read.
    Framed,
}

/// Which of the output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name in log files.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Where a sandbox's output is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogConfig {
    /// Nowhere.
    None,
    /// Docker's `json-file`: one JSON object a line.
    JsonFile {
        /// The current file; rotated ones have `.1`, `.2`, … after its name.
        path: PathBuf,
        /// When to rotate.
        rotation: Option<Rotation>,
        /// Put as `"attrs"` into each line, sorted by name; empty: left out.
        attributes: Vec<(String, String)>,
    },
    /// Docker's `local`: framed protobuf messages.
    Local {
        /// As in [`LogConfig::JsonFile`].
        path: PathBuf,
        /// When to rotate; Docker's own default is [`Rotation::LOCAL_DEFAULT`].
        rotation: Option<Rotation>,
    },
}

/// When a log is rotated, and what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// A file that has reached this many bytes is rotated before the next line.
    pub max_size: u64,
    /// How many files there are at most, the current one included. With 1, the current one starts anew instead.
    pub max_files: u32,
    /// Tell the daemon of each rotated file, so that it compresses it ([`Event::LogRotated`]).
    pub compress: bool,
}

impl Rotation {
    /// 20 MiB, five files, compressed: what Docker's `local` driver does when told nothing.
    pub const LOCAL_DEFAULT: Rotation = Rotation { max_size: 20 << 20, max_files: 5, compress: true };
}

/// Written to disk with a sandbox, for a daemon that finds the keeper killed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recovery {
    /// Absolute paths of the sandbox's own cgroup directories; one is enough on v2, and one hierarchy is enough on v1. Whatever is
    /// left in them is killed.
    pub cgroups: Vec<PathBuf>,
}

/// Something that the keeper holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryInfo {
    /// The id.
    pub id: String,
    /// For an exec: the sandbox.
    pub sandbox: Option<String>,
    /// The process's id as the keeper sees it.
    pub pid: u32,
    /// What it is doing.
    pub state: State,
    /// When it was created.
    pub created: UnixNanos,
    /// When its program began to run.
    pub started: Option<UnixNanos>,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// Whether its streams are a terminal.
    pub terminal: bool,
    /// Whether standard input can still be written.
    pub stdin_open: bool,
    /// Whether its output can still be read.
    pub output_open: bool,
    /// How many attachments there are.
    pub attachments: u32,
    /// Lines of the log that were lost so far.
    pub log_dropped: u64,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is being set up.
    Creating,
    /// It is set up, and waits for [`Request::Start`].
    Created,
    /// It was told to start, and its program does not run yet.
    Starting,
    /// Its program runs.
    Running,
    /// It has ended.
    Exited,
    /// It runs, but was started by a keeper that was killed. Its streams are gone, and its exit status will be too: kill it, and
    /// [`Request::Forget`] it.
    Orphaned,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Creating => "being created",
            State::Created => "created",
            State::Starting => "being started",
            State::Running => "running",
            State::Exited => "exited",
            State::Orphaned => "orphaned",
        })
    }
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// When the keeper saw it.
    pub at: UnixNanos,
    /// What it and its waited-for children used.
    pub usage: Usage,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with this status.
    Code(u8),
    /// By a signal.
    Signal {
        /// The signal's number.
        signal: u8,
        /// Whether memory was dumped.
        core: bool,
    },
    /// Nobody knows: it ended under no keeper.
    Unknown,
}

impl ExitStatus {
    /// The status as shells and Docker tell it: the code, or 128 and the signal's number. 255 if unknown.
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal { signal, .. } => 128u8.saturating_add(signal),
            ExitStatus::Unknown => 255,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit status {code}"),
            ExitStatus::Signal { signal, core: false } => write!(f, "killed by signal {signal}"),
            ExitStatus::Signal { signal, core: true } => write!(f, "killed by signal {signal}, core dumped"),
            ExitStatus::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// What a process used, as `getrusage(2)` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode, in microseconds.
    pub user_us: u64,
    /// Processor time in the kernel, in microseconds.
    pub system_us: u64,
    /// The largest resident set, in KiB.
    pub max_rss_kib: u64,
}

/// The keeper's figures of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Sandboxes held, in whatever state.
    pub sandboxes: u32,
    /// Execs held, in whatever state.
    pub execs: u32,
    /// Of both, those that have a living process.
    pub running: u32,
    /// Connected daemons.
    pub connections: u32,
    /// Attachments.
    pub attachments: u32,
    /// Bytes of output read since the keeper began, upgrades included.
    pub output_bytes: u64,
    /// Lines of logs lost since then.
    pub log_dropped: u64,
    /// Times that a record could not be written to the run directory. It is tried again with the next one.
    pub record_errors: u64,
    /// Times that the keeper went on as another program.
    pub upgrades: u32,
    /// The most descriptors that it may hold (`RLIMIT_NOFILE`).
    pub descriptor_limit: u64,
}

/// A point in time: nanoseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// The present time, by the system's clock.
    pub fn now() -> UnixNanos {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        UnixNanos(now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec))
    }
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

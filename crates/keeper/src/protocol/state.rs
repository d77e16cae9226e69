//! What the keeper tells of processes and of itself.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// For an exec: whether it was a daemon's own ([`Request::Exec`](super::Request::Exec)).
    pub own: bool,
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

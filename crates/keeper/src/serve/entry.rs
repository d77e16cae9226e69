//! One thing that is held: a sandbox's first process, or another process in it.

use std::os::fd::OwnedFd;

use sandbox::SyncChannel;
use sandbox::seccomp_agent::SeccompAgent;
use serde::{Deserialize, Serialize};

use super::slots::Key;
use crate::logs::lines::LineSplitter;
use crate::logs::writer::LogWriter;
use crate::protocol::{EntryInfo, Exit, Recovery, State, Stream, TerminalSize, UnixNanos};
use crate::records::{Identity, Record};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: String,
    /// For an exec: the sandbox.
    pub(super) sandbox: Option<String>,
    /// For an exec: it is that of a daemon itself.
    pub(super) own: bool,
    /// The connection that it ends with.
    pub(super) bound_to: Option<Key>,
    pub(super) identity: Identity,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) state: State,
    pub(super) created: UnixNanos,
    pub(super) started: Option<UnixNanos>,
    pub(super) exit: Option<Exit>,
    /// Open until the program runs.
    pub(super) sync: Option<SyncChannel>,
    /// What the process takes from this one's descriptor table, until it is set up.
    pub(super) lent: Vec<OwnedFd>,
    pub(super) start: StartMode,
    /// Who is told of the system calls that its filter asks about, once the filter is loaded. Not kept over an upgrade, which waits for
    /// what is about to run; what was created by a daemon that is gone is never started.
    pub(super) seccomp_agent: Option<SeccompAgent>,
    /// The daemon that waits for the creation or the start.
    pub(super) waiting: Option<Waiting>,
    pub(super) warnings: Vec<String>,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdin_once: bool,
    pub(super) terminal: Option<TerminalSize>,
    pub(super) outputs: [Option<Output>; 2],
    pub(super) log: Option<LogWriter>,
    /// Keys of the attachments.
    pub(super) sinks: Vec<Key>,
    pub(super) recovery: Recovery,
    /// It was let go of, and remains only until what it wrote has been taken.
    pub(super) forgotten: bool,
    /// Its end was told while its output was still open.
    pub(super) end_pending: bool,
}

/// Whether a process's program runs as soon as everything is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StartMode {
    /// It does by itself.
    AtOnce,
    /// The plan makes the process wait, but the daemon does not want that: it is told to go on.
    WhenReady,
    /// It waits for a request.
    OnRequest,
}

/// A request that is answered later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) connection: Key,
    pub(super) number: u64,
    /// Give the end of standard input with the answer.
    pub(super) stdin: bool,
    /// The numbers of the attachments that were made with it.
    pub(super) attachments: Vec<u64>,
}

/// The keeper's end of an output stream.
#[derive(Debug)]
pub(super) struct Output {
    /// A pipe's reading end, or a terminal. Non-blocking: a process can read from its own end, and so take away what was announced.
    pub(super) fd: OwnedFd,
    pub(super) lines: LineSplitter,
    /// Not read for now, as an attachment cannot take more.
    pub(super) paused: bool,
}

impl Output {
    pub(super) fn new(fd: OwnedFd, stream: Stream) -> Output {
        Output { fd, lines: LineSplitter::new(stream), paused: false }
    }
}

pub(super) fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Entry {
    /// Whether there is a process that has not been reaped.
    pub(super) fn is_alive(&self) -> bool {
        self.exit.is_none()
    }

    pub(super) fn output_open(&self) -> bool {
        self.outputs.iter().any(Option::is_some)
    }

    /// The end that a daemon writes to.
    pub(super) fn input(&self) -> Option<&OwnedFd> {
        match self.terminal {
            Some(_) => self.outputs[0].as_ref().map(|output| &output.fd),
            None => self.stdin.as_ref(),
        }
    }

    pub(super) fn info(&self) -> EntryInfo {
        EntryInfo {
            id: self.id.clone(),
            sandbox: self.sandbox.clone(),
            pid: self.identity.pid,
            state: self.state,
            created: self.created,
            started: self.started,
            exit: self.exit,
            terminal: self.terminal.is_some(),
            stdin_open: self.input().is_some(),
            output_open: self.output_open(),
            own: self.own,
            attachments: self.sinks.len() as u32,
            log_dropped: self.log.as_ref().map_or(0, LogWriter::dropped),
        }
    }

    pub(super) fn record(&self) -> Record {
        Record {
            id: self.id.clone(),
            sandbox: self.sandbox.clone(),
            identity: self.identity,
            created: self.created,
            exit: self.exit,
            recovery: self.recovery.clone(),
        }
    }

    /// What an earlier keeper has left.
    pub(super) fn from_record(record: Record, pidfd: Option<OwnedFd>) -> Entry {
        Entry {
            id: record.id,
            sandbox: record.sandbox,
            // Nothing of what it says goes on.
            own: false,
            bound_to: None,
            identity: record.identity,
            state: if record.exit.is_some() { State::Exited } else { State::Orphaned },
            pidfd,
            created: record.created,
            started: None,
            exit: record.exit,
            sync: None,
            lent: Vec::new(),
            start: StartMode::AtOnce,
            seccomp_agent: None,
            waiting: None,
            warnings: Vec::new(),
            stdin: None,
            stdin_once: false,
            terminal: None,
            outputs: [None, None],
            log: None,
            sinks: Vec::new(),
            recovery: record.recovery,
            forgotten: false,
            end_pending: false,
        }
    }
}

//! The keeper's process.
//!
//! One thread waits in epoll for what may come: daemons, output, ends of processes, news from processes that are being set up, and
//! attachments that can take more. Each is dealt with to its end without waiting for anybody. Files of this folder each hold one of
//! these; [`Keeper`] is what they share.

mod connection;
mod entry;
mod launch;
mod options;
mod poller;
mod reap;
mod requests;
mod saved;
mod slots;
mod startup;
mod streams;
mod system;
mod upgrade;

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::event::epoll::EventFlags;

use self::connection::Connection;
use self::entry::Entry;
use self::options::Options;
use self::poller::{Poller, Token};
use self::slots::{Key, Slots};
use self::streams::Sink;
use self::upgrade::Upgrade;
use crate::logs::writer::{Batch, Notice};
use crate::protocol::{Reply, State, Stats};
use crate::records::Journal;
use crate::wire::ReceiveBuffer;

/// Runs the keeper: `--run-dir DIR [--cgroup DIR]... [--detach]`. Returns when it has ended.
///
/// `arguments` are those that follow what makes the program a keeper (`stratus keeper`); they must be the last ones of the command line,
/// as an upgrade repeats those before them. Must be called in a program that has one thread.
///
/// It listens on `RUN_DIR/keeper.sock` and ends on [`crate::protocol::Request::Shutdown`], or after SIGTERM or SIGINT as soon as
/// nothing runs any more. The exit status is 0 then, 2 for a command line that makes no sense, and 1 if it could not begin.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let given = arguments.len();
    let options = match Options::parse(arguments.into_iter()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("keeper: {error}");
            return ExitCode::from(2);
        }
    };
    let ended = match options {
        Options::Begin { run_dir, cgroups, detach } => {
            startup::begin(run_dir, &cgroups, detach, given).map(Keeper::run)
        }
        Options::Resume { state } => upgrade::resume(state, given).map(Keeper::run),
        Options::Probe { state } => upgrade::probe(state).map(|()| Ok(())),
    };
    match ended.and_then(|ended| ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a keeper could not begin, or cannot go on.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("{tried} {}: {source}", on.display())]
    System { tried: &'static str, on: PathBuf, source: std::io::Error },
    #[error("another keeper already serves {}", .0.display())]
    AlreadyRunning(PathBuf),
    #[error("the state of the program before cannot be taken over: {0}")]
    State(String),
}

impl KeeperError {
    fn system<E: Into<std::io::Error>>(tried: &'static str, on: impl Into<PathBuf>) -> impl FnOnce(E) -> KeeperError {
        let on = on.into();
        move |source| KeeperError::System { tried, on, source: source.into() }
    }
}

/// Everything that the keeper holds.
struct Keeper {
    run_dir: PathBuf,
    /// The command line up to what makes the program a keeper.
    program: Vec<OsString>,
    poller: Poller,
    listener: OwnedFd,
    signals: OwnedFd,
    /// `/dev/null`, for processes without standard input.
    null: OwnedFd,
    /// Closed to turn a connection away when no other descriptor is left.
    spare: Option<OwnedFd>,
    /// Where it returns to after it has entered namespaces for what it begins.
    home: sandbox::Home,
    /// Held, never used.
    lock: OwnedFd,
    journal: Journal,
    /// It could not be written anew, and is not tried again before.
    mend_after: Option<std::time::Instant>,
    entries: Slots<Entry>,
    by_id: HashMap<String, Key>,
    by_pid: HashMap<u32, Key>,
    sinks: Slots<Sink>,
    connections: Slots<Connection>,
    upgrade: Option<Upgrade>,
    ending: Ending,
    stats: Stats,
    receive_buffer: ReceiveBuffer,
    chunk: Box<[u8]>,
    batch: Batch,
    notices: Vec<Notice>,
}

/// Where nothing came for so long, the memory that is not needed meanwhile is given back.
const QUIET: std::time::Duration = std::time::Duration::from_secs(1);

/// A full disk is not asked at each event whether it still is.
const MEND_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether the keeper is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Ending {
    /// It is not.
    No,
    /// As soon as nothing runs.
    WhenEmpty,
    /// As soon as nothing runs, and everything has been killed; this request is answered then.
    Killing { connection: Key, number: u64 },
}

impl Keeper {
    fn run(mut self) -> Result<(), KeeperError> {
        let mut ready = Vec::new();
        // The pages of its program that a start or an end needed count until they are given back.
        let mut holds_pages = true;
        while !self.is_over() {
            let patience = self.upgrade_patience().or(holds_pages.then_some(QUIET));
            let waited = self.poller.wait(&mut ready, patience);
            waited.map_err(KeeperError::system("wait for events in", &self.run_dir))?;
            match ready.is_empty() {
                true if holds_pages && self.upgrade.is_none() => {
                    sandbox::residence::give_back();
                    holds_pages = false;
                }
                true => {}
                false => holds_pages = true,
            }
            for (token, flags) in ready.drain(..) {
                self.dispatch(token, flags);
            }
            self.mend_journal();
            self.advance_upgrade();
        }
        // The socket first: who finds the lock free then finds no socket that nobody serves.
        _ = std::fs::remove_file(self.run_dir.join(crate::SOCKET_NAME));
        Ok(())
    }

    fn dispatch(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.on_signals(),
            Token::Connection(key) => self.on_connection(key, flags),
            Token::Sync(key) => self.on_sync(key),
            Token::Output(key, stream) => self.on_output(key, stream),
            Token::Sink(key) => self.on_sink(key, flags),
            Token::Orphan(key) => self.on_orphan_exit(key),
        }
    }

    fn is_over(&mut self) -> bool {
        match self.ending {
            Ending::No => false,
            _ if self.entries.iter().any(|(_, entry)| entry.is_alive() && entry.state != State::Orphaned) => false,
            Ending::WhenEmpty => true,
            Ending::Killing { connection, number } => {
                self.respond(connection, number, Ok(Reply::Done), Vec::new());
                true
            }
        }
    }

    fn mend_journal(&mut self) {
        if !self.journal.needs_mending(self.by_id.len()) {
            return;
        }
        let now = std::time::Instant::now();
        if self.mend_after.is_some_and(|after| now < after) {
            return;
        }
        let remembered = self.entries.iter().filter(|(_, entry)| !entry.forgotten).map(|(_, entry)| entry.record());
        self.mend_after = None;
        if let Err(error) = self.journal.mend(remembered) {
            self.mend_after = Some(now + MEND_AGAIN);
            self.stats.record_errors += 1;
            self.complain(&format!("the records cannot be written: {error}"));
        }
    }

    /// Tells whoever reads the keeper's standard error.
    fn complain(&self, what: &str) {
        let mut line = Vec::with_capacity(160);
        crate::logs::timestamp::format(crate::protocol::UnixNanos::now(), &mut line);
        line.extend_from_slice(b" keeper: ");
        line.extend_from_slice(what.as_bytes());
        line.push(b'\n');
        // Nobody is left who could be told that this failed.
        _ = rustix::io::write(rustix::stdio::stderr(), &line);
    }
}

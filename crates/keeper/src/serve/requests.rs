//! Requests that concern what is there already.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::termios::Winsize;

use super::entry::Waiting;
use super::launch::Launch;
use super::slots::Key;
use super::{Ending, Keeper, reap, system};
use crate::logs::writer::LogWriter;
use crate::protocol::{AttachOptions, Failure, LogConfig, MAX_ID, Reply, Request, State, Stats, Stream, TerminalSize};

/// A reply and the descriptors that go with it; `None`, if it comes later.
type Answer = Result<Option<(Reply, Vec<OwnedFd>)>, Failure>;

fn done() -> Answer {
    Ok(Some((Reply::Done, Vec::new())))
}

impl Keeper {
    pub(super) fn on_request(&mut self, connection: Key, number: u64, body: Request, descriptors: Vec<OwnedFd>) {
        match self.answer(connection, number, body, descriptors) {
            Ok(Some((reply, descriptors))) => self.respond(connection, number, Ok(reply), descriptors),
            Ok(None) => {}
            Err(failure) => self.respond(connection, number, Err(failure), Vec::new()),
        }
    }

    fn answer(&mut self, connection: Key, number: u64, body: Request, descriptors: Vec<OwnedFd>) -> Answer {
        let waiting = || Waiting { connection, number, stdin: false, attachments: Vec::new() };
        match body {
            Request::Create { id, plan, stdio, log, attach, recovery, start, bound } => {
                let (sandbox, own, plan) = (None, false, plan.0);
                let launch = Launch { id, sandbox, own, plan, stdio, log, attach, recovery, start, bound };
                self.launch(launch, descriptors, waiting()).map(|()| None)
            }
            Request::Exec { sandbox, id, plan, stdio, attach, own } => {
                let (log, recovery, sandbox, plan) = (LogConfig::None, Default::default(), Some(sandbox), plan.0);
                let launch = Launch { id, sandbox, own, plan, stdio, log, attach, recovery, start: true, bound: false };
                self.launch(launch, descriptors, waiting()).map(|()| None)
            }
            Request::Start { id } => self.start(&id, waiting()).map(|()| None),
            Request::Attach { id, options } => self.on_attach(&id, options, descriptors),
            Request::Detach { attachment } => {
                self.end_sink(Key::from_bits(attachment));
                done()
            }
            Request::CloseStdin { id } => {
                let key = self.key(&id)?;
                self.close_stdin(key);
                done()
            }
            Request::Resize { id, size } => self.resize(&id, size),
            Request::Signal { id, signal } => self.signal(&id, signal),
            Request::List => {
                let entries = self.entries.iter().filter(|(_, entry)| !entry.forgotten);
                Ok(Some((Reply::Entries(entries.map(|(_, entry)| entry.info()).collect()), Vec::new())))
            }
            Request::Inspect { id } => {
                let key = self.key(&id)?;
                let info = self.entries.get(key).map(|entry| entry.info());
                Ok(Some((Reply::Entries(info.into_iter().collect()), Vec::new())))
            }
            Request::Forget { id } => self.forget(&id),
            Request::SetLog { id, log } => self.set_log(&id, &log),
            Request::ReopenLog { id } => self.with_log(&id, LogWriter::reopen),
            Request::AdoptCompressed { id, inode, copy } => self.adopt_compressed(&id, inode, &copy),
            Request::Stats => Ok(Some((Reply::Stats(self.stats()), Vec::new()))),
            Request::Shutdown { kill } => self.shut_down(kill, connection, number),
        }
    }

    pub(super) fn key(&self, id: &str) -> Result<Key, Failure> {
        self.by_id.get(id).copied().ok_or_else(|| Failure::Unknown { id: shortened(id) })
    }

    fn on_attach(&mut self, id: &str, options: AttachOptions, mut descriptors: Vec<OwnedFd>) -> Answer {
        let key = self.key(id)?;
        let (Some(sink), true) = (descriptors.pop(), descriptors.is_empty()) else {
            return Err(Failure::Descriptors { expected: 1, got: descriptors.len() });
        };
        let Some(entry) = self.entries.get(key) else { return Err(Failure::Unknown { id: shortened(id) }) };
        let wanted = [options.stdout, options.stderr];
        let open = entry.outputs.each_ref().map(Option::is_some);
        let coming = matches!(entry.state, State::Creating | State::Created | State::Starting);
        let terminal = entry.terminal.is_some();
        let input = if options.stdin { self.input_of(key)? } else { None };
        let has_more = coming || wanted[0] && open[0] || wanted[1] && open[1] || input.is_some();
        // The numbers of what has ended already lead nowhere; the sink is closed at once.
        let attachment = if has_more { self.attach(key, options, sink)?.to_bits() } else { u64::MAX };
        Ok(Some((Reply::Attached { attachment, terminal }, input.into_iter().collect())))
    }

    /// A copy of the end that a daemon writes to.
    pub(super) fn input_of(&self, key: Key) -> Result<Option<OwnedFd>, Failure> {
        let Some(input) = self.entries.get(key).and_then(|entry| entry.input()) else { return Ok(None) };
        let copy = rustix::io::fcntl_dupfd_cloexec(input, 3);
        copy.map(Some).map_err(|errno| Failure::System {
            tried: "duplicate standard input of".into(),
            on: self.entries.get(key).map_or(String::new(), |entry| entry.id.clone()),
            errno: errno.raw_os_error(),
        })
    }

    fn resize(&mut self, id: &str, size: TerminalSize) -> Answer {
        let key = self.key(id)?;
        let Some(entry) = self.entries.get_mut(key) else { return Err(Failure::Unknown { id: shortened(id) }) };
        if entry.terminal.is_none() {
            let why = format!("{id} has no terminal");
            return Err(Failure::Invalid { what: "the terminal's size".into(), why });
        }
        entry.terminal = Some(size);
        // A terminal that is still to come gets this size when it does; one that is gone needs none.
        if let Some(output) = &entry.outputs[0] {
            set_size(&output.fd, size).map_err(|errno| Failure::System {
                tried: "set the size of the terminal of".into(),
                on: id.to_owned(),
                errno: errno.raw_os_error(),
            })?;
        }
        done()
    }

    fn signal(&mut self, id: &str, signal: i32) -> Answer {
        let key = self.key(id)?;
        if !(1..=64).contains(&signal) {
            return Err(Failure::Invalid { what: "the signal".into(), why: format!("{signal} is not within 1 to 64") });
        }
        let Some(entry) = self.entries.get(key) else { return Err(Failure::Unknown { id: shortened(id) }) };
        let wrong_state =
            || Failure::WrongState { id: id.to_owned(), state: State::Exited, wanted: "be sent a signal".into() };
        let pidfd = entry.pidfd.as_ref().ok_or_else(wrong_state)?;
        match system::send_signal(pidfd.as_fd(), signal) {
            Ok(()) => done(),
            // It has ended, and the news is on its way.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(wrong_state()),
            Err(error) => Err(Failure::System {
                tried: format!("send signal {signal} to").into(),
                on: id.to_owned(),
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            }),
        }
    }

    fn forget(&mut self, id: &str) -> Answer {
        let Ok(key) = self.key(id) else { return done() };
        let Some(entry) = self.entries.get_mut(key) else { return done() };
        match entry.state {
            State::Exited | State::Created | State::Orphaned => {}
            state @ (State::Creating | State::Starting | State::Running) => {
                return Err(Failure::WrongState { id: id.to_owned(), state, wanted: "be forgotten".into() });
            }
        }
        let state = entry.state;
        entry.forgotten = true;
        if state == State::Created {
            reap::kill(entry);
        }
        self.by_id.remove(id);
        self.record_farewell(id);
        match state {
            State::Orphaned => self.remove_entry(key),
            // One that was only created is let go of when it has been reaped.
            _ => self.settle(key),
        }
        done()
    }

    pub(super) fn record_farewell(&mut self, id: &str) {
        if let Err(error) = self.journal.forgotten(id) {
            self.stats.record_errors += 1;
            self.complain(&format!("letting go of {id} cannot be recorded: {error}"));
        }
    }

    fn set_log(&mut self, id: &str, log: &LogConfig) -> Answer {
        let key = self.key(id)?;
        let Some(entry) = self.entries.get_mut(key) else { return Err(Failure::Unknown { id: shortened(id) }) };
        if entry.sandbox.is_some() {
            let why = format!("{id} is no sandbox, and only sandboxes have logs");
            return Err(Failure::Invalid { what: "the log".into(), why });
        }
        let new = LogWriter::open(log)?;
        self.stats.log_dropped += entry.log.as_ref().map_or(0, LogWriter::dropped);
        entry.log = new;
        done()
    }

    fn with_log(&mut self, id: &str, act: impl FnOnce(&mut LogWriter) -> Result<(), Failure>) -> Answer {
        let key = self.key(id)?;
        if let Some(log) = self.entries.get_mut(key).and_then(|entry| entry.log.as_mut()) {
            act(log)?;
        }
        done()
    }

    fn adopt_compressed(&mut self, id: &str, inode: u64, copy: &Path) -> Answer {
        self.with_log(id, |log| log.adopt_compressed(inode, copy))
    }

    fn stats(&self) -> Stats {
        let entries = || self.entries.iter().filter(|(_, entry)| !entry.forgotten).map(|(_, entry)| entry);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let dropping: u64 = entries().filter_map(|entry| entry.log.as_ref()).map(LogWriter::dropped).sum();
        Stats {
            sandboxes: entries().filter(|entry| entry.sandbox.is_none()).count() as u32,
            execs: entries().filter(|entry| entry.sandbox.is_some()).count() as u32,
            running: self.running(),
            connections: self.connections.len() as u32,
            attachments: self.sinks.len() as u32,
            log_dropped: self.stats.log_dropped + dropping,
            descriptor_limit: limit.current.unwrap_or(u64::MAX),
            ..self.stats
        }
    }

    fn running(&self) -> u32 {
        let lives = |entry: &super::Entry| entry.is_alive() && entry.state != State::Orphaned;
        self.entries.iter().filter(|(_, entry)| lives(entry)).count() as u32
    }

    fn shut_down(&mut self, kill: bool, connection: Key, number: u64) -> Answer {
        let running = self.running();
        if running > 0 && !kill {
            return Err(Failure::Busy { running });
        }
        if matches!(self.ending, Ending::Killing { .. }) {
            return Err(Failure::ShuttingDown);
        }
        self.ending = Ending::Killing { connection, number };
        self.kill_all();
        Ok(None)
    }

    pub(super) fn check_new_id(&self, id: &str) -> Result<(), Failure> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(fits) {
            return Err(Failure::InvalidId { id: shortened(id) });
        }
        if self.by_id.contains_key(id) {
            return Err(Failure::InUse { id: id.to_owned() });
        }
        match self.ending {
            Ending::Killing { .. } => Err(Failure::ShuttingDown),
            Ending::No | Ending::WhenEmpty => Ok(()),
        }
    }

    pub(super) fn watch_outputs(&mut self, key: Key) -> Result<(), rustix::io::Errno> {
        self.watch_output(key, Stream::Stdout)?;
        self.watch_output(key, Stream::Stderr)
    }
}

pub(super) fn set_size(terminal: &OwnedFd, size: TerminalSize) -> Result<(), rustix::io::Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// An id as it can be put into a message, however long a stranger has made it.
fn shortened(id: &str) -> String {
    id.chars().take(MAX_ID).collect()
}

//! Going on as another program.
//!
//! 1. A daemon sends the program's open file. The keeper forks a probe, which executes it on a copy of the present
//!    state; only a program that says it understands the state is gone on with. Meanwhile everything runs as usual.
//! 2. As soon as no process is in the middle of its set-up, which is waited for a little, the state goes into a memory
//!    file, the descriptors that it names are kept open, and `execveat` replaces the program. Children stay children,
//!    and nothing of theirs is closed: what is written meanwhile waits in its pipe, as do requests in their sockets.
//! 3. The new program takes the state over, and tells the daemon.
//!
//! The state begins with its version. A program that changes [`Saved`] counts up, and reads the version before too.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::connection::RELEASE;
use super::entry::{Entry, Output};
use super::poller::Token;
use super::saved::{self, Held, Saved, SavedConnection, SavedEntry, SavedOutput, SavedSink};
use super::slots::{Key, Slots};
use super::startup::{Parts, assemble};
use super::system::{self, Fork};
use super::{Connection, Ending, Keeper, KeeperError, Sink};
use crate::logs::writer::LogWriter;
use crate::protocol::{ExitStatus, FromKeeper, PROTOCOL, State, Stream};
use crate::records::Journal;
use crate::wire::Packet;

/// An upgrade under way.
#[derive(Debug)]
pub(super) struct Upgrade {
    requester: Key,
    program: OwnedFd,
    probe: Probe,
}

#[derive(Debug)]
enum Probe {
    Running {
        pid: u32,
    },
    /// Processes in the middle of their set-up have until then.
    Passed {
        until: Instant,
    },
}

/// How long an upgrade waits for processes in the middle of their set-up. Nobody is served meanwhile, and one that
/// hangs, as on a file system that does not answer, may never come to its end.
const PATIENCE: Duration = Duration::from_secs(10);

impl Keeper {
    /// A daemon wants an upgrade.
    pub(super) fn plan_upgrade(&mut self, requester: Key, mut descriptors: Vec<OwnedFd>) {
        let program = match (descriptors.pop(), descriptors.is_empty(), &self.upgrade, self.ending) {
            (Some(program), true, None, Ending::No) => program,
            (_, _, Some(_), _) => return self.refuse(requester, "another upgrade is under way"),
            (_, _, _, Ending::WhenEmpty | Ending::Killing { .. }) => {
                return self.refuse(requester, "the keeper is shutting down");
            }
            _ => return self.refuse(requester, "exactly one descriptor, the program's, belongs to the request"),
        };
        if let Err(reason) = self.go_home() {
            return self.refuse(requester, &reason);
        }
        match self.start_probe(&program, requester) {
            Ok(pid) => self.upgrade = Some(Upgrade { requester, program, probe: Probe::Running { pid } }),
            Err(error) => self.refuse(requester, &format!("the program cannot be tried: {error}")),
        }
    }

    /// A program that is executed elsewhere would stay there, and its first processes be seen by a container.
    fn go_home(&mut self) -> Result<(), String> {
        let was_away = self.home.away_from();
        let returned = self.home.go_back().map_err(|error| format!("the keeper can't {error}"));
        self.tell_whereabouts(was_away);
        returned
    }

    pub(super) fn refuse(&mut self, requester: Key, reason: &str) {
        self.send(requester, &FromKeeper::Refused { reason: reason.to_owned(), protocol: PROTOCOL }, Vec::new());
    }

    fn start_probe(&mut self, program: &OwnedFd, requester: Key) -> std::io::Result<u32> {
        let (state, _) = self.save(requester)?;
        let arguments = self.arguments("--probe", &state);
        match system::fork()? {
            Fork::Parent { child } => Ok(child),
            Fork::Child => {
                if system::set_close_on_exec(state.as_raw_fd(), false).is_ok() {
                    let error = system::execute(program, &arguments);
                    self.complain(&format!("execute the new program: {error}"));
                }
                system::exit_at_once(127)
            }
        }
    }

    /// A child that is nobody's process has ended: an orphan of some sandbox, or the probe.
    pub(super) fn on_stranger_exit(&mut self, pid: u32, status: ExitStatus) {
        let Some(upgrade) = self.upgrade.as_mut() else { return };
        if !matches!(upgrade.probe, Probe::Running { pid: probe } if probe == pid) {
            return;
        }
        let requester = upgrade.requester;
        if status == ExitStatus::Code(0) {
            upgrade.probe = Probe::Passed { until: Instant::now() + PATIENCE };
            return self.watch_connections();
        }
        self.upgrade = None;
        self.refuse(requester, &format!("the program does not understand the keeper's state ({status})"));
    }

    /// Whether the new program has proved itself: no request is begun any more, so that those under way come to their
    /// end.
    pub(super) fn is_about_to_upgrade(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.probe, Probe::Passed { .. }))
    }

    /// The daemon that wanted an upgrade has gone.
    pub(super) fn cancel_upgrade(&mut self, requester: Key) {
        if let Some(upgrade) = self.upgrade.take_if(|upgrade| upgrade.requester == requester) {
            match upgrade.probe {
                Probe::Running { pid } => system::kill_child(pid),
                Probe::Passed { .. } => self.watch_connections(),
            }
        }
    }

    fn watch_connections(&mut self) {
        for key in self.connections.keys() {
            self.watch_connection(key);
        }
    }

    /// How long may be waited for events: as long as an upgrade waits. `None`: there is none that waits.
    pub(super) fn upgrade_patience(&self) -> Option<Duration> {
        match self.upgrade.as_ref()?.probe {
            Probe::Passed { until } => Some(until.saturating_duration_since(Instant::now())),
            Probe::Running { .. } => None,
        }
    }

    /// Goes on as the new program if the time has come. Returns only if it has not, or if that failed.
    pub(super) fn advance_upgrade(&mut self) {
        if !self.is_about_to_upgrade() {
            return;
        }
        let in_transit = |entry: &Entry| matches!(entry.state, State::Creating | State::Starting);
        let slow = self
            .entries
            .iter()
            .find_map(|(_, entry)| in_transit(entry).then(|| (entry.id.clone(), entry.identity.pid)));
        if let Some((id, pid)) = slow {
            if self.upgrade_patience().is_some_and(|left| left.is_zero()) {
                self.give_upgrade_up(&id, pid);
            }
            return;
        }
        let Some(upgrade) = self.upgrade.take() else { return };
        if let Err(reason) = self.go_home() {
            self.watch_connections();
            return self.refuse(upgrade.requester, &reason);
        }
        let error = match self.save(upgrade.requester) {
            Ok((state, kept)) => self.go_on_as(&upgrade.program, &state, kept),
            Err(error) => error,
        };
        self.watch_connections();
        self.refuse(upgrade.requester, &format!("the program cannot be executed: {error}"));
    }

    fn give_upgrade_up(&mut self, slow: &str, pid: u32) {
        let Some(upgrade) = self.upgrade.take() else { return };
        self.watch_connections();
        let seconds = PATIENCE.as_secs();
        let reason = format!(
            "{slow} (process {pid}) has not come to its start within {seconds} s: end it by `kill -9 {pid}`, or everything by \
             `stratus daemon --clean`, and try again"
        );
        self.refuse(upgrade.requester, &reason);
    }

    fn go_on_as(&mut self, program: &OwnedFd, state: &OwnedFd, mut kept: BTreeSet<RawFd>) -> std::io::Error {
        kept.insert(state.as_raw_fd());
        let arguments = self.arguments("--resume", state);
        let error = match kept.iter().try_for_each(|fd| system::set_close_on_exec(*fd, false)) {
            Ok(()) => system::execute(program, &arguments),
            Err(error) => error,
        };
        for fd in kept {
            // It worked the other way.
            _ = system::set_close_on_exec(fd, true);
        }
        error
    }

    fn arguments(&self, how: &str, state: &OwnedFd) -> Vec<CString> {
        let state = state.as_raw_fd().to_string();
        let more = ["--run-dir".into(), self.run_dir.clone().into_os_string(), OsString::from(how), state.into()];
        // Arguments that came through an exec have no NUL in them.
        self.program.iter().cloned().chain(more).filter_map(|word| CString::new(word.into_vec()).ok()).collect()
    }

    /// The state in a memory file, and the descriptors that it names.
    fn save(&self, requester: Key) -> std::io::Result<(OwnedFd, BTreeSet<RawFd>)> {
        let mut kept = BTreeSet::new();
        let mut keep = |fd: RawFd| {
            kept.insert(fd);
            fd
        };
        let saved = Saved {
            run_dir: self.run_dir.clone(),
            listener: keep(self.listener.as_raw_fd()),
            lock: keep(self.lock.as_raw_fd()),
            journal: keep(self.journal.raw_fd()),
            entries: save_slots(&self.entries, |entry| save_entry(entry, &mut keep)),
            sinks: save_slots(&self.sinks, |sink| SavedSink {
                entry: sink.entry,
                fd: keep(sink.fd.as_raw_fd()),
                options: sink.options,
                rest: sink.rest.clone(),
            }),
            connections: save_slots(&self.connections, |connection| SavedConnection {
                socket: keep(connection.socket.as_raw_fd()),
                greeted: connection.greeted,
                queue: connection.queue.iter().map(|packet| save_packet(packet, &mut keep)).collect(),
            }),
            stats: self.stats,
            ending: self.ending,
            requester,
        };
        let bytes = saved::encode(&saved).map_err(std::io::Error::other)?;
        let state = sandbox::memory::sealed(c"stratus-keeper-state", &bytes)?;
        Ok((state, kept))
    }
}

fn save_slots<T, S>(slots: &Slots<T>, mut save: impl FnMut(&T) -> S) -> Vec<(u32, Option<S>)> {
    slots.slots().map(|(generation, slot)| (generation, slot.map(&mut save))).collect()
}

fn save_packet(packet: &Packet, keep: &mut impl FnMut(RawFd) -> RawFd) -> (Vec<u8>, Vec<RawFd>) {
    let (bytes, descriptors) = packet.parts();
    (bytes.to_vec(), descriptors.iter().map(|fd| keep(fd.as_raw_fd())).collect())
}

fn save_entry(entry: &Entry, keep: &mut impl FnMut(RawFd) -> RawFd) -> SavedEntry {
    use std::os::fd::AsFd;
    let mut output = |output: &Output| SavedOutput {
        fd: keep(output.fd.as_raw_fd()),
        lines: output.lines.clone(),
        paused: output.paused,
    };
    let outputs = entry.outputs.each_ref().map(|slot| slot.as_ref().map(&mut output));
    let log = entry.log.as_ref().map(LogWriter::save);
    if let Some(log) = &log {
        keep(log.file);
    }
    let held = Held {
        id: entry.id.clone(),
        sandbox: entry.sandbox.clone(),
        identity: entry.identity,
        pidfd: entry.pidfd.as_ref().map(|fd| keep(fd.as_raw_fd())),
        state: entry.state,
        created: entry.created,
        started: entry.started,
        exit: entry.exit,
        sync: entry.sync.as_ref().map(|sync| keep(sync.as_fd().as_raw_fd())),
        start: entry.start,
        waiting: entry.waiting.clone(),
        warnings: entry.warnings.clone(),
        stdin: entry.stdin.as_ref().map(|fd| keep(fd.as_raw_fd())),
        stdin_once: entry.stdin_once,
        terminal: entry.terminal,
        outputs,
        log,
        sinks: entry.sinks.clone(),
        recovery: entry.recovery.clone(),
        forgotten: entry.forgotten,
        end_pending: entry.end_pending,
    };
    SavedEntry { held, own: entry.own, bound_to: entry.bound_to }
}

/// Says whether the state is understood, and touches nothing.
pub(super) fn probe(state: RawFd) -> Result<(), KeeperError> {
    read(state).map(drop)
}

/// Goes on with the state of the program before.
pub(super) fn resume(state: RawFd, arguments: usize) -> Result<Keeper, KeeperError> {
    let saved = read(state)?;
    let requester = saved.requester;
    let adopt = |fd: RawFd| system::adopt(fd).map_err(|error| KeeperError::State(format!("descriptor {fd}: {error}")));
    let entries = restore_slots(saved.entries, |entry| restore_entry(entry, &adopt))?;
    let sinks = restore_slots(saved.sinks, |sink| {
        Ok(Sink { entry: sink.entry, fd: adopt(sink.fd)?, options: sink.options, rest: sink.rest })
    })?;
    let connections = restore_slots(saved.connections, |saved| {
        let mut connection = Connection::new(adopt(saved.socket)?);
        connection.greeted = saved.greeted;
        for (bytes, descriptors) in saved.queue {
            let packet = Packet::from_parts(bytes, descriptors.into_iter().map(&adopt).collect::<Result<_, _>>()?);
            connection.queued += packet.weight();
            connection.queue.push_back(packet);
        }
        Ok(connection)
    })?;
    let journal = Journal::resume(&saved.run_dir, adopt(saved.journal)?);
    let mut stats = saved.stats;
    stats.upgrades += 1;
    let mut keeper = assemble(Parts {
        listener: adopt(saved.listener)?,
        lock: adopt(saved.lock)?,
        journal: journal.map_err(KeeperError::system("take up the keeper's records in", &saved.run_dir))?,
        run_dir: saved.run_dir,
        arguments,
        entries,
        sinks,
        connections,
        stats,
        ending: saved.ending,
    })?;
    keeper.mend_journal();
    keeper.watch_everything()?;
    // Children that ended meanwhile have raised their signal before there was a descriptor for it.
    keeper.reap_all();
    let upgraded = FromKeeper::Upgraded { release: RELEASE.to_owned(), protocol: PROTOCOL };
    keeper.send(requester, &upgraded, Vec::new());
    Ok(keeper)
}

impl Keeper {
    fn watch_everything(&mut self) -> Result<(), KeeperError> {
        let failed = || KeeperError::system::<rustix::io::Errno>("wait for what is held in", &self.run_dir);
        for (key, connection) in self.connections.iter() {
            let interest = self.interest(connection);
            self.poller.add(&connection.socket, Token::Connection(key), interest).map_err(failed())?;
        }
        for (key, sink) in self.sinks.iter() {
            let flags = if sink.rest.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
            self.poller.add(&sink.fd, Token::Sink(key), flags).map_err(failed())?;
        }
        for key in self.entries.keys() {
            let Some(entry) = self.entries.get(key) else { continue };
            if let Some(sync) = &entry.sync {
                self.poller.add(sync, Token::Sync(key), EventFlags::IN).map_err(failed())?;
            }
            let streams = [Stream::Stdout, Stream::Stderr];
            for (output, stream) in entry.outputs.iter().zip(streams) {
                if let Some(output) = output.as_ref().filter(|output| !output.paused) {
                    self.poller.add(&output.fd, Token::Output(key, stream), EventFlags::IN).map_err(failed())?;
                }
            }
        }
        for key in self.entries.keys() {
            self.watch_orphan(key);
        }
        Ok(())
    }
}

fn read(state: RawFd) -> Result<Saved<SavedEntry>, KeeperError> {
    let file = system::adopt(state).map_err(|error| KeeperError::State(error.to_string()))?;
    let size = rustix::fs::fstat(&file).map_err(|errno| KeeperError::State(errno.to_string()))?.st_size;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(&file, &mut bytes[filled..], filled as u64) {
            Ok(0) => return Err(KeeperError::State("it is cut short".to_owned())),
            Ok(count) => filled += count,
            Err(errno) => return Err(KeeperError::State(errno.to_string())),
        }
    }
    saved::decode(&bytes)
}

fn restore_slots<S, T>(
    saved: Vec<(u32, Option<S>)>,
    mut restore: impl FnMut(S) -> Result<T, KeeperError>,
) -> Result<Slots<T>, KeeperError> {
    let slots = saved.into_iter().map(|(generation, slot)| Ok((generation, slot.map(&mut restore).transpose()?)));
    Ok(Slots::from_slots(slots.collect::<Result<_, KeeperError>>()?))
}

fn restore_entry(
    SavedEntry { held: saved, own, bound_to }: SavedEntry,
    adopt: &impl Fn(RawFd) -> Result<OwnedFd, KeeperError>,
) -> Result<Entry, KeeperError> {
    let output = |saved: Option<SavedOutput>| {
        let output = |saved: SavedOutput| {
            Ok::<_, KeeperError>(Output { fd: adopt(saved.fd)?, lines: saved.lines, paused: saved.paused })
        };
        saved.map(output).transpose()
    };
    let [stdout, stderr] = saved.outputs;
    let log = match saved.log {
        Some(log) => {
            let file = adopt(log.file)?;
            LogWriter::restore(log, file)
        }
        None => None,
    };
    Ok(Entry {
        id: saved.id,
        sandbox: saved.sandbox,
        own,
        bound_to,
        identity: saved.identity,
        pidfd: saved.pidfd.map(adopt).transpose()?,
        state: saved.state,
        created: saved.created,
        started: saved.started,
        exit: saved.exit,
        sync: saved.sync.map(adopt).transpose()?.map(sandbox::SyncChannel::from_fd),
        lent: Vec::new(),
        start: saved.start,
        seccomp_agent: None,
        waiting: saved.waiting,
        warnings: saved.warnings,
        stdin: saved.stdin.map(adopt).transpose()?,
        stdin_once: saved.stdin_once,
        terminal: saved.terminal,
        outputs: [output(stdout)?, output(stderr)?],
        log,
        sinks: saved.sinks,
        recovery: saved.recovery,
        forgotten: saved.forgotten,
        end_pending: saved.end_pending,
    })
}

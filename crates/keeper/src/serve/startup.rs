//! How the keeper begins.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};

use super::entry::Entry;
use super::poller::{Poller, Token};
use super::slots::Slots;
use super::streams::CHUNK;
use super::{Ending, Keeper, KeeperError, system};
use crate::SOCKET_NAME;
use crate::logs::writer::Batch;
use crate::protocol::Stats;
use crate::records::{self, Journal, Record};
use crate::wire::ReceiveBuffer;

/// Said by a detached keeper to its starter when it listens.
const LISTENING: &[u8] = b"L";

pub(super) fn begin(
    run_dir: PathBuf,
    cgroups: &[PathBuf],
    detach: bool,
    arguments: usize,
) -> Result<Keeper, KeeperError> {
    system::close_inherited().map_err(KeeperError::system("close what was inherited by", "the keeper"))?;
    let starter = if detach { Some(self::detach()?) } else { None };
    for cgroup in cgroups {
        let procs = cgroup.join("cgroup.procs");
        fs::write(&procs, "0").map_err(KeeperError::system("move the keeper into", procs))?;
    }
    let lock = records::lock(&run_dir).map_err(KeeperError::system("lock the keeper's records in", &run_dir))?;
    let lock = lock.ok_or_else(|| KeeperError::AlreadyRunning(run_dir.clone()))?;
    // Fails for the leader of a process group, which needs nothing of the kind.
    _ = rustix::process::setsid();
    become_quiet(&run_dir)?;
    let old = records::read(&run_dir).map_err(KeeperError::system("read the keeper's records in", &run_dir))?;
    let journal = Journal::create(&run_dir, old.iter().cloned())
        .map_err(KeeperError::system("write the keeper's records in", &run_dir))?;
    let listener = listen(&run_dir)?;
    let mut keeper = assemble(Parts {
        run_dir,
        arguments,
        listener,
        lock,
        journal,
        entries: Slots::new(),
        sinks: Slots::new(),
        connections: Slots::new(),
        stats: Stats::default(),
        ending: Ending::No,
    })?;
    for record in old {
        keeper.take_over(record);
    }
    if let Some(starter) = starter {
        hand_over(&keeper.run_dir, starter)?;
    }
    Ok(keeper)
}

/// What differs between a beginning and a resumption.
pub(super) struct Parts {
    pub(super) run_dir: PathBuf,
    /// How many of the command line's arguments are the keeper's.
    pub(super) arguments: usize,
    pub(super) listener: OwnedFd,
    pub(super) lock: OwnedFd,
    pub(super) journal: Journal,
    pub(super) entries: Slots<Entry>,
    pub(super) sinks: Slots<super::Sink>,
    pub(super) connections: Slots<super::Connection>,
    pub(super) stats: Stats,
    pub(super) ending: Ending,
}

pub(super) fn assemble(parts: Parts) -> Result<Keeper, KeeperError> {
    let signals = system::signals().map_err(KeeperError::system("arrange for signals of", "the keeper"))?;
    let poller = Poller::new().map_err(KeeperError::system("make an epoll instance for", "the keeper"))?;
    for (fd, token) in [(&parts.listener, Token::Listener), (&signals, Token::Signals)] {
        poller.add(fd, token, EventFlags::IN).map_err(KeeperError::system("wait for", format!("{token:?}")))?;
    }
    // A terminal's name is given to whoever shows what runs; it does not matter if that fails.
    _ = rustix::thread::set_name(c"stratus-keeper");
    let mut program: Vec<OsString> = std::env::args_os().collect();
    program.truncate(program.len().saturating_sub(parts.arguments).max(1));
    let null = open_null()?;
    let mut by_id = HashMap::new();
    let mut by_pid = HashMap::new();
    for (key, entry) in parts.entries.iter() {
        if !entry.forgotten {
            by_id.insert(entry.id.clone(), key);
        }
        if entry.is_alive() && entry.state != crate::protocol::State::Orphaned {
            by_pid.insert(entry.identity.pid, key);
        }
    }
    Ok(Keeper {
        run_dir: parts.run_dir,
        program,
        poller,
        listener: parts.listener,
        signals,
        spare: rustix::io::fcntl_dupfd_cloexec(&null, 3).ok(),
        null,
        home: sandbox::Home::default(),
        lock: parts.lock,
        journal: parts.journal,
        mend_after: None,
        entries: parts.entries,
        by_id,
        by_pid,
        sinks: parts.sinks,
        connections: parts.connections,
        upgrade: None,
        ending: parts.ending,
        stats: parts.stats,
        receive_buffer: ReceiveBuffer::default(),
        chunk: vec![0; CHUNK].into_boxed_slice(),
        batch: Batch::default(),
        notices: Vec::new(),
    })
}

impl Keeper {
    /// Goes on with what an earlier keeper has left on record.
    fn take_over(&mut self, record: Record) {
        let pidfd = match Pid::from_raw(record.identity.pid.cast_signed()) {
            Some(pid) if record.exit.is_none() => rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok(),
            _ => None,
        };
        // Looked at after the descriptor was opened: from then on the id stays the process's own.
        let pidfd = pidfd.filter(|_| record.identity.is_alive());
        let id = record.id.clone();
        let key = self.entries.insert(Entry::from_record(record, pidfd));
        self.by_id.insert(id, key);
        self.watch_orphan(key);
    }
}

/// Nothing of the starter's is kept: not its directory, not its limit of descriptors.
fn become_quiet(run_dir: &Path) -> Result<(), KeeperError> {
    rustix::process::chdir("/").map_err(KeeperError::system("change into", "/"))?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(KeeperError::system("become the reaper of orphans for", run_dir))?;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // All that runs would end with it. Each process that it makes gets the score of its plan. Only root may.
    _ = fs::write("/proc/self/oom_score_adj", "-999");
    // It is only raised within what is allowed; the figure is in the keeper's statistics.
    _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    Ok(())
}

fn open_null() -> Result<OwnedFd, KeeperError> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(KeeperError::system("open", "/dev/null"))
}

/// A socket file that is there already belongs to no living keeper, as this one has the lock.
fn listen(run_dir: &Path) -> Result<OwnedFd, KeeperError> {
    let path = run_dir.join(SOCKET_NAME);
    let failed = || KeeperError::system::<rustix::io::Errno>("listen on", &path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(KeeperError::system("remove the old", path)(error));
        }
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed())?;
    let address = SocketAddrUnix::new(&path).map_err(failed())?;
    let umask = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(umask);
    bound.map_err(failed())?;
    rustix::net::listen(&socket, 64).map_err(failed())?;
    Ok(socket)
}

/// Forks. The parent waits until the child listens, and ends; the child returns, with what it says that by.
fn detach() -> Result<OwnedFd, KeeperError> {
    let failed = || KeeperError::system::<rustix::io::Errno>("detach", "the keeper");
    let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed())?;
    match system::fork().map_err(KeeperError::system("fork", "the keeper"))? {
        system::Fork::Child => Ok(tell),
        system::Fork::Parent { .. } => {
            drop(tell);
            let mut said = [0; LISTENING.len()];
            let listening = rustix::io::retry_on_intr(|| rustix::io::read(&told, &mut said)) == Ok(LISTENING.len());
            // The child has said on standard error why it could not.
            std::process::exit(i32::from(!listening));
        }
    }
}

/// Lets the starter go on, and its standard streams go.
fn hand_over(run_dir: &Path, starter: OwnedFd) -> Result<(), KeeperError> {
    let log = run_dir.join("keeper.log");
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&log, flags, Mode::RUSR | Mode::WUSR).map_err(KeeperError::system("open", &log))?;
    let null = open_null()?;
    let moved = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&file));
    moved.map_err(KeeperError::system("direct standard error to", &log))?;
    // A starter that has been killed meanwhile is no reason not to serve others.
    _ = rustix::io::write(&starter, LISTENING);
    Ok(())
}

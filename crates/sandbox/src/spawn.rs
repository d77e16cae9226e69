//! Clones the process that a plan describes.
//!
//! Meant for a small process of one thread: the clone copies its page tables, and namespaces of time, PID and mounts
//! can only be entered and left again by a process without further threads. A plan that needs none of these can be
//! spawned from a process with threads as well.

mod home;
mod mapping;
mod prepare;
mod trees;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

pub use self::home::Home;
pub(crate) use self::prepare::detached;
pub use self::trees::open_trees;
use crate::child::{self, Prepared};
use crate::plan::{ExecPlan, IdMaps, InitPlan, NamespaceKind, NamespaceSource, ProcessPlan};
use crate::sync::{self, Failure, GO_MAPPED, Kind, SyncChannel, errno_text};
use crate::sys::{self, CloneArgs};

/// Why no process could be cloned. What fails after the clone comes as [`crate::SyncEvent::Failed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The kernel refused a step of the preparation.
    #[error("{action} {on}: {}", errno_text(errno.raw_os_error()))]
    Prepare {
        /// What was tried.
        action: &'static str,
        /// On what.
        on: String,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The clone itself was refused.
    #[error("clone a process: {}", errno_text(.0.raw_os_error()))]
    Clone(Errno),
    /// The plan refers to a namespace descriptor that was not given.
    #[error("the plan needs a descriptor for its {0} namespace, and none was given")]
    NoNamespace(&'static str),
    /// The plan refers to a descriptor of a tree that was not given.
    #[error("the plan mounts what is descriptor {0}, and none was given")]
    NoTree(u8),
    /// The plan needs trees of the host ([`open_trees`]), and they were not given.
    #[error("what the plan mounts of the host was not opened by whoever wants it started")]
    NotOpened,
    /// The caller has left a namespace of its own for an earlier child, and can't return to it yet.
    #[error(
        "return to its own {namespace} namespace, which it left for an earlier process: {}; nothing is begun in the wrong place",
        errno_text(errno.raw_os_error())
    )]
    Astray {
        /// Which.
        namespace: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The process that joins the user namespace failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl SpawnError {
    fn prepare(action: &'static str, on: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let on = on.into();
        move |errno| Self::Prepare { action, on, errno }
    }
}

/// Where the standard streams lead. A plan with a terminal makes them by itself.
#[derive(Debug, Clone, Copy, Default)]
pub enum Stdio<'f> {
    /// The caller's.
    #[default]
    Inherit,
    /// Standard input, output and error.
    Fds([BorrowedFd<'f>; 3]),
}

/// The descriptors that go with a plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fds<'f> {
    /// Standard streams.
    pub stdio: Stdio<'f>,
    /// Namespaces and detached trees, in the places that [`crate::CompileOptions::namespace_fds`] and
    /// [`crate::CompileOptions::mount_fds`] refer to.
    pub namespaces: &'f [BorrowedFd<'f>],
    /// What [`open_trees`] opens is among `namespaces`, behind the places that the plan refers to. Else it is opened by the spawn, which
    /// waits for the file systems that it is on.
    pub opened: bool,
    /// A connected Unix stream socket to which the terminal's master is sent; without it, it comes as
    /// [`crate::SyncEvent::Console`].
    pub console_socket: Option<BorrowedFd<'f>>,
    /// A listening Unix socket (`SOCK_SEQPACKET`) from which the start comes, for a parent that does not stay: whoever
    /// connects makes a [`SyncChannel`] of the connection, calls [`SyncChannel::start`] and gets the remaining events.
    pub start_gate: Option<BorrowedFd<'f>>,
    /// The new process takes what it needs from the caller's own descriptor table, instead of getting a copy of all
    /// that is in there and closing it again, which takes longer than all the rest where there are thousands.
    ///
    /// It copies the table up to the highest descriptor that it needs: whoever has many moves them further up. The
    /// caller keeps open what it has given, and [`Spawned::lent`], until [`crate::SyncEvent::Ready`] or the end.
    pub lend: bool,
}

/// A process that is setting itself up.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id in the caller's PID namespace.
    pub pid: i32,
    /// Readable when it has ended; for signals and for [`spawn_exec`].
    pub pidfd: OwnedFd,
    /// How far it has come.
    pub sync: SyncChannel,
    /// What the process still has to take; empty without [`Fds::lend`]. The child's end of `sync` is among it, so that
    /// only the end of the process tells that it has vanished.
    pub lent: Vec<OwnedFd>,
}

/// Clones a container's first process and returns at once, while it sets itself up.
///
/// The caller follows [`Spawned::sync`]. If it drops it before the program runs, the child ends. Where the caller could not return
/// from where it went for the clone, the child is what it shall be, and `home` tells.
pub fn spawn(plan: &InitPlan<'_>, fds: &Fds<'_>, home: &mut Home) -> Result<Spawned, SpawnError> {
    home.go_back()?;
    let (ours, theirs) = socket_pair()?;
    let mut prepared = prepare::common(&plan.process, fds, theirs, plan.cgroup.as_ref())?;
    let readied = prepare::container(plan, fds, home, &mut prepared);
    // Here, as it returns by itself only where nothing failed.
    home.go_back()?;
    readied?;
    let sharing = sharing(&prepared);
    let leaves = NamespaceKind::Cgroup.clone_flag() | NamespaceKind::Time.clone_flag();
    let flags = plan.namespaces.new & !leaves;
    let cgroup = prepare::unified_cgroup(plan.cgroup.as_ref())?;
    let cloned = enter(plan, fds, home).and_then(|()| {
        if plan.namespaces.joins(NamespaceKind::User) && flags != 0 {
            clone(sharing, cgroup.as_ref(), || child::between(plan, &prepared, flags))
                .and_then(|between| adopt(between, &ours))
        } else {
            clone(flags | sharing, cgroup.as_ref(), || child::first_process(plan, &prepared, false))
        }
    });
    // It is remembered, and tried again before the next clone.
    let _ = home.go_back();
    let (pid, pidfd) = cloned?;
    let guard = Unfinished::new(pid);
    let lent = lent(prepared);
    if plan.namespaces.isolated(NamespaceKind::User) {
        raise_limits(pid, &plan.process)?;
    }
    if let Some(maps) = plan.ids.as_ref().filter(|_| plan.namespaces.is_new(NamespaceKind::User)) {
        mapping::write(pid, maps)?;
        // A child that is gone already has said why, or will be found to have ended.
        match sync::send_raw(ours.as_fd(), &[GO_MAPPED], &[]) {
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => return Err(SpawnError::prepare("talk to", format!("process {pid}"))(errno)),
        }
    }
    Ok(Spawned { pid: guard.finish(), pidfd, sync: SyncChannel::new(ours), lent })
}

/// Clones a further process into a running container, of whose first process `container` is the pidfd. `home`: as in [`spawn`]; a
/// caller that is astray can do it all the same, as far as the process joins what the caller can't return to.
pub fn spawn_exec<'f>(
    plan: &ExecPlan<'_>,
    container: BorrowedFd<'f>,
    fds: &Fds<'f>,
    home: &mut Home,
) -> Result<Spawned, SpawnError> {
    home.go_back_unless(plan.join)?;
    let (ours, theirs) = socket_pair()?;
    let mut prepared = prepare::common(&plan.process, fds, theirs, plan.cgroup.as_ref())?;
    prepared.container = Some(container);
    let sharing = sharing(&prepared);
    let cgroup = prepare::unified_cgroup(plan.cgroup.as_ref())?;
    let entered = match plan.join & NamespaceKind::Pid.clone_flag() {
        0 => Ok(()),
        _ => home.enter_pid(container),
    };
    let cloned =
        entered.and_then(|()| clone(sharing, cgroup.as_ref(), || child::further_process(plan, container, &prepared)));
    let _ = home.go_back();
    let (pid, pidfd) = cloned?;
    let guard = Unfinished::new(pid);
    let lent = lent(prepared);
    if plan.user_namespace {
        raise_limits(pid, &plan.process)?;
    }
    Ok(Spawned { pid: guard.finish(), pidfd, sync: SyncChannel::new(ours), lent })
}

/// Enters the namespaces that a child gets from its parent.
fn enter(plan: &InitPlan<'_>, fds: &Fds<'_>, home: &mut Home) -> Result<(), SpawnError> {
    for join in plan.namespaces.join.iter().filter(|join| join.kind == NamespaceKind::Pid) {
        match &join.source {
            NamespaceSource::Slot(slot) => {
                let fd = fds.namespaces.get(usize::from(*slot)).ok_or(SpawnError::NoNamespace("pid"))?;
                home.enter_pid(*fd)?;
            }
            NamespaceSource::Path(path) => home.enter_pid(prepare::open_namespace(path)?.as_fd())?,
        }
    }
    if plan.namespaces.is_new(NamespaceKind::Time) {
        home.unshare_time()?;
        if !plan.namespaces.time_offsets.is_empty() {
            write_offsets(&plan.namespaces.time_offsets)?;
        }
    }
    Ok(())
}

/// The flag of the clone for a child that takes what it needs from this process's descriptor table.
fn sharing(prepared: &Prepared<'_>) -> u64 {
    if prepared.shares_table { libc::CLONE_FILES as u64 } else { 0 }
}

/// What has to stay open for a child that shares the descriptor table.
fn lent(prepared: Prepared<'_>) -> Vec<OwnedFd> {
    if prepared.shares_table { prepared.into_descriptors() } else { Vec::new() }
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(SpawnError::prepare("create", "a pair of sockets"))
}

fn clone(flags: u64, cgroup: Option<&OwnedFd>, child: impl FnOnce()) -> Result<(i32, OwnedFd), SpawnError> {
    let mut pidfd = -1i32;
    let args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64 | if cgroup.is_some() { sys::CLONE_INTO_CGROUP } else { 0 },
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: no memory is shared, and the child does only what `child` documents: no allocation, no locks, no return.
    match unsafe { sys::clone3(&args) } {
        Ok(0) => {
            child();
            sys::exit(125)
        }
        // SAFETY: the clone has put a new descriptor there, which is ours.
        Ok(pid) => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
        Err(errno) => Err(SpawnError::Clone(errno)),
    }
}

/// Takes over the process that the one in between has cloned, and reaps the latter.
fn adopt(between: (i32, OwnedFd), ours: &OwnedFd) -> Result<(i32, OwnedFd), SpawnError> {
    let message = loop {
        match sync::receive_raw(ours.as_fd(), RecvFlags::empty()) {
            Ok(Some(message)) => break message,
            Ok(None) => {}
            Err(errno) => return Err(SpawnError::prepare("talk to", "the process in the user namespace")(errno)),
        }
    };
    let _ = sys::wait4(between.0, WALL);
    match message {
        Some(message) if message.kind == Kind::Cloned as u8 => {
            let unwatched = Unfinished::new(message.errno);
            let pidfd = message.fds.into_iter().next().ok_or(Errno::MFILE);
            let pidfd = pidfd.map_err(SpawnError::prepare("receive the descriptor of", "the cloned process"))?;
            Ok((unwatched.finish(), pidfd))
        }
        Some(message) if message.kind == Kind::Failed as u8 => {
            Err(Failure { step: message.step, errno: message.errno, detail: message.text }.into())
        }
        _ => Err(SpawnError::Clone(Errno::SRCH)),
    }
}

/// Waits for children of any exit signal (wait(2)).
const WALL: i32 = 0x4000_0000;

/// A cloned process that must not outlive a failure of its parent to do its part.
struct Unfinished {
    pid: i32,
    finished: bool,
}

impl Unfinished {
    fn new(pid: i32) -> Self {
        Self { pid, finished: false }
    }

    fn finish(mut self) -> i32 {
        self.finished = true;
        self.pid
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            let _ = sys::kill(self.pid, libc::SIGKILL);
            let _ = sys::wait4(self.pid, WALL);
        }
    }
}

/// In a user namespace the child can't raise hard limits: it gets the room from here, and sets the limits itself.
fn raise_limits(pid: i32, process: &ProcessPlan<'_>) -> Result<(), SpawnError> {
    for limit in &process.rlimits {
        let failed = |errno| SpawnError::prepare("read the limits of", format!("process {pid}"))(errno);
        let (soft, hard) = match sys::prlimit(pid, limit.resource, None) {
            Err(Errno::SRCH) => return Ok(()),
            other => other.map_err(failed)?,
        };
        if limit.hard > hard {
            // Refused without CAP_SYS_RESOURCE: then the child warns.
            let _ = sys::prlimit(pid, limit.resource, Some((soft, limit.hard)));
        }
    }
    if let Some(score) = &process.oom_score_adj {
        // The child tries as well, and warns if neither may.
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_bytes());
    }
    Ok(())
}

fn write_offsets(offsets: &str) -> Result<(), SpawnError> {
    let path = "/proc/self/timens_offsets";
    fs::write(path, offsets).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        SpawnError::prepare("write", format!("{:?} to {path}", offsets.trim_end()))(errno)
    })
}

/// What the id-mapped trees of one plan share: a user namespace by mapping.
struct MappedNamespaces {
    known: Vec<(IdMaps, OwnedFd)>,
}

impl MappedNamespaces {
    fn new() -> Self {
        Self { known: Vec::new() }
    }

    fn get(&mut self, maps: &IdMaps) -> Result<BorrowedFd<'_>, SpawnError> {
        let at = match self.known.iter().position(|(known, _)| known == maps) {
            Some(at) => at,
            None => {
                self.known.push((maps.clone(), mapping::user_namespace(maps)?));
                self.known.len() - 1
            }
        };
        Ok(self.known[at].1.as_fd())
    }
}

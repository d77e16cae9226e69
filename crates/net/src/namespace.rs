//! Network namespaces, held by file descriptors.

use crate::error::{Error, Result};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A network namespace. It lives while a process is in it or one of these is open; dropping the last reference makes
/// the kernel take down everything in it, at its leisure.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// The namespace that a process is in. The pid must be known to be still the same process (hold its pidfd).
    pub fn of_process(pid: u32) -> Result<NetNs> {
        NetNs::open(&format!("/proc/{pid}/ns/net"))
    }

    /// The namespace that the calling thread is in.
    pub fn of_this_thread() -> Result<NetNs> {
        NetNs::open("/proc/thread-self/ns/net")
    }

    fn open(path: &str) -> Result<NetNs> {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(|fd| NetNs { fd })
            .map_err(|e| Error::kernel(format!("open the network namespace {path}"), e))
    }

    /// Another handle of the same namespace.
    pub fn try_clone(&self) -> Result<NetNs> {
        self.fd
            .try_clone()
            .map(|fd| NetNs { fd })
            .map_err(|e| Error::io("duplicate a network namespace's descriptor", e))
    }

    /// A path that opens this namespace while this handle lives, for this process' user: `/proc/<pid>/fd/<n>`.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into()
    }

    /// Runs `work` on a thread of its own inside the namespace, and waits for it (0.1 ms beside the work). Sockets that
    /// `work` returns stay sockets of the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || {
            setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|e| Error::io("enter a network namespace", e.into()))?;
            Ok(work())
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside);
            let thread = thread.map_err(|e| Error::io("start a thread for a network namespace", e))?;
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl From<OwnedFd> for NetNs {
    /// A namespace's descriptor that came from somewhere else, as from `open("/proc/…/ns/net")` of a user namespace.
    fn from(fd: OwnedFd) -> NetNs {
        NetNs { fd }
    }
}

impl From<NetNs> for OwnedFd {
    fn from(ns: NetNs) -> OwnedFd {
        ns.fd
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

//! Leaving namespaces of one's own for the sake of a child, and returning.
//!
//! A child is born into the PID and the time namespace that its parent has for its children, and a tree can be cloned only out of
//! the mount namespace that one is in. So the parent enters what the child needs, clones, and returns. A process in between would do
//! without, at the price of one more clone for each further process in a container.
//!
//! The kernel may refuse the return, as it takes memory. What the parent cloned after that would be born into somebody's container:
//! [`Home`] remembers where it leads back to, each spawn tries that first, and clones nothing where it fails.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::mount::{MountPropagationFlags, mount_change};

use super::{SpawnError, prepare};
use crate::plan::NamespaceKind;
use crate::sys;

/// The namespaces that a process which spawns belongs into, as far as it is not there. One for all spawns of a process.
#[derive(Debug, Default)]
pub struct Home {
    /// In the order in which they were left.
    left: Vec<Left>,
}

#[derive(Debug)]
struct Left {
    kind: NamespaceKind,
    own: OwnedFd,
    /// The working directory, which leaving the mount namespace loses.
    directory: Option<OwnedFd>,
}

impl Home {
    /// The namespace that it could not return to; `None` where it is at home.
    pub fn away_from(&self) -> Option<NamespaceKind> {
        self.left.last().map(|left| left.kind)
    }

    /// Returns to all that was left.
    ///
    /// # Errors
    /// [`SpawnError::Astray`]; what it could not return to is remembered.
    pub fn go_back(&mut self) -> Result<(), SpawnError> {
        while let Some(Left { kind, own, directory }) = self.left.last() {
            sys::setns(own.as_fd(), kind.clone_flag())
                .and_then(|()| directory.as_ref().map_or(Ok(()), rustix::process::fchdir))
                .map_err(|errno| SpawnError::Astray { namespace: kind.name(), errno })?;
            self.left.pop();
        }
        Ok(())
    }

    /// As [`Home::go_back`], but that it is not everywhere at home is no error where the child joins the same kinds of namespaces
    /// itself.
    pub(super) fn go_back_unless(&mut self, joined: u64) -> Result<(), SpawnError> {
        match self.go_back() {
            Err(_) if self.left.iter().all(|left| joined & left.kind.clone_flag() != 0) => Ok(()),
            returned => returned,
        }
    }

    /// From now on, children are born into this PID namespace.
    pub(super) fn enter_pid(&mut self, namespace: BorrowedFd<'_>) -> Result<(), SpawnError> {
        self.leave(NamespaceKind::Pid, None, || {
            let failed = SpawnError::prepare("join", "the pid namespace");
            sys::setns(namespace, NamespaceKind::Pid.clone_flag()).map_err(failed)
        })
    }

    /// From now on, children are born into a new time namespace. Its clocks can be set until the first process is in it; `clone3`
    /// would put one in.
    pub(super) fn unshare_time(&mut self) -> Result<(), SpawnError> {
        self.leave(NamespaceKind::Time, None, || {
            let failed = SpawnError::prepare("create", "a time namespace");
            sys::unshare(NamespaceKind::Time.clone_flag()).map_err(failed)
        })
    }

    /// Goes into a new mount namespace, of which nothing shows outside.
    pub(super) fn unshare_mounts(&mut self) -> Result<(), SpawnError> {
        let directory = prepare::open(c".", OFlags::PATH | OFlags::DIRECTORY)?;
        self.leave(NamespaceKind::Mount, Some(directory), || {
            let failed = SpawnError::prepare("create", "a mount namespace");
            sys::unshare(NamespaceKind::Mount.clone_flag()).map_err(failed)
        })?;
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change(c"/", slave).map_err(SpawnError::prepare("set the propagation of", "/"))
    }

    fn leave(
        &mut self,
        kind: NamespaceKind,
        directory: Option<OwnedFd>,
        leave: impl FnOnce() -> Result<(), SpawnError>,
    ) -> Result<(), SpawnError> {
        if self.left.iter().any(|left| left.kind == kind) {
            return leave();
        }
        let own = prepare::open_namespace(match kind {
            NamespaceKind::Time => c"/proc/self/ns/time",
            NamespaceKind::Mount => c"/proc/self/ns/mnt",
            _ => c"/proc/self/ns/pid",
        })?;
        leave()?;
        self.left.push(Left { kind, own, directory });
        Ok(())
    }
}

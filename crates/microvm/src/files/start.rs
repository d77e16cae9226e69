//! The machine's side: has the server begin, and becomes nobody.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{DumpableBehavior, PidfdFlags, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{ROLE, SOCKET};
use crate::container::{USER, at};
use crate::error::{Error, Result};

/// A child that serves files. It ends with its client, or with this process, which is the first one of its PID namespace; nobody waits for it, as it has more
/// rights than who would end it.
pub(crate) struct Server {
    child: Child,
    pidfd: OwnedFd,
    /// The types of the file systems whose files have no handles.
    lacking: Vec<String>,
}

impl Server {
    /// Has the server of a directory begin, whose socket will be in `scratch`, and takes from this process all that it has beyond its user, who owns
    /// nothing. The directory is not seen by it any more.
    ///
    /// # Errors
    /// The server does not begin, and says why; this process has other threads, or can't become nobody.
    pub(crate) fn start(directory: &Path, scratch: &Path) -> Result<Self> {
        let program = at::FILE_SERVER;
        let mut command = Command::new(program);
        command.arg(ROLE).arg(directory).arg(scratch.join(SOCKET));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.map_err(|error| Error::Files(format!("start its process: {error}")))?;
        let pidfd = rustix::process::pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.map_err(Error::system("open", "the process that serves files"))?;

        // It closes it once it serves, and says before that why it does not.
        let mut told = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            let heard = stdout.read_to_string(&mut told);
            heard.map_err(|error| Error::Files(format!("hear of its process: {error}")))?;
        }
        let mut words = told.split(' ');
        if words.next() != Some(super::READY) {
            return Err(Error::Files(if told.is_empty() { "its process ended".to_owned() } else { told }));
        }
        let lacking = words.map(str::to_owned).collect();
        let server = Self { child, pidfd, lacking };
        unmount(directory, UnmountFlags::DETACH)
            .map_err(Error::system("leave to its server", directory.display().to_string()))?;
        become_nobody()?;
        Ok(server)
    }

    /// Whether each file that it serves is known for good, so that whoever goes on can tell whether it finds the same one.
    ///
    /// # Errors
    /// Some are on file systems that have nothing for that.
    pub(crate) fn knows_files_again(&self) -> Result<()> {
        match &self.lacking[..] {
            [] => Ok(()),
            kinds => Err(Error::NoHandles { kinds: kinds.join(", ") }),
        }
    }

    /// Readable once it has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Takes note of its end.
    ///
    /// # Errors
    /// It did not end because its machine had.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Error::Files(format!("its process ended with {status}"))),
            Err(error) => Err(Error::Files(format!("its process is gone: {error}"))),
        }
    }
}

/// Gives up root and every capability, for good: none can come back by executing anything either.
fn become_nobody() -> Result<()> {
    // What follows is done by a thread for itself.
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Error::Files(format!("this process has {threads} threads, and only one of them would be nobody")));
    }
    let failed = || Error::system("give up", "the rights that a file server takes");
    bound(CapabilitySet::empty()).map_err(failed())?;
    let user = rustix::process::Uid::from_raw(USER);
    let group = rustix::process::Gid::from_raw(USER);
    rustix::thread::set_thread_groups(&[]).map_err(failed())?;
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed())?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed())?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed())?;
    if rustix::thread::set_thread_res_uid(rustix::process::Uid::ROOT, user, user) != Err(Errno::PERM) {
        return Err(Error::Files("this process could become root again".to_owned()));
    }
    // The kernel takes that from whoever changes its user, and with it the process's own files in `/proc`.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(failed())
}

/// No thread of this process, and nothing that it executes, has more capabilities than these from now on.
pub(super) fn bound(kept: CapabilitySet) -> Result<(), Errno> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel has no more of them.
            Err(Errno::INVAL) => break,
            removed => removed?,
        }
    }
    Ok(())
}

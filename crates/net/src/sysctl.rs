//! Sysctls of the calling thread's network namespace.

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

/// How many namespaces are written to through the same /proc.
const USES: u32 = 32;

/// Reads one, by its path below /proc/sys, without the line's end. `None` where the kernel has none of that name.
pub(crate) fn read(name: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(name)) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read sysctl {name}"), e)),
    }
}

/// Writes one.
pub(crate) fn write(name: &str, value: &str) -> Result<()> {
    std::fs::write(path(name), value).map_err(|e| Error::io(format!("set sysctl {name} to {value}"), e))
}

/// Writes one, unless the kernel has none of that name, as those of IPv6 where it is built without.
pub(crate) fn write_if_there(name: &str, value: &str) -> Result<()> {
    match write(name, value) {
        Err(Error::Kernel { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes one where it has another value; gives whether it had.
pub(crate) fn ensure(name: &str, value: &str) -> Result<bool> {
    match read(name)? {
        Some(now) if now != value => write(name, value).map(|()| true),
        _ => Ok(false),
    }
}

/// Sysctls of one namespace after the other, through a /proc of its own, not mounted anywhere. In the machine's, the
/// kernel keeps the entries of all network namespaces that have the same name in one list, which it goes through whenever
/// one is opened: with a thousand of them that takes longer than anything else about a namespace.
#[derive(Debug, Default)]
pub(crate) struct Sysctls {
    proc: Option<OwnedFd>,
    uses: u32,
}

impl Sysctls {
    /// Writes one of the calling thread's namespace, unless the kernel has none of that name.
    pub(crate) fn write_if_there(&mut self, name: &str, value: &str) -> Result<()> {
        if self.uses.is_multiple_of(USES) {
            // Where none can be mounted, the machine's serves.
            self.proc = unattached_proc().ok();
        }
        self.uses = self.uses.wrapping_add(1);
        let Some(proc) = &self.proc else { return write_if_there(name, value) };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let written = rustix::fs::openat(proc, format!("sys/{name}"), flags, Mode::empty())
            .and_then(|file| rustix::io::write(&file, value.as_bytes()));
        match written {
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io(format!("set sysctl {name} to {value}"), errno.into())),
        }
    }
}

fn unattached_proc() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

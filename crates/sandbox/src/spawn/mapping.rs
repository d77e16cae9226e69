//! User namespaces: their maps, and ones that exist only for the sake of their maps.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{SpawnError, WALL};
use crate::plan::{IdMap, IdMaps};
use crate::sys::{self, CloneArgs};

/// Writes the maps of a process that was cloned into a new user namespace.
pub(super) fn write(pid: i32, maps: &IdMaps) -> Result<(), SpawnError> {
    let file = |name: &str, maps: &[IdMap]| {
        let path = format!("/proc/{pid}/{name}");
        fs::write(&path, IdMaps::text(maps)).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            SpawnError::prepare("write", format!("{:?} to {name}", IdMaps::text(maps).trim_end()))(errno)
        })
    };
    // The kernel lets an unprivileged parent write a gid map only after it has given up setgroups.
    if !rustix::process::geteuid().is_root() {
        let path = format!("/proc/{pid}/setgroups");
        fs::write(&path, "deny")
            .map_err(|error| SpawnError::prepare("write", path)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    }
    file("gid_map", &maps.gids)?;
    file("uid_map", &maps.uids)
}

/// A user namespace with these maps, for id-mapped mounts. The process that made it is gone again.
pub(crate) fn user_namespace(maps: &IdMaps) -> Result<OwnedFd, SpawnError> {
    // Sharing the descriptors spares a copy of them all.
    let args = CloneArgs { flags: (libc::CLONE_NEWUSER | libc::CLONE_FILES) as u64, ..CloneArgs::default() };
    // SAFETY: no memory is shared, and the child only waits to be killed.
    let pid = match unsafe { sys::clone3(&args) } {
        Ok(0) => loop {
            // SAFETY: waits for a signal, all of which end this process.
            unsafe { libc::pause() };
        },
        Ok(pid) => pid,
        Err(errno) => return Err(SpawnError::prepare("create", "a user namespace")(errno)),
    };
    let made = write(pid, maps).and_then(|()| {
        let path = format!("/proc/{pid}/ns/user");
        rustix::fs::openat(CWD, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(SpawnError::prepare("open", path))
    });
    let _ = sys::kill(pid, libc::SIGKILL);
    let _ = sys::wait4(pid, WALL);
    made
}

//! Keeps containers from writing to the program that starts them.
//!
//! A process that joins a container is, until its exec, an instance of this program, and a container that gets hold of
//! `/proc/PID/exe` could later open it for writing. Executed from a read-only mount that nobody can remount, that link
//! can't be written through, and the pages are still those of the file.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::CWD;
use rustix::io::{Errno, Result};

use crate::child::mounts::clone_tree;
use crate::sys::{self, MountAttr};

/// Whether the running program was executed from a read-only mount.
pub fn is_sealed() -> bool {
    rustix::fs::statvfs(c"/proc/self/exe")
        .is_ok_and(|status| status.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// The running program's file, on a read-only mount of its own, ready for `fexecve`.
///
/// Takes CAP_SYS_ADMIN. The descriptor is closed by the exec.
pub fn sealed_program() -> Result<OwnedFd> {
    let tree = clone_tree(CWD, c"/proc/self/exe", false)?;
    sys::mount_setattr(tree.as_fd(), false, &MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() })?;
    Ok(tree)
}

/// Returns if the running program was executed from a read-only mount; executes it once more from one if it was not. To
/// be called before anything that should not happen twice, by whatever clones processes into containers.
///
/// # Errors
/// Where the program can't be executed from such a mount, it must not go on: a container could then write to it.
pub fn ensure() -> Result<()> {
    if is_sealed() { Ok(()) } else { Err(reexecute()) }
}

/// Executes the running program once more, with the same arguments, from a read-only mount. Returns only on failure.
pub fn reexecute() -> Errno {
    let program = match sealed_program() {
        Ok(program) => program,
        Err(errno) => return errno,
    };
    let strings =
        |list: Vec<Vec<u8>>| list.into_iter().filter_map(|bytes| CString::new(bytes).ok()).collect::<Vec<_>>();
    let arguments = strings(std::env::args_os().map(OsStringExt::into_vec).collect());
    let environment =
        strings(std::env::vars_os().map(|(key, value)| [key.into_vec(), value.into_vec()].join(&b'=')).collect());
    sys::fexecve(program.as_fd(), &arguments, &environment)
}

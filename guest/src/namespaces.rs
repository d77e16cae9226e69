//! PID namespaces that containers share: links to those of their first processes, by which a specification names them.

use std::fs;
use std::os::unix::fs::symlink;

use guest_protocol::message::{ContainerId, Failure};
use guest_protocol::place;

use crate::failed_io;

/// A container's first process runs: others may share its PID namespace.
pub(crate) fn show(container: ContainerId, pid: i32) -> Result<(), Failure> {
    let path = place::pid_namespace(container);
    fs::create_dir_all(place::NAMESPACES).map_err(failed_io("make", place::NAMESPACES))?;
    hide(container);
    symlink(format!("/proc/{pid}/ns/pid"), &path).map_err(failed_io("make the link", &path))
}

/// It has ended: its number may be another process's.
pub(crate) fn hide(container: ContainerId) {
    let _ = fs::remove_file(place::pid_namespace(container));
}

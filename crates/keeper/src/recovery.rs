//! Killing what is left of a sandbox.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

/// Kills everything in a cgroup; nothing, if there is no such cgroup. `cgroup.kill` does it at once where there is one. Elsewhere whoever
/// is in the cgroup is killed until nobody new has come: killed processes do not fork, so each round leaves fewer.
pub(crate) fn kill_cgroup(cgroup: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.kill")) {
        Ok(file) => return io::Write::write_all(&mut &file, b"1"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut killed = std::collections::HashSet::new();
    loop {
        let listed = match fs::read_to_string(cgroup.join("cgroup.procs")) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut anybody_new = false;
        for pid in listed.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
            if killed.insert(pid) {
                anybody_new = true;
                match rustix::process::kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        if !anybody_new {
            return thaw(cgroup);
        }
    }
}

/// In v1, processes that are frozen take their signal only once they go on.
fn thaw(cgroup: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).open(cgroup.join("freezer.state")) {
        Ok(file) => io::Write::write_all(&mut &file, b"THAWED"),
        // Of another hierarchy, or gone with its last process.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

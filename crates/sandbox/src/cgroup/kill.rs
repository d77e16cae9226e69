//! Signals to everything in a cgroup.
//!
//! Since Linux 5.14 a v2 cgroup has `cgroup.kill`, which leaves nothing to be got wrong. Elsewhere processes are sent
//! their signals one by one, and their numbers are not enough for it: between the list and the signal a process may
//! have ended, and its number may be somebody else's. So each number becomes a descriptor first, and the list is read
//! once more: who is in it then, and lives, is whom the descriptor leads to.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::{CgroupError, Result, children, v1, write};
use crate::process::start_time;
use crate::sys;

/// So many descriptors are held at a time, which is well below any limit.
const CHUNK: usize = 128;
/// After so many rounds processes that fork are held still where there is a freezer.
const FREEZE_AFTER: u32 = 3;
/// And after so many it is given up.
const ROUNDS: u32 = 1000;

/// Kills every process in the cgroup at `directory` and below it; does nothing if there is no such cgroup. Nothing
/// survives the call, though the last ones may still be ending when it returns. What is frozen thaws where it would not
/// end otherwise.
pub fn kill_all(directory: &Path) -> Result<()> {
    match write(directory, "cgroup.kill", "1") {
        Ok(()) => return Ok(()),
        // Gone, of version 1, of an older kernel, or threaded: one by one.
        Err(CgroupError::Write { source, .. })
            if source.kind() == ErrorKind::NotFound
                || matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(error) => return Err(error),
    }
    let killed = kill_one_by_one(directory);
    // Only now do frozen processes of version 1 take their signal.
    thaw_tree(directory);
    killed
}

/// Who has been killed does not fork any more, so it is over when nobody is listed but those.
fn kill_one_by_one(directory: &Path) -> Result<()> {
    let mut killed = HashSet::new();
    for round in 0..ROUNDS {
        let mut anybody_new = false;
        signal_each(directory, libc::SIGKILL, |pid| {
            // Who has been reaped meanwhile may have forked before.
            anybody_new |= start_time(pid).is_none_or(|started| killed.insert((pid, started)));
        })?;
        if !anybody_new {
            return Ok(());
        }
        if round == FREEZE_AFTER && has_freezer(directory) {
            // If they don't freeze within its time, it goes on as before.
            let _ = v1::set_frozen(directory, true);
        }
    }
    Err(CgroupError::Stuck { path: directory.to_owned(), what: "processes fork faster than they are killed" })
}

/// Sends a signal once to every process in the cgroup at `directory` and below it. `listed` is told of each that was
/// there, before it gets its signal.
pub(super) fn signal_each(directory: &Path, signal: i32, mut listed: impl FnMut(i32)) -> Result<()> {
    for some in members(directory)?.chunks(CHUNK) {
        let held: Vec<(i32, Option<OwnedFd>)> =
            some.iter().map(|&pid| Ok((pid, open(pid, directory)?))).collect::<Result<_>>()?;
        let members = members(directory)?;
        for (pid, pidfd) in held {
            listed(pid);
            let Some(pidfd) = pidfd.filter(|_| members.binary_search(&pid).is_ok()) else { continue };
            match sys::pidfd_send_signal(pidfd.as_fd(), signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(CgroupError::io("send a signal to a process of", directory)(errno.into())),
            }
        }
    }
    Ok(())
}

/// A process by its number; `None` if it has ended, or if the number is a thread's by now.
fn open(pid: i32, directory: &Path) -> Result<Option<OwnedFd>> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
    match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        // A thread's: EINVAL, and since Linux 6.16 ENOENT.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(CgroupError::io("open a process of", directory)(errno.into())),
    }
}

/// The processes in the cgroup at `directory` and below it, each once, in order.
pub(super) fn members(directory: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    collect(directory, &mut pids)?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(directory: &Path, pids: &mut Vec<i32>) -> Result<()> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        // 0 is a process that has no number in the caller's PID namespace.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) || error.raw_os_error() == Some(libc::ENODEV) => {}
        // A threaded cgroup lists its processes at the root of its subtree.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(CgroupError::io("read", &directory.join("cgroup.procs"))(error)),
    }
    for child in children(directory) {
        collect(&child, pids)?;
    }
    Ok(())
}

fn has_freezer(directory: &Path) -> bool {
    directory.join("freezer.state").exists()
}

/// Lets everything in a v1 freezer run on. Other hierarchies have nothing to thaw.
fn thaw_tree(directory: &Path) {
    if !has_freezer(directory) {
        return;
    }
    // What can't be thawed can't be deleted either, and that error tells more.
    let _ = write(directory, "freezer.state", "THAWED");
    children(directory).iter().for_each(|child| thaw_tree(child));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The list as it is read first comes out of a pipe; when it is read again, another one is there.
    #[test]
    fn a_number_that_is_somebody_elses_by_now_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        let list = directory.path().join("cgroup.procs");
        rustix::fs::mknodat(rustix::fs::CWD, &list, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let (pid, other) = (bystander.id(), directory.path().join("other"));
        let writer = std::thread::spawn(move || {
            let mut pipe = fs::OpenOptions::new().write(true).open(&list).unwrap();
            fs::write(&other, "").unwrap();
            fs::rename(&other, &list).unwrap();
            std::io::Write::write_all(&mut pipe, format!("{pid}\n").as_bytes()).unwrap();
        });
        let killed = kill_all(directory.path());
        writer.join().unwrap();
        let lives = bystander.try_wait().unwrap().is_none();
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        killed.unwrap();
        assert!(lives, "a process that is not in the cgroup was killed");
    }

    #[test]
    fn a_number_that_is_a_threads_by_now_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let (_held, end) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            sender.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = end.recv();
        });
        let thread = receiver.recv().unwrap();
        assert!(open(thread, directory.path()).unwrap().is_none());
    }

    #[test]
    fn a_cgroup_that_is_gone_has_nobody_to_kill() {
        kill_all(Path::new("/sys/fs/cgroup/no-such-cgroup")).unwrap();
    }
}

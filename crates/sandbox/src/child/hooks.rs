//! Hooks that run inside the container's namespaces.

use std::ffi::c_char;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::{Halt, Outcome};
use crate::plan::HookPlan;
use crate::sync::Step;
use crate::sys;

/// Runs each hook to its end, with the container's state on its standard input. `confine` is what its process does
/// before.
pub(super) fn run<'p>(
    plans: &'p [HookPlan],
    arrays: &[(Vec<*const c_char>, Vec<*const c_char>)],
    state: Option<&OwnedFd>,
    confine: impl Fn() -> Outcome<'p, ()>,
) -> Outcome<'p, ()> {
    for (plan, (argv, envp)) in plans.iter().zip(arrays) {
        run_one(plan, argv, envp, state, &confine)
            .map_err(|errno| Halt::new(Step::Hook, errno, plan.path.to_bytes()))?;
    }
    Ok(())
}

fn run_one<'p>(
    plan: &HookPlan,
    argv: &[*const c_char],
    envp: &[*const c_char],
    state: Option<&OwnedFd>,
    confine: impl Fn() -> Outcome<'p, ()>,
) -> rustix::io::Result<()> {
    if let Some(state) = state {
        rustix::fs::seek(state, SeekFrom::Start(0))?;
    }
    // SAFETY: the child makes nothing but system calls before its exec.
    let pid = unsafe { sys::fork() }?;
    if pid == 0 {
        if let Some(state) = state
            && rustix::stdio::dup2_stdin(state).is_err()
        {
            sys::exit(126);
        }
        if confine().is_err() {
            sys::exit(126);
        }
        // SAFETY: both arrays were made before the clone and end in null.
        let errno = unsafe { sys::execve(&plan.path, argv, envp) };
        sys::exit(if errno == Errno::NOENT { 127 } else { 126 });
    }
    if plan.timeout > 0 {
        let child = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
        let timeout =
            Timespec { tv_sec: i64::from(plan.timeout / 1000), tv_nsec: i64::from(plan.timeout % 1000) * 1_000_000 };
        let mut poll = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut poll, Some(&timeout))? == 0 {
            sys::kill(pid, libc::SIGKILL)?;
            sys::wait4(pid, 0)?;
            return Err(Errno::TIMEDOUT);
        }
    }
    let (_, status) = sys::wait4(pid, 0)?;
    match status {
        0 => Ok(()),
        _ if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 127 => Err(Errno::NOENT),
        _ if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 126 => Err(Errno::ACCESS),
        _ => Err(Errno::CANCELED),
    }
}

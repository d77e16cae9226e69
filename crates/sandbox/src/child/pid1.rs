//! A small init: PID 1 that reaps, forwards signals, and ends as the program ends.

use super::{At, Outcome};
use crate::sync::Step;
use crate::sys;

/// Forks. The child returns, to become the program; PID 1 stays here for ever.
pub(super) fn split<'p>(terminal: bool) -> Outcome<'p, ()> {
    let signals = sys::block_signals();
    // Orphans come to PID 1 by themselves; where the PID namespace is somebody else's, they come by this.
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).at(Step::Fork, b"")?;
    // SAFETY: both sides make nothing but system calls on their own stack.
    let program = unsafe { sys::fork() }.at(Step::Fork, b"")?;
    if program != 0 {
        look_after(program, &signals);
    }
    sys::reset_signals();
    if terminal {
        // The program leads the session, so that the terminal's signals reach it.
        rustix::process::setsid().at(Step::NewSession, b"")?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).at(Step::Console, b"control")?;
    }
    Ok(())
}

fn look_after(program: i32, signals: &libc::sigset_t) -> ! {
    // SAFETY: nothing of this process uses any descriptor from here on, and nothing is dropped: it only exits.
    let _ = unsafe { sys::close_range(0, false) };
    loop {
        match sys::wait_signal(signals) {
            Ok(libc::SIGCHLD) => reap(program),
            // The terminal stops and continues the program itself.
            Ok(libc::SIGTTIN | libc::SIGTTOU) | Err(_) => {}
            Ok(signal) => {
                let _ = sys::kill(program, signal);
            }
        }
    }
}

fn reap(program: i32) {
    while let Ok((pid, status)) = sys::wait4(-1, libc::WNOHANG) {
        if pid == 0 {
            return;
        }
        if pid == program {
            sys::exit(if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) });
        }
    }
}

//! PID 1 of a container with an init of ours (`docker run --init`): a program of its own, in `init/main.rs`.

use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, FdFlags, Result};
use rustix::pipe::PipeFlags;

use super::{At, Halt, Outcome};
use crate::sync::Step;
use crate::sys;

/// A static program of a few KiB.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// The program as a file that nobody can write to, and that is in no directory. Made before the clone.
pub(crate) fn program() -> Result<OwnedFd> {
    crate::memory::sealed(c"init", PROGRAM)
}

/// Where the program's process waits until PID 1 is the init: whatever it is before, no program sees.
pub(super) struct Gate {
    wait: OwnedFd,
    /// Goes on to the init, which closes it.
    open: OwnedFd,
}

impl Gate {
    pub(super) fn new<'p>() -> Outcome<'p, Self> {
        let (wait, open) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(Step::Fork, b"")?;
        Ok(Self { wait, open })
    }

    /// Whether PID 1 is the init: it writes something if not, and tells why.
    fn pass(self) -> Result<bool> {
        drop(self.open);
        rustix::io::retry_on_intr(|| rustix::io::read(&self.wait, &mut [0u8])).map(|read| read == 0)
    }
}

/// Forks. The child returns, to become the program; PID 1 becomes the init.
pub(super) fn split<'p>(init: BorrowedFd<'_>, gate: Gate, terminal: bool) -> Outcome<'p, ()> {
    // None may be lost before the init waits for them; exec leaves them blocked.
    let _ = sys::block_signals();
    // Orphans come to PID 1 by themselves; where the PID namespace is somebody else's, they come by this.
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).at(Step::Fork, b"")?;
    // SAFETY: both sides make nothing but system calls on their own stack.
    let program = unsafe { sys::fork() }.at(Step::Fork, b"")?;
    if program != 0 {
        let errno = match rustix::io::fcntl_setfd(&gate.open, FdFlags::empty()) {
            Ok(()) => become_init(init, program),
            Err(errno) => errno,
        };
        let _ = rustix::io::write(&gate.open, b"!");
        return Err(Halt::new(Step::Exec, errno, b"the init of the container"));
    }
    sys::reset_signals();
    if !gate.pass().at(Step::Fork, b"")? {
        sys::exit(125);
    }
    if terminal {
        // The program leads the session, so that the terminal's signals reach it.
        rustix::process::setsid().at(Step::NewSession, b"")?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).at(Step::Console, b"control")?;
    }
    Ok(())
}

/// Returns only on failure.
fn become_init(init: BorrowedFd<'_>, program: i32) -> Errno {
    let mut number = [0u8; 12];
    // At most ten digits, and the zero behind them.
    let _ = write!(&mut number[..], "{program}");
    let argv = [c"init".as_ptr(), number.as_ptr().cast(), std::ptr::null()];
    let envp = [std::ptr::null()];
    // SAFETY: both arrays end in null, and lead to terminated strings that live over the call.
    unsafe { sys::execveat(init, &argv, &envp) }
}

//! The signals that come to the process, which are its container's process's.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// All signals but those that nobody can hold back, as something to read.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks all signals, in this thread and those that it makes.
    pub(crate) fn block() -> Result<Self> {
        let failed = |errno: nix::errno::Errno| {
            Error::system("open a descriptor for", "signals")(Errno::from_raw_os_error(errno as i32))
        };
        let all = SigSet::all();
        all.thread_block().map_err(failed)?;
        SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self).map_err(failed)
    }

    /// The next one that somebody sent.
    pub(crate) fn next(&mut self) -> Option<i32> {
        loop {
            let info = self.0.read_signal().ok()??;
            let signal = info.ssi_signo as i32;
            let is_ours = info.ssi_pid == std::process::id();
            // A child of our own that changed, and a pipe of our own without a reader, are none of the process's business.
            let is_about_us =
                (signal == nix::libc::SIGCHLD && info.ssi_code > 0) || (signal == nix::libc::SIGPIPE && is_ours);
            if !is_about_us {
                return Some(signal);
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

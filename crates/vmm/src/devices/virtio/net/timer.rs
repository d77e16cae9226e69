//! When what had to wait may go on.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A clock that is readable once a time has come (timerfd_create(2)).
#[derive(Debug)]
pub(super) struct Timer {
    fd: OwnedFd,
    /// What it is set to.
    at: Option<Instant>,
}

impl Timer {
    pub(super) fn new() -> io::Result<Timer> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Timer { fd, at: None })
    }

    /// Sets it, unless it rings before that anyway.
    pub(super) fn at(&mut self, at: Instant) {
        if self.at.is_some_and(|set| set <= at) {
            return;
        }
        // All zeros would switch it off.
        let rest = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        // What is too long for the kernel is looked at again.
        let rest = Timespec::try_from(rest).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: rest };
        // A timer of our own that is set to a time that is one: there is nothing that could fail.
        if timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once).is_ok() {
            self.at = Some(at);
        }
    }

    /// It was readable.
    pub(super) fn rang(&mut self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.at = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

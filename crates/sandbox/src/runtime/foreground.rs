//! A container in the foreground: signals go in, the terminal goes both ways, the exit status comes out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::{Result, RuntimeError};
use crate::spawn::Spawned;
use crate::sys;

/// Every signal, as something to read.
pub(super) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks all signals, and opens them for reading.
    pub(super) fn block() -> Result<Self> {
        let set = sys::block_signals();
        sys::signalfd(&set).map(|fd| Self { fd }).map_err(RuntimeError::system("open a signal descriptor"))
    }

    /// The next one that is pending.
    fn next(&self) -> Option<i32> {
        let mut info = [0u8; 128];
        match rustix::io::read(&self.fd, &mut info) {
            Ok(128) => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
            _ => None,
        }
    }
}

/// The caller's terminal in raw mode, given back as it was.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return None;
        }
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

fn resize(master: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
        let _ = tcsetwinsize(master, size);
    }
}

/// Reads what is there; `None` at the end.
fn read<'b>(from: BorrowedFd<'_>, buffer: &'b mut [u8; 16 << 10]) -> Option<&'b [u8]> {
    match rustix::io::read(from, &mut buffer[..]) {
        Ok(0) => None,
        Ok(length) => Some(&buffer[..length]),
        Err(Errno::INTR | Errno::AGAIN) => Some(&[]),
        // A terminal whose last user has gone reports EIO.
        Err(_) => None,
    }
}

/// Copies what a terminal's program has written. False at the end.
fn copy(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 16 << 10];
    let Some(mut rest) = read(from, &mut buffer) else { return false };
    while !rest.is_empty() {
        match rustix::io::write(into, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// What was typed, on its way into a terminal. That is never waited for: a program that reads none of it may itself wait until
/// what it writes is taken.
struct Typed {
    /// What the terminal had no room for.
    rest: Vec<u8>,
    /// More may come.
    open: bool,
}

impl Typed {
    /// Takes what there is, once the terminal has had all that came before.
    fn take(&mut self, from: BorrowedFd<'_>) {
        match read(from, &mut [0u8; 16 << 10]) {
            Some(bytes) => self.rest.extend_from_slice(bytes),
            None => self.open = false,
        }
    }

    /// Gives the terminal as much as it has room for.
    fn give(&mut self, master: &OwnedFd) {
        match rustix::io::write(master, &self.rest) {
            Ok(written) => drop(self.rest.drain(..written)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody reads there any more.
            Err(_) => *self = Self { rest: Vec::new(), open: false },
        }
    }
}

/// Stays with a process until it ends. Returns its exit status, 128 + the signal if one ended it.
pub(super) fn attend(spawned: &Spawned, terminal: Option<OwnedFd>, signals: &Signals) -> Result<u8> {
    let raw = terminal.as_ref().and_then(|_| RawTerminal::enter());
    if let Some(master) = &terminal {
        resize(master);
    }
    if let Some(master) = &terminal {
        rustix::io::ioctl_fionbio(master, true).map_err(RuntimeError::system("use the terminal"))?;
    }
    let mut typed = Typed { rest: Vec::new(), open: terminal.is_some() };
    let mut output = terminal.is_some();
    let stdin = rustix::stdio::stdin();
    loop {
        let mut fds = vec![PollFd::new(&spawned.pidfd, PollFlags::IN), PollFd::new(&signals.fd, PollFlags::IN)];
        if let Some(master) = &terminal {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, output);
            wanted.set(PollFlags::OUT, !typed.rest.is_empty());
            // Not asked for anything, it would still tell that its last user has gone.
            if !wanted.is_empty() {
                fds.push(PollFd::new(master, wanted));
            }
        }
        let reads = typed.open && typed.rest.is_empty();
        if reads {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(RuntimeError::System("wait for the container", errno)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let typed_more = reads && ready.last() == Some(&true);
        drop(fds);
        if ready[1] {
            while let Some(signal) = signals.next() {
                forward(signal, spawned, terminal.as_ref());
            }
        }
        if let Some(master) = &terminal {
            if output && ready[2] {
                output = copy(master.as_fd(), rustix::stdio::stdout());
            }
            if typed_more {
                typed.take(stdin);
            }
            if !typed.rest.is_empty() {
                typed.give(master);
            }
        }
        if ready[0] {
            if let Some(master) = terminal.as_ref().filter(|_| output) {
                drain(master);
            }
            drop(raw);
            return wait(spawned);
        }
    }
}

/// What is still in the terminal after the process has gone.
fn drain(master: &OwnedFd) {
    let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        let readable = rustix::event::poll(&mut fds, Some(&zero)).is_ok_and(|count| count > 0)
            && fds[0].revents().contains(PollFlags::IN);
        if !readable || !copy(master.as_fd(), rustix::stdio::stdout()) {
            return;
        }
    }
}

fn forward(signal: i32, spawned: &Spawned, terminal: Option<&OwnedFd>) {
    match signal {
        libc::SIGCHLD => reap_orphans(spawned.pid),
        libc::SIGWINCH if terminal.is_some() => {
            if let Some(master) = terminal {
                resize(master);
            }
        }
        // The Go runtime's own signal for preemption means nothing to anybody else.
        libc::SIGURG | libc::SIGPIPE => {}
        signal => {
            let _ = sys::pidfd_send_signal(spawned.pidfd.as_fd(), signal);
        }
    }
}

/// Orphans that came to us as subreaper; the container's own process is left for [`wait`].
fn reap_orphans(own: i32) {
    while let Ok(pid) = sys::peek_ended() {
        if pid == 0 || pid == own || sys::wait4(pid, libc::WNOHANG).is_err() {
            return;
        }
    }
}

fn wait(spawned: &Spawned) -> Result<u8> {
    let (_, status) = sys::wait4(spawned.pid, 0).map_err(RuntimeError::system("wait for the container"))?;
    Ok(if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) as u8 } else { libc::WEXITSTATUS(status) as u8 })
}

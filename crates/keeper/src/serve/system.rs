//! The system calls for which there is no safe wrapper, each made safe.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::protocol::{ExitStatus, Usage};

/// A child that has ended, whoever's child it was at first.
pub(super) struct Reaped {
    pub(super) pid: u32,
    pub(super) status: ExitStatus,
    pub(super) usage: Usage,
}

/// Reaps one ended child, if there is one.
pub(super) fn reap() -> Option<Reaped> {
    let mut status = 0;
    // SAFETY: `rusage` is plain integers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers lead to values of the types that wait4 fills, which live over the call.
        let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG | libc::__WALL, &raw mut usage) };
        if pid < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0)?;
        let status = if libc::WIFEXITED(status) {
            ExitStatus::Code(libc::WEXITSTATUS(status) as u8)
        } else {
            ExitStatus::Signal { signal: libc::WTERMSIG(status) as u8, core: libc::WCOREDUMP(status) }
        };
        let microseconds = |time: libc::timeval| (time.tv_sec * 1_000_000 + time.tv_usec).cast_unsigned();
        let usage = Usage {
            user_us: microseconds(usage.ru_utime),
            system_us: microseconds(usage.ru_stime),
            max_rss_kib: usage.ru_maxrss.cast_unsigned(),
        };
        return Some(Reaped { pid, status, usage });
    }
}

/// Sends any signal, real-time ones too.
pub(super) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the arguments are what pidfd_send_signal(2) asks for; without a siginfo nothing is read through the pointer.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The signals that arrive through a descriptor.
const SIGNALS: [i32; 4] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Makes signals arrive as readable bytes, and makes harmless those that a write can cause: by handlers that do nothing, and not by
/// ignoring them, as an ignored signal stays ignored in the programs of sandboxes.
pub(super) fn signals() -> io::Result<OwnedFd> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: zeros are a valid `sigaction` and a valid `sigset_t`; the handler is async-signal-safe, as it does nothing; all pointers
    // lead to live values of the right types; the descriptor is new and nobody else's.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int) = nothing;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        for signal in SIGNALS {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Reads the numbers of the signals that have arrived.
pub(super) fn arrived(signals: &OwnedFd, mut each: impl FnMut(i32)) {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    let mut bytes = [0; SIZE * SIGNALS.len()];
    // Each signal is there once at most. Nothing to read is no error here.
    let length = rustix::io::read(signals, &mut bytes).unwrap_or(0);
    for info in bytes[..length].chunks_exact(SIZE) {
        // The first member of the structure is the signal's number.
        each(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]));
    }
}

/// Closes every descriptor but the standard ones: what a starter forgot to keep to itself.
pub(super) fn close_inherited() -> io::Result<()> {
    // SAFETY: called before this program has opened anything, so no descriptor belongs to a value.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Which side of a fork this is.
pub(super) enum Fork {
    Parent { child: u32 },
    Child,
}

/// Forks. The keeper has one thread, so the child may do whatever it likes.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: there is one thread, so no lock can be held by another.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent { child: child.cast_unsigned() }),
    }
}

/// Kills a child that has not been reaped, so that its id is its own.
pub(super) fn kill_child(pid: u32) {
    // SAFETY: kill has no preconditions; it fails at most.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}

/// Goes on as another program, given by a descriptor, with the present environment. Returns only if that failed.
pub(super) fn execute(program: &OwnedFd, arguments: &[CString]) -> io::Error {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let empty: &CStr = c"";
    // SAFETY: the strings and the null-terminated arrays of pointers to them live over the call; `environ` is the C library's own, and
    // no other thread changes it.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            empty.as_ptr(),
            pointers.as_ptr(),
            environ,
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Ends a process that was forked and did not become another program.
pub(super) fn exit_at_once(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Takes over a descriptor that was kept over an exec, and closes it at the next one.
pub(super) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD works on whatever the number leads to, and fails if that is nothing.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as just seen, and belongs to whoever was told its number: the state that names it is read once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a descriptor is closed by an exec.
pub(super) fn set_close_on_exec(fd: RawFd, close: bool) -> io::Result<()> {
    // SAFETY: F_SETFD works on whatever the number leads to, and fails if that is nothing.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, if close { libc::FD_CLOEXEC } else { 0 }) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

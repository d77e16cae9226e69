//! The system calls for which there is no safe wrapper, each made safe.

use std::ffi::{CStr, c_int, c_ulong};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use guest_protocol::message::{End, Exit, Status, Usage};
use rustix::io::{Errno, Result};

fn check(result: libc::c_long) -> Result<libc::c_long> {
    // SAFETY: errno is a place of this thread's own.
    if result < 0 { Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() })) } else { Ok(result) }
}

/// Begins to connect to a port of the host (vsock(7)). [`Errno::INPROGRESS`] is no error here.
pub(crate) fn connect_to_host(port: u32) -> Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) }.into())?;
    // SAFETY: a new descriptor, which is ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: zeros are a valid address.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: an address of its own length, which lives over the call.
    match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }.into()) {
        Ok(_) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Loads a module of the kernel. One that is there already is no error.
pub(crate) fn load_module(file: BorrowedFd<'_>, parameters: &CStr) -> Result<()> {
    // SAFETY: a descriptor, a terminated string and no flags.
    let loaded = check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) });
    match loaded {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes a part of a disk a partition (`linux/blkpg.h`): `start` and `length` in bytes. One that is there already is no error.
pub(crate) fn add_partition(disk: BorrowedFd<'_>, number: i32, start: u64, length: u64) -> Result<()> {
    const ADD_PARTITION: c_int = 1;
    match partition(disk, ADD_PARTITION, number, start, length) {
        Err(Errno::BUSY) => Ok(()),
        other => other,
    }
}

/// Has a part of a disk be no partition any more. None that is there is no error.
pub(crate) fn remove_partition(disk: BorrowedFd<'_>, number: i32) -> Result<()> {
    const REMOVE_PARTITION: c_int = 2;
    match partition(disk, REMOVE_PARTITION, number, 0, 0) {
        Err(Errno::NXIO) => Ok(()),
        other => other,
    }
}

fn partition(disk: BorrowedFd<'_>, operation: c_int, number: i32, start: u64, length: u64) -> Result<()> {
    const BLKPG: c_ulong = 0x1269;
    #[repr(C)]
    struct Partition {
        start: i64,
        length: i64,
        number: c_int,
        names: [u8; 128],
    }
    #[repr(C)]
    struct Argument {
        operation: c_int,
        flags: c_int,
        length: c_int,
        data: *mut Partition,
    }
    let (start, length) = (i64::try_from(start), i64::try_from(length));
    let (Ok(start), Ok(length)) = (start, length) else { return Err(Errno::RANGE) };
    let mut partition = Partition { start, length, number, names: [0; 128] };
    let size = size_of::<Partition>() as c_int;
    let argument = Argument { operation, flags: 0, length: size, data: &raw mut partition };
    // SAFETY: the structure that the request takes, which points to a partition of the length said; both live over the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &raw const argument) }.into()).map(drop)
}

/// Adds to the kernel's random pool, counts it, and has the generator start anew (random(4)).
pub(crate) fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    const ADD_ENTROPY: c_ulong = 0x4008_5203;
    const RESEED: c_ulong = 0x5207;
    let count = |length: usize| i32::try_from(length).map_err(|_| Errno::TOOBIG);
    let mut pool = Vec::with_capacity(8 + bytes.len());
    pool.extend_from_slice(&count(bytes.len() * 8)?.to_ne_bytes());
    pool.extend_from_slice(&count(bytes.len())?.to_ne_bytes());
    pool.extend_from_slice(bytes);
    // SAFETY: a rand_pool_info: the bits, the bytes, and as many bytes as it says.
    check(unsafe { libc::ioctl(random.as_raw_fd(), ADD_ENTROPY as _, pool.as_ptr()) }.into())?;
    // SAFETY: a request without an argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RESEED as _) }.into()).map(drop)
}

/// Sets the time, in nanoseconds since 1970.
pub(crate) fn set_clock(nanoseconds: u64) -> Result<()> {
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000).cast_signed(),
        tv_nsec: (nanoseconds % 1_000_000_000).cast_signed(),
    };
    // SAFETY: a time that lives over the call.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) }.into()).map(drop)
}

/// Goes into the namespace that a descriptor is, or that of a process by its pidfd.
pub(crate) fn enter(namespace: BorrowedFd<'_>, kind: c_int) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) }.into()).map(drop)
}

/// A descriptor that is readable when a child has ended.
pub(crate) fn children() -> Result<OwnedFd> {
    // SAFETY: zeros are a valid set; both calls get pointers to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        // A new descriptor, which is ours.
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Has a child do something, which ends with that: its process id. It gets a descriptor, and has none of this process's others, or it would keep open what is closed here; nothing that `work` has
/// with it may be one.
pub(crate) fn fork(given: OwnedFd, work: impl FnOnce(OwnedFd)) -> Result<i32> {
    const FIRST: u32 = 3;
    // SAFETY: this process has one thread, so that in the child nothing is held by another one; and what panics aborts.
    match check(unsafe { libc::fork() }.into())? {
        0 => {
            let kept = given.as_raw_fd().cast_unsigned();
            let others = [(FIRST, kept.saturating_sub(1)), (kept.saturating_add(1).max(FIRST), u32::MAX)];
            for (first, last) in others.into_iter().filter(|(first, last)| first <= last) {
                // SAFETY: plain integers. Whatever owns one of those is neither used in the child nor dropped.
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            }
            work(given);
            // SAFETY: a plain integer. Nothing that this process does at its own end is the child's to do.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid as i32),
    }
}

/// Reaps a child that has ended, if there is one: its process id, and how it ended.
pub(crate) fn reap() -> Option<(i32, Exit)> {
    let mut status = 0;
    // SAFETY: zeros are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: places for the status and the usage.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG | libc::__WALL, &raw mut usage) };
    if pid <= 0 {
        return None;
    }
    let status = match libc::WIFSIGNALED(status) {
        true => Status::Signal(libc::WTERMSIG(status) as u8),
        false => Status::Code(libc::WEXITSTATUS(status) as u8),
    };
    let microseconds = |time: libc::timeval| (time.tv_sec * 1_000_000 + time.tv_usec).cast_unsigned();
    let usage = Usage {
        user: microseconds(usage.ru_utime),
        system: microseconds(usage.ru_stime),
        memory: usage.ru_maxrss.cast_unsigned(),
    };
    Some((pid, Exit { status, usage, outputs: [0, 0], oom_killed: false }))
}

/// Sends a signal, real-time ones too.
pub(crate) fn signal(process: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: plain integers and no details.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) }).map(drop)
}

/// Sends a signal by number.
pub(crate) fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Ends the machine.
pub(crate) fn reboot(how: End) -> Result<()> {
    let command = match how {
        End::PowerOff => libc::RB_POWER_OFF,
        End::Reset => libc::RB_AUTOBOOT,
    };
    // SAFETY: a plain integer.
    check(unsafe { libc::reboot(command) }.into()).map(drop)
}

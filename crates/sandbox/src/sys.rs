//! System calls that neither `rustix` nor the standard library offer in the form needed between clone and exec:
//! on this thread only (glibc's wrappers of the set*id family signal every thread), without allocation.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};

/// The arguments of `clone3(2)`, version 2 of the structure (88 bytes, Linux 5.7).
#[repr(C, align(8))]
#[derive(Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

/// `CLONE_INTO_CGROUP` of `clone3(2)`; wider than the `c_int` that libc gives its flags.
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The argument of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// `struct sched_attr` of `sched_setattr(2)`, its first published size (48 bytes).
#[repr(C)]
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

fn check(ret: libc::c_long) -> Result<usize> {
    if ret < 0 {
        // SAFETY: the location is this thread's own and always valid.
        Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
    } else {
        Ok(ret as usize)
    }
}

/// Clones the calling thread into a new process. Returns 0 in the child.
///
/// # Safety
/// Memory must not be shared with the child (`CLONE_VM`), and where the caller has other threads the child may only
/// make calls that are safe after fork: nothing that allocates or takes a lock.
pub(crate) unsafe fn clone3(args: &CloneArgs) -> Result<i32> {
    // SAFETY: the structure is a valid clone_args of the size given; the rest is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_clone3, args, size_of::<CloneArgs>()) }).map(|pid| pid as i32)
}

/// `fork(2)` without libc's handlers, for a process that already stands between clone and exec.
///
/// # Safety
/// As for [`clone3`].
pub(crate) unsafe fn fork() -> Result<i32> {
    let nothing = std::ptr::null::<u8>();
    // Not clone3, which filters refuse as they can't see its flags (the place of `0` differs between architectures).
    // SAFETY: a copy of this process, on its own copy of the stack; the rest is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, nothing, nothing, nothing, nothing) })
        .map(|pid| pid as i32)
}

pub(crate) fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags as libc::c_int) }).map(drop)
}

pub(crate) fn unshare(flags: u64) -> Result<()> {
    // SAFETY: plain integers; no flag used here (namespaces) touches memory or descriptors.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// `mount_setattr(2)` on what `fd` itself refers to.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty string and a mount_attr of the size given.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, attr, size_of::<MountAttr>())
    })
    .map(drop)
}

pub(crate) fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

pub(crate) fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

pub(crate) fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: the pointer and the length are the slice's.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets the effective, permitted and inheritable sets of this thread.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let mut data = [0u32; 6];
    for half in 0..2 {
        let shift = 32 * half;
        data[3 * half] = (effective >> shift) as u32;
        data[3 * half + 1] = (permitted >> shift) as u32;
        data[3 * half + 2] = (inheritable >> shift) as u32;
    }
    // SAFETY: version 3 takes a header of two words and data of two triples.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

pub(crate) fn prctl(option: libc::c_int, a: u64, b: u64) -> Result<usize> {
    // SAFETY: only options that take integers are used in this crate.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, 0u64, 0u64) })
}

/// Joins a new session keyring. Without a name: a named one is searched for first, among those of all containers.
pub(crate) fn join_new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: no name is given.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) })
        .map(drop)
}

pub(crate) fn ioprio_set(priority: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}

pub(crate) fn sched_setattr(attr: &SchedAttr) -> Result<()> {
    // SAFETY: the structure states its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attr, 0) }).map(drop)
}

pub(crate) fn sched_setaffinity(mask: &[u8]) -> Result<()> {
    // SAFETY: the pointer and the length are the slice's.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, mask.len(), mask.as_ptr()) }).map(drop)
}

pub(crate) fn set_mempolicy(mode: u32, nodes: &[u64]) -> Result<()> {
    // The kernel reads one bit less than it is told.
    let bits = nodes.len() * 64 + 1;
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: `bits - 1` bits are in the slice.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, if nodes.is_empty() { 0 } else { bits }) })
        .map(drop)
}

pub(crate) fn personality(persona: u64) -> Result<()> {
    // SAFETY: plain integer.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

/// Loads a seccomp filter. Returns the listener where `flags` ask for one.
pub(crate) fn seccomp(filter: &[u8], flags: u64) -> Result<Option<OwnedFd>> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const u8,
    }
    let program = Program { len: (filter.len() / 8) as u16, filter: filter.as_ptr() };
    // SAFETY: the program points to `len` instructions of 8 bytes.
    let ret = check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        // SAFETY: with this flag the call returns a new descriptor that is ours.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as i32) }));
    }
    Ok(None)
}

/// Closes every descriptor in `range`, which is not empty. With `unshare`, this process gets a descriptor table of its own
/// first, into which what is closed never comes (Linux 5.9).
///
/// # Safety
/// No descriptor in `range` may be owned by a value that is used or dropped later in this process.
pub(crate) unsafe fn close_range(range: Range<u32>, unshare: bool) -> Result<()> {
    let flags = if unshare { libc::CLOSE_RANGE_UNSHARE } else { 0 };
    // SAFETY: plain integers; ownership is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_close_range, range.start, range.end - 1, flags) }).map(drop)
}

/// Marks every descriptor from `first` on, so that the exec closes it.
pub(crate) fn close_on_exec(first: u32) -> Result<()> {
    // SAFETY: plain integers; nothing is closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// `execveat(2)` of an open file. Returns only on failure.
///
/// # Safety
/// As for [`execve`].
pub(crate) unsafe fn execveat(
    program: BorrowedFd<'_>,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> Errno {
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
    // SAFETY: the caller's promise, and an empty path.
    match check(unsafe { libc::syscall(libc::SYS_execveat, program.as_raw_fd(), path, argv, envp, flags) }) {
        Ok(_) => Errno::INVAL,
        Err(errno) => errno,
    }
}

/// `execve(2)`. Returns only on failure.
///
/// # Safety
/// `argv` and `envp` must be null-terminated arrays of pointers to terminated strings.
pub(crate) unsafe fn execve(path: &CStr, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> Errno {
    // SAFETY: the caller's promise.
    match check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr()) }) {
        Ok(_) => Errno::INVAL,
        Err(errno) => errno,
    }
}

/// Ends the process at once, without running anything that was registered for its end.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit does not return and runs no handlers.
    unsafe { libc::_exit(code) }
}

/// `bpf(2)` with an attribute block that the caller has laid out.
///
/// # Safety
/// Every pointer within `attr` must be valid for what the command reads or writes through it.
pub(crate) unsafe fn bpf(command: libc::c_int, attr: &mut [u64]) -> Result<usize> {
    // SAFETY: pointer and size are the slice's; the rest is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) })
}

/// `kcmp`-free identity of a file: device and inode.
pub(crate) fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The permitted set of this thread.
pub(crate) fn permitted() -> Result<u64> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header: [u32; 2] = [VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 takes a header of two words and fills in two triples.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) })?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

/// Sets every signal to its default and blocks none.
pub(crate) fn reset_signals() {
    // SAFETY: zeroed sigaction is SIG_DFL with no flags and an empty mask; setting defaults runs no handler.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..32 {
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Blocks every signal, and returns the set for [`wait_signal`].
pub(crate) fn block_signals() -> libc::sigset_t {
    // SAFETY: the set is initialised by sigfillset before it is read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        all
    }
}

/// Sends a signal; a plain number, as it came.
pub(crate) fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, signal) }).map(drop)
}

/// Reaps one child: its pid and its wait status, 0 where there is none that ended.
pub(crate) fn wait4(pid: i32, flags: i32) -> Result<(i32, i32)> {
    let mut status = 0;
    // SAFETY: a place for the status, none for usage.
    let pid = check(unsafe { libc::syscall(libc::SYS_wait4, pid, &mut status, flags, 0) })?;
    Ok((pid as i32, status))
}

/// `prlimit64(2)`: the old limits (soft, hard), and new ones if given.
pub(crate) fn prlimit(pid: i32, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let new = new.map(|(soft, hard)| [soft, hard]);
    let mut old = [0u64; 2];
    let pointer = new.as_ref().map_or(std::ptr::null(), |limits| limits.as_ptr());
    // SAFETY: rlimit64 is two 64-bit words; the new one may be null.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, pointer, old.as_mut_ptr()) })?;
    Ok((old[0], old[1]))
}

/// Executes an open file. Returns only on failure.
pub(crate) fn fexecve(
    program: BorrowedFd<'_>,
    arguments: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> Errno {
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    let (fd, flags) = (program.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: both arrays end in null and point to terminated strings that live until the call returns.
    match check(unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), flags) }) {
        Ok(_) => Errno::INVAL,
        Err(errno) => errno,
    }
}

/// A descriptor from which the blocked signals of a set are read.
#[cfg(feature = "runtime-cli")]
pub(crate) fn signalfd(set: &libc::sigset_t) -> Result<OwnedFd> {
    // SAFETY: an initialised set.
    let fd = check(unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into())?;
    // SAFETY: a new descriptor, which is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The pid of a child that has ended and is not yet reaped; 0 for none.
#[cfg(feature = "runtime-cli")]
pub(crate) fn peek_ended() -> Result<i32> {
    // SAFETY: zeroed is a valid siginfo, which the call fills in.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        check(libc::waitid(libc::P_ALL, 0, &mut info, flags).into())?;
        Ok(info.si_pid())
    }
}

/// A child that does nothing, until this is dropped or we end.
#[cfg(feature = "runtime-cli")]
pub(crate) struct Idle(i32);

#[cfg(feature = "runtime-cli")]
impl Idle {
    pub(crate) fn start() -> Result<Self> {
        let parent = rustix::process::getpid();
        // SAFETY: the child makes system calls only, and never returns.
        match unsafe { fork() }? {
            0 => {
                let _ = prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
                // Who ended before that was set is not waited for.
                while rustix::process::getppid() == Some(parent) {
                    // SAFETY: no arguments.
                    unsafe { libc::pause() };
                }
                // SAFETY: ends this process, and runs nothing on the way.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self(pid)),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.unsigned_abs()
    }
}

#[cfg(feature = "runtime-cli")]
impl Drop for Idle {
    fn drop(&mut self) {
        // SAFETY: plain integers; it is our child, and not reaped yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        let _ = wait4(self.0, 0);
    }
}

/// Sends a signal by descriptor; a plain number, as it came.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: plain integers and no details.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) })
        .map(drop)
}

/// Sets the ids under which this thread touches files (`setfsuid(2)`, `setfsgid(2)`; they report no errors).
pub(crate) fn set_file_ids(uid: u32, gid: u32) {
    // SAFETY: plain integers.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

/// Makes `number` another name of a descriptor, which survives an exec.
pub(crate) fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    if fd.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
    }
    // SAFETY: what had the number is not used by this process any more, which is about to execute its program.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

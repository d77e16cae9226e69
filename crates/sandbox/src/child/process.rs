//! Becoming the container's process: streams, limits, user, capabilities, filter, program.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Uid};
use rustix::io::{Errno, Result};

use super::{At, Halt, Outcome, Progress};
use crate::plan::SeccompPlan;
use crate::sync::{self, Kind, Step};
use crate::sys::{self, SchedAttr};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Arranges the standard streams, and gives them to the user, so that /dev/stdout can be opened again.
pub(super) fn streams<'p>(progress: &Progress<'p>) -> Outcome<'p, ()> {
    let halt = |errno| Halt::new(Step::Streams, errno, b"standard streams");
    if let Some(streams) = progress.prepared.stdio.filter(|_| progress.process.terminal.is_none()) {
        // Out of the way first: one may stand where another is to go.
        let [input, output, error] = streams.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3));
        rustix::stdio::dup2_stdin(input.map_err(halt)?).map_err(halt)?;
        rustix::stdio::dup2_stdout(output.map_err(halt)?).map_err(halt)?;
        rustix::stdio::dup2_stderr(error.map_err(halt)?).map_err(halt)?;
    }
    for fd in 0..3 {
        // SAFETY: the number is only used for two calls, which fail where it is not open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let Ok(status) = rustix::fs::fstat(fd) else { continue };
        let null = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && status.st_rdev == libc::makedev(1, 3);
        if status.st_uid != progress.process.uid && !null {
            // A read-only file system, or an owner outside of the user namespace, stay as they are.
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(progress.process.uid)), None);
        }
    }
    Ok(())
}

/// Everything about the process that takes privileges, apart from those themselves.
pub(super) fn attributes<'p>(progress: &Progress<'p>) -> Outcome<'p, ()> {
    let plan = progress.process;
    if let Some(score) = &plan.oom_score_adj {
        let written =
            write_proc(progress, c"self/oom_score_adj", score.to_bytes()).at(Step::OomScore, score.to_bytes());
        // Lowering it below the parent's takes CAP_SYS_RESOURCE, and no container has to die of its lack.
        if let Err(halt) = written {
            if !matches!(halt.errno, Errno::ACCESS | Errno::PERM) {
                return Err(halt);
            }
            if !is_nothing_to_tell(progress, score.to_bytes()) {
                progress.warn(&halt);
            }
        }
    }
    rlimits(progress)?;
    if let Some(priority) = plan.io_priority {
        sys::ioprio_set(priority).at(Step::IoPriority, b"")?;
    }
    if let Some(scheduler) = plan.scheduler {
        let attr = SchedAttr {
            size: size_of::<SchedAttr>() as u32,
            policy: scheduler.policy,
            flags: scheduler.flags,
            nice: scheduler.nice,
            priority: scheduler.priority,
            runtime: scheduler.runtime,
            deadline: scheduler.deadline,
            period: scheduler.period,
        };
        sys::sched_setattr(&attr).at(Step::Scheduler, b"")?;
    }
    if let Some((mode, nodes)) = &plan.memory_policy {
        sys::set_mempolicy(*mode, nodes).at(Step::MemoryPolicy, b"")?;
    }
    if let Some(persona) = plan.personality {
        sys::personality(persona).at(Step::Personality, b"")?;
    }
    if let Some(profile) = &plan.apparmor {
        write_proc(progress, c"self/attr/apparmor/exec", profile.to_bytes())
            .or_else(|_| write_proc(progress, c"self/attr/exec", profile.to_bytes()))
            .at(Step::Label, profile.to_bytes())?;
    }
    if let Some(label) = &plan.selinux {
        write_proc(progress, c"self/attr/exec", label.to_bytes()).at(Step::Label, label.to_bytes())?;
    }
    Ok(())
}

/// Whether a score that could not be set is the one that the process has, as its parent may have set it, or 0, which is what
/// nobody asked for.
fn is_nothing_to_tell(progress: &Progress<'_>, wanted: &[u8]) -> bool {
    let mut text = [0; 8];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&progress.prepared.proc, c"self/oom_score_adj", flags, Mode::empty());
    let length = file.and_then(|file| rustix::io::read(&file, &mut text)).unwrap_or(0);
    wanted == b"0" || text[..length].trim_ascii_end() == wanted
}

fn write_proc(progress: &Progress<'_>, path: &CStr, value: &[u8]) -> Result<()> {
    let file = rustix::fs::openat(&progress.prepared.proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value).map(drop)
}

const RLIMITS: &[&str] = &[
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// A hard limit that may not be raised stays where it is, with a warning: what can be done is done.
fn rlimits<'p>(progress: &Progress<'p>) -> Outcome<'p, ()> {
    for limit in &progress.process.rlimits {
        let name = RLIMITS.get(limit.resource as usize).map_or(&b""[..], |name| name.as_bytes());
        match sys::prlimit(0, limit.resource, Some((limit.soft, limit.hard))) {
            Ok(_) => {}
            Err(Errno::PERM) => {
                let (_, hard) = sys::prlimit(0, limit.resource, None).at(Step::Rlimit, name)?;
                sys::prlimit(0, limit.resource, Some((limit.soft.min(hard), hard))).at(Step::Rlimit, name)?;
                progress.warn(&Halt::new(Step::Rlimit, Errno::PERM, name));
            }
            Err(errno) => return Err(Halt::new(Step::Rlimit, errno, name)),
        }
    }
    Ok(())
}

/// Becomes the user, with the capabilities of the plan. True says that the filter still has to be loaded by means of
/// CAP_SYS_ADMIN, which is kept until then.
pub(super) fn drop_privileges<'p>(progress: &Progress<'p>) -> Outcome<'p, bool> {
    let plan = progress.process;
    // The first attempt as root, who may pass where the user may not; the second as the user, where root may not
    // (a network file system).
    let entered = rustix::process::chdir(plan.cwd.as_c_str());

    let caps = plan.capabilities;
    for capability in 0..64u64 {
        if caps.bounding & 1 << capability == 0 {
            match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                // Beyond the last one that the kernel knows.
                Err(Errno::INVAL) => break,
                dropped => dropped.map(drop).at(Step::Capabilities, b"(bounding set)")?,
            }
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at(Step::Capabilities, b"")?;
    let detail = b"";
    match sys::setgroups(&plan.groups) {
        Err(Errno::PERM) if plan.groups.is_empty() => {}
        other => other.at(Step::User, b"(additional groups)")?,
    }
    sys::setresgid(plan.gid).at(Step::User, b"(group)")?;
    sys::setresuid(plan.uid).at(Step::User, detail)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).at(Step::Capabilities, b"")?;

    let late = plan.seccomp.is_some() && !plan.no_new_privileges;
    set_capabilities(progress, if late { CAP_SYS_ADMIN } else { 0 })?;
    if entered.is_err() {
        rustix::process::chdir(plan.cwd.as_c_str()).at(Step::WorkingDirectory, plan.cwd.to_bytes())?;
    }
    inside_root().at(Step::WorkingDirectory, plan.cwd.to_bytes())?;
    rustix::process::umask(Mode::from_raw_mode(plan.umask.unwrap_or(0o022)));
    if plan.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::NoNewPrivileges, b"")?;
    }
    Ok(late)
}

/// A working directory given by a descriptor that leaks from the host (`/proc/self/fd/N`) lies outside of the root.
fn inside_root() -> Result<()> {
    let mut buffer = [0u8; 4096];
    // SAFETY: pointer and length are the buffer's.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    if length > 0 && buffer[0] == b'/' { Ok(()) } else { Err(Errno::ACCESS) }
}

/// Sets all five sets; `extra` is kept effective and permitted besides.
fn set_capabilities<'p>(progress: &Progress<'p>, extra: u64) -> Outcome<'p, ()> {
    let caps = progress.process.capabilities;
    // What this process does not have itself, it can't hand on.
    let own = sys::permitted().at(Step::Capabilities, b"")?;
    let wanted = caps.permitted | caps.effective | caps.inheritable;
    if extra == 0 && wanted & !own != 0 {
        progress.warn(&Halt::new(Step::Capabilities, Errno::PERM, missing(wanted & !own)));
    }
    let (permitted, effective) = (caps.permitted & own, caps.effective & caps.permitted & own);
    let extra = extra & own;
    // Raising inheritable beyond what is permitted takes a bit of the bounding set, which the spec has set.
    let inheritable = caps.inheritable & (own | permitted) & caps.bounding;
    sys::capset(effective | extra, permitted | extra, inheritable).at(Step::Capabilities, b"")?;
    sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).at(Step::Capabilities, b"(ambient)")?;
    let ambient = caps.ambient & permitted & inheritable;
    for capability in (0..64u64).filter(|capability| ambient & 1 << capability != 0) {
        sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)
            .at(Step::Capabilities, b"(ambient)")?;
    }
    Ok(())
}

/// Words for the message, without formatting.
fn missing(lacking: u64) -> &'static [u8] {
    if lacking == 1 << 24 { b"(CAP_SYS_RESOURCE is not ours to give)" } else { b"(some are not ours to give)" }
}

/// Looks for the program as its user, while a failure can still be told before the start. `own`: it may be this very program.
pub(super) fn find_program<'p>(progress: &Progress<'p>, own: bool) -> Outcome<'p, &'p CStr> {
    let plan = progress.process;
    let name = plan.argv.first().map_or(&b""[..], |name| name.to_bytes());
    let mut found = Errno::NOENT;
    for candidate in &plan.candidates {
        match executable(candidate, (!own).then_some(progress.prepared.own_program)) {
            Ok(()) => return Ok(candidate.as_c_str()),
            Err(errno) => found = errno,
        }
    }
    // In a search, what can't be executed counts as not found.
    let search = !name.contains(&b'/');
    Err(Halt::new(Step::FindProgram, if search { Errno::NOENT } else { found }, name))
}

fn executable(path: &CStr, forbidden: Option<(u64, u64)>) -> Result<()> {
    let status = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    // By way of /proc/self/exe a container could have us execute ourselves, and then write to us.
    if Some((status.st_dev, status.st_ino)) == forbidden {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::empty())
}

/// Sees to it that no other descriptor survives the exec.
pub(super) fn close_others<'p>(preserve: u32) -> Outcome<'p, ()> {
    sys::close_on_exec(3 + preserve).at(Step::Streams, b"close-on-exec")?;
    for fd in 3..3 + preserve {
        // SAFETY: the number is only used for this call, which fails where it is not open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd as i32) };
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).at(Step::Streams, b"--preserve-fds")?;
    }
    Ok(())
}

/// Says that the program is about to be executed, or hands that over to the program.
pub(super) fn say_executing<'p>(progress: &Progress<'p>, program_reports: bool) -> Outcome<'p, ()> {
    if program_reports {
        return sys::dup_to(progress.sync(), sync::REPORT).at(Step::Streams, b"for the program's report");
    }
    progress.report(Kind::Executing, Step::Exec, &[])
}

/// Loads the filter, and gives up what was kept for that. After it the filter decides what can still be told.
pub(super) fn confine<'p>(progress: &Progress<'p>, seccomp_late: bool) -> Outcome<'p, ()> {
    if let Some(filter) = &progress.process.seccomp {
        load(progress, filter)?;
        if seccomp_late {
            set_capabilities(progress, 0)?;
        }
    }
    Ok(())
}

/// The last step.
pub(super) fn execute<'p>(progress: &Progress<'p>, program: &'p CStr) -> Outcome<'p, Infallible> {
    let plan = progress.process;
    // SAFETY: both arrays were made before the clone and end in null.
    let errno = unsafe { sys::execve(program, &progress.prepared.argv, &progress.prepared.envp) };
    Err(Halt::new(Step::Exec, errno, plan.argv.first().map_or(&b""[..], |name| name.to_bytes())))
}

fn load<'p>(progress: &Progress<'p>, filter: &SeccompPlan) -> Outcome<'p, ()> {
    let listener = sys::seccomp(&filter.filter.0, filter.flags).at(Step::Seccomp, b"")?;
    if let Some(listener) = listener {
        progress.report(Kind::SeccompListener, Step::Seccomp, &[listener.as_fd()])?;
    }
    Ok(())
}

//! What the process' own thread may ask the host's kernel for, once its machine runs.
//!
//! A guest speaks to this thread by its agent's stream. What it could make it do by that is what the thread does anyway, in a root in which nothing can be made but in memory: that is why
//! paths may be opened. The hypervisor's own threads have filters of their own, and QEMU has its.

use nix::libc;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use vmm::{Filter, Limited};

use crate::driver::Driver;
use crate::error::{Error, Result};

/// The agent's stream, signals, standard streams, whoever comes to the control socket with descriptors, what is told to whoever started the process, and files of
/// nothing beside that socket.
const CALLS: &[libc::c_long] = &[
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_openat,
    // Who comes as another container brings its layers along, each of which lies on the disk once.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    // The server of files ends, and its end is asked for.
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Names are asked for at the resolver in this network namespace.
    libc::SYS_connect,
    // A thread of its own: see `THREAD`.
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
];

/// A thread shares all with this one: it is no process.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;

/// A descriptor is copied; streams don't block; a terminal has a size. A thread is made where a file system comes while the machine runs, and where QEMU's state is copied.
const LIMITED: &[Limited] = &[
    (libc::SYS_fcntl, 1, None, &[libc::F_DUPFD_CLOEXEC as u64]),
    (libc::SYS_ioctl, 1, None, &[libc::FIONBIO, libc::TIOCGWINSZ]),
    (libc::SYS_socket, 0, None, &[libc::AF_INET as u64]),
    (libc::SYS_clone, 0, Some(THREAD), &[THREAD]),
    // With a process' first thread glibc installs its handler of that signal of its own (its nptl/pthread_create.c, SIGSETXID).
    (libc::SYS_rt_sigaction, 0, None, &[33]),
    (libc::SYS_prctl, 0, None, &[libc::PR_SET_NAME as u64]),
];

/// What QEMU's driver does besides: its monitor lends a pair of sockets, whose other end a thread copies; the guest's memory is copied by its holes; a QEMU
/// that is wanted no more is killed.
const QEMU: &[libc::c_long] = &[
    libc::SYS_clock_nanosleep,
    libc::SYS_copy_file_range,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_getrandom,
    libc::SYS_lseek,
    libc::SYS_recvfrom,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_statx,
];

const QEMU_LIMITED: &[Limited] =
    &[(libc::SYS_kill, 1, None, &[libc::SIGKILL as u64]), (libc::SYS_socketpair, 0, None, &[libc::AF_UNIX as u64])];

/// Leaves the calling thread, and those that it makes, what it does beside a machine that runs so. Anything else ends the process by `SIGSYS`.
pub(super) fn confine(driver: &Driver) -> Result<()> {
    // Rustix asks for it once: before Linux 6.4, which has a call for that, in a file of `/proc` that it opens by a call of its own.
    let _ = rustix::param::page_size();
    let filter = Filter::default().calls(CALLS).limited(LIMITED);
    without_clone3()?;
    let filter = match driver {
        Driver::Kvm => filter.of_machine(),
        Driver::Qemu { .. } => filter.calls(QEMU).limited(QEMU_LIMITED),
    };
    Ok(filter.apply()?)
}

/// What is to be made stands in memory there, where no filter can look: whoever is told that there is no such call takes clone(2).
fn without_clone3() -> Result<()> {
    let compile = || -> Result<BpfProgram, BackendError> {
        let calls = [(libc::SYS_clone3, Vec::new())].into();
        let no_such_call = SeccompAction::Errno(libc::ENOSYS as u32);
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        SeccompFilter::new(calls, SeccompAction::Allow, no_such_call, architecture)?.try_into()
    };
    let failed = |why: &dyn std::fmt::Display| Error::Confine(why.to_string());
    let filter = compile().map_err(|error| failed(&error))?;
    seccompiler::apply_filter(&filter).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Accelerator;
    use rustix::fs::Mode;
    use std::net::UdpSocket;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::{env, thread};

    /// Something that a process does, and whether it may beside our own hypervisor, and beside QEMU.
    type Try = (&'static str, fn(), bool, bool);

    const TRIES: [Try; 9] = [
        ("gives back what it allocated", allocate, true, true),
        ("names a thread of its own", name_a_thread, true, true),
        (
            "asks whether it could become root",
            || _ = rustix::thread::set_thread_uid(rustix::process::Uid::ROOT),
            false,
            false,
        ),
        ("starts a program", || drop(Command::new("/bin/true").status()), false, false),
        ("binds a socket of a network", || drop(UdpSocket::bind("127.0.0.1:0")), false, false),
        ("makes a namespace", || _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER), false, false),
        (
            "asks a terminal for more than its size",
            || drop(rustix::termios::tcgetattr(rustix::stdio::stdin())),
            false,
            false,
        ),
        ("makes a directory", || _ = rustix::fs::mkdir("/nowhere/at/all", Mode::empty()), false, false),
        ("opens a file", || drop(std::fs::File::open("/nowhere")), true, true),
    ];

    fn allocate() {
        let held: Vec<_> = (0..100).map(|number| vec![1u8; number * 4096]).collect();
        assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 99 * 50 * 4096);
        drop(held);
        sandbox::residence::give_back();
    }

    fn name_a_thread() {
        thread::Builder::new().name("copies".to_owned()).spawn(allocate).unwrap().join().unwrap();
    }

    /// The variable that says which of [`TRIES`] a process is to do, beside what.
    const WHICH: &str = "MICROVM_TEST_CONFINED";

    #[test]
    fn what_the_process_does_not_do_ends_it() {
        let qemu = || Driver::Qemu { program: "qemu".into(), accelerator: Accelerator::Emulation };
        if let Ok(which) = env::var(WHICH) {
            let (driver, number) = which.split_once(' ').unwrap();
            confine(&if driver == "kvm" { Driver::Kvm } else { qemu() }).unwrap();
            TRIES[number.parse::<usize>().unwrap()].1();
            // The harness of tests does what no machine does.
            std::process::exit(7);
        }
        for (number, (what, _, by_kvm, by_qemu)) in TRIES.iter().enumerate() {
            for (driver, may) in [("kvm", *by_kvm), ("qemu", *by_qemu)] {
                let mut again = Command::new(env::current_exe().unwrap());
                again.args(["--exact", "process::confine::tests::what_the_process_does_not_do_ends_it"]);
                let output = again.env(WHICH, format!("{driver} {number}")).output().unwrap();
                let (code, signal) = if may { (Some(7), None) } else { (None, Some(libc::SIGSYS)) };
                let ended = (output.status.code(), output.status.signal());
                assert_eq!(ended, (code, signal), "{driver}: it {what}: {output:?}");
            }
        }
    }
}

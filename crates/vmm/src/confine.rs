//! What each kind of thread may ask the host's kernel for: a seccomp filter for each (seccomp(2)).
//!
//! By `seccompiler`, which is made for this and nothing else, of Rust alone: `sandbox` compiles profiles of containers with libseccomp, whose C library the
//! hypervisor would have in its process for four fixed lists. What a thread does beyond its list ends the process: whoever made it do so is in it.
//! Paths are on no list of theirs: all that a machine's threads work with was opened before. To open a file is refused, and does not end the process, as the C
//! library does so on its own where nobody expects it. Whoever has the machine has a thread of its own, and says itself what that does besides ([`Filter`]).

mod owner;

use crate::arch::current::requests;
use crate::error::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;
use std::io;
use std::mem::offset_of;

/// What a thread is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs a processor, and answers its accesses to registers.
    Vcpu,
    /// Works off what the guest asks of a disk.
    Disk,
    /// Copies requests for a file server, and its answers.
    Files,
    /// Serves the other queues, and what the host has for the guest.
    Events,
    /// Writes what the guest wrote to its serial port.
    Console,
    /// Brings pages of a snapshot as they are touched.
    Pages,
}

impl Kind {
    /// What one waits for that does not come to rest, for people.
    pub(crate) fn waits_for(self) -> &'static str {
        match self {
            Kind::Vcpu => "a processor of it, which waits for a device",
            Kind::Disk => "one of its disks, which does not answer",
            Kind::Files => "the server of its volumes, one of which does not answer",
            Kind::Events | Kind::Console | Kind::Pages => "a thread of its own",
        }
    }
}

/// `KVM_RUN` (linux/kvm.h).
const KVM_RUN: u64 = 0xae80;
/// `KVM_SET_USER_MEMORY_REGION`: memory comes and goes. The memory is this process's own.
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
/// `TUNSETOFFLOAD` (linux/if_tun.h): a guest has accepted its network card.
const TUN_SET_OFFLOAD: u64 = 0x4004_54d0;

/// What every thread does: it waits for others, has memory, is signalled, writes to standard error when it panics, and ends.
const COMMON: [libc::c_long; 21] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_futex,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rseq,
    // The C library's allocator, when a ninth thread allocates: how many of them it is to have memory of their own for.
    libc::SYS_sched_getaffinity,
];

/// What a kind does besides.
fn own(kind: Kind) -> &'static [libc::c_long] {
    match kind {
        // A device that is reset on a processor's thread forgets whom it waits for.
        Kind::Vcpu => &[libc::SYS_epoll_ctl],
        Kind::Disk => &[
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_fdatasync,
            libc::SYS_fallocate,
            libc::SYS_poll,
            libc::SYS_ppoll,
        ],
        Kind::Events => &[
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            libc::SYS_epoll_ctl,
            libc::SYS_poll,
            libc::SYS_ppoll,
            libc::SYS_accept4,
            libc::SYS_connect,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_sendto,
            libc::SYS_recvfrom,
            libc::SYS_shutdown,
            libc::SYS_getrandom,
            libc::SYS_timerfd_settime,
        ],
        Kind::Pages => &[libc::SYS_pread64, libc::SYS_poll, libc::SYS_ppoll],
        Kind::Console | Kind::Files => &[libc::SYS_poll, libc::SYS_ppoll],
    }
}

/// Calls that are allowed where an argument is one of some: the call, the argument's number, a mask of it and the values.
pub type Limited = (libc::c_long, u8, Option<u64>, &'static [u64]);

/// What every thread does in this form alone: memory is mapped, and its protection changed, never so that it could be run; a descriptor is looked at before it is
/// closed, where Rust's library was built to.
const COMMON_LIMITED: [Limited; 3] = [
    (libc::SYS_mmap, 2, Some(libc::PROT_EXEC as u64), &[0]),
    (libc::SYS_mprotect, 2, Some(libc::PROT_EXEC as u64), &[0]),
    (libc::SYS_fcntl, 1, None, &[libc::F_GETFD as u64]),
];

fn limited(kind: Kind) -> &'static [Limited] {
    match kind {
        Kind::Vcpu => &[(libc::SYS_ioctl, 1, None, &[KVM_RUN, requests::INSTRUCTION, TUN_SET_OFFLOAD])],
        Kind::Events => &[
            (libc::SYS_ioctl, 1, None, &[libc::FIONBIO, KVM_SET_USER_MEMORY_REGION]),
            (libc::SYS_socket, 0, None, &[libc::AF_UNIX as u64]),
            (libc::SYS_socketpair, 0, None, &[libc::AF_UNIX as u64]),
        ],
        Kind::Pages => &[(libc::SYS_ioctl, 1, None, &crate::memory::REQUESTS)],
        Kind::Disk | Kind::Console | Kind::Files => &[],
    }
}

/// What a thread may ask for: what every thread does, and more. It is made for a thread that lives long, and holds for those that it makes as well.
///
/// Whatever else it does ends its process by `SIGSYS` (seccomp(2), `SECCOMP_RET_KILL_PROCESS`), of which the kernel writes a line into its log; but `openat`, where
/// it is not on the list, fails with `EACCES`.
#[derive(Debug)]
pub struct Filter {
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    /// Something could not be made a rule.
    failed: Option<seccompiler::BackendError>,
}

impl Default for Filter {
    /// What every thread does.
    fn default() -> Filter {
        let empty = Filter { rules: BTreeMap::new(), failed: None };
        empty.calls(&COMMON).limited(&COMMON_LIMITED)
    }
}

impl Filter {
    /// These calls, whatever their arguments are.
    #[must_use]
    pub fn calls(mut self, calls: &[libc::c_long]) -> Filter {
        self.rules.extend(calls.iter().map(|call| (*call, Vec::new())));
        self
    }

    /// These calls where an argument is one of some.
    #[must_use]
    pub fn limited(mut self, calls: &[Limited]) -> Filter {
        for (call, argument, mask, values) in calls {
            for value in *values {
                let operator = mask.map_or(SeccompCmpOp::Eq, SeccompCmpOp::MaskedEq);
                let condition = SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator, *value);
                match condition.and_then(|condition| SeccompRule::new(vec![condition])) {
                    Ok(rule) => self.rules.entry(*call).or_default().push(rule),
                    Err(error) => self.failed = Some(error),
                }
            }
        }
        self
    }

    /// What saving, resizing, pausing and ending a [`Machine`](crate::Machine) takes of the thread that has it.
    #[must_use]
    pub fn of_machine(self) -> Filter {
        self.calls(&owner::CALLS).limited(&owner::LIMITED)
    }

    /// Has it hold for the calling thread from now on, and for all that it makes.
    ///
    /// # Errors
    /// The kernel has no seccomp, or no memory.
    pub fn apply(self) -> Result<()> {
        apply(&self.compile().map_err(not_made)?)
    }

    fn compile(self) -> Result<BpfProgram, seccompiler::BackendError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        let opens = self.rules.contains_key(&libc::SYS_openat);
        let listed: BpfProgram =
            SeccompFilter::new(self.rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?
                .try_into()?;
        Ok(if opens { listed } else { OPENING_IS_REFUSED.into_iter().chain(listed).collect() })
    }
}

/// What comes before a list that does not have `openat`. glibc opens `/proc/sys/vm/overcommit_memory` when a thread other than the first first gives back memory (its
/// malloc/arena.c), which may be at any time, and goes on where it may not; Rust's library opens `/proc/self/exe` for the trace of a panic.
///
/// In whatever way another architecture's calls are numbered: what is refused here would have ended the process.
const OPENING_IS_REFUSED: [sock_filter; 3] = [
    bpf(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset_of!(libc::seccomp_data, nr) as u32, 0),
    // On to what follows, or past it.
    bpf(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_openat as u32, 1),
    bpf(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32, 0),
];

/// An instruction of the kernel's classic BPF (its networking/filter.rst), which leaves out so many where what it compares differs.
const fn bpf(code: u32, k: u32, otherwise: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: otherwise, k }
}

fn not_made(error: seccompiler::BackendError) -> Error {
    Error::Host { what: "make a seccomp filter", source: io::Error::other(error) }
}

/// The filter of a kind of thread.
pub(crate) fn filter(kind: Kind) -> Result<BpfProgram> {
    Filter::default().calls(own(kind)).limited(limited(kind)).compile().map_err(not_made)
}

/// Has the filter hold for the calling thread from now on.
pub(crate) fn apply(filter: &BpfProgram) -> Result<()> {
    seccompiler::apply_filter(filter).map_err(|error| Error::Host {
        what: "confine a thread of a machine (seccomp)",
        source: io::Error::other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::{Arc, Barrier};
    use std::thread;

    const KINDS: [Kind; 6] = [Kind::Vcpu, Kind::Disk, Kind::Events, Kind::Console, Kind::Files, Kind::Pages];

    /// What a thread of that name tries, in a process of its own, which the kernel is to end.
    const TRIES: [(&str, Kind, fn()); 7] = [
        ("pages look at a file", Kind::Pages, || drop(std::fs::metadata("/dev/null"))),
        ("files take away a file", Kind::Files, || drop(std::fs::remove_file("/nothing of that name"))),
        ("vcpu asks a terminal", Kind::Vcpu, || {
            // SAFETY: the request is given no memory.
            let _ = unsafe { libc::ioctl(0, libc::TIOCEXCL) };
        }),
        ("disk makes a socket", Kind::Disk, || drop(std::os::unix::net::UnixStream::pair())),
        ("events make a socket of a network", Kind::Events, || drop(std::net::UdpSocket::bind("127.0.0.1:0"))),
        ("events map what can be run", Kind::Events, || {
            // SAFETY: the kernel chooses an address where nothing is.
            let _ = unsafe {
                rustix::mm::mmap_anonymous(
                    std::ptr::null_mut(),
                    4096,
                    rustix::mm::ProtFlags::EXEC,
                    rustix::mm::MapFlags::PRIVATE,
                )
            };
        }),
        ("console starts a program", Kind::Console, || drop(Command::new("/bin/true").status())),
    ];

    /// The variable that says which of [`TRIES`] a process is to do.
    const WHICH: &str = "VMM_TEST_CONFINED";

    #[test]
    fn who_does_what_it_may_not_is_killed() {
        if let Some(which) = std::env::var(WHICH).ok().and_then(|which| which.parse::<usize>().ok()) {
            let (_, kind, does) = TRIES[which];
            let filter = filter(kind).unwrap();
            thread::spawn(move || {
                apply(&filter).unwrap();
                does();
            })
            .join()
            .unwrap();
            return;
        }
        for (number, (what, ..)) in TRIES.iter().enumerate() {
            let mut again = Command::new(std::env::current_exe().unwrap());
            again
                .args(["--exact", "confine::tests::who_does_what_it_may_not_is_killed"])
                .env(WHICH, number.to_string());
            let output = again.output().unwrap();
            assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{what}: {output:?}");
        }
    }

    #[test]
    fn nothing_is_opened() {
        for kind in KINDS {
            let filter = filter(kind).unwrap();
            let opened = thread::spawn(move || {
                apply(&filter).unwrap();
                std::fs::File::open("/dev/null").map(|_| ())
            });
            assert_eq!(opened.join().unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied, "{kind:?}");
        }
    }

    #[test]
    fn threads_allocate_and_end_within_their_filters() {
        for kind in KINDS {
            let filter = filter(kind).unwrap();
            // So many at once that they share what the allocator has, with so much that it gives some back.
            let together = Arc::new(Barrier::new(20));
            let threads = (0..20).map(|_| (filter.clone(), Arc::clone(&together)));
            let threads = threads.map(|(filter, together)| {
                thread::spawn(move || {
                    together.wait();
                    apply(&filter).unwrap();
                    let held: Vec<_> = (0..100).map(|number| vec![1u8; number * 1024]).collect();
                    held.iter().map(Vec::len).sum::<usize>()
                })
            });
            for summed in threads.collect::<Vec<_>>() {
                assert_eq!(summed.join().unwrap(), 99 * 50 * 1024);
            }
        }
    }
}

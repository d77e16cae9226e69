//! What the thread that has a machine asks the host's kernel for when it saves, resizes, pauses or ends it.

use super::Limited;
use crate::arch::current::requests;

/// The files of a snapshot are as long as its memory, and written in pieces; which pages a machine has of its own, `/proc/self/pagemap` says; a snapshot
/// has a name that no other one has; a card that was held back is looked at anew.
pub(super) const CALLS: [libc::c_long; 20] = [
    libc::SYS_ftruncate,
    libc::SYS_pwrite64,
    libc::SYS_pread64,
    libc::SYS_openat,
    libc::SYS_getrandom,
    libc::SYS_epoll_ctl,
    libc::SYS_timerfd_settime,
    // The server of a file system hands over what it knows, within a time.
    libc::SYS_setsockopt,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // A network card that is plugged in has a clock of its own.
    libc::SYS_timerfd_create,
    // How long a file is that is laid over a part of a disk.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    // A file system that is plugged in has memory that it shares with its server, and a thread, which confines itself further.
    libc::SYS_memfd_create,
    libc::SYS_eventfd2,
    libc::SYS_seccomp,
    libc::SYS_getsockopt,
];

/// Of KVM, what a snapshot has of it: nothing that a running machine could be changed by.
pub(super) const LIMITED: [Limited; 4] = [
    (libc::SYS_ioctl, 1, None, &requests::TO_SAVE),
    (libc::SYS_ioctl, 1, None, &TAP),
    (libc::SYS_socketpair, 0, None, &[libc::AF_UNIX as u64]),
    (libc::SYS_prctl, 0, None, &[libc::PR_SET_NO_NEW_PRIVS as u64]),
];

/// Of a tap, what has a network card come that is plugged in: `TUNSETIFF`, `TUNSETVNETHDRSZ` and `TUNSETOFFLOAD` (linux/if_tun.h), and that it does not block.
const TAP: [u64; 4] = [0x4004_54ca, 0x4004_54d8, 0x4004_54d0, libc::FIONBIO];

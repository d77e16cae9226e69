//! What the thread that has a machine asks the host's kernel for when it saves, resizes, pauses or ends it.

use super::Limited;
use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_list, kvm_msrs, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

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
    (libc::SYS_ioctl, 1, None, &REQUESTS),
    (libc::SYS_ioctl, 1, None, &TAP),
    (libc::SYS_socketpair, 0, None, &[libc::AF_UNIX as u64]),
    (libc::SYS_prctl, 0, None, &[libc::PR_SET_NO_NEW_PRIVS as u64]),
];

/// Of a tap, what has a network card come that is plugged in: `TUNSETIFF`, `TUNSETVNETHDRSZ` and `TUNSETOFFLOAD` (linux/if_tun.h), and that it does not block.
const TAP: [u64; 4] = [0x4004_54ca, 0x4004_54d8, 0x4004_54d0, libc::FIONBIO];

/// How a request's argument goes (asm-generic/ioctl.h).
const NONE: u64 = 0;
const READ: u64 = 2;
const BOTH: u64 = 3;

/// By the kernel's linux/kvm.h: `KVM_GET_MSR_INDEX_LIST`; of a machine `KVM_GET_IRQCHIP` and `KVM_GET_CLOCK`; of a processor `KVM_GET_REGS`, `_SREGS`, `_MSRS`,
/// `_LAPIC`, `_MP_STATE`, `_VCPU_EVENTS`, `_DEBUGREGS`, `_TSC_KHZ`, `_XSAVE` and `_XCRS`, and `KVM_KVMCLOCK_CTRL`, by which it is told that it rested.
const REQUESTS: [u64; 14] = [
    request::<kvm_msr_list>(BOTH, 0x02),
    request::<kvm_irqchip>(BOTH, 0x62),
    request::<kvm_clock_data>(READ, 0x7c),
    request::<kvm_regs>(READ, 0x81),
    request::<kvm_sregs>(READ, 0x83),
    request::<kvm_msrs>(BOTH, 0x88),
    request::<kvm_lapic_state>(READ, 0x8e),
    request::<kvm_mp_state>(READ, 0x98),
    request::<kvm_vcpu_events>(READ, 0x9f),
    request::<kvm_debugregs>(READ, 0xa1),
    request::<()>(NONE, 0xa3),
    request::<kvm_xsave>(READ, 0xa4),
    request::<kvm_xcrs>(READ, 0xa6),
    request::<()>(NONE, 0xad),
];

/// A request of KVM's by its number (asm-generic/ioctl.h, `_IOC`).
const fn request<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | 0xae << 8 | number
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they stand in the kernel's own headers, for x86-64.
    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!(request::<kvm_regs>(READ, 0x81), 0x8090_ae81);
        assert_eq!(request::<kvm_msr_list>(BOTH, 0x02), 0xc004_ae02);
        assert_eq!(request::<kvm_msrs>(BOTH, 0x88), 0xc008_ae88);
        assert_eq!(request::<()>(NONE, 0xad), 0xaead);
    }
}

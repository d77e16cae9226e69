//! What is asked of KVM of a machine that is there, by the numbers of the requests: other architectures have other registers, and of other lengths.

use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_list, kvm_msrs, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// How a request's argument goes (asm-generic/ioctl.h).
const NONE: u64 = 0;
const READ: u64 = 2;
const BOTH: u64 = 3;

/// `KVM_GET_REGS`, which [`super::registers::instruction`] is.
pub(crate) const INSTRUCTION: u64 = request::<kvm_regs>(READ, 0x81);

/// What a snapshot takes, by the kernel's linux/kvm.h: `KVM_GET_MSR_INDEX_LIST`; of a machine `KVM_GET_IRQCHIP` and `KVM_GET_CLOCK`; of a processor `KVM_GET_REGS`, `_SREGS`, `_MSRS`,
/// `_LAPIC`, `_MP_STATE`, `_VCPU_EVENTS`, `_DEBUGREGS`, `_TSC_KHZ`, `_XSAVE` and `_XCRS`, and `KVM_KVMCLOCK_CTRL`, by which it is told that it rested.
pub(crate) const TO_SAVE: [u64; 14] = [
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

//! What a processor's registers are at its start, whatever is booted.

use super::entry::Entry;
use crate::error::{Error, Result};
use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use std::io;

/// Model-specific registers (Intel's SDM volume 4) that differ from what KVM has them be.
mod msr {
    /// What firmware switches on: fast string instructions.
    pub(super) const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
    /// Memory is cached, written back, where no other range says otherwise: kernels take that from the firmware.
    pub(super) const MTRR_DEFAULT: (u32, u64) = (0x2ff, 1 << 11 | 6);
}

/// Offsets into the local APIC's registers, and the modes of its two pins (Intel's SDM volume 3A, 11.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY: u32 = 0x700;
const DELIVER_NMI: u32 = 0x400;
const MASKED: u32 = 1 << 16;

/// Gives a processor that was just made its registers. Those but the first wait for it to be woken, and have no `entry`.
pub(crate) fn set(vcpu: &VcpuFd, entry: Option<Entry>) -> Result<()> {
    let msrs =
        [msr::MISC_ENABLE, msr::MTRR_DEFAULT].map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&msrs).map_err(|_| Error::KvmLacks("room for two registers"))?;
    let set = vcpu.set_msrs(&msrs).map_err(Error::kvm("to set a processor's registers (KVM_SET_MSRS)"))?;
    if set < msrs.as_slice().len() {
        return Err(Error::KvmLacks("registers that firmware sets (MISC_ENABLE, MTRR_DEF_TYPE)"));
    }
    // As after FNINIT, and with all floating point exceptions masked.
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(Error::kvm("to set a processor's registers (KVM_SET_FPU)"))?;
    if let Some(entry) = entry {
        let mut special = vcpu.get_sregs().map_err(Error::kvm("for a processor's registers (KVM_GET_SREGS)"))?;
        entry.adapt(&mut special);
        vcpu.set_sregs(&special).map_err(Error::kvm("to set a processor's registers (KVM_SET_SREGS)"))?;
        vcpu.set_regs(&entry.registers()).map_err(Error::kvm("to set a processor's registers (KVM_SET_REGS)"))?;
    }
    pins(vcpu)
}

/// Where a processor's next instruction is, for the text of an error.
pub(crate) fn instruction(vcpu: &VcpuFd) -> io::Result<u64> {
    let registers = vcpu.get_regs().map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    Ok(registers.rip)
}

/// The guest's watchdogs are told that a processor did not run. A guest that has no clock of KVM's can't be.
pub(crate) fn has_rested(vcpu: &VcpuFd) {
    let _ = vcpu.kvmclock_ctrl();
}

/// The pins of the local APIC: what firmware would set, but that nothing comes from an 8259.
fn pins(vcpu: &VcpuFd) -> Result<()> {
    let mut apic = vcpu.get_lapic().map_err(Error::kvm("for a processor's APIC (KVM_GET_LAPIC)"))?;
    let first = register(&apic, LVT_LINT0) | MASKED;
    set_register(&mut apic, LVT_LINT0, first);
    let second = register(&apic, LVT_LINT1) & !DELIVERY | DELIVER_NMI;
    set_register(&mut apic, LVT_LINT1, second);
    vcpu.set_lapic(&apic).map_err(Error::kvm("to set a processor's APIC (KVM_SET_LAPIC)"))
}

fn register(apic: &kvm_lapic_state, offset: usize) -> u32 {
    let bytes = [0, 1, 2, 3].map(|at| apic.regs[offset + at].cast_unsigned());
    u32::from_le_bytes(bytes)
}

fn set_register(apic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (at, byte) in value.to_le_bytes().into_iter().enumerate() {
        apic.regs[offset + at] = byte.cast_signed();
    }
}

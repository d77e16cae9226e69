//! All that a processor is at a moment, to be read and set again: by a machine that goes on from a snapshot, on the same kind of processor.
//!
//! The order matters in some places (the kernel's Documentation/virt/kvm/api.rst): asking for the state of the APIC's wake-up makes KVM take in what is pending, so
//! it comes first; the APIC's registers come behind the special registers, which have its base, and before the model-specific ones, which have its deadline;
//! pending events come last.

use crate::error::{Error, Result};
use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

/// The time-stamp counter, and the deadline of the APIC's timer in it (Intel's SDM volume 4).
const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;
/// Registers that are asked for at once: KVM takes 256.
const AT_ONCE: usize = 256;

/// A processor.
#[derive(Serialize, Deserialize)]
pub(crate) struct VcpuState {
    wake_up: kvm_mp_state,
    registers: kvm_regs,
    special: kvm_sregs,
    floating: kvm_xsave,
    controls: kvm_xcrs,
    debug: kvm_debugregs,
    apic: kvm_lapic_state,
    /// How fast its time-stamp counter goes, if KVM says so.
    tsc_khz: Option<u32>,
    cpuid: Vec<kvm_cpuid_entry2>,
    model_specific: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// Reads all of a processor that rests, and was told to say `cpuid`. `model_specific` are the numbers of the registers that KVM has a guest's own values of.
    pub(crate) fn of(vcpu: &VcpuFd, cpuid: &CpuId, model_specific: &[u32]) -> Result<VcpuState> {
        let failed = "for a processor's registers, to save them";
        let wake_up = vcpu.get_mp_state().map_err(Error::kvm(failed))?;
        Ok(VcpuState {
            wake_up,
            registers: vcpu.get_regs().map_err(Error::kvm(failed))?,
            special: vcpu.get_sregs().map_err(Error::kvm(failed))?,
            floating: vcpu.get_xsave().map_err(Error::kvm(failed))?,
            controls: vcpu.get_xcrs().map_err(Error::kvm(failed))?,
            debug: vcpu.get_debug_regs().map_err(Error::kvm(failed))?,
            apic: vcpu.get_lapic().map_err(Error::kvm(failed))?,
            tsc_khz: vcpu.get_tsc_khz().ok(),
            cpuid: cpuid.as_slice().to_vec(),
            model_specific: read(vcpu, model_specific)?,
            events: vcpu.get_vcpu_events().map_err(Error::kvm(failed))?,
        })
    }

    /// What the processor says that it is: set before the rest.
    pub(crate) fn cpuid(&self) -> Result<CpuId> {
        CpuId::from_entries(&self.cpuid).map_err(|_| Error::KvmLacks("room for what a processor says (CPUID)"))
    }

    /// Sets all of a processor that was just made.
    pub(crate) fn set(&self, vcpu: &VcpuFd) -> Result<()> {
        let failed = "to set a processor's registers as they were saved";
        if let Some(khz) = self.tsc_khz.filter(|khz| vcpu.get_tsc_khz().ok() != Some(*khz)) {
            vcpu.set_tsc_khz(khz).map_err(Error::kvm("for a time-stamp counter as fast as the one that was saved"))?;
        }
        vcpu.set_mp_state(self.wake_up).map_err(Error::kvm(failed))?;
        vcpu.set_regs(&self.registers).map_err(Error::kvm(failed))?;
        vcpu.set_sregs(&self.special).map_err(Error::kvm(failed))?;
        // SAFETY: the structure is as long as all that KVM reads where a guest was not permitted more (AMX), which none is: its tiles are not
        // among what processors offer unless the process asked for them.
        unsafe { vcpu.set_xsave(&self.floating) }.map_err(Error::kvm(failed))?;
        vcpu.set_xcrs(&self.controls).map_err(Error::kvm(failed))?;
        vcpu.set_debug_regs(&self.debug).map_err(Error::kvm(failed))?;
        vcpu.set_lapic(&self.apic).map_err(Error::kvm(failed))?;
        write(vcpu, &self.model_specific)?;
        vcpu.set_vcpu_events(&self.events).map_err(Error::kvm(failed))?;
        // Its watchdogs are told that it did not run. A guest that has no clock of KVM's can't be.
        let _ = vcpu.kvmclock_ctrl();
        Ok(())
    }
}

fn some(entries: &[kvm_msr_entry]) -> Result<Msrs> {
    Msrs::from_entries(entries).map_err(|_| Error::KvmLacks("room for a processor's registers"))
}

/// Reads what there is of these registers. KVM stops at one that it has not: it is left out.
fn read(vcpu: &VcpuFd, numbers: &[u32]) -> Result<Vec<kvm_msr_entry>> {
    let mut all = Vec::with_capacity(numbers.len());
    let mut rest = numbers;
    while !rest.is_empty() {
        let part = &rest[..rest.len().min(AT_ONCE)];
        let asked: Vec<_> = part.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = some(&asked)?;
        let count =
            vcpu.get_msrs(&mut msrs).map_err(Error::kvm("for a processor's registers (KVM_GET_MSRS)"))?.min(part.len());
        all.extend_from_slice(&msrs.as_slice()[..count]);
        rest = &rest[(count + usize::from(count < part.len()))..];
    }
    let now = all.iter().find(|entry| entry.index == TSC).map_or(0, |entry| entry.data);
    for entry in &mut all {
        // A timer that has gone off and whose interrupt the guest has not got yet has no deadline any more, and would never go off: it does at once.
        if entry.index == TSC_DEADLINE && entry.data == 0 {
            entry.data = now;
        }
    }
    Ok(all)
}

/// Sets these registers. One that can't be set may only be missing if it is 0, as it is without.
fn write(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<()> {
    let mut rest = entries;
    while !rest.is_empty() {
        let part = &rest[..rest.len().min(AT_ONCE)];
        let count = vcpu
            .set_msrs(&some(part)?)
            .map_err(Error::kvm("to set a processor's registers (KVM_SET_MSRS)"))?
            .min(part.len());
        if let Some(refused) = part.get(count).filter(|refused| refused.data != 0) {
            return Err(Error::Snapshot(format!(
                "this host's KVM does not take the register {:#x} of a saved processor: it is of another kind",
                refused.index
            )));
        }
        rest = &rest[(count + usize::from(count < part.len()))..];
    }
    Ok(())
}

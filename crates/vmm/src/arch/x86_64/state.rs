//! All that a processor is at a moment, to be read and set again: by a machine that goes on from a snapshot, on the same kind of processor.
//!
//! The order matters in some places (the kernel's Documentation/virt/kvm/api.rst): asking for the state of the APIC's wake-up makes KVM take in what is pending, so
//! it comes first; the APIC's registers come behind the special registers, which have its base, and before the model-specific ones, which have its deadline;
//! pending events come last.

use super::registers;
use crate::error::{Error, Result};
use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

/// The time-stamp counter, and the deadline of the APIC's timer in it (Intel's SDM volume 4).
const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;
/// What faults a processor has not, and what else it can do about faults (Intel's SDM volume 4), which a guest may read where CPUID says so.
const ARCH_CAPABILITIES: u32 = 0x10a;
/// That retpolines do not do on it: the one way in which it says that it is worse.
const WORSE: u64 = 1 << 2 | 1 << 19;
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
    pub(crate) fn of(vcpu: &VcpuFd, cpuid: Vec<kvm_cpuid_entry2>, model_specific: &[u32]) -> Result<VcpuState> {
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
            model_specific: read(vcpu, &readable(&cpuid, model_specific))?,
            cpuid,
            events: vcpu.get_vcpu_events().map_err(Error::kvm(failed))?,
        })
    }

    /// What the processor says that it is: set before the rest.
    pub(crate) fn cpuid(&self) -> Result<CpuId> {
        CpuId::from_entries(&self.cpuid).map_err(|_| Error::KvmLacks("room for what a processor says (CPUID)"))
    }

    /// Whether the host's processors, whose `ARCH_CAPABILITIES` are those, have none of the faults that the guest was told it has not.
    ///
    /// # Errors
    /// They have one, against which the guest does nothing.
    pub(crate) fn has_no_further_faults(&self, here: u64) -> Result<()> {
        match further_faults(&self.model_specific, here) {
            0 => Ok(()),
            lacking => Err(Error::Snapshot(format!(
                "this host's processors have faults that those of a snapshot have not, and its guest does nothing about them (ARCH_CAPABILITIES lacks bits {lacking:#x}): go on on a host of the same kind, \
                or save what has a processor of a level, which never says such things"
            ))),
        }
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
        registers::has_rested(vcpu);
        Ok(())
    }
}

/// What a saved processor has not, and one here may have, by bits of `ARCH_CAPABILITIES`.
fn further_faults(saved: &[kvm_msr_entry], here: u64) -> u64 {
    let saved = saved.iter().find(|entry| entry.index == ARCH_CAPABILITIES);
    saved.map_or(0, |entry| entry.data & !here & !WORSE)
}

/// The registers that are a guest's: what it can't read it goes on without.
fn readable(cpuid: &[kvm_cpuid_entry2], model_specific: &[u32]) -> Vec<u32> {
    let told = cpuid.iter().any(|entry| (entry.function, entry.index) == (7, 0) && entry.edx & 1 << 29 != 0);
    model_specific.iter().copied().filter(|index| *index != ARCH_CAPABILITIES || told).collect()
}

/// What KVM has processors here say that they have no fault of; none, where they say nothing.
pub(crate) fn arch_capabilities(kvm: &Kvm) -> u64 {
    let asked = kvm_msr_entry { index: ARCH_CAPABILITIES, ..Default::default() };
    // Not each KVM knows the register: no guest was told of it then.
    let Ok(mut msrs) = Msrs::from_entries(&[asked]) else { return 0 };
    match kvm.get_msrs(&mut msrs) {
        Ok(1) => msrs.as_slice().first().map_or(0, |entry| entry.data),
        _ => 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn says(index: u32, edx: u32) -> [kvm_cpuid_entry2; 1] {
        [kvm_cpuid_entry2 { function: 7, index, edx, ..Default::default() }]
    }

    #[test]
    fn what_a_guest_is_not_told_of_is_not_saved() {
        let all = [TSC, ARCH_CAPABILITIES];
        assert_eq!(readable(&says(0, 1 << 29), &all), all);
        assert_eq!(readable(&says(0, !(1 << 29)), &all), [TSC]);
        assert_eq!(readable(&says(1, 1 << 29), &all), [TSC]);
    }

    #[test]
    fn a_host_with_further_faults_is_told_from_one_with_fewer() {
        let further = |saved: u64, here: u64| {
            let entry = kvm_msr_entry { index: ARCH_CAPABILITIES, data: saved, ..Default::default() };
            further_faults(&[entry], here)
        };
        assert_eq!(further(0b1001, 0b1101), 0);
        assert_eq!(further(0b1001, 0b1000), 1);
        // That it is worse there than here keeps nobody from going on.
        assert_eq!(further(WORSE | 1, 1), 0);
        assert_eq!(further_faults(&[], 0), 0);
    }
}

//! Whether the host's KVM runs guests by the processor's own means. Some hosts, themselves virtual, have one that carries out a guest's kernel
//! instruction by instruction: it runs what tests write for it, and takes minutes for what a kernel does in a second.

use crate::config::{MIB, MemorySize};
use crate::error::{Error, Result};
use crate::memory::Memory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use std::io;
use std::time::{Duration, Instant};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Where the guest begins, in real mode.
const START: u64 = 0x1000;
/// A guest that counts down from `ROUNDS`, two instructions a round, and halts.
const COUNTS: [u8; 7] = [0xb9, ROUNDS.to_le_bytes()[0], ROUNDS.to_le_bytes()[1], 0x49, 0x75, 0xfd, 0xf4];
const ROUNDS: u16 = 4096;
/// A processor takes some 10 µs for it, with the way in and out of the guest; one that is itself emulated, a tenth of a millisecond; a KVM that
/// carries out each instruction in software, 2 to 4 ms.
const LIMIT: Duration = Duration::from_micros(800);
/// The best of so many counts: others may be given the processor meanwhile.
const TRIES: usize = 5;

/// What the host's KVM can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Virtualization {
    /// It runs kernels.
    Hardware,
    /// It carries out instructions in software: kernels are out of reach.
    Software,
}

/// Looks by how long a small guest takes to count: some milliseconds, and nothing is booted.
///
/// # Errors
/// There is no KVM here, or it can't be used.
pub fn probe() -> Result<Virtualization> {
    let kvm = Kvm::new().map_err(|error| Error::NoKvm { source: io::Error::from_raw_os_error(error.errno()) })?;
    let vm = kvm.create_vm().map_err(Error::kvm("for a virtual machine (KVM_CREATE_VM)"))?;
    let memory =
        Memory::new(MemorySize::from_mib(MemorySize::MIN_MIB)?, &[(GuestAddress(0), MemorySize::MIN_MIB * MIB)])?;
    memory.write("a guest that counts", GuestAddress(START), &COUNTS)?;
    for (slot, region) in memory.regions().iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the region is mapped for as long as `memory` lives, which is dropped after `vm`, which was made before it is used here and whose
        // processors run in this function only.
        unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("for memory (KVM_SET_USER_MEMORY_REGION)"))?;
    }
    let mut vcpu = vm.create_vcpu(0).map_err(Error::kvm("for a processor (KVM_CREATE_VCPU)"))?;
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        best = best.min(count(&mut vcpu)?);
    }
    drop((vcpu, vm));
    drop(memory);
    Ok(if best <= LIMIT { Virtualization::Hardware } else { Virtualization::Software })
}

/// How long the guest takes.
fn count(vcpu: &mut VcpuFd) -> Result<Duration> {
    let mut special = vcpu.get_sregs().map_err(Error::kvm("for its registers (KVM_GET_SREGS)"))?;
    (special.cs.base, special.cs.selector) = (0, 0);
    vcpu.set_sregs(&special).map_err(Error::kvm("to set registers (KVM_SET_SREGS)"))?;
    let mut registers = vcpu.get_regs().map_err(Error::kvm("for its registers (KVM_GET_REGS)"))?;
    // The bit that always is one.
    (registers.rip, registers.rflags) = (START, 2);
    vcpu.set_regs(&registers).map_err(Error::kvm("to set registers (KVM_SET_REGS)"))?;
    let begun = Instant::now();
    match vcpu.run() {
        Ok(VcpuExit::Hlt) => Ok(begun.elapsed()),
        // Interrupted: this one counts for nothing.
        Err(error) if error.errno() == libc::EINTR => Ok(Duration::MAX),
        Ok(other) => Err(Error::Size(format!("KVM ends a guest that counts with {other:?}"))),
        Err(error) => Err(Error::kvm("to run a processor (KVM_RUN)")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_counts_on_any_kvm() {
        // What it says is the host's matter; that it says something, ours.
        match probe() {
            Ok(_) | Err(Error::NoKvm { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

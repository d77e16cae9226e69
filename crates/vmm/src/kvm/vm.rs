//! A virtual machine as the kernel has it: memory slots, interrupt controllers, lines.

use crate::arch::current::controllers::{self, VmState};
use crate::arch::current::cpuid::{Template, Told};
use crate::arch::current::state::{VcpuState, arch_capabilities};
use crate::config::VcpuCount;
use crate::devices::virtio::memory::Opener;
use crate::error::{Error, Result};
use crate::events::event;
use crate::kvm::Vcpu;
use crate::memory::Memory;
use crate::processor::Processor;
use kvm_bindings::{CpuId, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// What this needs of KVM, beyond what each has had since Linux 5.10.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::Irqchip, "interrupt controllers in the kernel (KVM_CAP_IRQCHIP)"),
    (Cap::Irqfd, "interrupts by eventfd (KVM_CAP_IRQFD)"),
    (Cap::Ioeventfd, "notifications by eventfd (KVM_CAP_IOEVENTFD)"),
    (Cap::UserMemory, "memory of a process (KVM_CAP_USER_MEMORY)"),
    (Cap::ImmediateExit, "a way to stop a processor (KVM_CAP_IMMEDIATE_EXIT)"),
];

/// A virtual machine.
#[derive(Debug)]
pub(crate) struct Vm {
    kvm: Kvm,
    fd: Arc<VmFd>,
    processor: Processor,
    /// What its slots point at: it is mapped for as long as the machine lives.
    memory: Memory,
}

impl Vm {
    /// One with that memory, for such processors, and interrupt controllers, and no processors yet; and what these are to say, which nobody needs once they are there.
    pub(crate) fn new(memory: Memory, processor: Processor) -> Result<(Vm, Template)> {
        let kvm = Kvm::new().map_err(|error| Error::NoKvm { source: io::Error::from_raw_os_error(error.errno()) })?;
        if let Some((_, lacking)) = NEEDED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
            return Err(Error::KvmLacks(lacking));
        }
        let fd = kvm.create_vm().map_err(Error::kvm("for a virtual machine (KVM_CREATE_VM)"))?;
        let template = Template::new(&kvm, processor)?;
        template.reaches(memory.regions().last_addr().raw_value().saturating_add(1))?;
        let vm = Vm { kvm, fd: Arc::new(fd), processor, memory };
        // Before anything else of it: a slot waits until no processor reads the slots before it, which is at once while nothing else waits for that. What interrupt
        // controllers replace is freed at the kernel's leisure (call_srcu, since Linux 6.18), and a slot behind that waits for two ticks: 8 ms of each start.
        vm.set_slots()?;
        controllers::add(&vm.fd)?;
        Ok((vm, template))
    }

    fn set_slots(&self) -> Result<()> {
        for (slot, region) in self.memory.at_start().enumerate() {
            let slot = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is mapped for as long as `self.memory` lives, which this machine owns, and the process has no references into it:
            // both sides use volatile accesses.
            unsafe { self.fd.set_user_memory_region(slot) }
                .map_err(Error::kvm("to use memory (KVM_SET_USER_MEMORY_REGION)"))?;
        }
        Ok(())
    }

    /// What gives the guest parts of the memory that comes while it runs, by their numbers, or takes them away. A part that it has not, it finds to be a device that nobody
    /// answers for.
    pub(crate) fn opener(&self) -> Opener {
        let (fd, memory) = (Arc::clone(&self.fd), self.memory.clone());
        let first = memory.at_start().count() as u32;
        Box::new(move |number, part: Range<u64>, is_open| {
            let place = memory.regions().get_host_address(GuestAddress(part.start)).map_err(io::Error::other)?;
            let slot = kvm_userspace_memory_region {
                slot: first + number,
                flags: 0,
                guest_phys_addr: part.start,
                memory_size: if is_open { part.end - part.start } else { 0 },
                userspace_addr: place as u64,
            };
            // SAFETY: the part is of a region, which is mapped for as long as `memory` lives, that is as this; the process has no references into it.
            let set = unsafe { fd.set_user_memory_region(slot) };
            set.map_err(|error| io::Error::from_raw_os_error(error.errno()))
        })
    }

    /// An event that pulls a line of the I/O APIC for a moment whenever it is written to.
    pub(crate) fn line(&self, line: u32) -> Result<EventFd> {
        let event = event()?;
        self.fd.register_irqfd(&event, line).map_err(Error::kvm("for an interrupt line (KVM_IRQFD)"))?;
        Ok(event)
    }

    /// An event that is written to whenever the guest writes `value`, of four bytes, to an address. The processor does not leave the kernel for that.
    pub(crate) fn doorbell(&self, address: u64, value: u32) -> Result<EventFd> {
        let event = event()?;
        self.fd
            .register_ioevent(&event, &IoEventAddress::Mmio(address), value)
            .map_err(Error::kvm("for a doorbell (KVM_IOEVENTFD)"))?;
        Ok(event)
    }

    /// What kind of processors it has.
    pub(crate) fn processor(&self) -> Processor {
        self.processor
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What KVM has of it besides memory and processors, while these rest.
    pub(crate) fn save(&self) -> Result<VmState> {
        VmState::of(&self.fd)
    }

    /// Sets that.
    pub(crate) fn restore(&self, state: &VmState) -> Result<()> {
        state.set(&self.fd)
    }

    /// The model-specific registers that a guest has values of its own of, by their numbers.
    pub(crate) fn registers(&self) -> Result<Vec<u32>> {
        let list = self.kvm.get_msr_index_list();
        Ok(list.map_err(Error::kvm("which registers it has (KVM_GET_MSR_INDEX_LIST)"))?.as_slice().to_vec())
    }

    /// The processor `index` of `count`.
    pub(crate) fn vcpu(&self, template: &Template, index: u8, count: VcpuCount) -> Result<Vcpu> {
        self.vcpu_that_says(index, template.of_vcpu(index, count)?)
    }

    /// The processor `index` of `count`, of which a guest already knows what it says.
    pub(crate) fn saved_vcpu(
        &self,
        template: &Template,
        index: u8,
        count: VcpuCount,
        state: &VcpuState,
    ) -> Result<Vcpu> {
        let cpuid = state.cpuid()?;
        template.has_all_of(&cpuid, index, count)?;
        state.has_no_further_faults(arch_capabilities(&self.kvm))?;
        let vcpu = self.vcpu_that_says(index, cpuid)?;
        state.set(vcpu.fd())?;
        Ok(vcpu)
    }

    fn vcpu_that_says(&self, index: u8, cpuid: CpuId) -> Result<Vcpu> {
        let fd = self.fd.create_vcpu(index.into()).map_err(Error::kvm("for a processor (KVM_CREATE_VCPU)"))?;
        fd.set_cpuid2(&cpuid).map_err(Error::kvm("to take what a processor says (KVM_SET_CPUID2)"))?;
        Ok(Vcpu::new(index, fd, Told::from(cpuid.as_slice())))
    }
}

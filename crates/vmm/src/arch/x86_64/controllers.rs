//! What KVM has of a machine besides its memory and its processors: interrupt controllers and the clock.

use super::layout;
use crate::error::{Error, Result};
use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PMU_CAP_DISABLE,
    kvm_clock_data, kvm_enable_cap, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

/// Adds the interrupt controllers to a machine that has no processors yet.
pub(crate) fn add(vm: &VmFd) -> Result<()> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(Error::kvm("for a page (KVM_SET_IDENTITY_MAP_ADDR)"))?;
    vm.set_tss_address(layout::KVM_TSS).map_err(Error::kvm("for three pages (KVM_SET_TSS_ADDR)"))?;
    vm.create_irq_chip().map_err(Error::kvm("for interrupt controllers (KVM_CREATE_IRQCHIP)"))?;
    // Not every KVM can be told; the processors say the same.
    let no_counters = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        args: [KVM_PMU_CAP_DISABLE.into(), 0, 0, 0],
        ..Default::default()
    };
    let _ = vm.enable_cap(&no_counters);
    mask_8259s(vm)
}

/// Has the two 8259s, of which nobody has told the guest, take no interrupt, as firmware leaves them: else they would raise the vectors of the processor's own
/// exceptions. (Lines that lead to the I/O APIC alone would do as well, but a change of the routes takes the kernel a tick: 4 ms of each start.)
fn mask_8259s(vm: &VmFd) -> Result<()> {
    let failed = "to mask the 8259 (KVM_SET_IRQCHIP)";
    for chip_id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE] {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        vm.get_irqchip(&mut chip).map_err(Error::kvm(failed))?;
        chip.chip.pic.imr = u8::MAX;
        vm.set_irqchip(&chip).map_err(Error::kvm(failed))?;
    }
    Ok(())
}

/// All of them, as they were at a moment.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct VmState {
    controllers: Vec<kvm_irqchip>,
    /// Nanoseconds of the guest's clock.
    clock: u64,
}

impl VmState {
    /// Reads them, while the processors rest.
    pub(crate) fn of(vm: &VmFd) -> Result<VmState> {
        let controller = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).map_err(Error::kvm("for an interrupt controller (KVM_GET_IRQCHIP)"))?;
            Ok(chip)
        };
        let controllers = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC].map(controller);
        let clock = vm.get_clock().map_err(Error::kvm("for the time (KVM_GET_CLOCK)"))?.clock;
        Ok(VmState { controllers: controllers.into_iter().collect::<Result<_>>()?, clock })
    }

    /// Sets them. The guest's clock goes on from where it was, however long that is ago: what waits in the guest for some time waits for the rest of it.
    pub(crate) fn set(&self, vm: &VmFd) -> Result<()> {
        for chip in &self.controllers {
            vm.set_irqchip(chip).map_err(Error::kvm("to set an interrupt controller (KVM_SET_IRQCHIP)"))?;
        }
        let clock = kvm_clock_data { clock: self.clock, ..Default::default() };
        vm.set_clock(&clock).map_err(Error::kvm("to set the time (KVM_SET_CLOCK)"))
    }
}

//! What KVM has of a machine besides its processors: interrupt controllers and the clock.

use super::Vm;
use crate::error::{Error, Result};
use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip};
use serde::{Deserialize, Serialize};

/// All of them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct VmState {
    controllers: Vec<kvm_irqchip>,
    /// Nanoseconds of the guest's clock.
    clock: u64,
}

impl Vm {
    /// Reads them, while the processors rest.
    pub(crate) fn save(&self) -> Result<VmState> {
        let controller = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.fd().get_irqchip(&mut chip).map_err(Error::kvm("for an interrupt controller (KVM_GET_IRQCHIP)"))?;
            Ok(chip)
        };
        let controllers = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC].map(controller);
        let clock = self.fd().get_clock().map_err(Error::kvm("for the time (KVM_GET_CLOCK)"))?.clock;
        Ok(VmState { controllers: controllers.into_iter().collect::<Result<_>>()?, clock })
    }

    /// Sets them. The guest's clock goes on from where it was, however long that is ago: what waits in the guest for some time waits for the rest of it.
    pub(crate) fn restore(&self, state: &VmState) -> Result<()> {
        for chip in &state.controllers {
            self.fd().set_irqchip(chip).map_err(Error::kvm("to set an interrupt controller (KVM_SET_IRQCHIP)"))?;
        }
        let clock = kvm_clock_data { clock: state.clock, ..Default::default() };
        self.fd().set_clock(&clock).map_err(Error::kvm("to set the time (KVM_SET_CLOCK)"))
    }
}

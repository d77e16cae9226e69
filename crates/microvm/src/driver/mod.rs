//! By what a machine is run: a hypervisor of our own on KVM, or QEMU where there is no KVM that can run ordinary kernels.
//!
//! Nothing beyond this folder knows which it is.

mod kvm;
mod qemu;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::plan::MachinePlan;

/// By what a machine is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// The hypervisor of this program, on KVM.
    Kvm,
    /// QEMU.
    Qemu {
        /// Its program.
        program: PathBuf,
        /// How it runs the guest's instructions.
        accelerator: Accelerator,
    },
}

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accelerator {
    /// By the processor's own virtualization.
    Kvm,
    /// By translating them.
    Emulation,
}

/// Where the agent's stream comes from.
pub(crate) enum Link {
    /// It connects here, and again when its connection is gone.
    Listener(OwnedFd),
    /// A port without connections: what is in it may be the rest of another conversation.
    Port(OwnedFd),
}

/// A machine that was started.
pub(crate) enum Running {
    Kvm(kvm::Running),
    Qemu(qemu::Running),
}

impl Running {
    /// Readable when it has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kvm(running) => running.ended(),
            Self::Qemu(running) => running.ended(),
        }
    }

    /// Why it ended, for people.
    pub(crate) fn end(&mut self) -> String {
        match self {
            Self::Kvm(running) => running.end(),
            Self::Qemu(running) => running.end(),
        }
    }
}

/// Starts a machine.
///
/// # Errors
/// It can't be made of its parts, or its driver is not there.
pub(crate) fn start(plan: &MachinePlan) -> Result<(Running, Link)> {
    match &plan.driver {
        Driver::Kvm => kvm::start(plan).map(|(running, listener)| (Running::Kvm(running), Link::Listener(listener))),
        Driver::Qemu { program, accelerator } => {
            let (running, port) = qemu::start(plan, program, *accelerator)?;
            Ok((Running::Qemu(running), Link::Port(port)))
        }
    }
}

/// The kernel's command line: `host` is where the agent finds us.
fn command_line(plan: &MachinePlan, host: &str) -> String {
    // A kernel that panics resets the machine, which ends it; one that waits for a person would stand for ever.
    let console = if plan.hardware.console { "console=ttyS0" } else { "quiet" };
    format!("{console} reboot=t panic=-1 stratus.host={host}")
}

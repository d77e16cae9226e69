//! The virtual machine monitor: what stands between a guest's kernel and the host's.
//!
//! A [`Machine`] is made of a [`Config`] and run to its [`End`] in the process that calls it: one process a machine, so that what a guest
//! breaks is its own. It knows memory, processors, boot and devices; what a container, an image or a network is, it does not.
//!
//! - [`boot`]: the files that a guest starts from, put into its memory
//! - `arch`: what an architecture has of its own: where things lie, registers, CPUID, firmware tables
//! - `kvm`: the kernel's part of a machine: its memory slots, its processors and their threads
//! - `devices`: what the guest sees besides memory and processors

#[cfg(not(target_arch = "x86_64"))]
compile_error!("vmm knows x86_64: another architecture needs a folder beside arch/x86_64");

mod arch;
pub mod boot;
mod bus;
mod config;
mod devices;
mod end;
mod error;
mod events;
mod kvm;
mod machine;
mod memory;

pub use config::{CONCATENATED_ALIGN, Card, Config, Console, Contents, Disk, MIB, MemorySize, VcpuCount, Vsock};
pub use end::End;
pub use error::{Error, Result};
pub use machine::Machine;

/// Devices beside guests that were written to break them.
#[cfg(feature = "fuzzing")]
pub mod hostile {
    pub use crate::devices::virtio::hostile::{Kind, run};
}

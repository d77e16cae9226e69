//! The virtual machine monitor: what stands between a guest's kernel and the host's.
//!
//! A [`Machine`] is made of [`Parts`], descriptors that somebody opened, and lives in the process that made it: one process a machine, so that what a guest
//! breaks is its own. Who made it starts it, pauses it, and hears of its [`End`]. A [`Config`] names the same parts by paths, for who may open them. It knows
//! memory, processors, boot and devices; what a container, an image or a network is, it does not.
//!
//! - [`boot`]: the files that a guest starts from, put into its memory
//! - `arch`: what an architecture has of its own: where things lie, registers, CPUID, firmware tables
//! - `kvm`: the kernel's part of a machine: its memory slots, its processors and their threads
//! - `devices`: what the guest sees besides memory and processors
//! - `snapshot`: machines in files, and machines that go on from there
//! - `threads`, `confine`: how its threads rest and run, and what each may ask the host's kernel for

#[cfg(not(target_arch = "x86_64"))]
compile_error!("vmm knows x86_64: another architecture needs a folder beside arch/x86_64");

mod arch;
pub mod boot;
mod bus;
mod config;
mod confine;
mod devices;
mod end;
mod error;
mod events;
mod kvm;
mod load;
mod machine;
mod memory;
mod open;
mod parts;
mod processor;
mod snapshot;
mod stack;
mod threads;

pub use config::{
    CONCATENATED_ALIGN, Card, Config, Console, Contents, Disk, Files, Limits, MIB, MemorySize, Pages, Rate, VcpuCount,
    Vsock,
};
pub use confine::{Filter, Limited};
pub use devices::virtio::balloon::MemoryStatistics;
pub use devices::virtio::block::ImageError;
pub use end::End;
pub use error::{Error, Result};
pub use kvm::probe::{Virtualization, probe};
pub use machine::{Machine, State};
pub use memory::WorkingSet;
pub use parts::{Boot, CardParts, Devices, Dial, DiskContents, DiskParts, FilesParts, Parts, VsockParts};
pub use processor::Processor;
pub use snapshot::{Backing, Snapshot, SnapshotFiles, Writers};

/// Devices beside guests that were written to break them.
#[cfg(feature = "fuzzing")]
pub mod hostile {
    pub use crate::devices::virtio::block::qcow2::hostile::run as run_image;
    pub use crate::devices::virtio::hostile::{Kind, run};
}

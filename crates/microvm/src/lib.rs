//! A machine that behaves like the process that it runs.
//!
//! A container in a microVM is a sandbox like any other, whose program is [`run`] (of `machine/`, which is nothing but that): a virtual machine monitor that boots a kernel with the agent
//! ([`guest_protocol`]), has it run the container's process, and stands for that process on the host. Its standard streams and its terminal are
//! the process's, the signals that it gets go to the process, and it ends as the process ends. So whoever holds sandboxes (the keeper) holds
//! machines, and logs, attaching, restarts and a daemon that is killed need nothing of their own.
//!
//! A further process of the container is likewise a small one on the host ([`exec`]), which lends its streams to the machine's. It speaks to
//! it over a Unix socket ([`control`]), as does whoever wants to know what runs inside or to copy files.
//!
//! What is mounted into the container of the host is served by a process of its own ([`files`]), which the machine's process begins before it has
//! anything to do with a guest.
//!
//! The machine is made of a [`MachinePlan`], which says nothing of how: [`driver`] has a hypervisor of our own and QEMU.
#![forbid(unsafe_code)]

pub mod container;
pub mod control;
pub mod disk;
pub mod driver;
mod error;
mod exec;
pub mod files;
mod member;
mod plan;
mod process;
pub mod role;
mod stand_in;
mod volumes;

pub use error::Error;
pub use exec::{ExecRequest, exec};
pub use member::{MemberPlan, join};
pub use plan::{Card, Contained, DiskLimits, Hardware, MachinePlan, Origin, TOUCHED, Workload, places};
pub use process::{LOST, OOM_KILLED, WENT_ON, run};
pub use vmm::{Backing, Limits, MemorySize, Processor, Rate, SnapshotFiles, VcpuCount, WorkingSet, Writers};
pub use volumes::Volumes;

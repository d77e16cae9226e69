//! The kernel's part of a machine.

mod signal;
mod vcpu;
mod vm;

pub(crate) use vcpu::{Buses, Vcpu, VcpuThread};
pub(crate) use vm::Vm;

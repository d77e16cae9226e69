//! The kernel's part of a machine.

pub(crate) mod probe;
pub(crate) mod signal;
mod state;
mod vcpu;
mod vm;

pub(crate) use state::VmState;
pub(crate) use vcpu::{Buses, Vcpu, thread};
pub(crate) use vm::Vm;

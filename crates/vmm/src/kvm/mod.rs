//! The kernel's part of a machine.

pub(crate) mod probe;
pub(crate) mod signal;
mod vcpu;
mod vm;

pub(crate) use vcpu::{Buses, Vcpu, thread};
pub(crate) use vm::Vm;

//! x86-64.

pub(crate) mod acpi;
pub(crate) mod boot;
pub(crate) mod controllers;
pub(crate) mod cpuid;
pub(crate) mod entry;
mod features;
pub(crate) mod fixed;
pub(crate) mod layout;
pub(crate) mod levels;
mod linux;
pub(crate) mod registers;
pub(crate) mod requests;
mod start_info;
pub(crate) mod state;

//! x86-64.

pub(crate) mod acpi;
pub(crate) mod cpuid;
pub(crate) mod entry;
mod features;
pub(crate) mod layout;
pub(crate) mod levels;
pub(crate) mod linux;
pub(crate) mod registers;
pub(crate) mod start_info;
pub(crate) mod state;

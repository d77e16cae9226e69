//! What the guest sees besides memory and processors.

pub(crate) mod console;
pub(crate) mod serial;
pub(crate) mod virtio;
pub(crate) mod virtual_devices;

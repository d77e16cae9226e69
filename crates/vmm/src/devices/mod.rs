//! What the guest sees besides memory and processors.

pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod fixed;
pub(crate) mod keyboard;
pub(crate) mod power;
pub(crate) mod serial;
pub(crate) mod virtio;
pub(crate) mod virtual_devices;

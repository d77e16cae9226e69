//! What the guest sees besides memory and processors.

pub(crate) mod clock;
pub(crate) mod keyboard;
pub(crate) mod power;
pub(crate) mod serial;

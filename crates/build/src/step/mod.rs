//! What instructions do: those that make a layer have a file each, and [`configure`] is all that only change the image's configuration.

pub(crate) mod configure;
pub(crate) mod copy;
pub(crate) mod mounts;
mod owner;
pub(crate) mod piece;
pub(crate) mod run;

//! Layers as EROFS files: what the kernel shows of one is what the layer's directory has, and one is there whole or not at all.

#[path = "../support/mod.rs"]
mod support;

mod interrupted;
mod kept;
mod mounted;
mod random;
mod stacked;
mod trees;

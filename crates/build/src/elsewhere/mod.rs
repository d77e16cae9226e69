//! Build caches of elsewhere: what others' builds came to, and this one's for others.
//!
//! A step's key holds nothing of a machine, so a cache is a document of keys ([`document`]) and the layers that it speaks of: an artifact in
//! a registry, or in an OCI layout in a directory ([`layout`]); or it is what an image says of its own layers.

mod document;
mod export;
mod import;
pub(crate) mod layout;
mod trail;

pub use export::CacheTo;
pub use import::CacheFrom;
pub(crate) use import::{Elsewhere, Given, Seen};
pub use layout::{Layout, LayoutBytes, LayoutEntry, LayoutFile};
pub use trail::CacheMode;
pub(crate) use trail::{Passed, Steps, Trail};

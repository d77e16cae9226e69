//! Published ports.

mod spec;
mod table;

pub use spec::{PortError, PortSpec, Protocol, PublishedPort};
pub(crate) use table::{PortTable, Targets};

//! Published ports.

mod spec;

pub use spec::{PortError, PortSpec, Protocol, PublishedPort};

//! Networks: what they are, and the one object that keeps them.

mod attach;
mod bridge;
mod leaving;
mod networks;
mod open;
mod plan;
mod spec;

pub use networks::{NamedEndpoint, Networks, clean};
pub use spec::{BridgeOptions, Driver, InvalidNetwork, IpamConfig, Network, NetworkSpec};

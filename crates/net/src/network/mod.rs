//! Networks: what they are, and the one object that keeps them.

mod networks;
mod spec;

pub use networks::{NamedEndpoint, Networks, clean};
pub use spec::{BridgeOptions, Driver, InvalidNetwork, IpamConfig, Network, NetworkSpec};

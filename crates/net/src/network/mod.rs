//! Networks: what they are, and the one object that keeps them.

mod attach;
pub(crate) mod bridge;
mod forwarding;
mod lan;
mod leaving;
mod networks;
mod open;
mod plan;
mod spec;
mod tap;

pub use bridge::owner_of_bridge;
pub use lan::{IpvlanFlag, IpvlanMode, LanKind, LanOptions, MacvlanMode};
pub use networks::{Cleaned, NamedEndpoint, Networks, clean, take_back};
pub use spec::{BridgeOptions, Driver, InvalidNetwork, IpamConfig, Network, NetworkSpec, check_link_name};

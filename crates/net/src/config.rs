//! What an instance of the daemon is told about its networks.

use crate::AddressPool;
use crate::forward::ForwardClient;
use ipnet::{Ipv4Net, Ipv6Net};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use store::Store;
use thiserror::Error;

/// The short name of one instance of the daemon, unique on the host: 1 to 8 of `[a-z0-9]`. Links, tables and comments
/// in the kernel carry it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance(String);

/// A name that is no [`Instance`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid instance name {0:?}: use 1 to 8 lower-case letters and digits")]
pub struct InstanceError(String);

impl Instance {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of this instance's nftables table (family `inet`).
    pub fn table(&self) -> String {
        format!("stratus-{}", self.0)
    }

    /// What the names of this instance's veth links on the host begin with. Interfaces' names have 15 bytes at most.
    pub(crate) fn link_prefix(&self) -> String {
        format!("{}-", self.0)
    }

    /// The alias (`ip link … alias`) that marks a bridge as this instance's.
    pub(crate) fn link_alias(&self) -> String {
        self.table()
    }

    /// The instance that a link's alias names, if it names one.
    pub(crate) fn of_alias(alias: &str) -> Option<Instance> {
        alias.strip_prefix("stratus-")?.parse().ok()
    }
}

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(name: &str) -> Result<Instance, InstanceError> {
        let valid = (1..=8).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if valid { Ok(Instance(name.to_owned())) } else { Err(InstanceError(name.to_owned())) }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The configuration of [`crate::Networks`]. Begin with [`NetConfig::new`].
#[derive(Clone)]
pub struct NetConfig {
    /// The instance's name.
    pub instance: Instance,
    /// The port forwarder, which keeps host ports reserved while the daemon is away and carries IPv6 to containers without
    /// it. `None` keeps the reservations in this process alone.
    pub forwarder: Option<Arc<ForwardClient>>,
    /// The name of the default bridge's link, 15 bytes at most.
    pub bridge_name: String,
    /// The default bridge's own address and prefix (`--bip`). Without it, it gets the first free subnet of the pools.
    pub bridge_address: Option<Ipv4Net>,
    /// The default bridge's IPv6 subnet; without one it has no IPv6.
    pub bridge_ipv6: Option<Ipv6Net>,
    /// Where subnets come from that nobody chose. IPv4 and IPv6 pools may be mixed; a network takes from its family.
    pub address_pools: Vec<AddressPool>,
    /// The MTU of bridges and of containers' links where the network names none. Bytes.
    pub mtu: u32,
    /// How many prepared endpoints (namespace, loopback, link on the default bridge) are held at most. They are made in
    /// the background from the first start on; an idle instance keeps a quarter of it. 0 prepares none.
    pub prepared: usize,
    /// Whether to switch `net.ipv4.ip_forward` (and IPv6's, for networks with IPv6) on where it is off.
    pub ip_forward: bool,
    /// Whether what is forwarded between links that are no containers' is dropped, where this instance switched it on.
    pub ip_forward_drop: bool,
    /// Where networks are kept.
    pub store: Store,
}

impl NetConfig {
    /// The defaults: bridge `stratus0`, Docker's address pools, MTU 1500, 16 prepared endpoints, no forwarder.
    pub fn new(instance: Instance, store: Store) -> NetConfig {
        NetConfig {
            instance,
            forwarder: None,
            bridge_name: "stratus0".into(),
            bridge_address: None,
            bridge_ipv6: None,
            address_pools: AddressPool::defaults(),
            mtu: 1500,
            prepared: 16,
            ip_forward: true,
            ip_forward_drop: true,
            store,
        }
    }
}

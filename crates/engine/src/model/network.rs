//! A container's place on a network: what was asked, and what it got.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What a client asks of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointRequest {
    /// Names on that network.
    pub aliases: Vec<String>,
    /// `container[:alias]`, seen from this container only.
    pub links: Vec<String>,
    /// Fixed IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Fixed IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Addresses on the link besides.
    pub link_local: Vec<String>,
    /// Fixed MAC address.
    pub mac: Option<String>,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
    /// The network with the highest wins the default route.
    pub gateway_priority: i64,
}

/// An endpoint: the request, and what came of it while the container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSettings {
    /// What was asked.
    pub request: EndpointRequest,
    /// The network's identifier.
    pub network_id: String,
    /// This endpoint's identifier; empty while not running.
    pub endpoint_id: String,
    /// Address with prefix; `None` while not running.
    pub ipv4: Option<ipnet::Ipv4Net>,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Address with prefix.
    pub ipv6: Option<ipnet::Ipv6Net>,
    /// Default gateway.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Link-layer address in use.
    pub mac: String,
    /// Name of the link in the container.
    pub interface: String,
    /// Every name that resolves to it.
    pub dns_names: Vec<String>,
}

//! From what is asked for to what a network is: names checked, subnets and gateways chosen.

use super::lan::LanOptions;
use super::spec::{BridgeOptions, Driver, InvalidNetwork, IpamConfig, Network, NetworkSpec, check_name, is_predefined};
use crate::address::{AddressPool, Leases, overlap};
use crate::error::{Error, Result};
use crate::route::Route;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// What subnets are chosen from, and what they must stay clear of.
pub(super) struct Surroundings<'a> {
    pub(super) pools: &'a [AddressPool],
    /// The subnets of the instance's other networks.
    pub(super) subnets: &'a [IpNet],
    /// The host's routes.
    pub(super) routes: &'a [Route],
}

/// 64 random hexadecimal digits.
pub(super) fn random_id() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a network of what is asked for, by a user.
pub(super) fn plan(spec: NetworkSpec, around: &Surroundings<'_>) -> Result<Network> {
    check_name(&spec.name)?;
    if is_predefined(&spec.name) {
        return Err(Error::PredefinedCreate(spec.name));
    }
    match spec.driver {
        Driver::Bridge => plan_bridge(random_id(), spec, around),
        Driver::Macvlan | Driver::Ipvlan => plan_lan(random_id(), spec, around),
        Driver::Host => Err(InvalidNetwork::SingleInstance("host").into()),
        Driver::None => Err(InvalidNetwork::SingleInstance("null").into()),
    }
}

/// Makes a bridge network with that identifier.
pub(super) fn plan_bridge(id: String, spec: NetworkSpec, around: &Surroundings<'_>) -> Result<Network> {
    let bridge = BridgeOptions::parse(&spec.options, &format!("br-{}", &id[..12]))?;
    let ipam = plan_subnets(&spec, around)?;
    Ok(Network { bridge: Some(bridge), ..network_of(id, spec, ipam) })
}

/// Makes a network of a parent's, with that identifier.
fn plan_lan(id: String, spec: NetworkSpec, around: &Surroundings<'_>) -> Result<Network> {
    let lan = match spec.driver {
        Driver::Ipvlan => LanOptions::ipvlan(&spec.options, &id)?,
        _ => LanOptions::macvlan(&spec.options, &id)?,
    };
    // The subnet is mostly the parent's own, to which the host has a route.
    let is_chosen = spec.ipam.iter().any(|config| config.subnet.is_some());
    let around = if is_chosen { &Surroundings { routes: &[], ..*around } } else { around };
    let ipam = plan_subnets(&spec, around)?;
    Ok(Network { lan: Some(lan), ..network_of(id, spec, ipam) })
}

/// Chooses and checks the subnets of a network.
fn plan_subnets(spec: &NetworkSpec, around: &Surroundings<'_>) -> Result<Vec<IpamConfig>> {
    if !spec.enable_ipv4 && !spec.enable_ipv6 {
        return Err(InvalidNetwork::NoFamily.into());
    }
    let mut ipam: Vec<IpamConfig> = Vec::new();
    for (enabled, v6) in [(spec.enable_ipv4, false), (spec.enable_ipv6, true)] {
        // As Docker does: subnets of a family that is not enabled are left out.
        let mut asked: Vec<IpamConfig> = spec.ipam.iter().filter(|config| config.is_v6() == v6).cloned().collect();
        if !enabled {
            continue;
        }
        if asked.is_empty() {
            asked.push(IpamConfig::default());
        }
        for config in asked {
            let config = plan_subnet(config, v6, &ipam, around)?;
            ipam.push(config);
        }
    }
    Ok(ipam)
}

/// A network as it is asked for, with these subnets and without a link.
fn network_of(id: String, spec: NetworkSpec, ipam: Vec<IpamConfig>) -> Network {
    Network {
        id,
        name: spec.name,
        created_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64),
        driver: spec.driver,
        ipam,
        user_subnets: spec.ipam.iter().any(|config| config.subnet.is_some()),
        ipam_requested: spec.ipam,
        ipam_options: spec.ipam_options,
        enable_ipv4: spec.enable_ipv4,
        enable_ipv6: spec.enable_ipv6,
        internal: spec.internal,
        attachable: spec.attachable,
        options: spec.options,
        labels: spec.labels,
        bridge: None,
        lan: None,
        given: Vec::new(),
        given_boot: String::new(),
    }
}

/// `host` or `none`.
pub(super) fn plan_without_links(name: &str, driver: Driver) -> Network {
    Network {
        id: random_id(),
        name: name.to_owned(),
        created_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64),
        driver,
        ipam: Vec::new(),
        ipam_requested: Vec::new(),
        ipam_options: BTreeMap::new(),
        user_subnets: false,
        enable_ipv4: true,
        enable_ipv6: false,
        internal: false,
        attachable: false,
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        bridge: None,
        lan: None,
        given: Vec::new(),
        given_boot: String::new(),
    }
}

/// Chooses what one subnet leaves open, and checks the rest.
fn plan_subnet(config: IpamConfig, v6: bool, earlier: &[IpamConfig], around: &Surroundings<'_>) -> Result<IpamConfig> {
    let subnet = match config.subnet {
        Some(subnet) => {
            check_subnet(subnet, earlier, around)?;
            subnet
        }
        None => {
            if let Some(setting) = lone_setting(&config) {
                return Err(InvalidNetwork::NoSubnetFor(setting).into());
            }
            free_subnet(v6, earlier, around)?
        }
    };
    check_inside(&config, subnet)?;
    let mut leases = Leases::new(subnet, config.ip_range);
    for (name, address) in &config.aux_addresses {
        let twice = |_| InvalidNetwork::AuxiliaryAddress { name: name.clone(), address: *address };
        leases.claim(*address).map_err(twice)?;
    }
    let refused = |reason| InvalidNetwork::Gateway { gateway: config.gateway, reason };
    let gateway = match config.gateway {
        Some(gateway) => leases.claim(gateway).map(|()| gateway).map_err(|_| refused("Address already in use"))?,
        None => leases.take().ok_or_else(|| refused("No available addresses on this pool"))?,
    };
    Ok(IpamConfig { subnet: Some(subnet), gateway: Some(gateway), ..config })
}

fn lone_setting(config: &IpamConfig) -> Option<String> {
    let range = config.ip_range.map(|range| format!("ip-range {range}"));
    let gateway = config.gateway.map(|gateway| format!("gateway {gateway}"));
    let auxiliary = config.aux_addresses.values().next().map(|address| format!("aux-address {address}"));
    range.or(gateway).or(auxiliary)
}

fn check_subnet(subnet: IpNet, earlier: &[IpamConfig], around: &Surroundings<'_>) -> Result<()> {
    if subnet.trunc() != subnet {
        let reason = format!("it should be {}", subnet.trunc());
        return Err(InvalidNetwork::Subnet { subnet, reason }.into());
    }
    if subnet.prefix_len() == 0 || subnet.prefix_len() >= subnet.max_prefix_len() {
        return Err(InvalidNetwork::Subnet { subnet, reason: "it cannot hold a gateway and containers".into() }.into());
    }
    for other in earlier.iter().filter_map(|config| config.subnet) {
        if overlap(&subnet, &other) {
            return Err(InvalidNetwork::SubnetsOverlap(other, subnet).into());
        }
    }
    // A route of the host that is wider, as one into a VPN, only gives way to the subnet. One within it would take a part
    // of the containers' addresses away.
    let hides = |route: &Route| subnet.contains(&route.destination);
    if around.subnets.iter().any(|other| overlap(&subnet, other)) || around.routes.iter().any(hides) {
        return Err(Error::PoolOverlaps);
    }
    Ok(())
}

fn free_subnet(v6: bool, earlier: &[IpamConfig], around: &Surroundings<'_>) -> Result<IpNet> {
    let mut taken: Vec<IpNet> = around.subnets.to_vec();
    taken.extend(around.routes.iter().map(|route| route.destination));
    taken.extend(earlier.iter().filter_map(|config| config.subnet));
    let pools = around.pools.iter().filter(|pool| pool.base.addr().is_ipv6() == v6);
    let mut found = pools.filter_map(|pool| pool.free_subnet(&taken));
    found.next().ok_or(Error::PoolsExhausted { family: if v6 { "IPv6" } else { "IPv4" } })
}

fn check_inside(config: &IpamConfig, subnet: IpNet) -> Result<()> {
    let outside = |what, value: String| Err(InvalidNetwork::OutsideSubnet { what, value, subnet }.into());
    let usable = |ip: &IpAddr| Leases::new(subnet, None).claim(*ip).is_ok();
    if let Some(range) = config.ip_range.filter(|range| !subnet.contains(range)) {
        return outside("ip-range", range.to_string());
    }
    if let Some(gateway) = config.gateway.filter(|gateway| !usable(gateway)) {
        return outside("gateway", gateway.to_string());
    }
    if let Some(address) = config.aux_addresses.values().find(|address| !usable(address)) {
        return outside("aux-address", address.to_string());
    }
    Ok(())
}

/// The addresses of a network's subnets, with what is not for sandboxes taken.
pub(super) fn leases_of(network: &Network) -> Vec<Leases> {
    let mut all = Vec::new();
    for config in &network.ipam {
        let Some(subnet) = config.subnet else { continue };
        let mut leases = Leases::new(subnet, config.ip_range);
        for ip in config.gateway.iter().chain(config.aux_addresses.values()) {
            // Checked when the network was made.
            let _ = leases.claim(*ip);
        }
        all.push(leases);
    }
    all
}

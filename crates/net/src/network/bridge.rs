//! A network's bridge in the kernel.

use super::spec::Network;
use crate::config::Instance;
use crate::error::{Error, Result};
use crate::firewall::NetworkRules;
use crate::route::{Change, Link, RouteSocket};
use crate::{MacAddress, sysctl};
use ipnet::IpNet;

/// The group of all instances' bridges (`ip link show group 0x73747261`), by which one's table knows another's.
pub(crate) const GROUP: u32 = u32::from_be_bytes(*b"stra");

/// Makes the network's bridge be as it shall be, and gives its index. What is right already is not touched.
///
/// A bridge of that name which an administrator made is used as it is, with the network's addresses beside its own; it is
/// never deleted. One of another instance is refused.
pub(super) fn ensure(host: &RouteSocket, instance: &Instance, network: &Network, default_mtu: u32) -> Result<u32> {
    let Some(options) = &network.bridge else { return Ok(0) };
    let name = &options.link;
    let link = match host.link(name)? {
        Some(link) => {
            check(&link, instance)?;
            link
        }
        None => make(host, instance, name, options.mtu.unwrap_or(default_mtu))?,
    };
    if !link.up {
        host.apply(&[Change::link_up(link.index)])?;
    }
    if is_ours(&link, instance) && link.group != GROUP {
        host.apply(&[Change::link_group(link.index, GROUP)])?;
    }
    if network.enable_ipv6 {
        sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    }
    ensure_addresses(host, instance, network, &link)?;
    Ok(link.index)
}

fn make(host: &RouteSocket, instance: &Instance, name: &str, mtu: u32) -> Result<Link> {
    // With an address of its own a bridge does not take that of its first port, which goes away with a sandbox.
    host.apply(&[Change::make_bridge(name, MacAddress::random(), mtu)])?;
    let missing = || Error::io(format!("find the new bridge {name}"), std::io::ErrorKind::NotFound.into());
    let link = host.link(name)?.ok_or_else(missing)?;
    host.apply(&[Change::link_alias(link.index, &instance.link_alias())])?;
    Ok(Link { alias: instance.link_alias(), ..link })
}

/// Gives the bridge the networks' gateways as addresses, and takes others away where the bridge is ours.
fn ensure_addresses(host: &RouteSocket, instance: &Instance, network: &Network, link: &Link) -> Result<()> {
    let wanted: Vec<IpNet> = network
        .ipam
        .iter()
        .filter_map(|config| IpNet::new(config.gateway?, config.subnet?.prefix_len()).ok())
        .collect();
    let present = host.addresses(link.index)?;
    let mut changes = Vec::new();
    if link.alias == instance.link_alias() {
        let stale = present.iter().filter(|address| !wanted.contains(address) && !is_link_local(address));
        changes.extend(stale.map(|address| Change::delete_address(link.index, *address)));
    }
    let missing = wanted.iter().filter(|address| !present.contains(address));
    changes.extend(missing.map(|address| Change::add_address(link.index, *address)));
    host.apply(&changes)
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// Deletes the network's bridge, where it is ours. Waits for the kernel's grace periods.
pub(super) fn remove(host: &RouteSocket, instance: &Instance, name: &str) -> Result<()> {
    match host.link(name)? {
        Some(link) if is_ours(&link, instance) => host.apply(&[Change::delete_link(link.index)]),
        _ => Ok(()),
    }
}

/// Refuses what is no bridge, and one that another instance made: what one gave it, the other would take away.
pub(super) fn check(link: &Link, instance: &Instance) -> Result<()> {
    match owner(link)? {
        Some(owner) if owner != *instance => Err(Error::BridgeOfAnother { link: link.name.clone(), owner }),
        _ => Ok(()),
    }
}

fn owner(link: &Link) -> Result<Option<Instance>> {
    match link.kind == "bridge" {
        true => Ok(Instance::of_alias(&link.alias)),
        false => Err(Error::NotABridge(link.name.clone())),
    }
}

/// The instance that made the bridge of that name; `None`: an administrator did, or there is none.
///
/// # Errors
/// Where what has the name is no bridge, and where the kernel does not tell.
pub fn owner_of_bridge(name: &str) -> Result<Option<Instance>> {
    match RouteSocket::open()?.link(name)? {
        Some(link) => owner(&link),
        None => Ok(None),
    }
}

/// Whether the link is a bridge that this instance made.
pub(super) fn is_ours(link: &Link, instance: &Instance) -> bool {
    link.kind == "bridge" && link.alias == instance.link_alias()
}

/// Whether the link is the host's end of a sandbox' link that this instance made.
pub(super) fn is_our_port(link: &Link, instance: &Instance) -> bool {
    link.kind == "veth" && link.name.starts_with(&instance.link_prefix())
}

/// What the firewall needs to know of the network; `None` where it has no bridge.
pub(super) fn rules_of(network: &Network) -> Option<NetworkRules> {
    let options = network.bridge.as_ref()?;
    Some(NetworkRules {
        bridge: options.link.clone(),
        subnets: network.ipam.iter().filter_map(|config| config.subnet).collect(),
        internal: network.internal,
        icc: options.icc,
        masquerade: options.masquerade,
    })
}

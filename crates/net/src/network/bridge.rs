//! A network's bridge in the kernel.
//!
//! Whose a bridge is, its alias says, which the kernel takes only once the bridge is there. So that a daemon which is killed between the
//! two leaves nothing that looks like an administrator's, a new bridge is in the group of all instances' bridges, and its link-layer address
//! is made of its instance's and its own name: that one message makes all three. What the kernel has for
//! this start of the machine alone is part of it, so that no two machines have the same addresses.

use super::spec::Network;
use crate::config::Instance;
use crate::error::{Error, Result};
use crate::firewall::NetworkRules;
use crate::route::{Change, Link, RouteSocket};
use crate::{MacAddress, sysctl};
use ipnet::IpNet;

/// The group of all instances' bridges (`ip link show group 0x73747261`), by which one's table knows another's.
pub(crate) const GROUP: u32 = u32::from_be_bytes(*b"stra");
/// Random, and another one each time the machine is started.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Makes the network's bridge be as it shall be, and gives its index. What is right already is not touched.
///
/// A bridge of that name which an administrator made is used as it is, with the network's addresses beside its own
/// ([`note_given`]); it is never deleted. One of another instance is refused.
pub(super) fn ensure(host: &RouteSocket, instance: &Instance, network: &Network, default_mtu: u32) -> Result<u32> {
    let Some(options) = &network.bridge else { return Ok(0) };
    let name = &options.link;
    let link = match host.link(name)? {
        Some(link) => {
            check(&link, instance)?;
            link
        }
        None => make(host, name, instance, options.mtu.unwrap_or(default_mtu))?,
    };
    if !link.up {
        host.apply(&[Change::link_up(link.index)])?;
    }
    if is_ours(&link, instance) {
        if link.group != GROUP {
            host.apply(&[Change::link_group(link.index, GROUP)])?;
        }
        if link.alias != instance.link_alias() {
            host.apply(&[Change::link_alias(link.index, &instance.link_alias())])?;
        }
    }
    if network.enable_ipv6 {
        sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    }
    ensure_addresses(host, instance, network, &link)?;
    Ok(link.index)
}

/// As it is before its alias says whose it is.
fn make(host: &RouteSocket, name: &str, instance: &Instance, mtu: u32) -> Result<Link> {
    // With an address of its own a bridge does not take that of its first port, which goes away with a sandbox.
    match host.apply(&[Change::make_bridge(name, mac(name, instance)?, mtu, GROUP)]) {
        // Somebody else was faster: whose it is, its looks say.
        Err(error) if error.is_errno(rustix::io::Errno::EXIST) => {}
        made => made?,
    }
    let missing = || Error::io(format!("find the new bridge {name}"), std::io::ErrorKind::NotFound.into());
    let link = host.link(name)?.ok_or_else(missing)?;
    check(&link, instance).map(|()| link)
}

/// The link-layer address of an instance's bridge of that name.
fn mac(name: &str, instance: &Instance) -> Result<MacAddress> {
    Ok(MacAddress::derived([boot()?.as_str(), instance.as_str(), name]))
}

/// The kernel's id of this start of the machine.
fn boot() -> Result<String> {
    let boot = std::fs::read_to_string(BOOT).map_err(|error| Error::io(format!("read {BOOT}"), error))?;
    Ok(boot.trim().to_owned())
}

/// What the gateways of a network are as addresses of its bridge.
fn gateways(network: &Network) -> Vec<IpNet> {
    let configs = network.ipam.iter();
    configs.filter_map(|config| IpNet::new(config.gateway?, config.subnet?.prefix_len()).ok()).collect()
}

/// Gives the bridge the networks' gateways as addresses, and takes others away where the bridge is ours.
fn ensure_addresses(host: &RouteSocket, instance: &Instance, network: &Network, link: &Link) -> Result<()> {
    let wanted = gateways(network);
    let present = host.addresses(link.index)?;
    let mut changes = Vec::new();
    if is_ours(link, instance) {
        let stale = present.iter().filter(|address| !wanted.contains(address) && !is_link_local(address));
        changes.extend(stale.map(|address| Change::delete_address(link.index, *address)));
    }
    let missing = wanted.iter().filter(|address| !present.contains(address));
    changes.extend(missing.map(|address| Change::add_address(link.index, *address)));
    host.apply(&changes)
}

/// Has the network say what [`ensure`] is about to give to a bridge of an administrator's, and no more of what it was given in an earlier
/// start of the machine. Whether that changed it.
pub(super) fn note_given(host: &RouteSocket, instance: &Instance, network: &mut Network) -> Result<bool> {
    let boot = boot()?;
    let is_stale = !network.given.is_empty() && network.given_boot != boot;
    if is_stale {
        network.given.clear();
    }
    let given = to_be_given(host, instance, network)?;
    if given.is_empty() {
        return Ok(is_stale);
    }
    network.given.extend(given);
    network.given_boot = boot;
    Ok(true)
}

/// The addresses that [`ensure`] is about to give to a bridge of an administrator's, and that no record says of yet.
fn to_be_given(host: &RouteSocket, instance: &Instance, network: &Network) -> Result<Vec<IpNet>> {
    let Some(options) = &network.bridge else { return Ok(Vec::new()) };
    let Some(link) = host.link(&options.link)? else { return Ok(Vec::new()) };
    if link.kind != "bridge" || owner(&link, instance)?.is_some() {
        return Ok(Vec::new());
    }
    let present = host.addresses(link.index)?;
    let missing = gateways(network).into_iter().filter(|address| !present.contains(address));
    Ok(missing.filter(|address| !network.given.contains(address)).collect())
}

/// Takes the addresses that an administrator's bridge was given for a network from it again. Says how many there were. What has the
/// address of one that was given in an earlier start of the machine is the administrator's.
pub(super) fn take_back(host: &RouteSocket, instance: &Instance, network: &Network) -> Result<usize> {
    let Some(options) = network.bridge.as_ref().filter(|_| !network.given.is_empty()) else { return Ok(0) };
    if network.given_boot != boot()? {
        return Ok(0);
    }
    match host.link(&options.link)? {
        Some(link) if link.kind == "bridge" && owner(&link, instance)?.is_none() => {
            let present = host.addresses(link.index)?;
            let ours = network.given.iter().filter(|address| present.contains(address));
            let changes: Vec<Change> = ours.map(|address| Change::delete_address(link.index, *address)).collect();
            host.apply(&changes).map(|()| changes.len())
        }
        _ => Ok(0),
    }
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// Deletes the network's bridge, where it is ours, and takes back what an administrator's was given. Waits for the kernel's grace periods.
pub(super) fn remove(host: &RouteSocket, instance: &Instance, network: &Network) -> Result<()> {
    let Some(options) = &network.bridge else { return Ok(()) };
    match host.link(&options.link)? {
        Some(link) if is_ours(&link, instance) => host.apply(&[Change::delete_link(link.index)]),
        _ => take_back(host, instance, network).map(drop),
    }
}

/// Refuses what is no bridge, and one that another instance made: what one gave it, the other would take away.
pub(super) fn check(link: &Link, instance: &Instance) -> Result<()> {
    match owner(link, instance)? {
        Some(owner) if owner != *instance => Err(Error::BridgeOfAnother { link: link.name.clone(), owner }),
        _ => Ok(()),
    }
}

/// The instance that made a bridge; `None`: an administrator did. `own`: the one that is known also by a bridge without an alias.
fn owner(link: &Link, own: &Instance) -> Result<Option<Instance>> {
    match link.kind == "bridge" {
        true if is_ours(link, own) => Ok(Some(own.clone())),
        // No administrator puts one there.
        true if link.group == GROUP && link.alias.is_empty() => Err(Error::BridgeInTheMaking(link.name.clone())),
        true => Ok(Instance::of_alias(&link.alias)),
        false => Err(Error::NotABridge(link.name.clone())),
    }
}

/// The instance that made the bridge of that name; `None`: an administrator did, or there is none. `own`: the one that asks.
///
/// # Errors
/// Where what has the name is no bridge, and where the kernel does not tell.
pub fn owner_of_bridge(name: &str, own: &Instance) -> Result<Option<Instance>> {
    match RouteSocket::open()?.link(name)? {
        Some(link) => owner(&link, own),
        None => Ok(None),
    }
}

/// Whether the link is a bridge that this instance made, were it killed before it could say so.
pub(super) fn is_ours(link: &Link, instance: &Instance) -> bool {
    let is_new = || link.group == GROUP && link.mac.is_some() && link.mac == mac(&link.name, instance).ok();
    link.kind == "bridge" && (link.alias == instance.link_alias() || link.alias.is_empty() && is_new())
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

//! Networks of the drivers `macvlan` and `ipvlan`: their sandboxes are on a link of the host, the parent, beside the host itself.
//!
//! A sandbox' link has no other end on the host: it is made in the sandbox' namespace, and goes with it. What it sends leaves by the parent, as it
//! is: nothing of ours filters, translates or publishes it, and the host itself is the one that it does not reach by it (the kernel's own rule). A
//! parent that nobody names is made, of the kind `dummy`, and leads nowhere; one that is called as `eth0.10` is made, too, where it is not there.
//! Which parents are ours says their alias, as with bridges, and before they have one their group.

use super::attach::Place;
use super::spec::InvalidNetwork;
use crate::config::Instance;
use crate::endpoint::{Bare, Endpoint};
use crate::error::{Error, Result};
use crate::route::{Change, Link, RouteSocket};
use crate::sysctl;
use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The group of parents that an instance made (`ip link show group 0x7374726c`). Not that of bridges, between which and others the firewall
/// lets through what is forwarded.
pub(super) const GROUP: u32 = u32::from_be_bytes(*b"strl");
/// How long a link-layer or IP address is waited for that the parent says is in use. The namespace that the container had before goes
/// some time after its last process.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// What the driver's options say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanOptions {
    /// The link of the host: `parent`; of a network that names none, one of its own.
    pub parent: String,
    /// Whether nobody named one.
    pub nowhere: bool,
    /// How its links are made.
    pub kind: LanKind,
    /// The links' MTU in bytes: `com.docker.network.driver.mtu`. `None` is the parent's.
    pub mtu: Option<u32>,
}

/// How a sandbox shares the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LanKind {
    /// With a link-layer address of its own.
    Macvlan(MacvlanMode),
    /// With the parent's.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// `macvlan_mode`: who of one parent hears whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// All hear each other, by the kernel.
    Bridge,
    /// Nobody hears another.
    Private,
    /// By way of the switch outside, where that sends back where it came from.
    Vepa,
    /// There is one, which has the parent for itself.
    Passthru,
}

/// `ipvlan_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// Frames: the sandbox asks for addresses on the parent's network itself.
    L2,
    /// Packets, that the host routes. No broadcast.
    L3,
    /// As `l3`, and the host's netfilter sees them.
    L3s,
}

/// `ipvlan_flag`: as the modes of macvlan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    /// See [`MacvlanMode::Bridge`].
    Bridge,
    /// See [`MacvlanMode::Private`].
    Private,
    /// See [`MacvlanMode::Vepa`].
    Vepa,
}

impl LanOptions {
    /// Reads the options of `macvlan` for the network with that identifier. What is not known here is left alone, as Docker does.
    pub(super) fn macvlan(
        options: &BTreeMap<String, String>,
        id: &str,
    ) -> std::result::Result<LanOptions, InvalidNetwork> {
        let mode = match get(options, "macvlan_mode") {
            "" | "bridge" => MacvlanMode::Bridge,
            "private" => MacvlanMode::Private,
            "vepa" => MacvlanMode::Vepa,
            "passthru" => MacvlanMode::Passthru,
            other => return Err(InvalidNetwork::mode("macvlan", "mode", other, "'bridge' mode")),
        };
        LanOptions::of(options, id, LanKind::Macvlan(mode), "macvlan")
    }

    /// As [`LanOptions::macvlan`], of `ipvlan`.
    pub(super) fn ipvlan(
        options: &BTreeMap<String, String>,
        id: &str,
    ) -> std::result::Result<LanOptions, InvalidNetwork> {
        let mode = match get(options, "ipvlan_mode") {
            "" | "l2" => IpvlanMode::L2,
            "l3" => IpvlanMode::L3,
            "l3s" => IpvlanMode::L3s,
            other => return Err(InvalidNetwork::mode("ipvlan", "mode", other, "'l2' mode")),
        };
        let flag = match get(options, "ipvlan_flag") {
            "" | "bridge" => IpvlanFlag::Bridge,
            "private" => IpvlanFlag::Private,
            "vepa" => IpvlanFlag::Vepa,
            other => return Err(InvalidNetwork::mode("ipvlan", "flag", other, "'bridge'")),
        };
        LanOptions::of(options, id, LanKind::Ipvlan(mode, flag), "ipvlan")
    }

    fn of(
        options: &BTreeMap<String, String>,
        id: &str,
        kind: LanKind,
        driver: &'static str,
    ) -> std::result::Result<LanOptions, InvalidNetwork> {
        let parent = get(options, "parent");
        if parent == "lo" {
            return Err(InvalidNetwork::LoopbackParent(driver));
        }
        let nowhere = parent.is_empty();
        let parent = if nowhere { own_parent(id) } else { parent.to_owned() };
        super::check_link_name(&parent)?;
        Ok(LanOptions { parent, nowhere, kind, mtu: super::spec::mtu(options)? })
    }
}

/// The name of a parent that is made for a network of which nobody named one.
pub(super) fn own_parent(id: &str) -> String {
    format!("dm-{}", id.get(..12).unwrap_or(id))
}

fn get<'a>(options: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    options.get(key).map_or("", String::as_str)
}

/// Sees that the parent is there and up, and gives its index.
///
/// # Errors
/// Where it is not there, and its name does not say what is to be made.
pub(super) fn ensure(host: &RouteSocket, instance: &Instance, options: &LanOptions, internal: bool) -> Result<u32> {
    let name = &options.parent;
    let link = match host.link(name)? {
        Some(link) => link,
        None => {
            let make = if options.nowhere || internal {
                Change::make_dummy(name, GROUP)
            } else {
                let (of, id) = vlan_of(name)?.ok_or_else(|| InvalidNetwork::Parent(name.clone()))?;
                let below = host.link(of)?.ok_or_else(|| Error::NoParent(of.to_owned()))?;
                Change::make_vlan(name, below.index, id, GROUP)
            };
            match host.apply(&[make]) {
                Err(error) if error.is_errno(Errno::EXIST) => {}
                made => made?,
            }
            host.link(name)?.ok_or_else(|| Error::NoParent(name.clone()))?
        }
    };
    if link.group == GROUP && link.alias.is_empty() {
        host.apply(&[Change::link_alias(link.index, &instance.link_alias())])?;
    }
    if !link.up {
        host.apply(&[Change::link_up(link.index)])?;
    }
    Ok(link.index)
}

/// `eth0` and 10 of `eth0.10`; `None` of what has no point.
fn vlan_of(name: &str) -> std::result::Result<Option<(&str, u16)>, InvalidNetwork> {
    let Some((of, id)) = name.rsplit_once('.') else { return Ok(None) };
    match id.parse::<u16>() {
        Ok(number) if (1..=4094).contains(&number) && !of.is_empty() => Ok(Some((of, number))),
        Ok(_) => Err(InvalidNetwork::VlanId(id.to_owned())),
        Err(_) => Err(InvalidNetwork::Parent(name.to_owned())),
    }
}

/// Whether the link is a parent that this instance made.
pub(super) fn is_ours(link: &Link, instance: &Instance) -> bool {
    matches!(link.kind.as_str(), "dummy" | "vlan") && link.group == GROUP && link.alias == instance.link_alias()
}

/// Deletes the parent, where it is ours. Waits for the kernel's grace periods.
pub(super) fn remove(host: &RouteSocket, instance: &Instance, options: &LanOptions) -> Result<()> {
    match host.link(&options.parent)? {
        Some(link) if is_ours(&link, instance) => host.apply(&[Change::delete_link(link.index)]),
        _ => Ok(()),
    }
}

/// Makes a place's link in its sandbox, whose name must be free there.
pub(super) fn make_link(host: &Mutex<RouteSocket>, bare: &Bare, place: &mut Place, options: &LanOptions) -> Result<()> {
    let (endpoint, parent) = (&mut place.endpoint, place.bridge);
    let (name, namespace) = (&endpoint.link_name, bare.namespace.as_fd());
    let make = match options.kind {
        LanKind::Macvlan(mode) => Change::make_macvlan(name, parent, namespace, mode, endpoint.mac, options.mtu),
        LanKind::Ipvlan(mode, flag) => Change::make_ipvlan(name, parent, namespace, mode, flag, options.mtu),
    };
    host.lock().apply(&[make])?;
    let missing = || Error::io(format!("find the new link {name}"), std::io::ErrorKind::NotFound.into());
    let link = bare.socket.link(name)?.ok_or_else(missing)?;
    endpoint.link_index = link.index;
    place.mtu = link.mtu;
    if matches!(options.kind, LanKind::Ipvlan(..)) {
        endpoint.mac = link.mac.unwrap_or(endpoint.mac);
    }
    Ok(())
}

/// Gives a place's link its addresses, and brings it up.
pub(super) fn furnish_link(bare: &Bare, place: &Place) -> Result<()> {
    let (endpoint, ipv6) = (&place.endpoint, place.network.enable_ipv6);
    let name = &endpoint.link_name;
    bare.namespace.enter(|| {
        sysctl::write_if_there(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
        sysctl::write_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), if ipv6 { "0" } else { "1" })
    })??;
    let index = endpoint.link_index;
    patiently(&bare.socket, &Change::link_up(index))?;
    for address in [endpoint.ipv4.map(Into::into), endpoint.ipv6.map(Into::into)].into_iter().flatten() {
        patiently(&bare.socket, &Change::add_address(index, address))?;
    }
    Ok(())
}

/// Brings up a link whose frames are passed on to a machine with a kernel of its own. It is to hear what is sent to any group: which the machine joins, its own kernel knows.
pub(super) fn bring_up_for_machine(inside: &RouteSocket, index: u32) -> Result<()> {
    patiently(inside, &Change::link_up_for_groups(index))
}

/// Does a change, and waits for an address of the parent's that another link has.
fn patiently(inside: &RouteSocket, change: &Change) -> Result<()> {
    let began = Instant::now();
    loop {
        match inside.apply(std::slice::from_ref(change)) {
            Err(error) if error.is_errno(Errno::ADDRINUSE) && began.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// Deletes the links of endpoints that have no other end on the host, in a namespace that stays. Waits for the kernel's grace periods.
pub(super) fn delete_links<'a>(bare: &Bare, endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Result<()> {
    for endpoint in endpoints.into_iter().filter(|endpoint| endpoint.is_on_parent()) {
        if let Some(link) = bare.socket.link(&endpoint.link_name)?
            && matches!(link.kind.as_str(), "macvlan" | "ipvlan")
            && link.index == endpoint.link_index
        {
            bare.socket.apply(&[Change::delete_link(link.index)])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    const ID: &str = "0123456789abcdef";

    #[test]
    fn options_are_read_as_docker_has_them() {
        let given =
            options(&[("parent", "eth0.10"), ("macvlan_mode", "vepa"), ("com.docker.network.driver.mtu", "1400")]);
        let read = LanOptions::macvlan(&given, ID).unwrap();
        assert_eq!((read.parent.as_str(), read.nowhere, read.mtu), ("eth0.10", false, Some(1400)));
        assert_eq!(read.kind, LanKind::Macvlan(MacvlanMode::Vepa));
        let read = LanOptions::ipvlan(&options(&[]), ID).unwrap();
        assert_eq!((read.parent.as_str(), read.nowhere), ("dm-0123456789ab", true));
        assert_eq!(read.kind, LanKind::Ipvlan(IpvlanMode::L2, IpvlanFlag::Bridge));
        for (key, value, says) in [
            (
                "macvlan_mode",
                "fast",
                "requested macvlan mode 'fast' is not valid, 'bridge' mode is the macvlan driver default",
            ),
            ("parent", "lo", "loopback interface is not a valid macvlan parent link"),
        ] {
            let refused = LanOptions::macvlan(&options(&[(key, value)]), ID).expect_err("refused");
            assert_eq!(refused.to_string(), says);
        }
        for (key, value, says) in [
            ("ipvlan_mode", "l4", "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default"),
            ("ipvlan_flag", "red", "requested ipvlan flag 'red' is not valid, 'bridge' is the ipvlan driver default"),
        ] {
            let refused = LanOptions::ipvlan(&options(&[(key, value)]), ID).expect_err("refused");
            assert_eq!(refused.to_string(), says);
        }
    }

    #[test]
    fn a_parents_name_may_say_a_vlan() {
        assert_eq!(vlan_of("eth0.10"), Ok(Some(("eth0", 10))));
        assert_eq!(vlan_of("a.b.4094"), Ok(Some(("a.b", 4094))));
        assert_eq!(vlan_of("eth0"), Ok(None));
        for wrong in ["eth0.0", "eth0.4095", "eth0.x", ".5", "eth0."] {
            assert!(vlan_of(wrong).is_err(), "{wrong}");
        }
    }
}

//! Links: bridges, veth pairs, and what shares a link of the host's.

use super::{Change, Needs, RouteSocket, refused};
use crate::MacAddress;
use crate::error::Result;
use crate::netlink::{Attribute, Message, attributes, flag};
use crate::network::{IpvlanFlag, IpvlanMode, MacvlanMode};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

const NEW: u16 = 16;
const DELETE: u16 = 17;
const GET: u16 = 18;
const SET: u16 = 19;

/// `IFLA_*` and what nests in them (`linux/if_link.h`).
mod ifla {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    pub(super) const PORT: u16 = 12;
    pub(super) const LINK_INFO: u16 = 18;
    pub(super) const ALIAS: u16 = 20;
    pub(super) const STATISTICS: u16 = 23;
    pub(super) const GROUP: u16 = 27;
    pub(super) const NAMESPACE_FD: u16 = 28;
    pub(super) const EXTENSIONS: u16 = 29;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const VETH_PEER: u16 = 1;
    pub(super) const INFO_SLAVE_KIND: u16 = 4;
    pub(super) const INFO_SLAVE_DATA: u16 = 5;
    pub(super) const PORT_STATE: u16 = 1;
    pub(super) const PORT_HAIRPIN: u16 = 4;
    pub(super) const PORT_FLUSH: u16 = 24;
    pub(super) const PORT_ISOLATED: u16 = 33;
    pub(super) const FAMILIES: u16 = 26;
    pub(super) const FAMILY_IPV6: u16 = 10;
    pub(super) const IPV6_ADDRESS_MODE: u16 = 8;
    pub(super) const VLAN_ID: u16 = 1;
    pub(super) const MACVLAN_MODE: u16 = 1;
    pub(super) const IPVLAN_MODE: u16 = 1;
    pub(super) const IPVLAN_FLAGS: u16 = 2;
}

const UP: u32 = 1;
/// `IFF_ALLMULTI`.
const ALL_GROUPS: u32 = 1 << 9;
const AF_UNSPEC: u8 = 0;
const AF_BRIDGE: u8 = 7;
/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATISTICS: u32 = 1 << 3;
/// `BR_STATE_DISABLED`.
const DISABLED: u8 = 0;
/// `IN6_ADDR_GEN_MODE_NONE`.
const NO_ADDRESS: u8 = 1;

/// A link as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`…; empty for hardware.
    pub(crate) kind: String,
    pub(crate) alias: String,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    pub(crate) group: u32,
    /// Its link-layer address, where it has one of a host.
    pub(crate) mac: Option<MacAddress>,
    /// The index of the bridge that it is a port of; 0 for none.
    pub(crate) master: u32,
    /// rx packets, tx packets, rx bytes, tx bytes, rx errors, tx errors, rx dropped, tx dropped.
    pub(crate) counters: [u64; 8],
}

/// A veth pair with one end in another namespace.
pub(crate) struct VethSpec<'a> {
    /// The end in the socket's namespace.
    pub(crate) name: &'a str,
    /// The bridge that end becomes a port of.
    pub(crate) bridge: u32,
    /// The other end.
    pub(crate) peer: &'a str,
    /// The namespace of the other end.
    pub(crate) namespace: BorrowedFd<'a>,
    /// The other end's address, where it is known already.
    pub(crate) mac: Option<MacAddress>,
    /// Bytes, of both ends.
    pub(crate) mtu: u32,
}

impl RouteSocket {
    /// All links, without their counters.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        // Half of a listing would be counters.
        let message = Message::new(GET, 0).fixed(&header(AF_UNSPEC, 0, 0, 0)).u32(ifla::EXTENSIONS, SKIP_STATISTICS);
        let objects = self.socket.dump(message).map_err(|e| refused("list links", e))?;
        Ok(objects.iter().filter(|(kind, _)| *kind == NEW).filter_map(|(_, payload)| Link::parse(payload)).collect())
    }

    /// The link of that name.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>> {
        let message = Message::new(GET, 0).fixed(&header(AF_UNSPEC, 0, 0, 0)).text(ifla::NAME, name);
        match self.socket.get(message, Link::parse) {
            Ok(link) => Ok(link),
            Err(e) if e.errno == Errno::NODEV => Ok(None),
            Err(e) => Err(refused(&format!("look up link {name}"), e)),
        }
    }
}

impl Change {
    /// Makes a bridge that is up, in a group.
    pub(crate) fn make_bridge(name: &str, mac: MacAddress, mtu: u32, group: u32) -> Change {
        let message = Message::new(NEW, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(AF_UNSPEC, 0, UP, UP))
            .text(ifla::NAME, name)
            .bytes(ifla::ADDRESS, &mac.octets())
            .u32(ifla::MTU, mtu)
            .u32(ifla::GROUP, group)
            .nest(ifla::LINK_INFO, |m| m.text(ifla::INFO_KIND, "bridge"));
        Change::new(message, format!("make bridge {name}"))
    }

    /// Makes a veth pair: across namespaces, attached to its bridge, in one message. Both ends are down: the kernel
    /// does not bring the other end up before both are joined.
    pub(crate) fn make_veth(spec: &VethSpec<'_>) -> Change {
        let message = Message::new(NEW, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(AF_UNSPEC, 0, 0, 0))
            .text(ifla::NAME, spec.name)
            .u32(ifla::MTU, spec.mtu)
            .u32(ifla::MASTER, spec.bridge)
            .nest(ifla::LINK_INFO, |m| {
                m.text(ifla::INFO_KIND, "veth").nest(ifla::INFO_DATA, |m| {
                    m.nest(ifla::VETH_PEER, |m| {
                        let m = m
                            .fixed(&header(AF_UNSPEC, 0, 0, 0))
                            .text(ifla::NAME, spec.peer)
                            .u32(ifla::MTU, spec.mtu)
                            .u32(ifla::NAMESPACE_FD, spec.namespace.as_raw_fd() as u32);
                        match spec.mac {
                            Some(mac) => m.bytes(ifla::ADDRESS, &mac.octets()),
                            None => m,
                        }
                    })
                })
            });
        Change::new(message, format!("make link {} with its end {}", spec.name, spec.peer))
    }

    /// Makes a link that leads nowhere, in a group.
    pub(crate) fn make_dummy(name: &str, group: u32) -> Change {
        let message = Message::new(NEW, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(AF_UNSPEC, 0, UP, UP))
            .text(ifla::NAME, name)
            .u32(ifla::GROUP, group)
            .nest(ifla::LINK_INFO, |m| m.text(ifla::INFO_KIND, "dummy"));
        Change::needing(of_kind("DUMMY", "dummy"), message, format!("make link {name}"))
    }

    /// Makes a link for the VLAN `id` of the link with that index, in a group.
    pub(crate) fn make_vlan(name: &str, of: u32, id: u16, group: u32) -> Change {
        let message = on_parent(name, of).u32(ifla::GROUP, group).nest(ifla::LINK_INFO, |m| {
            m.text(ifla::INFO_KIND, "vlan").nest(ifla::INFO_DATA, |m| m.bytes(ifla::VLAN_ID, &id.to_ne_bytes()))
        });
        Change::needing(of_kind("VLAN_8021Q", "8021q"), message, format!("make link {name}"))
    }

    /// Makes a macvlan link of the parent with that index, in another namespace. `mtu` in bytes; else it is the parent's.
    pub(crate) fn make_macvlan(
        name: &str,
        parent: u32,
        namespace: BorrowedFd<'_>,
        mode: MacvlanMode,
        mac: MacAddress,
        mtu: Option<u32>,
    ) -> Change {
        // `enum macvlan_mode`.
        let mode: u32 = match mode {
            MacvlanMode::Private => 1,
            MacvlanMode::Vepa => 2,
            MacvlanMode::Bridge => 4,
            MacvlanMode::Passthru => 8,
        };
        let message = elsewhere(on_parent(name, parent), namespace, mtu).bytes(ifla::ADDRESS, &mac.octets());
        let message = message.nest(ifla::LINK_INFO, |m| {
            m.text(ifla::INFO_KIND, "macvlan").nest(ifla::INFO_DATA, |m| m.u32(ifla::MACVLAN_MODE, mode))
        });
        Change::needing(of_kind("MACVLAN", "macvlan"), message, format!("make macvlan link {name}"))
    }

    /// Makes an ipvlan link of the parent with that index, in another namespace. `mtu` as with [`Change::make_macvlan`].
    pub(crate) fn make_ipvlan(
        name: &str,
        parent: u32,
        namespace: BorrowedFd<'_>,
        mode: IpvlanMode,
        flag: IpvlanFlag,
        mtu: Option<u32>,
    ) -> Change {
        // `enum ipvlan_mode`, and `IPVLAN_F_PRIVATE`, `IPVLAN_F_VEPA`.
        let mode: u16 = match mode {
            IpvlanMode::L2 => 0,
            IpvlanMode::L3 => 1,
            IpvlanMode::L3s => 2,
        };
        let flags: u16 = match flag {
            IpvlanFlag::Bridge => 0,
            IpvlanFlag::Private => 1,
            IpvlanFlag::Vepa => 2,
        };
        let message = elsewhere(on_parent(name, parent), namespace, mtu).nest(ifla::LINK_INFO, |m| {
            m.text(ifla::INFO_KIND, "ipvlan").nest(ifla::INFO_DATA, |m| {
                m.bytes(ifla::IPVLAN_MODE, &mode.to_ne_bytes()).bytes(ifla::IPVLAN_FLAGS, &flags.to_ne_bytes())
            })
        });
        Change::needing(of_kind("IPVLAN", "ipvlan"), message, format!("make ipvlan link {name}"))
    }

    /// Brings a link up.
    pub(crate) fn link_up(index: u32) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, UP, UP));
        Change::new(message, format!("bring link {index} up"))
    }

    /// Brings a link up that hears frames for any group.
    pub(crate) fn link_up_for_groups(index: u32) -> Change {
        let flags = UP | ALL_GROUPS;
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, flags, flags));
        Change::new(message, format!("bring link {index} up, and have it hear all groups"))
    }

    /// Says how long a link's packets may be, and brings it up.
    pub(crate) fn link_up_with_mtu(index: u32, mtu: u32) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, UP, UP)).u32(ifla::MTU, mtu);
        Change::new(message, format!("bring link {index} up with packets of {mtu} bytes"))
    }

    /// Gives a link another address.
    pub(crate) fn link_mac(index: u32, mac: MacAddress) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, 0, 0)).bytes(ifla::ADDRESS, &mac.octets());
        Change::new(message, format!("set the address of link {index} to {mac}"))
    }

    /// Writes a link's alias, a text for people and for finding it again.
    pub(crate) fn link_alias(index: u32, alias: &str) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, 0, 0)).bytes(ifla::ALIAS, alias.as_bytes());
        Change::new(message, format!("set the alias of link {index} to {alias}"))
    }

    /// Puts a link into a group, a number that rules can ask for.
    pub(crate) fn link_group(index: u32, group: u32) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, 0, 0)).u32(ifla::GROUP, group);
        Change::new(message, format!("put link {index} into group {group}"))
    }

    /// Sets up a new port of a bridge, by its name: whether it hears other isolated ports, and whether frames may leave by
    /// it that came in by it. `ipv6` is whether the kernel has IPv6; then the port is kept from having an address.
    pub(crate) fn port_options(name: &str, isolated: bool, hairpin: bool, ipv6: bool) -> Change {
        let mut message = Message::new(NEW, 0).fixed(&header(AF_UNSPEC, 0, 0, 0)).text(ifla::NAME, name);
        message = message.nest(ifla::LINK_INFO, |m| {
            m.text(ifla::INFO_SLAVE_KIND, "bridge").nest(ifla::INFO_SLAVE_DATA, |m| {
                m.u8(ifla::PORT_ISOLATED, isolated.into()).u8(ifla::PORT_HAIRPIN, hairpin.into())
            })
        });
        if ipv6 {
            message = message
                .nest(ifla::FAMILIES, |m| m.nest(ifla::FAMILY_IPV6, |m| m.u8(ifla::IPV6_ADDRESS_MODE, NO_ADDRESS)));
        }
        Change::new(message, format!("set up the bridge's port {name}"))
    }

    /// Makes a bridge's port pass nothing any more, and the bridge forget which addresses are behind it. This is a message to
    /// the bridge, as one to the link would have the bridge look whether the port can be enabled, and do it.
    pub(crate) fn silence_port(index: u32) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_BRIDGE, index, 0, 0));
        let message = message.nest(ifla::PORT, |m| m.u8(ifla::PORT_STATE, DISABLED).bytes(ifla::PORT_FLUSH, &[]));
        Change::new(message, format!("silence the bridge's port {index}"))
    }

    /// Brings a link up, by its name.
    pub(crate) fn named_link_up(name: &str) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, 0, UP, UP)).text(ifla::NAME, name);
        Change::new(message, format!("bring link {name} up"))
    }

    /// Deletes a link. Waits for the kernel's grace periods, tens of milliseconds.
    pub(crate) fn delete_link(index: u32) -> Change {
        Change::new(Message::new(DELETE, 0).fixed(&header(AF_UNSPEC, index, 0, 0)), format!("delete link {index}"))
    }
}

/// A new link of a parent's, but for its kind.
fn on_parent(name: &str, parent: u32) -> Message {
    Message::new(NEW, flag::CREATE | flag::EXCLUSIVE)
        .fixed(&header(AF_UNSPEC, 0, 0, 0))
        .text(ifla::NAME, name)
        .u32(ifla::LINK, parent)
}

/// The new link is in another namespace.
fn elsewhere(message: Message, namespace: BorrowedFd<'_>, mtu: Option<u32>) -> Message {
    let message = message.u32(ifla::NAMESPACE_FD, namespace.as_raw_fd() as u32);
    match mtu {
        Some(mtu) => message.u32(ifla::MTU, mtu),
        None => message,
    }
}

const fn of_kind(parts: &'static str, modules: &'static str) -> Needs {
    Needs { of: "such a network", parts, modules }
}

/// `struct ifinfomsg`.
fn header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

impl Link {
    fn parse(payload: &[u8]) -> Option<Link> {
        let word = |at: usize| Some(u32::from_ne_bytes(payload.get(at..at + 4)?.try_into().ok()?));
        let mut link = Link { index: word(4)?, up: word(8)? & UP != 0, ..Link::default() };
        for attribute in attributes(payload.get(16..)?) {
            link.read(&attribute);
        }
        Some(link)
    }

    fn read(&mut self, attribute: &Attribute<'_>) {
        match attribute.kind {
            ifla::NAME => self.name = attribute.text().unwrap_or_default().to_owned(),
            ifla::MTU => self.mtu = attribute.u32().unwrap_or_default(),
            ifla::ADDRESS => self.mac = attribute.value.try_into().ok().and_then(MacAddress::from_octets),
            ifla::GROUP => self.group = attribute.u32().unwrap_or_default(),
            ifla::MASTER => self.master = attribute.u32().unwrap_or_default(),
            ifla::ALIAS => self.alias = attribute.text().unwrap_or_default().to_owned(),
            ifla::LINK_INFO => {
                let kind = attribute.find(ifla::INFO_KIND);
                self.kind = kind.and_then(|kind| kind.text()).unwrap_or_default().to_owned();
            }
            // `struct rtnl_link_stats64` begins with these eight.
            ifla::STATISTICS => {
                for (counter, bytes) in self.counters.iter_mut().zip(attribute.value.chunks_exact(8)) {
                    *counter = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
                }
            }
            _ => {}
        }
    }
}

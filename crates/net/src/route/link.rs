//! Links: bridges and veth pairs.

use super::{Change, RouteSocket, refused};
use crate::MacAddress;
use crate::error::Result;
use crate::netlink::{Attribute, Message, attributes, flag};
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
    pub(super) const MASTER: u16 = 10;
    pub(super) const PROTOCOL_INFO: u16 = 12;
    pub(super) const LINK_INFO: u16 = 18;
    pub(super) const ALIAS: u16 = 20;
    pub(super) const STATISTICS: u16 = 23;
    pub(super) const NAMESPACE_FD: u16 = 28;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const VETH_PEER: u16 = 1;
    pub(super) const PORT_ISOLATED: u16 = 33;
}

const UP: u32 = 1;
const AF_UNSPEC: u8 = 0;
const AF_BRIDGE: u8 = 7;

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
    /// Whether both ends are up from the start.
    pub(crate) up: bool,
}

impl RouteSocket {
    /// All links.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        let message = Message::new(GET, 0).fixed(&header(AF_UNSPEC, 0, 0, 0));
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
    /// Makes a bridge that is up.
    pub(crate) fn make_bridge(name: &str, mac: MacAddress, mtu: u32) -> Change {
        let message = Message::new(NEW, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(AF_UNSPEC, 0, UP, UP))
            .text(ifla::NAME, name)
            .bytes(ifla::ADDRESS, &mac.octets())
            .u32(ifla::MTU, mtu)
            .nest(ifla::LINK_INFO, |m| m.text(ifla::INFO_KIND, "bridge"));
        Change::new(message, format!("make bridge {name}"))
    }

    /// Makes a veth pair: across namespaces, attached to its bridge, in one message.
    pub(crate) fn make_veth(spec: &VethSpec<'_>) -> Change {
        let flags = if spec.up { UP } else { 0 };
        let message = Message::new(NEW, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(AF_UNSPEC, 0, flags, flags))
            .text(ifla::NAME, spec.name)
            .u32(ifla::MTU, spec.mtu)
            .u32(ifla::MASTER, spec.bridge)
            .nest(ifla::LINK_INFO, |m| {
                m.text(ifla::INFO_KIND, "veth").nest(ifla::INFO_DATA, |m| {
                    m.nest(ifla::VETH_PEER, |m| {
                        let m = m
                            .fixed(&header(AF_UNSPEC, 0, flags, flags))
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

    /// Makes a pair of links within the namespace.
    #[cfg(test)]
    pub(crate) fn make_pair(name: &str, peer: &str) -> Change {
        let message = Message::new(NEW, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(AF_UNSPEC, 0, UP, UP))
            .text(ifla::NAME, name)
            .nest(ifla::LINK_INFO, |m| {
                m.text(ifla::INFO_KIND, "veth").nest(ifla::INFO_DATA, |m| {
                    m.nest(ifla::VETH_PEER, |m| m.fixed(&header(AF_UNSPEC, 0, UP, UP)).text(ifla::NAME, peer))
                })
            });
        Change::new(message, format!("make links {name} and {peer}"))
    }

    /// Brings a link up.
    pub(crate) fn link_up(index: u32) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, UP, UP));
        Change::new(message, format!("bring link {index} up"))
    }

    /// Gives a link another name; only while it is down, or with kernels that allow it.
    pub(crate) fn link_name(index: u32, name: &str) -> Change {
        let message = Message::new(SET, 0).fixed(&header(AF_UNSPEC, index, 0, 0)).text(ifla::NAME, name);
        Change::new(message, format!("name link {index} {name}"))
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

    /// Makes a bridge's port deaf to other ports that are so as well.
    pub(crate) fn isolate_port(index: u32) -> Change {
        let message = Message::new(SET, 0)
            .fixed(&header(AF_BRIDGE, index, 0, 0))
            .nest(ifla::PROTOCOL_INFO, |m| m.u8(ifla::PORT_ISOLATED, 1));
        Change::new(message, format!("isolate the bridge's port {index}"))
    }

    /// Deletes a link. Waits for the kernel's grace periods, tens of milliseconds.
    pub(crate) fn delete_link(index: u32) -> Change {
        Change::new(Message::new(DELETE, 0).fixed(&header(AF_UNSPEC, index, 0, 0)), format!("delete link {index}"))
    }
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

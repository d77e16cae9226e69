//! Tables, chains, sets and their elements.

use super::expression::{LINK_NAME, Protocol};
use crate::address::octets;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A table by its family and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Table {
    pub(crate) family: Protocol,
    pub(crate) name: String,
}

/// Where the kernel calls a chain (`NF_INET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Filter,
    Nat,
}

impl ChainKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        }
    }
}

/// The order of chains at one hook, lowest first (nft(8), "standard priority names").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    Raw = -300,
    DestinationNat = -100,
    Filter = 0,
    SourceNat = 100,
}

/// What a set holds. The kernel knows lengths only; types tell `nft list` how to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetKind {
    /// Names of links.
    Links,
    /// Pairs of names of links.
    LinkPairs,
    /// Ranges of addresses.
    Ranges(Protocol),
    /// From address, transport protocol and port, to address and port.
    PortsByAddress(Protocol),
    /// From transport protocol and port, to address and port.
    Ports(Protocol),
    /// Address, transport protocol and port.
    ListenersByAddress(Protocol),
    /// Transport protocol and port.
    Listeners,
}

/// Types of nft(8), which user space gives meaning to.
mod kind {
    pub(super) const IPV4: u32 = 7;
    pub(super) const IPV6: u32 = 8;
    pub(super) const TRANSPORT: u32 = 12;
    pub(super) const PORT: u32 = 13;
    pub(super) const LINK: u32 = 41;
    /// Types of one key, six bits each.
    pub(super) const fn concatenate(types: &[u32]) -> u32 {
        let (mut all, mut at) = (0, 0);
        while at < types.len() {
            all = all << 6 | types[at];
            at += 1;
        }
        all
    }
}

/// A set's key and data: type and length in bytes.
pub(super) struct Shape {
    pub(super) key: (u32, u32),
    pub(super) data: Option<(u32, u32)>,
    pub(super) ranges: bool,
}

impl SetKind {
    pub(super) fn shape(self) -> Shape {
        use kind::{LINK, PORT, TRANSPORT, concatenate};
        let address = |protocol| if protocol == Protocol::Ipv6 { (kind::IPV6, 16) } else { (kind::IPV4, 4) };
        let target = |(kind, length): (u32, u32)| Some((concatenate(&[kind, PORT]), length + 4));
        match self {
            SetKind::Links => Shape { key: (LINK, LINK_NAME as u32), data: None, ranges: false },
            SetKind::LinkPairs => {
                Shape { key: (concatenate(&[LINK, LINK]), 2 * LINK_NAME as u32), data: None, ranges: false }
            }
            SetKind::Ranges(protocol) => Shape { key: address(protocol), data: None, ranges: true },
            SetKind::PortsByAddress(protocol) => {
                let (kind, length) = address(protocol);
                let key = (concatenate(&[kind, TRANSPORT, PORT]), length + 8);
                Shape { key, data: target((kind, length)), ranges: false }
            }
            SetKind::Ports(protocol) => {
                Shape { key: (concatenate(&[TRANSPORT, PORT]), 8), data: target(address(protocol)), ranges: false }
            }
            SetKind::ListenersByAddress(protocol) => Shape { data: None, ..SetKind::PortsByAddress(protocol).shape() },
            SetKind::Listeners => Shape { data: None, ..SetKind::Ports(Protocol::Ipv4).shape() },
        }
    }
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) data: Option<Vec<u8>>,
    /// Whether it ends a range, and is the first that is not in it.
    pub(super) ends_range: bool,
}

impl Element {
    fn key(key: Vec<u8>) -> Element {
        Element { key, data: None, ends_range: false }
    }

    /// A link's name.
    pub(crate) fn link(name: &str) -> Element {
        Element::key(padded_name(name))
    }

    /// From and to the same link.
    pub(crate) fn same_link(name: &str) -> Element {
        Element::key([padded_name(name), padded_name(name)].concat())
    }

    /// The addresses of a network: where they begin, and where the next begin (none after the last of all).
    pub(crate) fn range(net: ipnet::IpNet) -> Vec<Element> {
        let (first, last) = (octets(net.network()), net.broadcast());
        let next = match last {
            IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|n| octets(Ipv4Addr::from(n).into())),
            IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|n| octets(Ipv6Addr::from(n).into())),
        };
        let end = next.map(|key| Element { ends_range: true, ..Element::key(key) });
        std::iter::once(Element::key(first)).chain(end).collect()
    }

    /// A port of a host's address (or any) that a process of the host listens on.
    pub(crate) fn listener(at: Option<IpAddr>, transport: u8, port: u16) -> Element {
        let mut key = at.map(octets).unwrap_or_default();
        key.extend_from_slice(&[transport, 0, 0, 0]);
        key.extend_from_slice(&padded_port(port));
        Element::key(key)
    }

    /// A published port: from a host's address (or any), transport protocol and port, to a container's.
    pub(crate) fn port(from: Option<IpAddr>, transport: u8, port: u16, to: IpAddr, to_port: u16) -> Element {
        let data = [octets(to), padded_port(to_port).to_vec()].concat();
        Element { data: Some(data), ..Element::listener(from, transport, port) }
    }
}

fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn padded_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(LINK_NAME, 0);
    bytes
}

//! Addresses of links.

use super::{Change, RouteSocket, family_of, ip_from, refused};
use crate::address::octets;
use crate::error::Result;
use crate::netlink::{Message, attributes, flag};
use ipnet::IpNet;
use std::net::IpAddr;

const NEW: u16 = 20;
const DELETE: u16 = 21;
const GET: u16 = 22;

/// `IFA_*` (`linux/if_addr.h`).
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
/// No duplicate address detection: the daemon hands out each address once, and a start must not wait a second for it.
const NO_DAD: u8 = 0x02;

impl RouteSocket {
    /// The addresses of the link with that index, with their prefixes.
    pub(crate) fn addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        let all = self.all_addresses()?.into_iter();
        Ok(all.filter(|(link, _)| *link == index).map(|(_, address)| address).collect())
    }

    /// Every address of the host.
    pub(crate) fn local_addresses(&self) -> Result<Vec<IpAddr>> {
        Ok(self.all_addresses()?.into_iter().map(|(_, address)| address.addr()).collect())
    }

    /// With the index of the link that has it.
    fn all_addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let objects =
            self.socket.dump(Message::new(GET, 0).fixed(&[0; 8])).map_err(|e| refused("list addresses", e))?;
        Ok(objects.iter().filter(|(kind, _)| *kind == NEW).filter_map(|(_, payload)| parse(payload)).collect())
    }
}

impl Change {
    /// Gives a link an address; its prefix becomes a route through the link. None to do where the link has it already.
    pub(crate) fn add_address(index: u32, address: IpNet) -> Change {
        let ip = octets(address.addr());
        let mut message = Message::new(NEW, flag::CREATE | flag::REPLACE)
            .fixed(&header(index, address))
            .bytes(LOCAL, &ip)
            .bytes(ADDRESS, &ip);
        if let IpNet::V4(net) = address
            && net.prefix_len() < 31
        {
            message = message.bytes(BROADCAST, &net.broadcast().octets());
        }
        Change::new(message, format!("add address {address} to link {index}"))
    }

    /// Takes an address from a link.
    pub(crate) fn delete_address(index: u32, address: IpNet) -> Change {
        let message = Message::new(DELETE, 0).fixed(&header(index, address)).bytes(LOCAL, &octets(address.addr()));
        Change::new(message, format!("delete address {address} of link {index}"))
    }
}

/// `struct ifaddrmsg`.
fn header(index: u32, address: IpNet) -> [u8; 8] {
    let flags = if address.addr().is_ipv6() { NO_DAD } else { 0 };
    let [a, b, c, d] = index.to_ne_bytes();
    [family_of(address.addr()), address.prefix_len(), flags, 0, a, b, c, d]
}

fn parse(payload: &[u8]) -> Option<(u32, IpNet)> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let find = |kind| attributes(payload.get(8..)?).find(|a| a.kind == kind).and_then(|a| ip_from(a.value));
    let ip: IpAddr = find(LOCAL).or_else(|| find(ADDRESS))?;
    Some((index, IpNet::new(ip, *payload.get(1)?).ok()?))
}

//! Network interfaces: found, named, given addresses and routes. By rtnetlink (rtnetlink(7)), of which it takes five requests.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use guest_protocol::configuration::{Found, Interface, Route};
use guest_protocol::message::Failure;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::{disks, failed};

// Of linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const ROUTE_TO: u16 = 1;
const ROUTE_LINK: u16 = 4;
const ROUTE_BY: u16 = 5;
/// Of routes: the main table, made by whoever boots, and not by the kernel itself.
const MAIN: u8 = 254;
const BOOT: u8 = 3;
const UNICAST: u8 = 1;
const UP: u32 = 1;
/// No duplicate address detection: the host gives an address once.
const NO_DAD: u8 = 2;

/// What a link is.
struct Link {
    index: u32,
    up: bool,
    name: String,
    mac: Vec<u8>,
}

/// Makes the interfaces what they are to be, and the loopback usable. Others are left alone.
pub(crate) fn configure(interfaces: &[Interface]) -> Result<(), Failure> {
    let mut rtnetlink = Rtnetlink::open().map_err(failed("open", "rtnetlink"))?;
    let loopback = find(&mut rtnetlink, &Found::Name("lo".to_owned()))?;
    if !loopback.up {
        rtnetlink.set_link(loopback.index, true, &[]).map_err(failed("bring up", "lo"))?;
    }
    interfaces.iter().try_for_each(|interface| set_up(&mut rtnetlink, interface))
}

fn find(rtnetlink: &mut Rtnetlink, found: &Found) -> Result<Link, Failure> {
    let is_it = |link: &Link| match found {
        Found::Mac(mac) => link.mac == mac,
        Found::Name(name) => link.name == *name,
    };
    let look = || rtnetlink.links().ok()?.into_iter().find(is_it);
    disks::wait_for(|| format!("network interface {found:?}"), look)
}

fn set_up(rtnetlink: &mut Rtnetlink, interface: &Interface) -> Result<(), Failure> {
    let link = find(rtnetlink, &interface.found)?;
    let (index, name) = (link.index, &interface.name);
    let failed = |tried| failed(tried, name);
    let new_mac = interface.mac.filter(|mac| link.mac != mac);
    let renamed = link.name != *name;
    if link.up && (renamed || new_mac.is_some()) {
        // Neither can be changed while it is up. Its routes go with that.
        rtnetlink.set_link(index, false, &[]).map_err(failed("bring down"))?;
    }
    if renamed {
        make_way(rtnetlink, name)?;
    }
    // Before it has another link-layer address: nobody is to learn that what another machine has is there.
    for (address, prefix) in rtnetlink.addresses(index).map_err(failed("list the addresses of"))? {
        if !interface.addresses.contains(&(address, prefix)) && !is_link_local(address) {
            rtnetlink.address(DELETE_ADDRESS, index, address, prefix).map_err(failed("take an address from"))?;
        }
    }
    let terminated = [name.as_bytes(), b"\0"].concat();
    let mtu = interface.mtu.map(u32::to_ne_bytes);
    let mut attributes: Vec<(u16, &[u8])> = Vec::new();
    attributes.extend(renamed.then_some((LINK_NAME, &terminated[..])));
    attributes.extend(new_mac.as_ref().map(|mac| (LINK_ADDRESS, &mac[..])));
    attributes.extend(mtu.as_ref().map(|mtu| (LINK_MTU, &mtu[..])));
    rtnetlink.set_link(index, true, &attributes).map_err(failed("bring up"))?;
    for (address, prefix) in &interface.addresses {
        rtnetlink.address(NEW_ADDRESS, index, *address, *prefix).map_err(failed("give an address to"))?;
    }
    // Those of the interface that was before, as far as nothing has its place.
    for route in rtnetlink.routes(index).map_err(failed("list the routes over"))? {
        if !interface.routes.iter().any(|wanted| wanted.to == route.to) {
            match rtnetlink.route(DELETE_ROUTE, index, &route) {
                // It went with an address.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(failed("take a route from")(errno)),
            }
        }
    }
    for route in &interface.routes {
        rtnetlink.route(NEW_ROUTE, index, route).map_err(failed("add a route over"))?;
    }
    Ok(())
}

/// Gives another name to who has this one. It gets its own when its turn comes, as it is found by its address.
fn make_way(rtnetlink: &mut Rtnetlink, name: &str) -> Result<(), Failure> {
    let failed = |tried| failed(tried, name);
    let links = rtnetlink.links().map_err(failed("look for"))?;
    let Some(other) = links.into_iter().find(|link| link.name == name) else { return Ok(()) };
    rtnetlink.set_link(other.index, false, &[]).map_err(failed("bring down"))?;
    let aside = format!("aside{}\0", other.index);
    rtnetlink.set_link(other.index, false, &[(LINK_NAME, aside.as_bytes())]).map_err(failed("rename"))
}

/// Everybody's address on an IPv4 network that has one (RFC 3021: those of two addresses have none).
fn broadcast(address: IpAddr, prefix: u8) -> Option<[u8; 4]> {
    match address {
        IpAddr::V4(address) if prefix < 31 => Some((u32::from(address) | u32::MAX >> prefix).to_be_bytes()),
        _ => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn address_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        _ => Some(IpAddr::from(*value.first_chunk::<16>()?)),
    }
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

/// The socket.
struct Rtnetlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Rtnetlink {
    fn open() -> Result<Self, Errno> {
        // No protocol is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn links(&mut self) -> Result<Vec<Link>, Errno> {
        let objects = self.ask(GET_LINK, DUMP, &[0; 16], &[])?;
        let link = |body: &Vec<u8>| {
            let (fixed, attributes) = body.split_first_chunk::<16>()?;
            let mut link = Link {
                index: u32::from_ne_bytes(*fixed[4..].first_chunk()?),
                up: u32::from_ne_bytes(*fixed[8..].first_chunk()?) & UP != 0,
                name: String::new(),
                mac: Vec::new(),
            };
            for (kind, value) in attributes_of(attributes) {
                match kind {
                    LINK_NAME => {
                        link.name = String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
                    }
                    LINK_ADDRESS => link.mac = value.to_vec(),
                    _ => {}
                }
            }
            Some(link)
        };
        Ok(objects.iter().filter_map(link).collect())
    }

    fn set_link(&mut self, index: u32, up: bool, attributes: &[(u16, &[u8])]) -> Result<(), Errno> {
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&if up { UP } else { 0 }.to_ne_bytes());
        fixed[12..].copy_from_slice(&UP.to_ne_bytes());
        self.ask(NEW_LINK, ACK, &fixed, attributes).map(drop)
    }

    fn addresses(&mut self, link: u32) -> Result<Vec<(IpAddr, u8)>, Errno> {
        let objects = self.ask(GET_ADDRESS, DUMP, &[0; 8], &[])?;
        let address = |body: &Vec<u8>| {
            let (fixed, attributes) = body.split_first_chunk::<8>()?;
            if u32::from_ne_bytes(*fixed[4..].first_chunk()?) != link {
                return None;
            }
            let attributes: Vec<_> = attributes_of(attributes).collect();
            let of = |kind| attributes.iter().find(|(found, _)| *found == kind);
            let (_, value) = of(LOCAL).or(of(ADDRESS))?;
            Some((address_of(value)?, fixed[1]))
        };
        Ok(objects.iter().filter_map(address).collect())
    }

    /// Adds or takes an address. One that is there already is no error.
    fn address(&mut self, kind: u16, link: u32, address: IpAddr, prefix: u8) -> Result<(), Errno> {
        let (family, octets) = octets(address);
        let mut fixed = [family, prefix, NO_DAD, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&link.to_ne_bytes());
        let flags = if kind == NEW_ADDRESS { ACK | CREATE | REPLACE } else { ACK };
        let broadcast = broadcast(address, prefix);
        let mut attributes: Vec<(u16, &[u8])> = vec![(LOCAL, &octets), (ADDRESS, &octets)];
        attributes.extend(broadcast.as_ref().map(|broadcast| (BROADCAST, &broadcast[..])));
        self.ask(kind, flags, &fixed, &attributes).map(drop)
    }

    /// The routes over a link that were made by [`Rtnetlink::route`].
    fn routes(&mut self, link: u32) -> Result<Vec<Route>, Errno> {
        let objects = self.ask(GET_ROUTE, DUMP, &[0; 12], &[])?;
        let route = |body: &Vec<u8>| {
            let ([family, prefix, _, _, table, origin, _, kind, ..], attributes) = body.split_first_chunk::<12>()?;
            let none = match i32::from(*family) {
                libc::AF_INET => vec![0; 4],
                libc::AF_INET6 => vec![0; 16],
                _ => return None,
            };
            let attributes: Vec<_> = attributes_of(attributes).collect();
            let of = |kind| attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value);
            let over = u32::from_ne_bytes(*of(ROUTE_LINK)?.first_chunk()?);
            let ours = over == link && (*table, *origin, *kind) == (MAIN, BOOT, UNICAST);
            let to = address_of(of(ROUTE_TO).unwrap_or(&none))?;
            ours.then(|| Route { to: (to, *prefix), by: of(ROUTE_BY).and_then(address_of) })
        };
        Ok(objects.iter().filter_map(route).collect())
    }

    fn route(&mut self, request: u16, link: u32, route: &Route) -> Result<(), Errno> {
        const LINK: u8 = 253;
        let (family, to) = octets(route.to.0);
        let scope = if route.by.is_some() || family == libc::AF_INET6 as u8 { 0 } else { LINK };
        let fixed = [family, route.to.1, 0, 0, MAIN, BOOT, scope, UNICAST, 0, 0, 0, 0];
        let by = route.by.map(|by| octets(by).1);
        let link = link.to_ne_bytes();
        let mut attributes: Vec<(u16, &[u8])> = vec![(ROUTE_LINK, &link)];
        attributes.extend((route.to.1 > 0).then_some((ROUTE_TO, &to[..])));
        attributes.extend(by.as_ref().map(|by| (ROUTE_BY, &by[..])));
        let flags = if request == NEW_ROUTE { ACK | CREATE | REPLACE } else { ACK };
        self.ask(request, flags, &fixed, &attributes).map(drop)
    }

    /// Sends a request, and collects the bodies of what comes.
    fn ask(&mut self, kind: u16, flags: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Result<Vec<Vec<u8>>, Errno> {
        self.sequence += 1;
        let mut message = vec![0; 16];
        message.extend_from_slice(fixed);
        for (kind, value) in attributes {
            message.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        message[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut objects = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (count, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..count];
            while let Some((header, _)) = rest.split_first_chunk::<16>() {
                let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let body = rest.get(16..length).ok_or(Errno::BADMSG)?;
                match u16::from_ne_bytes([header[4], header[5]]) {
                    DONE => return Ok(objects),
                    ERROR => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(objects) } else { Err(Errno::from_raw_os_error(-code)) };
                    }
                    _ => objects.push(body.to_vec()),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn attributes_of(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & 0x3fff, value))
    })
}

//! The kernel's table of flows, and taking entries out of it.
//!
//! The kernel decides once for each flow where it goes, and then remembers that as long as packets keep coming. Of TCP that does
//! no harm: whoever gets segments of a connection that it does not know resets it. A client that goes on sending datagrams to
//! a port whose container is gone would have them delivered to whoever has its address next, and a port that is published
//! would not get those of clients that began before.
//!
//! Looking for entries costs the kernel a walk through its whole table, whatever is asked for (7 ms of processor time
//! with 262144 buckets): it is done for many at once, and never while a client waits.
//!
//! Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use crate::Protocol;
use crate::error::{Error, Result};
use crate::netlink::{Attribute, Family, Message, Socket, attributes};
use rustix::io::Errno;
use std::net::IpAddr;

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_*`.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

/// `CTA_*`.
mod cta {
    pub(super) const ORIGINAL: u16 = 1;
    pub(super) const REPLY: u16 = 2;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const FILTER: u16 = 25;
    /// In a tuple.
    pub(super) const IP: u16 = 1;
    pub(super) const TRANSPORT: u16 = 2;
    /// In its address, of IPv4 and of IPv6.
    pub(super) const V4_SOURCE: u16 = 1;
    pub(super) const V4_DESTINATION: u16 = 2;
    pub(super) const V6_SOURCE: u16 = 3;
    pub(super) const V6_DESTINATION: u16 = 4;
    /// In its transport.
    pub(super) const NUMBER: u16 = 1;
    pub(super) const DESTINATION_PORT: u16 = 3;
    /// In a filter.
    pub(super) const OF_ORIGINAL: u16 = 1;
}
/// The filter's bit for the transport protocol of a tuple (`CTA_FILTER_F_CTA_PROTO_NUM`).
const BY_TRANSPORT: u32 = 1 << 3;

/// A flow, as its first packet had it and as answers to it come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) to_port: u16,
    /// Who answers: not `to`, where the destination was changed.
    pub(crate) answers_from: IpAddr,
    /// Whom answers go to: not `from`, where the source was changed.
    pub(crate) answers_to: IpAddr,
}

/// A socket for the table of the namespace that it was opened in.
pub(crate) struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens one in the calling thread's namespace.
    pub(crate) fn open() -> Result<Conntrack> {
        let socket =
            Socket::open(Family::Netfilter).map_err(|e| Error::kernel("open a netlink socket for conntrack", e))?;
        Ok(Conntrack { socket })
    }

    /// Forgets the flows of a transport protocol, over IPv4 or IPv6, that `is_stale` says so of; gives how many.
    pub(crate) fn forget(&self, protocol: Protocol, ipv6: bool, is_stale: impl Fn(&Flow) -> bool) -> Result<usize> {
        let failed = |what: &str, errno| Error::kernel(format!("{what} in the table of {protocol} flows"), errno);
        let objects = self.socket.dump(listing(protocol, ipv6)).map_err(|e| failed("look", e.errno))?;
        let mut forgotten = 0;
        for (_, payload) in objects.iter().filter(|(kind, _)| *kind == NEW) {
            let Some((number, flow)) = parse(payload) else { continue };
            // Kernels before 5.8 do not know the filter, and list everything.
            if number != protocol.number() || !is_stale(&flow) {
                continue;
            }
            match self.socket.request(&[removal(payload, ipv6)]) {
                Ok(()) => forgotten += 1,
                // It ran out meanwhile.
                Err(e) if e.errno == Errno::NOENT => {}
                Err(e) => return Err(failed("delete an entry", e.errno)),
            }
        }
        Ok(forgotten)
    }
}

fn listing(protocol: Protocol, ipv6: bool) -> Message {
    let of_protocol = |m: Message| m.nest(cta::TRANSPORT, |m| m.u8(cta::NUMBER, protocol.number()));
    Message::new(GET, 0)
        .fixed(&header(ipv6))
        .nest(cta::ORIGINAL, of_protocol)
        .nest(cta::FILTER, |m| m.u32(cta::OF_ORIGINAL, BY_TRANSPORT))
}

/// Deletes exactly the entry that was listed: its tuple, in its zone, and no later one that is the same.
fn removal(payload: &[u8], ipv6: bool) -> Message {
    const NESTED: u16 = 0x8000;
    let mut message = Message::new(DELETE, 0).fixed(&header(ipv6));
    for attribute in attributes(payload.get(4..).unwrap_or_default()) {
        message = match attribute.kind {
            cta::ORIGINAL => message.bytes(cta::ORIGINAL | NESTED, attribute.value),
            cta::ID | cta::ZONE => message.bytes(attribute.kind, attribute.value),
            _ => message,
        };
    }
    message
}

/// `struct nfgenmsg`, with `AF_INET` or `AF_INET6`.
fn header(ipv6: bool) -> [u8; 4] {
    [if ipv6 { 10 } else { 2 }, 0, 0, 0]
}

/// The transport protocol's number, and the flow.
fn parse(payload: &[u8]) -> Option<(u8, Flow)> {
    let find = |kind| attributes(payload.get(4..)?).find(|a| a.kind == kind);
    let (original, reply) = (find(cta::ORIGINAL)?, find(cta::REPLY)?);
    let transport = original.find(cta::TRANSPORT)?;
    let port = transport.find(cta::DESTINATION_PORT)?.value;
    let (from, to) = addresses(&original)?;
    let (answers_from, answers_to) = addresses(&reply)?;
    let to_port = u16::from_be_bytes(port.get(..2)?.try_into().ok()?);
    let number = *transport.find(cta::NUMBER)?.value.first()?;
    Some((number, Flow { from, to, to_port, answers_from, answers_to }))
}

/// Source and destination of a tuple.
fn addresses(tuple: &Attribute<'_>) -> Option<(IpAddr, IpAddr)> {
    let ip = tuple.find(cta::IP)?;
    let v4 = |kind| <[u8; 4]>::try_from(ip.find(kind)?.value).ok().map(IpAddr::from);
    let v6 = |kind| <[u8; 16]>::try_from(ip.find(kind)?.value).ok().map(IpAddr::from);
    let source = v4(cta::V4_SOURCE).or_else(|| v6(cta::V6_SOURCE))?;
    let destination = v4(cta::V4_DESTINATION).or_else(|| v6(cta::V6_DESTINATION))?;
    Some((source, destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An attribute, as the kernel lays it out.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (value.len() + 4) as u16;
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, from: IpAddr, to: IpAddr, to_port: u16, number: u8) -> Vec<u8> {
        let (source, destination) = if from.is_ipv4() { (1, 2) } else { (3, 4) };
        let octets = crate::address::octets;
        let ip = [attribute(source, &octets(from)), attribute(destination, &octets(to))].concat();
        let transport = [attribute(1, &[number]), attribute(2, &[0, 9]), attribute(3, &to_port.to_be_bytes())].concat();
        attribute(kind | 0x8000, &[attribute(1 | 0x8000, &ip), attribute(2 | 0x8000, &transport)].concat())
    }

    proptest! {
        #[test]
        fn a_flow_is_read_as_the_kernel_writes_it(v6: bool, ips: [[u8; 16]; 4], to_port: u16, number: u8, id: [u8; 4]) {
            let [from, to, answers_from, answers_to] = ips.map(|octets| match v6 {
                true => IpAddr::from(octets),
                false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            });
            let flow = Flow { from, to, to_port, answers_from, answers_to };
            let mut payload = header(v6).to_vec();
            payload.extend(tuple(1, from, to, to_port, number));
            payload.extend(tuple(2, answers_from, answers_to, 9, number));
            payload.extend(attribute(12, &id));
            prop_assert_eq!(parse(&payload), Some((number, flow)));
            // What is cut short anywhere is no entry, or the same one without what is not needed to know it.
            for end in 0..payload.len() {
                let read = parse(&payload[..end]);
                prop_assert!(read.is_none() || read == Some((number, flow)), "{read:?}");
            }
        }

        #[test]
        fn any_bytes_are_read_to_an_end(payload: Vec<u8>) {
            let _ = parse(&payload);
        }
    }
}

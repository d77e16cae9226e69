//! Which addresses may be connected to for somebody who is not to reach all that this machine does: what listens on it alone, and what
//! clouds tell a machine about itself, credentials included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Where clouds answer machines' questions about themselves, beside the link-local addresses that most of them use.
const METADATA: [IpAddr; 6] = [
    // Alibaba, Oracle, Azure; Google, Oracle and Scaleway by IPv6. All of AWS' are in a range of their own.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// Addresses that may be connected to: all but loopback, link-local and multicast ones and those of clouds' metadata services, which may be
/// where a range says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    allowed: Vec<IpNet>,
}

/// The text is no address, and no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address and no range of addresses: write 127.0.0.1, or 169.254.0.0/16")]
pub struct BadRange(String);

impl Reach {
    /// With further ranges that may be connected to.
    ///
    /// # Errors
    /// [`BadRange`]
    pub fn allowing(ranges: &[String]) -> Result<Reach, BadRange> {
        let range = |text: &String| {
            let of_one = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| of_one()).map_err(|_| BadRange(text.clone()))
        };
        Ok(Reach { allowed: ranges.iter().map(range).collect::<Result<_, _>>()? })
    }

    /// Whether an address may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        let meant = [Some(address), carried(address).map(IpAddr::V4)];
        let allowed = |address: &IpAddr| self.allowed.iter().any(|range| range.contains(address));
        meant.iter().flatten().any(allowed) || !meant.iter().flatten().any(is_special)
    }
}

fn is_special(address: &IpAddr) -> bool {
    let by_kind = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            let of_aws = v6.segments()[..2] == [0xfd00, 0xec2];
            // Site-local ones, which nobody uses any more, are each host's own matter.
            let of_site = v6.segments()[0] & 0xffc0 == 0xfec0;
            v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || of_aws
                || of_site
        }
    };
    by_kind || METADATA.contains(address)
}

/// The IPv4 address that packets to an IPv6 address go to in the end: it is mapped (RFC 4291), or behind a translator or a relay of the
/// well-known kinds (RFC 6052, RFC 8215, RFC 2765, RFC 3056, RFC 4380, RFC 5214).
fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let bytes = v6.octets();
    let at = |start: usize| Ipv4Addr::new(bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3]);
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(at(12)),
        [0, 0, 0, 0, 0xffff, 0, ..] | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(at(12)),
        // Teredo has it with its bits turned.
        [0x2001, 0, ..] => Some(Ipv4Addr::from(!u32::from(at(12)))),
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => Some(at(12)),
        [0x2002, ..] => Some(at(2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_this_machines_is_out_of_reach_however_it_is_written() {
        let reach = Reach::default();
        let allows = |text: &str| reach.allows(text.parse().unwrap());
        for out in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fd00:ec2::23",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fec0::1",
            "64:ff9b:1::a9fe:a9fe",
            "::ffff:0:127.0.0.1",
            "2001:0:1:2:3:4:5601:5601",
            "2001:db8::5efe:127.0.0.1",
        ] {
            assert!(!allows(out), "{out}");
        }
        for within in
            ["10.0.0.1", "192.168.1.1", "192.0.2.1", "fd00::1", "2001:db8::1", "2001:4860::8888", "64:ff9b::c000:201"]
        {
            assert!(allows(within), "{within}");
        }
    }

    #[test]
    fn a_range_is_within_reach_where_it_is_allowed() {
        let reach = Reach::allowing(&["127.0.0.1".into(), "fe80::/10".into()]).unwrap();
        let allows = |text: &str| reach.allows(text.parse().unwrap());
        assert!(allows("127.0.0.1") && allows("::ffff:127.0.0.1") && allows("fe80::2"));
        assert!(!allows("127.0.0.2") && !allows("::1"));
        assert!(Reach::allowing(&["localhost".into()]).is_err());
    }
}

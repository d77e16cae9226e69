//! Where subnets come from that nobody chose.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A range that is cut into subnets of one size (`--default-address-pool base=10.0.0.0/8,size=24`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// The whole range.
    pub base: IpNet,
    /// The prefix length of each subnet, at least that of `base`.
    pub size: u8,
}

impl AddressPool {
    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16 as a whole, 192.168.0.0/16 in /20s. IPv6 has none of its own here: an
    /// instance derives its unique local range (RFC 4193) from a random number of its own, kept in the store.
    pub fn defaults() -> Vec<AddressPool> {
        let v4 =
            |a, b, base, size| AddressPool { base: Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), base).into(), size };
        vec![
            v4(172, 17, 16, 16),
            v4(172, 18, 16, 16),
            v4(172, 19, 16, 16),
            v4(172, 20, 14, 16),
            v4(172, 24, 14, 16),
            v4(172, 28, 14, 16),
            v4(192, 168, 16, 20),
        ]
    }

    /// A pool of unique local IPv6 subnets: `fd` and the 40 bits of `global_id` are a /48, cut into /64s.
    pub fn unique_local(global_id: [u8; 5]) -> AddressPool {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&global_id);
        AddressPool { base: Ipv6Net::new_assert(Ipv6Addr::from(octets), 48).into(), size: 64 }
    }

    /// The first subnet that overlaps none of `taken`.
    pub(crate) fn free_subnet(&self, taken: &[IpNet]) -> Option<IpNet> {
        match self.base {
            IpNet::V4(base) => {
                let (first, last) = (u32::from(base.network()) as u128, u32::from(base.broadcast()) as u128);
                let at = self.scan(first, last, 32, taken)?;
                Some(Ipv4Net::new(Ipv4Addr::from(at as u32), self.size).ok()?.into())
            }
            IpNet::V6(base) => {
                let (first, last) = (u128::from(base.network()), u128::from(base.broadcast()));
                let at = self.scan(first, last, 128, taken)?;
                Some(Ipv6Net::new(Ipv6Addr::from(at), self.size).ok()?.into())
            }
        }
    }

    /// Walks the range in steps of one subnet, leaping over whatever is taken, however large.
    fn scan(&self, first: u128, last: u128, bits: u8, taken: &[IpNet]) -> Option<u128> {
        if self.size > bits || self.size < self.base.prefix_len() || self.size == 0 {
            return None;
        }
        let step = 1u128 << (bits - self.size);
        let ranges: Vec<(u128, u128)> = taken.iter().filter_map(|net| range_of(net, bits)).collect();
        let mut at = first;
        while at <= last {
            let end = at.checked_add(step - 1)?;
            match ranges.iter().filter(|(low, high)| *low <= end && at <= *high).map(|(_, high)| *high).max() {
                None => return Some(at),
                // The next multiple of a step after the obstacle (the range begins at one).
                Some(high) => at = (high / step).checked_add(1)?.checked_mul(step)?,
            }
        }
        None
    }
}

/// First and last address of a network of the family with `bits`.
fn range_of(net: &IpNet, bits: u8) -> Option<(u128, u128)> {
    match net {
        IpNet::V4(net) if bits == 32 => Some((u32::from(net.network()) as u128, u32::from(net.broadcast()) as u128)),
        IpNet::V6(net) if bits == 128 => Some((u128::from(net.network()), u128::from(net.broadcast()))),
        _ => None,
    }
}

/// Whether two networks have an address in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_leap_over_what_is_taken() {
        let pool = AddressPool { base: net("10.0.0.0/8"), size: 24 };
        assert_eq!(pool.free_subnet(&[]), Some(net("10.0.0.0/24")));
        assert_eq!(pool.free_subnet(&[net("10.0.0.128/25")]), Some(net("10.0.1.0/24")));
        assert_eq!(pool.free_subnet(&[net("10.0.0.0/9")]), Some(net("10.128.0.0/24")));
        assert_eq!(pool.free_subnet(&[net("0.0.0.0/0")]), None);
        assert_eq!(pool.free_subnet(&[net("fd00::/8")]), Some(net("10.0.0.0/24")));
    }

    #[test]
    fn unique_local_subnets_are_64_bits_wide() {
        let pool = AddressPool::unique_local([1, 2, 3, 4, 5]);
        assert_eq!(pool.free_subnet(&[net("fd01:203:405::/64")]), Some(net("fd01:203:405:1::/64")));
    }

    #[test]
    fn a_pool_can_reach_the_end_of_its_family() {
        let pool = AddressPool { base: net("255.255.255.0/24"), size: 25 };
        assert_eq!(pool.free_subnet(&[net("255.255.255.0/25")]), Some(net("255.255.255.128/25")));
        assert_eq!(pool.free_subnet(&[net("255.255.255.0/24")]), None);
    }

    proptest! {
        #[test]
        fn a_free_subnet_overlaps_nothing(base in 8u8..24, more in 0u8..8, taken in prop::collection::vec((any::<u32>(), 4u8..=32), 0..20)) {
            let pool = AddressPool { base: Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), base).unwrap().trunc().into(), size: base + more };
            let taken: Vec<IpNet> = taken.iter().map(|(a, p)| Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 | a >> 8), *p).unwrap().trunc().into()).collect();
            if let Some(found) = pool.free_subnet(&taken) {
                prop_assert!(pool.base.contains(&found));
                prop_assert!(taken.iter().all(|t| !overlap(t, &found)));
            }
        }
    }
}

//! Which addresses of a subnet are taken.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a wanted address cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    InUse,
    OutOfRange,
}

/// The addresses of one subnet: the lowest free one of the range is given out first, as Docker does.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    subnet: IpNet,
    /// What may be taken at all, and what may be chosen; both inclusive.
    all: (u128, u128),
    range: (u128, u128),
    taken: BTreeSet<u128>,
    /// No address of the range below it is free.
    lowest: u128,
}

impl Leases {
    /// Nothing taken. Network and broadcast addresses (IPv6: the routers' anycast address) are nobody's, but in
    /// subnets of one or two addresses, which have none (RFC 3021, RFC 6164).
    pub(crate) fn new(subnet: IpNet, range: Option<IpNet>) -> Leases {
        let (mut first, mut last) = bounds(subnet);
        if last - first > 1 {
            first += 1;
            last -= u128::from(subnet.addr().is_ipv4());
        }
        let (low, high) = range.map_or((first, last), bounds);
        let range = (low.max(first), high.min(last));
        Leases { subnet, all: (first, last), range, taken: BTreeSet::new(), lowest: range.0 }
    }

    /// The subnet.
    pub(crate) fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// Takes a certain address; it need not be in the range.
    pub(crate) fn claim(&mut self, ip: IpAddr) -> Result<(), Unavailable> {
        let number = number(ip);
        if ip.is_ipv4() != self.subnet.addr().is_ipv4() || !(self.all.0..=self.all.1).contains(&number) {
            return Err(Unavailable::OutOfRange);
        }
        if self.taken.insert(number) { Ok(()) } else { Err(Unavailable::InUse) }
    }

    /// Takes the lowest free address of the range.
    pub(crate) fn take(&mut self) -> Option<IpAddr> {
        let mut candidate = self.lowest;
        // Walk along what is taken until there is a gap.
        for taken in self.taken.range(self.lowest..) {
            if *taken != candidate || candidate == u128::MAX {
                break;
            }
            candidate += 1;
        }
        // The very last address of IPv6 has none after it.
        if self.taken.contains(&candidate) {
            return None;
        }
        self.lowest = candidate;
        if candidate > self.range.1 {
            return None;
        }
        self.taken.insert(candidate);
        self.lowest = candidate.saturating_add(1);
        Some(self.address(candidate))
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, ip: IpAddr) {
        let number = number(ip);
        if self.taken.remove(&number) && (self.range.0..=self.range.1).contains(&number) {
            self.lowest = self.lowest.min(number);
        }
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.subnet {
            IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        }
    }
}

fn bounds(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_comes_first() {
        let mut leases = Leases::new("10.0.0.0/29".parse().unwrap(), None);
        let all: Vec<IpAddr> = std::iter::from_fn(|| leases.take()).collect();
        assert_eq!(all, (1..=6).map(|n| ip(&format!("10.0.0.{n}"))).collect::<Vec<_>>());
        leases.release(ip("10.0.0.5"));
        leases.release(ip("10.0.0.2"));
        assert_eq!(leases.take(), Some(ip("10.0.0.2")));
        assert_eq!(leases.take(), Some(ip("10.0.0.5")));
        assert_eq!(leases.take(), None);
    }

    #[test]
    fn a_range_limits_what_is_chosen_and_not_what_is_claimed() {
        let mut leases = Leases::new("10.0.0.0/24".parse().unwrap(), Some("10.0.0.128/31".parse().unwrap()));
        assert_eq!(leases.claim(ip("10.0.0.7")), Ok(()));
        assert_eq!(leases.claim(ip("10.0.0.7")), Err(Unavailable::InUse));
        assert_eq!(leases.claim(ip("10.0.0.255")), Err(Unavailable::OutOfRange));
        assert_eq!(leases.claim(ip("10.0.1.7")), Err(Unavailable::OutOfRange));
        assert_eq!(leases.claim(ip("fd00::7")), Err(Unavailable::OutOfRange));
        assert_eq!(leases.take(), Some(ip("10.0.0.128")));
        assert_eq!(leases.take(), Some(ip("10.0.0.129")));
        assert_eq!(leases.take(), None);
    }

    #[test]
    fn the_ends_of_the_families_are_no_trouble() {
        let mut all = Leases::new("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127".parse().unwrap(), None);
        assert!(all.take().is_some() && all.take().is_some());
        assert_eq!(all.take(), None);
        let mut one = Leases::new("10.0.0.1/32".parse().unwrap(), None);
        assert_eq!((one.take(), one.take()), (Some(ip("10.0.0.1")), None));
    }

    proptest! {
        #[test]
        fn nobody_gets_what_another_has(steps in prop::collection::vec((0u8..3, 0u8..20), 0..100)) {
            let mut leases = Leases::new("10.0.0.0/28".parse().unwrap(), None);
            let mut held = BTreeSet::new();
            for (what, n) in steps {
                let wanted = ip(&format!("10.0.0.{n}"));
                match what {
                    0 => match leases.take() {
                        Some(got) => prop_assert!(held.insert(got)),
                        None => prop_assert_eq!(held.len(), 14),
                    },
                    1 => match leases.claim(wanted) {
                        Ok(()) => prop_assert!(held.insert(wanted)),
                        Err(Unavailable::InUse) => prop_assert!(held.contains(&wanted)),
                        Err(Unavailable::OutOfRange) => prop_assert!(n == 0 || n > 14),
                    },
                    _ => {
                        held.remove(&wanted);
                        leases.release(wanted);
                    }
                }
            }
        }
    }
}

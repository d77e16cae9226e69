//! Link-layer addresses.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use thiserror::Error;

/// An EUI-48 address. Written `02:42:ac:11:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// A text that is no MAC address of a host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "invalid MAC address {0:?}: write six pairs of hexadecimal digits, as 02:42:ac:11:00:02, and no multicast address"
)]
pub struct MacParseError(String);

impl MacAddress {
    /// The address that Docker's bridge driver derives from an IPv4 address: `02:42` and its four bytes. The same
    /// address always has the same MAC, so that neighbours' caches stay right when it goes to another container.
    pub const fn from_ipv4(ip: Ipv4Addr) -> MacAddress {
        let [a, b, c, d] = ip.octets();
        MacAddress([0x02, 0x42, a, b, c, d])
    }

    /// A random, locally administered address that begins with `02:42`.
    pub fn random() -> MacAddress {
        let [a, b, c, d] = rand::random::<[u8; 4]>();
        MacAddress([0x02, 0x42, a, b, c, d])
    }

    /// An address that begins with `02:42`, as Docker's do, and is always the same for the same parts. It is like a random one to
    /// whoever does not know them.
    pub(crate) fn derived(parts: [&str; 3]) -> MacAddress {
        let hash = Sha256::digest(parts.join("\0"));
        MacAddress([0x02, 0x42, hash[0], hash[1], hash[2], hash[3]])
    }

    /// The six bytes, in the order of transmission.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The address of six bytes, unless it is a group address or all zeros.
    pub fn from_octets(octets: [u8; 6]) -> Option<MacAddress> {
        (octets[0] & 1 == 0 && octets != [0; 6]).then_some(MacAddress(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<MacAddress, MacParseError> {
        let invalid = || MacParseError(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut pairs = text.split(separator);
        for octet in &mut octets {
            let pair = pairs.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = u8::from_str_radix(pair.ok_or_else(invalid)?, 16).map_err(|_| invalid())?;
        }
        if pairs.next().is_some() {
            return Err(invalid());
        }
        MacAddress::from_octets(octets).ok_or_else(invalid)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacParseError;

    fn try_from(text: String) -> Result<MacAddress, MacParseError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn is_derived_from_the_ipv4_address() {
        assert_eq!(MacAddress::from_ipv4(Ipv4Addr::new(172, 17, 0, 2)).to_string(), "02:42:ac:11:00:02");
    }

    #[test]
    fn refuses_what_no_host_can_have() {
        for text in ["", "02:42", "02:42:ac:11:00:02:03", "02:42:ac:11:00:0g", "+2:42:ac:11:00:02", "01:00:5e:00:00:01"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parses_what_it_prints(octets: [u8; 6]) {
            if let Some(mac) = MacAddress::from_octets(octets) {
                prop_assert_eq!(mac.to_string().parse::<MacAddress>(), Ok(mac));
            }
        }

        #[test]
        fn never_panics(text in ".{0,24}") {
            let _ = text.parse::<MacAddress>();
        }
    }
}

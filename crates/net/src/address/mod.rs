//! Addresses: where subnets come from, who has which address, and link-layer addresses.

mod lease;
mod mac;
mod pool;

pub(crate) use lease::{Leases, Unavailable};
pub use mac::{MacAddress, MacParseError};
pub use pool::AddressPool;
pub(crate) use pool::overlap;

use std::net::IpAddr;

/// The bytes of an address, in the order of transmission.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

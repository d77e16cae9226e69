//! Addresses: where subnets come from, who has which address, and link-layer addresses.

mod lease;
mod mac;
mod pool;

pub(crate) use lease::{Leases, Unavailable};
pub use mac::{MacAddress, MacParseError};
pub use pool::AddressPool;
pub(crate) use pool::overlap;

//! Random numbers that nobody can guess.

use rand::RngCore;

/// A number below `limit`, which is not 0.
pub(super) fn below(limit: usize) -> usize {
    // The bias of the remainder is below 2^-32 for any number of addresses.
    (rand::rng().next_u64() % limit as u64) as usize
}

/// A transaction identifier (RFC 5452, section 9.1).
pub(super) fn transaction_id() -> u16 {
    rand::rng().next_u32() as u16
}

//! nftables over nfnetlink: tables, chains, sets and rules, typed, and transactions of them.
//!
//! Only what this crate's rules need. Sources: nft(8), `include/uapi/linux/netfilter/nf_tables.h`.

mod expression;
mod object;
mod socket;

pub(crate) use expression::{Protocol, Rule, Verdict};
pub(crate) use object::{ChainKind, Element, Hook, Priority, SetKind, Table};
pub(crate) use socket::{Chain, Nft, Transaction};

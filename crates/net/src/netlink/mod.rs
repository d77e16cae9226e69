//! Netlink: messages, attributes and sockets, as much of them as links, addresses, routes and nftables need.
//!
//! Sources: netlink(7), rtnetlink(7), nfnetlink's `include/uapi/linux/netfilter/nfnetlink.h`.

mod attribute;
mod message;
mod socket;

pub(crate) use attribute::{Attribute, attributes};
pub(crate) use message::Message;
pub(crate) use socket::{Family, NetlinkError, Socket};

/// `NLM_F_*`: what a request wants (netlink(7)).
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// The size of a message's header: length, type, flags, sequence number, port.
const HEADER: usize = 16;

/// The next multiple of four.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}

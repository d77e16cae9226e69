//! Redirection of all that comes in by one link out of another, by the kernel's traffic control (tc(8), tc-u32(8), tc-mirred(8);
//! `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`, `linux/tc_act/tc_mirred.h`).
//!
//! A packet is looked at when it has come in and before anything else of the namespace has seen it: neither ARP nor IP nor
//! netfilter do. Packets that the namespace itself sends are not concerned.

use super::{Change, Needs};
use crate::address::MacAddress;
use crate::netlink::{Message, flag};

const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;

/// `TCA_*`, and what nests in it.
mod tca {
    pub(super) const KIND: u16 = 1;
    pub(super) const OPTIONS: u16 = 2;
    pub(super) const U32_SELECTOR: u16 = 5;
    pub(super) const U32_ACTIONS: u16 = 7;
    /// The first, and here the only one, of a list of actions.
    pub(super) const FIRST: u16 = 1;
    pub(super) const ACTION_KIND: u16 = 1;
    pub(super) const ACTION_OPTIONS: u16 = 2;
    pub(super) const MIRRED_PARAMETERS: u16 = 2;
}

/// `TC_H_INGRESS`: where the queueing discipline of what comes in is attached.
const INGRESS: u32 = 0xffff_fff1;
/// The one's own number, `ffff:`.
const HANDLE: u32 = 0xffff_0000;
/// Of several filters the one of the least number is asked first.
const PRIORITY: u32 = 1;
/// `ETH_P_ALL`, in the network's byte order.
const ALL_PROTOCOLS: u16 = 3u16.to_be();
/// `TC_U32_TERMINAL`: what matches is decided about.
const TERMINAL: u8 = 1;
/// `TC_ACT_STOLEN`: the packet is the action's, and nobody else sees it.
const STOLEN: u32 = 4;
/// `TCA_EGRESS_REDIR`.
const EGRESS: u32 = 1;

const MACHINE: &str = "a microVM's network";
const QDISC: Needs = Needs { of: MACHINE, parts: "NET_SCH_INGRESS", modules: "sch_ingress" };
const FILTER: Needs =
    Needs { of: MACHINE, parts: "NET_CLS_U32, NET_CLS_ACT and NET_ACT_MIRRED", modules: "cls_u32 act_mirred" };

impl Change {
    /// Gives a link what filters of incoming packets are attached to. An error where it has one.
    pub(crate) fn filter_ingress(link: u32) -> Change {
        let message = Message::new(NEW_QDISC, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(link, HANDLE, INGRESS, 0))
            .text(tca::KIND, "ingress");
        Change::needing(QDISC, message, format!("have what comes in by link {link} filtered"))
    }

    /// Sends every packet that comes in by `from`, which has [`Change::filter_ingress`], out by `to`, as it is. While `to` is down, or
    /// nobody is behind it, they are lost.
    pub(crate) fn redirect(from: u32, to: u32) -> Change {
        Self::redirect_selected(from, to, &everything())
    }

    /// The same of the packets alone whose sender has this link-layer address.
    pub(crate) fn redirect_from(sender: MacAddress, from: u32, to: u32) -> Change {
        Self::redirect_selected(from, to, &sent_by(sender))
    }

    fn redirect_selected(from: u32, to: u32, selector: &[u8]) -> Change {
        let info = PRIORITY << 16 | u32::from(ALL_PROTOCOLS);
        let message = Message::new(NEW_FILTER, flag::CREATE | flag::EXCLUSIVE)
            .fixed(&header(from, 0, HANDLE, info))
            .text(tca::KIND, "u32")
            .nest(tca::OPTIONS, |m| {
                m.bytes(tca::U32_SELECTOR, selector).nest(tca::U32_ACTIONS, |m| {
                    m.nest(tca::FIRST, |m| {
                        m.text(tca::ACTION_KIND, "mirred")
                            .nest(tca::ACTION_OPTIONS, |m| m.bytes(tca::MIRRED_PARAMETERS, &mirred(to)))
                    })
                })
            });
        Change::needing(FILTER, message, format!("redirect what comes in by link {from} to link {to}"))
    }
}

/// `struct tcmsg`.
fn header(link: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    words([0, link, handle, parent, info])
}

/// `struct tc_u32_sel` with one key, whose mask has no bit.
fn everything() -> Vec<u8> {
    selector(&[key([0; 4], [0; 4], 0)])
}

/// `struct tc_u32_sel` of the sender in an Ethernet header, which ends where offsets begin: of the word in which its last two bytes are, the rest is the type.
fn sent_by(sender: MacAddress) -> Vec<u8> {
    let [a, b, c, d, e, f] = sender.octets();
    selector(&[key([0xff; 4], [a, b, c, d], -8), key([0xff, 0xff, 0, 0], [e, f, 0, 0], -4)])
}

/// `struct tc_u32_sel`: what all of its keys match is decided about.
fn selector(keys: &[[u8; 16]]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[0] = TERMINAL;
    bytes[2] = u8::try_from(keys.len()).unwrap_or_default();
    bytes.extend(keys.concat());
    bytes
}

/// `struct tc_u32_key`: a word at an offset, in bytes from where the network's header begins.
fn key(mask: [u8; 4], value: [u8; 4], offset: i32) -> [u8; 16] {
    words([u32::from_ne_bytes(mask), u32::from_ne_bytes(value), offset.cast_unsigned(), 0])
}

/// `struct tc_mirred`: number (the kernel chooses), capabilities, verdict, two counts, what to do, and with which link.
fn mirred(to: u32) -> [u8; 28] {
    words([0, 0, STOLEN, 0, 0, EGRESS, to])
}

fn words<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_a_kernel_lacks_is_told_with_its_module() {
        let said = |change: Change, errno: Errno| change.refused(errno.into()).to_string();
        let told = said(Change::filter_ingress(7), Errno::NOENT);
        assert!(told.starts_with("cannot have what comes in by link 7 filtered, as the kernel lacks"), "{told}");
        assert!(told.ends_with("needs NET_SCH_INGRESS. Load them with: modprobe -a sch_ingress"), "{told}");
        let told = said(Change::redirect(7, 8), Errno::OPNOTSUPP);
        assert!(
            told.ends_with(
                "NET_CLS_U32, NET_CLS_ACT and NET_ACT_MIRRED. Load them with: modprobe -a cls_u32 act_mirred"
            ),
            "{told}"
        );
        let told = said(Change::redirect(7, 8), Errno::NODEV);
        assert_eq!(told, "cannot redirect what comes in by link 7 to link 8: No such device (os error 19)");
    }
}

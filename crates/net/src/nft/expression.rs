//! Rules: lists of expressions, which load registers, compare them, and decide.
//!
//! A register file of 64 bytes is addressed in words of 4 bytes, from 8 on (`NFT_REG32_00`); register 0 is the verdict.

use crate::address::octets;
use crate::netlink::Message;
use std::net::IpAddr;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
}

impl Verdict<'_> {
    /// `NF_ACCEPT`, `NF_DROP` and `NFT_*`, and the chain that is jumped to.
    fn code(self) -> (i32, Option<String>) {
        match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain.to_owned())),
            Verdict::Return => (-5, None),
        }
    }
}

/// A network protocol, as `NFPROTO_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Inet = 1,
    Ipv4 = 2,
    Ipv6 = 10,
}

impl Protocol {
    pub(crate) fn of(ip: IpAddr) -> Protocol {
        if ip.is_ipv4() { Protocol::Ipv4 } else { Protocol::Ipv6 }
    }

    /// Where in the network header the source and destination addresses are, and how long they are. Bytes.
    fn addresses(self) -> (u32, u32, u32) {
        match self {
            Protocol::Ipv6 => (8, 24, 16),
            _ => (12, 16, 4),
        }
    }
}

/// `NFT_META_*`.
const META_IN_NAME: u32 = 6;
const META_OUT_NAME: u32 = 7;
const META_PROTOCOL: u32 = 15;
const META_TRANSPORT: u32 = 16;
const META_IN_GROUP: u32 = 21;
const META_OUT_GROUP: u32 = 22;
/// `NFT_CT_*`, state bits, and `IPS_DST_NAT`.
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const ESTABLISHED_OR_RELATED: u32 = 0x2 | 0x4;
const DESTINATION_CHANGED: u32 = 0x20;
/// `NFT_PAYLOAD_*_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFT_CMP_*`.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// The first word of the register file.
const FIRST: u32 = 8;
/// `IFNAMSIZ`: how long names of links are in registers and sets.
pub(super) const LINK_NAME: usize = 16;

/// A rule that is being written: conditions in their order, and what to do where all are met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rule {
    expressions: Vec<Message>,
    comment: Option<String>,
}

impl Rule {
    pub(crate) fn new() -> Rule {
        Rule::default()
    }

    /// A text that `nft list` shows, and that the rule can be found by. At most 127 bytes.
    pub(crate) fn comment(mut self, text: &str) -> Rule {
        self.comment = Some(text.to_owned());
        self
    }

    /// Of that network protocol.
    pub(crate) fn protocol(self, protocol: Protocol) -> Rule {
        self.meta(META_PROTOCOL, FIRST).compare(FIRST, EQUAL, &[protocol as u8])
    }

    /// Comes from the link of that name.
    pub(crate) fn arrives_by(self, name: &str) -> Rule {
        self.meta(META_IN_NAME, FIRST).compare(FIRST, EQUAL, &with_zero(name))
    }

    /// Goes to the link of that name.
    pub(crate) fn leaves_by(self, name: &str) -> Rule {
        self.meta(META_OUT_NAME, FIRST).compare(FIRST, EQUAL, &with_zero(name))
    }

    /// Comes from a link in a set of names.
    pub(crate) fn arrives_by_any(self, set: &str) -> Rule {
        self.meta(META_IN_NAME, FIRST).lookup(set, FIRST, None)
    }

    /// Goes to a link in a set of names.
    pub(crate) fn leaves_by_any(self, set: &str) -> Rule {
        self.meta(META_OUT_NAME, FIRST).lookup(set, FIRST, None)
    }

    /// Comes from a link of that group.
    pub(crate) fn arrives_by_group(self, group: u32) -> Rule {
        self.meta(META_IN_GROUP, FIRST).compare(FIRST, EQUAL, &group.to_ne_bytes())
    }

    /// Goes to a link of that group.
    pub(crate) fn leaves_by_group(self, group: u32) -> Rule {
        self.meta(META_OUT_GROUP, FIRST).compare(FIRST, EQUAL, &group.to_ne_bytes())
    }

    /// Comes from and goes to a pair of links in a set of pairs.
    pub(crate) fn between_links(self, set: &str) -> Rule {
        self.meta(META_IN_NAME, FIRST).meta(META_OUT_NAME, FIRST + 4).lookup(set, FIRST, None)
    }

    /// Its source is in a set of addresses of that protocol, which is checked first.
    pub(crate) fn source_in(self, protocol: Protocol, set: &str) -> Rule {
        let (source, _, length) = protocol.addresses();
        self.protocol(protocol).payload(NETWORK, source, length, FIRST).lookup(set, FIRST, None)
    }

    /// Its source is in 127.0.0.0/8.
    pub(crate) fn source_loopback(self) -> Rule {
        self.protocol(Protocol::Ipv4).payload(NETWORK, 12, 1, FIRST).compare(FIRST, EQUAL, &[127])
    }

    /// Its destination is in 127.0.0.0/8.
    pub(crate) fn destination_loopback(self) -> Rule {
        self.protocol(Protocol::Ipv4).payload(NETWORK, 16, 1, FIRST).compare(FIRST, EQUAL, &[127])
    }

    /// Its destination is that address, of its protocol.
    pub(crate) fn destination(self, ip: IpAddr) -> Rule {
        let protocol = Protocol::of(ip);
        let (_, destination, length) = protocol.addresses();
        self.protocol(protocol).payload(NETWORK, destination, length, FIRST).compare(FIRST, EQUAL, &octets(ip))
    }

    /// Its destination is an address of the host (of the namespace).
    pub(crate) fn destination_local(self) -> Rule {
        // `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, `RTN_LOCAL`.
        const TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.push("fib", |m| m.be32(1, FIRST).be32(2, TYPE).be32(3, DESTINATION)).compare(
            FIRST,
            EQUAL,
            &LOCAL.to_ne_bytes(),
        )
    }

    /// Is of a connection that is known, or related to one.
    pub(crate) fn established(self) -> Rule {
        self.conntrack_bits(CT_STATE, ESTABLISHED_OR_RELATED)
    }

    /// Is of a connection whose destination was changed: a published port.
    pub(crate) fn redirected(self) -> Rule {
        self.conntrack_bits(CT_STATUS, DESTINATION_CHANGED)
    }

    /// Is of that transport protocol (its number) and for that port.
    pub(crate) fn port(self, transport: u8, port: u16) -> Rule {
        let rule = self.meta(META_TRANSPORT, FIRST).compare(FIRST, EQUAL, &[transport]);
        rule.payload(TRANSPORT, 2, 2, FIRST).compare(FIRST, EQUAL, &port.to_be_bytes())
    }

    /// Sends the packet where a map says: from destination (where `by_address`), transport protocol and port, to address
    /// and port. A packet that the map does not know goes on to the next rule.
    pub(crate) fn redirect_by(self, protocol: Protocol, by_address: bool, map: &str) -> Rule {
        let (.., length) = protocol.addresses();
        self.load_listener(protocol, by_address).lookup(map, FIRST, Some(FIRST)).change_destination(
            protocol,
            FIRST,
            FIRST + length / 4,
        )
    }

    /// Goes to a port in a set: of its destination (where `by_address`), or of any.
    pub(crate) fn destined_for(self, protocol: Protocol, by_address: bool, set: &str) -> Rule {
        self.load_listener(protocol, by_address).lookup(set, FIRST, None)
    }

    /// Loads destination (where `by_address`), transport protocol and port, of that network protocol.
    fn load_listener(self, protocol: Protocol, by_address: bool) -> Rule {
        let (_, destination, length) = protocol.addresses();
        let (rule, next) = match by_address {
            true => (self.protocol(protocol).payload(NETWORK, destination, length, FIRST), FIRST + length / 4),
            false => (self.protocol(protocol), FIRST),
        };
        rule.meta(META_TRANSPORT, next).payload(TRANSPORT, 2, 2, next + 1)
    }

    /// Sends the packet to that address and port.
    pub(crate) fn redirect_to(self, ip: IpAddr, port: u16) -> Rule {
        let address = octets(ip);
        let next = FIRST + address.len() as u32 / 4;
        let loaded = self.immediate(FIRST, &address).immediate(next, &port.to_be_bytes());
        loaded.change_destination(Protocol::of(ip), FIRST, next)
    }

    /// Makes the packet come from the address of the link that it leaves by.
    pub(crate) fn masquerade(self) -> Rule {
        self.push("masq", |m| m)
    }

    /// Counts packets and bytes.
    pub(crate) fn counter(self) -> Rule {
        self.push("counter", |m| m.be64(1, 0).be64(2, 0))
    }

    /// Decides.
    pub(crate) fn verdict(self, verdict: Verdict<'_>) -> Rule {
        let (code, chain) = verdict.code();
        self.push("immediate", |m| {
            m.be32(1, 0).nest(2, |m| {
                m.nest(2, |m| {
                    let m = m.be32(1, code as u32);
                    match &chain {
                        Some(chain) => m.text(2, chain),
                        None => m,
                    }
                })
            })
        })
    }

    /// Appends `NFTA_RULE_EXPRESSIONS` and `NFTA_RULE_USERDATA`.
    pub(super) fn write(&self, message: Message) -> Message {
        let message = message.nest(4, |mut m| {
            for expression in &self.expressions {
                m = m.append(expression);
            }
            m
        });
        match &self.comment {
            None => message,
            // A list of type, length, value; the comment is type 0 and ends with a zero byte.
            Some(comment) => {
                let mut bytes = vec![0, (comment.len() + 1) as u8];
                bytes.extend_from_slice(comment.as_bytes());
                bytes.push(0);
                message.bytes(7, &bytes)
            }
        }
    }

    /// `NFT_NAT_DNAT` to what is in two registers.
    fn change_destination(self, protocol: Protocol, address: u32, port: u32) -> Rule {
        const DESTINATION: u32 = 1;
        self.push("nat", |m| m.be32(1, DESTINATION).be32(2, protocol as u32).be32(3, address).be32(5, port))
    }

    fn immediate(self, register: u32, data: &[u8]) -> Rule {
        self.push("immediate", |m| m.be32(1, register).nest(2, |m| m.bytes(1, data)))
    }

    fn meta(self, key: u32, register: u32) -> Rule {
        self.push("meta", |m| m.be32(1, register).be32(2, key))
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Rule {
        self.push("payload", |m| m.be32(1, register).be32(2, base).be32(3, offset).be32(4, length))
    }

    fn compare(self, register: u32, operation: u32, data: &[u8]) -> Rule {
        self.push("cmp", |m| m.be32(1, register).be32(2, operation).nest(3, |m| m.bytes(1, data)))
    }

    fn lookup(self, set: &str, register: u32, into: Option<u32>) -> Rule {
        self.push("lookup", |m| {
            let m = m.text(1, set).be32(2, register);
            match into {
                Some(into) => m.be32(3, into),
                None => m,
            }
        })
    }

    /// Any of these bits is set.
    fn conntrack_bits(self, key: u32, bits: u32) -> Rule {
        let loaded = self.push("ct", |m| m.be32(1, FIRST).be32(2, key));
        let masked = loaded.push("bitwise", |m| {
            m.be32(1, FIRST)
                .be32(2, FIRST)
                .be32(3, 4)
                .nest(4, |m| m.bytes(1, &bits.to_ne_bytes()))
                .nest(5, |m| m.bytes(1, &[0; 4]))
        });
        masked.compare(FIRST, NOT_EQUAL, &[0; 4])
    }

    /// Appends an expression: `NFTA_LIST_ELEM` of `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    fn push(mut self, name: &str, data: impl FnOnce(Message) -> Message) -> Rule {
        self.expressions.push(Message::fragment().nest(1, |m| m.text(1, name).nest(2, data)));
        self
    }
}

/// A link's name as it is compared: with one zero byte, so that it is no prefix. This is also the form that the
/// `iptables` programs understand.
fn with_zero(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

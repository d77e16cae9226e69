//! Transactions, and looking at what is there.

use super::expression::{Protocol, Rule};
use super::object::{ChainKind, Element, Hook, Priority, SetKind, Table};
use crate::error::{Error, Result};
use crate::netlink::{Family, Message, Socket, attributes, flag};
use rustix::io::Errno;

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_*`.
mod kind {
    const fn nft(message: u16) -> u16 {
        10 << 8 | message
    }
    pub(super) const NEW_TABLE: u16 = nft(0);
    pub(super) const GET_TABLE: u16 = nft(1);
    pub(super) const DELETE_TABLE: u16 = nft(2);
    pub(super) const NEW_CHAIN: u16 = nft(3);
    pub(super) const GET_CHAIN: u16 = nft(4);
    pub(super) const NEW_RULE: u16 = nft(6);
    pub(super) const GET_RULE: u16 = nft(7);
    pub(super) const DELETE_RULE: u16 = nft(8);
    pub(super) const NEW_SET: u16 = nft(9);
    pub(super) const NEW_ELEMENT: u16 = nft(12);
    pub(super) const DELETE_ELEMENT: u16 = nft(14);
}

/// Elements of one message: an attribute's length has 16 bits, and an element takes 100 bytes at most.
const ELEMENTS_PER_MESSAGE: usize = 500;
/// Changes of a transaction that do not fit one datagram are refused by the kernel; the socket's buffer is grown for them.
const FORWARD: u32 = Hook::Forward as u32;

/// A socket that changes and reads the nftables of the namespace that it was opened in.
pub(crate) struct Nft {
    socket: Socket,
}

/// A base chain at the forward hook, as others made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) table: Table,
    pub(crate) name: String,
    /// Whether packets are dropped that no rule decides about.
    pub(crate) drops: bool,
    /// Whether only its owner may change the table (`NFT_TABLE_F_OWNER`).
    pub(crate) owned: bool,
}

impl Nft {
    /// Opens one in the calling thread's namespace.
    pub(crate) fn open() -> Result<Nft> {
        let socket =
            Socket::open(Family::Netfilter).map_err(|e| Error::kernel("open a netlink socket for nftables", e))?;
        Ok(Nft { socket })
    }

    /// Does a transaction: all of it, or nothing. Packets see the state before or the state after.
    pub(crate) fn commit(&self, transaction: Transaction) -> Result<()> {
        loop {
            match self.socket.transact(&transaction.messages) {
                Ok(()) => return Ok(()),
                // Somebody else's transaction came between.
                Err(e) if e.errno == Errno::INTR || e.errno == Errno::AGAIN => {}
                Err(e) => return Err(Error::kernel(format!("change nftables ({})", transaction.what), e.errno)),
            }
        }
    }

    /// The names of all tables of a family.
    pub(crate) fn tables(&self, family: Protocol) -> Result<Vec<String>> {
        Ok(self.table_flags(family)?.into_iter().map(|(name, _)| name).collect())
    }

    fn table_flags(&self, family: Protocol) -> Result<Vec<(String, u32)>> {
        let message = Message::new(kind::GET_TABLE, 0).fixed(&header(family as u8));
        let objects = self.socket.dump(message).map_err(|e| Error::kernel("list nftables' tables", e.errno))?;
        let parse = |payload: &[u8]| {
            let find = |kind| attributes(payload.get(4..)?).find(|a| a.kind == kind);
            Some((find(1)?.text()?.to_owned(), find(2).and_then(|a| a.be32()).unwrap_or_default()))
        };
        Ok(objects.iter().filter(|(kind, _)| *kind == kind::NEW_TABLE).filter_map(|(_, p)| parse(p)).collect())
    }

    /// All filtering base chains at the forward hook, of IPv4, IPv6 and both.
    pub(crate) fn forward_chains(&self) -> Result<Vec<Chain>> {
        const OWNER: u32 = 2;
        let mut chains = Vec::new();
        for family in [Protocol::Inet, Protocol::Ipv4, Protocol::Ipv6] {
            let message = Message::new(kind::GET_CHAIN, 0).fixed(&header(family as u8));
            let objects = self.socket.dump(message).map_err(|e| Error::kernel("list nftables' chains", e.errno))?;
            let found: Vec<Chain> = objects
                .iter()
                .filter(|(kind, payload)| *kind == kind::NEW_CHAIN && payload.first() == Some(&(family as u8)))
                .filter_map(|(_, payload)| parse_forward_chain(family, payload))
                .collect();
            if found.is_empty() {
                continue;
            }
            let flags = self.table_flags(family)?;
            chains.extend(found.into_iter().map(|chain| Chain {
                owned: flags.iter().any(|(name, flags)| *name == chain.table.name && flags & OWNER != 0),
                ..chain
            }));
        }
        Ok(chains)
    }

    /// The handles and comments of a chain's rules that have a comment. None where the chain is gone.
    pub(crate) fn comments(&self, table: &Table, chain: &str) -> Result<Vec<(u64, String)>> {
        let message = Message::new(kind::GET_RULE, 0).fixed(&header(table.family as u8));
        let message = message.text(1, &table.name).text(2, chain);
        let objects = match self.socket.dump(message) {
            Ok(objects) => objects,
            Err(e) if e.errno == Errno::NOENT => return Ok(Vec::new()),
            Err(e) => return Err(Error::kernel(format!("list the rules of {} {chain}", table.name), e.errno)),
        };
        let parse = |payload: &[u8]| {
            let find = |kind| attributes(payload.get(4..)?).find(|a| a.kind == kind);
            Some((find(3)?.be64()?, comment(find(7)?.value)?))
        };
        Ok(objects.iter().filter(|(kind, _)| *kind == kind::NEW_RULE).filter_map(|(_, p)| parse(p)).collect())
    }
}

fn parse_forward_chain(family: Protocol, payload: &[u8]) -> Option<Chain> {
    let find = |kind| attributes(payload.get(4..)?).find(|a| a.kind == kind);
    let filters = find(7)?.text() == Some("filter");
    let forward = find(4)?.find(1)?.be32() == Some(FORWARD);
    let drops = find(5).and_then(|a| a.be32()) == Some(0);
    let table = Table { family, name: find(1)?.text()?.to_owned() };
    (filters && forward).then_some(Chain { table, name: find(3)?.text()?.to_owned(), drops, owned: false })
}

/// The comment in a rule's user data, a list of type, length and value.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return String::from_utf8(value.strip_suffix(&[0]).unwrap_or(value).to_vec()).ok();
        }
        data = &rest[value.len()..];
    }
    None
}

/// `struct nfgenmsg`.
fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// Changes that are done together.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    messages: Vec<Message>,
    what: String,
}

impl Transaction {
    /// An empty one; `what` says in words what it is for.
    pub(crate) fn new(what: impl Into<String>) -> Transaction {
        Transaction { messages: Vec::new(), what: what.into() }
    }

    /// Makes a table, unless it is there.
    pub(crate) fn add_table(&mut self, table: &Table) {
        self.push(kind::NEW_TABLE, flag::CREATE, table, |m| m.text(1, &table.name).be32(2, 0));
    }

    /// Deletes a table, which must be there, and everything in it.
    pub(crate) fn delete_table(&mut self, table: &Table) {
        self.push(kind::DELETE_TABLE, 0, table, |m| m.text(1, &table.name));
    }

    /// Makes a chain that rules jump to.
    pub(crate) fn add_chain(&mut self, table: &Table, name: &str) {
        self.push(kind::NEW_CHAIN, flag::CREATE, table, |m| m.text(1, &table.name).text(3, name));
    }

    /// Makes a chain that the kernel calls, and that accepts what no rule decides about.
    pub(crate) fn add_base_chain(
        &mut self,
        table: &Table,
        name: &str,
        what: ChainKind,
        hook: Hook,
        priority: Priority,
    ) {
        self.push(kind::NEW_CHAIN, flag::CREATE, table, |m| {
            m.text(1, &table.name)
                .text(3, name)
                .nest(4, |m| m.be32(1, hook as u32).be32(2, priority as i32 as u32))
                .be32(5, 1)
                .text(7, what.as_str())
        });
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.rule(table, chain, rule, flag::APPEND);
    }

    /// Puts a rule at the head of a chain.
    pub(crate) fn insert_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.rule(table, chain, rule, 0);
    }

    /// Deletes a rule.
    pub(crate) fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) {
        self.push(kind::DELETE_RULE, 0, table, |m| m.text(1, &table.name).text(2, chain).be64(3, handle));
    }

    /// Makes a set or map.
    pub(crate) fn add_set(&mut self, table: &Table, name: &str, kind: SetKind) {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        let shape = kind.shape();
        let flags = if shape.ranges { INTERVAL } else { 0 } | if shape.data.is_some() { MAP } else { 0 };
        // The kernel asks for a number of the set within the transaction.
        let number = self.messages.len() as u32 + 1;
        self.push(kind::NEW_SET, flag::CREATE, table, |m| {
            let m = m.text(1, &table.name).text(2, name).be32(3, flags).be32(4, shape.key.0).be32(5, shape.key.1);
            let m = match shape.data {
                Some((kind, length)) => m.be32(6, kind).be32(7, length),
                None => m,
            };
            let m = m.be32(10, number);
            // For `nft list`: names of links are in the host's byte order, which it does not assume for lone ones.
            // A list of type, length, value: `NFTNL_UDATA_SET_KEYBYTEORDER`, 4, `BYTEORDER_HOST_ENDIAN`.
            if kind == SetKind::Links { m.bytes(13, &[&[0, 4][..], &1u32.to_ne_bytes()].concat()) } else { m }
        });
    }

    /// Adds elements. One that is there already with the same data stays; with other data the transaction fails.
    pub(crate) fn add_elements(&mut self, table: &Table, set: &str, elements: &[Element]) {
        self.elements(kind::NEW_ELEMENT, flag::CREATE, table, set, elements);
    }

    /// Deletes elements, which must be there.
    pub(crate) fn delete_elements(&mut self, table: &Table, set: &str, elements: &[Element]) {
        self.elements(kind::DELETE_ELEMENT, 0, table, set, elements);
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn rule(&mut self, table: &Table, chain: &str, rule: &Rule, flags: u16) {
        let write = |m: Message| rule.write(m.text(1, &table.name).text(2, chain));
        self.push(kind::NEW_RULE, flag::CREATE | flags, table, write);
    }

    fn elements(&mut self, kind: u16, flags: u16, table: &Table, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(kind, flags, table, |m| {
                m.text(1, &table.name).text(2, set).nest(3, |mut m| {
                    for element in some {
                        m = m.nest(1, |m| write_element(m, element, kind == kind::NEW_ELEMENT));
                    }
                    m
                })
            });
        }
    }

    fn push(&mut self, kind: u16, flags: u16, table: &Table, write: impl FnOnce(Message) -> Message) {
        self.messages.push(write(Message::new(kind, flags).fixed(&header(table.family as u8))));
    }
}

/// `NFTA_SET_ELEM_*`: the key, the data, and whether a range ends there.
fn write_element(message: Message, element: &Element, with_data: bool) -> Message {
    let message = message.nest(1, |m| m.bytes(1, &element.key));
    let message = match &element.data {
        Some(data) if with_data => message.nest(2, |m| m.bytes(1, data)),
        _ => message,
    };
    if element.ends_range { message.be32(3, 1) } else { message }
}

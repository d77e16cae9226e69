//! From a query to a reply, without any I/O.

use std::net::IpAddr;

use hickory_proto::op::{DEFAULT_MAX_PAYLOAD_LEN, Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::wire::{self, MIN_UDP_PAYLOAD};
use super::{NameSource, random};

/// How long a client may remember an answer, in seconds: as long as Docker says.
const TTL: u32 = 600;

/// What a query came in, which decides how long its reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// 512 bytes, or as many as the query says (RFC 6891).
    Udp,
    /// 65535 bytes.
    Tcp,
}

/// The names as one sandbox sees them.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The sandbox.
    pub sandbox: &'a str,
    /// Who knows its names.
    pub source: &'a dyn NameSource,
    /// The container's `resolv.conf` has an `ndots` option that the user or the host chose. A name without a dot is then
    /// tried with the search domains too, and is not passed on to others bare.
    pub ndots_set: bool,
}

/// What to do about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this back.
    Reply(Vec<u8>),
    /// Ask another server: the name is none of ours. A reply may have so many bytes.
    Forward {
        /// The longest reply that the client takes.
        max_len: usize,
    },
    /// Do nothing: it is no query.
    Drop,
}

/// Answers a query. Takes any bytes: what is no well-formed query is refused as RFC 1035, section 4.1.1 says, or dropped.
///
/// - A and AAAA of a known name: all its addresses of that family in random order; none if it has none of that family.
/// - Any other type of a known name: an empty answer, so that names of containers reach no other server.
/// - PTR of a known address: its full name.
/// - Everything else: [`Outcome::Forward`].
pub fn answer(query: &[u8], transport: Transport, view: View<'_>) -> Outcome {
    let Some(header) = wire::header(query) else { return Outcome::Drop };
    if header.is_reply {
        return Outcome::Drop;
    }
    if header.op_code != u8::from(OpCode::Query) {
        return Outcome::Reply(wire::failure(query, ResponseCode::NotImp));
    }
    if header.questions != 1 || !header.is_plausible(query.len()) {
        return Outcome::Reply(wire::failure(query, ResponseCode::FormErr));
    }
    let (Ok(message), Some(_)) = (Message::from_vec(query), wire::question_end(query)) else {
        return Outcome::Reply(wire::failure(query, ResponseCode::FormErr));
    };
    debug_assert_eq!(message.metadata.message_type, MessageType::Query);
    let max_len = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => message.edns.as_ref().map_or(0, |edns| usize::from(edns.max_payload())).max(MIN_UDP_PAYLOAD),
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return reply(&message, ResponseCode::BADVERS, Vec::new(), max_len);
    }
    match local_records(&message, view) {
        Some(records) => reply(&message, ResponseCode::NoError, records, max_len),
        None => Outcome::Forward { max_len },
    }
}

/// The records that answer a query; `None` where others have to be asked.
fn local_records(message: &Message, view: View<'_>) -> Option<Vec<Record>> {
    let question = message.queries.first()?;
    if question.query_class() != DNSClass::IN {
        return None;
    }
    let (name, kind) = (question.name(), question.query_type());
    if kind == RecordType::PTR
        && let Some(address) = address_in(name)
        && let Some(target) = view.source.reverse(view.sandbox, address)
        && let Ok(mut target) = Name::from_ascii(&target)
    {
        target.set_fqdn(true);
        return Some(vec![Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)))]);
    }
    let text = plain_text(name)?;
    if let Some(mut addresses) = view.source.lookup(view.sandbox, &text) {
        shuffle(&mut addresses);
        let wanted = |address: &IpAddr| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            other => other == RecordType::ANY,
        };
        return Some(addresses.into_iter().filter(wanted).map(|address| record(name, address)).collect());
    }
    let is_bare = !text.contains('.') && !text.is_empty();
    if view.ndots_set && is_bare && matches!(kind, RecordType::A | RecordType::AAAA) {
        return Some(Vec::new());
    }
    None
}

fn record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

/// Encodes a reply, with as many records as fit.
fn reply(query: &Message, code: ResponseCode, records: Vec<Record>, max_len: usize) -> Outcome {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&query.queries);
    reply.answers = records;
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DEFAULT_MAX_PAYLOAD_LEN).set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    loop {
        let Ok(bytes) = reply.to_vec() else { return Outcome::Drop };
        if bytes.len() <= max_len || reply.answers.is_empty() {
            return Outcome::Reply(bytes);
        }
        reply.metadata.truncation = true;
        // An A record takes 16 bytes at least, an AAAA record 28.
        let too_many = (bytes.len() - max_len).div_ceil(28).min(reply.answers.len());
        reply.answers.truncate(reply.answers.len() - too_many);
    }
}

/// The name as a [`NameSource`] takes it: in lower case, without the last dot. `None` where a label has a byte that no name
/// of ours has, a dot among them.
fn plain_text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label {
            if !byte.is_ascii_graphic() || byte == b'.' {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(text)
}

/// The address in a name of `in-addr.arpa` or `ip6.arpa`.
fn address_in(name: &Name) -> Option<IpAddr> {
    match name.parse_arpa_name().ok()? {
        IpNet::V4(net) if net.prefix_len() == 32 => Some(net.addr().into()),
        IpNet::V6(net) if net.prefix_len() == 128 => Some(net.addr().into()),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// Clients that take the first address spread over all.
fn shuffle(addresses: &mut [IpAddr]) {
    if addresses.len() < 2 {
        return;
    }
    for last in (1..addresses.len()).rev() {
        addresses.swap(last, random::below(last + 1));
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;

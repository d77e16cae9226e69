//! What the server does with messages that it does not take apart: those that pass through.
//!
//! A query goes on byte for byte, but for its identifier, and so comes the reply back: options and records that this
//! program has never heard of survive. Layouts: RFC 1035, section 4.1.

use hickory_proto::op::ResponseCode;

/// Bytes of a header.
const HEADER: usize = 12;

/// The longest message that every client takes over UDP.
pub(super) const MIN_UDP_PAYLOAD: usize = 512;

/// The shortest record: the root's name, type, class, time to live and no data.
const SHORTEST_RECORD: usize = 11;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) is_reply: bool,
    pub(super) op_code: u8,
    pub(super) response_code: u8,
    pub(super) questions: u16,
    records: usize,
}

impl Header {
    /// Whether a message of that length can have the records that its header claims. Decoders reserve memory by them.
    pub(super) fn is_plausible(&self, len: usize) -> bool {
        self.records.saturating_mul(SHORTEST_RECORD) <= len
    }
}

/// Reads the header; `None` where the message is shorter.
pub(super) fn header(message: &[u8]) -> Option<Header> {
    let word = |index: usize| Some(u16::from_be_bytes([*message.get(index)?, *message.get(index + 1)?]));
    let flags = word(2)?;
    Some(Header {
        id: word(0)?,
        is_reply: flags & 0x8000 != 0,
        op_code: (flags >> 11) as u8 & 0xf,
        response_code: flags as u8 & 0xf,
        questions: word(4)?,
        records: usize::from(word(6)?) + usize::from(word(8)?) + usize::from(word(10)?),
    })
}

/// Where the first question ends; `None` where the message ends before it does, or its name is compressed, for which there
/// is nothing it could point to.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            len @ 1..=63 => at += 1 + usize::from(len),
            64.. => return None,
        }
    }
    let end = at + 1 + 4;
    (end <= message.len()).then_some(end)
}

/// A reply that says why there is none.
pub(super) fn failure(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let with_question = header(query).is_some_and(|header| header.questions == 1);
    let end = question_end(query).filter(|_| with_question).unwrap_or(HEADER);
    let mut reply = query[..end.min(query.len())].to_vec();
    reply.resize(reply.len().max(HEADER), 0);
    set_reply_flags(&mut reply, code.low(), false);
    reply[4..6].copy_from_slice(&u16::from(end > HEADER).to_be_bytes());
    reply[6..HEADER].fill(0);
    reply
}

/// QR, RA and the response code set; AA and AD cleared; opcode, RD and CD as they were.
fn set_reply_flags(reply: &mut [u8], code: u8, truncated: bool) {
    reply[2] = 0x80 | (reply[2] & 0x79) | if truncated { 0x02 } else { 0 };
    reply[3] = 0x80 | (reply[3] & 0x10) | (code & 0xf);
}

/// The same message with another identifier.
pub(super) fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    message
}

/// Whether `reply` answers `query`: identifier, opcode and question are the same (RFC 5452, section 9.1). A server that
/// could not read the query may leave the question out, as long as it says so.
pub(super) fn is_answer(reply: &[u8], query: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (header(query), header(reply)) else { return false };
    if answered.id != asked.id || !answered.is_reply || answered.op_code != asked.op_code {
        return false;
    }
    if answered.questions == 0 {
        return answered.response_code != 0;
    }
    let (Some(query_end), Some(reply_end)) = (question_end(query), question_end(reply)) else { return false };
    answered.questions == 1 && reply[HEADER..reply_end].eq_ignore_ascii_case(&query[HEADER..query_end])
}

/// The reply with the client's identifier, and cut to what the client takes: then only the question is left, and the client
/// is told to ask again over TCP.
pub(super) fn to_client(mut reply: Vec<u8>, id: u16, max_len: usize) -> Vec<u8> {
    if let Some(place) = reply.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    if reply.len() > max_len {
        reply.truncate(question_end(&reply).unwrap_or(HEADER));
        if reply.len() >= HEADER {
            reply[2] |= 0x02;
            reply[6..HEADER].fill(0);
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query};
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    fn reply(name: &str) -> Vec<u8> {
        let mut message = Message::from_vec(&query(name)).unwrap().into_response();
        message.metadata.recursion_available = true;
        message.to_vec().unwrap()
    }

    #[test]
    fn a_failure_reads_as_one() {
        let message = Message::from_vec(&failure(&query("example.com."), ResponseCode::ServFail)).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
        assert_eq!(message.queries[0].name().to_ascii(), "example.com.");
        let cut = failure(&query("example.com.")[..20], ResponseCode::FormErr);
        let message = Message::from_vec(&cut).unwrap();
        assert_eq!((message.metadata.id, message.queries.len()), (7, 0));
    }

    #[test]
    fn only_the_answer_to_the_question_is_taken() {
        let asked = query("example.com.");
        assert!(is_answer(&reply("example.com."), &asked));
        assert!(is_answer(&reply("EXAMPLE.com."), &asked));
        assert!(!is_answer(&reply("example.org."), &asked));
        assert!(!is_answer(&with_id(&reply("example.com."), 8), &asked));
        assert!(!is_answer(&asked, &asked), "a query is no answer");
        assert!(!is_answer(&reply("example.com.")[..20], &asked));
        let mut refused = reply("example.com.")[..HEADER].to_vec();
        refused[4..6].fill(0);
        assert!(!is_answer(&refused, &asked), "success without a question");
        refused[3] |= 5;
        assert!(is_answer(&refused, &asked));
    }

    #[test]
    fn a_long_reply_is_cut_to_the_question() {
        let mut long = reply("example.com.");
        let question = long.len();
        long[6..8].copy_from_slice(&50u16.to_be_bytes());
        long.resize(900, 0);
        assert_eq!(to_client(long.clone(), 9, 900).len(), 900);
        let cut = to_client(long, 9, 899);
        assert_eq!(cut.len(), question);
        let message = Message::from_vec(&cut).unwrap();
        assert!(message.metadata.truncation);
        assert_eq!((message.metadata.id, message.queries.len(), message.answers.len()), (9, 1, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_pass(a in proptest::collection::vec(any::<u8>(), 0..80), b in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = is_answer(&a, &b);
            let _ = question_end(&a);
            let failure = failure(&a, ResponseCode::FormErr);
            prop_assert!(failure.len() >= HEADER);
            prop_assert!(header(&failure).unwrap().is_reply);
            let _ = to_client(a, 1, 20);
        }
    }
}

//! Writing a message: a header, a fixed part, and attributes that may nest.

use super::{HEADER, align};

/// A message that is being written. Its length and sequence number are filled in when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;

impl Message {
    /// Begins a request of that type, with `NLM_F_*` flags beside the one that says it is a request.
    pub(crate) fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | super::flag::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Message { bytes }
    }

    /// Attributes without a message around them, to be appended to one.
    pub(crate) fn fragment() -> Message {
        Message { bytes: Vec::with_capacity(64) }
    }

    /// Appends a fragment.
    pub(crate) fn append(mut self, fragment: &Message) -> Message {
        self.bytes.extend_from_slice(&fragment.bytes);
        self
    }

    /// Appends bytes of the fixed part, which comes before any attribute.
    pub(crate) fn fixed(mut self, part: &[u8]) -> Message {
        self.bytes.extend_from_slice(part);
        self.pad();
        self
    }

    /// Adds `NLM_F_*` flags.
    pub(crate) fn with_flags(mut self, flags: u16) -> Message {
        let now = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(now | flags).to_ne_bytes());
        self
    }

    /// An attribute of raw bytes. Attributes are shorter than 64 KiB: their length is 16 bits.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Message {
        let at = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.end(at);
        self
    }

    /// An attribute that is a text with a zero byte behind it.
    pub(crate) fn text(mut self, kind: u16, value: &str) -> Message {
        let at = self.begin(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end(at);
        self
    }

    /// An attribute of one byte.
    pub(crate) fn u8(self, kind: u16, value: u8) -> Message {
        self.bytes(kind, &[value])
    }

    /// A number in the host's byte order, as rtnetlink has them.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Message {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in the network's byte order, as nfnetlink has them.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Message {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A number of 64 bits in the network's byte order.
    pub(crate) fn be64(self, kind: u16, value: u64) -> Message {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds what `inside` writes.
    pub(crate) fn nest(mut self, kind: u16, inside: impl FnOnce(Message) -> Message) -> Message {
        let at = self.begin(kind | NESTED);
        self = inside(self);
        self.end(at);
        self
    }

    /// How long it is by now. A batch of messages is kept under what a socket takes at once.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished message.
    pub(super) fn finish(&self, sequence: u32, into: &mut Vec<u8>) {
        let at = into.len();
        into.extend_from_slice(&self.bytes);
        into[at..at + 4].copy_from_slice(&(self.bytes.len() as u32).to_ne_bytes());
        into[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
        debug_assert!(self.bytes.len() >= HEADER);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    fn end(&mut self, at: usize) {
        let length = self.bytes.len() - at;
        debug_assert!(length <= usize::from(u16::MAX), "an attribute of {length} bytes");
        self.bytes[at..at + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

//! Packets (5.10.6): a header of 44 bytes, and data behind it.

use super::super::buffers::Buffers;

/// Bytes of a header.
pub(super) const HEADER: usize = 44;
/// The only type that there is here: a stream.
pub(super) const STREAM: u16 = 1;

/// What a packet is for.
pub(super) mod op {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RESET: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const DATA: u16 = 5;
    pub(in super::super) const CREDIT: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a shutdown: whoever sends it receives, or sends, no more.
pub(super) const NO_MORE_RECEIVED: u32 = 1;
pub(super) const NO_MORE_SENT: u32 = 2;

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    /// Bytes of data behind it.
    pub(super) length: u32,
    pub(super) type_: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// How much room the sender has for what it receives, in all, and how much of what it received it has passed on, counted without end.
    pub(super) room: u32,
    pub(super) passed_on: u32,
}

impl Header {
    /// Takes one off the beginning. `None`: there is no whole one.
    pub(super) fn read(from: &mut Buffers<'_>) -> Option<Header> {
        let bytes: [u8; HEADER] = from.array()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some(Header {
            source_cid: long(0),
            destination_cid: long(8),
            source_port: word(16),
            destination_port: word(20),
            length: word(24),
            type_: half(28),
            op: half(30),
            flags: word(32),
            room: word(36),
            passed_on: word(40),
        })
    }

    /// As it lies in a buffer.
    pub(super) fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&self.source_cid.to_le_bytes());
        put(&self.destination_cid.to_le_bytes());
        put(&self.source_port.to_le_bytes());
        put(&self.destination_port.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.type_.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.room.to_le_bytes());
        put(&self.passed_on.to_le_bytes());
        bytes
    }

    /// What answers a packet of a connection that there is not.
    pub(super) fn reset_of(&self) -> Header {
        Header {
            source_cid: self.destination_cid,
            destination_cid: self.source_cid,
            source_port: self.destination_port,
            destination_port: self.source_port,
            type_: STREAM,
            op: op::RESET,
            ..Header::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::VolatileSlice;

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(mut bytes in prop::array::uniform32(any::<u8>()), more in prop::array::uniform12(any::<u8>())) {
            let mut all = [bytes.as_mut_slice(), &mut more.clone()].concat();
            let mut buffers = Buffers::default();
            buffers.push(VolatileSlice::from(&mut all[..])).unwrap();
            let header = Header::read(&mut buffers).unwrap();
            prop_assert_eq!(Header::read(&mut buffers), None);
            prop_assert_eq!(&header.bytes()[..], &all[..]);
        }
    }
}

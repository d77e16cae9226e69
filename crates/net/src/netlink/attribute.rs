//! Reading attributes. What is cut short or of a strange length is taken as absent.

use super::align;

/// One attribute of a received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    /// Its type, without the bits that say "nested" and "network byte order".
    pub(crate) kind: u16,
    /// Its payload.
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// A number in the host's byte order.
    pub(crate) fn u32(&self) -> Option<u32> {
        self.value.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A number in the network's byte order.
    pub(crate) fn be32(&self) -> Option<u32> {
        self.value.get(..4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A number of 64 bits in the network's byte order.
    pub(crate) fn be64(&self) -> Option<u64> {
        self.value.get(..8)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// A text, up to its zero byte.
    pub(crate) fn text(&self) -> Option<&'a str> {
        let end = self.value.iter().position(|&b| b == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).ok()
    }

    /// The attributes inside.
    pub(crate) fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }

    /// The first attribute of a type inside.
    pub(crate) fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.nested().find(|a| a.kind == kind)
    }
}

/// The attributes in `bytes`, up to the first that does not fit.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> + use<'_> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(align(length)..).unwrap_or(&[]);
        Some(Attribute { kind, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{HEADER, Message};
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new(1, 0).text(3, "eth0").nest(4, |m| m.be32(1, 7).u8(2, 9)).u32(5, 11);
        let mut bytes = Vec::new();
        message.finish(1, &mut bytes);
        let read: Vec<_> = attributes(&bytes[HEADER..]).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[0].text(), Some("eth0"));
        assert_eq!(read[1].find(1).and_then(|a| a.be32()), Some(7));
        assert_eq!(read[1].find(2).map(|a| a.value), Some(&[9][..]));
        assert_eq!((read[2].kind, read[2].u32()), (5, Some(11)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes: Vec<u8>) {
            for attribute in attributes(&bytes) {
                let _ = (attribute.u32(), attribute.be32(), attribute.be64(), attribute.text(), attribute.nested().count());
            }
        }
    }
}

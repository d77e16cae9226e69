//! The keys that end an attachment and leave the process alone: `ctrl-p,ctrl-q`, or the user's choice.

use crate::{Error, Result};

/// A sequence of bytes, and how much of it has been typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys {
    sequence: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// From names parted by commas: one character each, or `ctrl-` and one of `a` to `z`, `@`, `[`, `\`, `]`, `^`, `_`.
    ///
    /// # Errors
    /// In dockerd's words for anything else.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("ctrl-p,ctrl-q");
        let sequence: Option<Vec<u8>> = text.split(',').map(key).collect();
        match sequence {
            Some(sequence) => Ok(Self { sequence, matched: 0 }),
            None => Err(Error::invalid(format!("Invalid escape keys ({text}) provided"))),
        }
    }

    /// The bytes that the keys send.
    pub fn bytes(&self) -> &[u8] {
        &self.sequence
    }

    /// What of `typed` goes on to the process; `None` with what came before it when the sequence is complete.
    /// Bytes that may turn out to be part of the sequence are held back until that is known.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == self.sequence[self.matched] {
                self.matched += 1;
                if self.matched == self.sequence.len() {
                    self.matched = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.sequence[..self.matched]);
            self.matched = usize::from(byte == self.sequence[0]);
            if self.matched == 0 {
                out.push(byte);
            } else if self.sequence.len() == 1 {
                return (out, true);
            }
        }
        (out, false)
    }
}

fn key(name: &str) -> Option<u8> {
    let mut chars = name.bytes();
    match (chars.next(), chars.next()) {
        (Some(byte), None) => Some(byte),
        _ => match name.strip_prefix("ctrl-")?.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            [b'@'] => Some(0),
            [symbol @ b'['..=b'_'] => Some(symbol - b'[' + 27),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_sequence_is_found_across_reads() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.pass(b"\x11rest"), (Vec::new(), true));
    }

    #[test]
    fn a_false_start_is_passed_on() {
        let mut keys = DetachKeys::parse(Some("ctrl-p,q")).unwrap();
        assert_eq!(keys.pass(b"\x10x\x10\x10q"), (b"\x10x\x10".to_vec(), true));
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.pass(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.pass(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11x"), (Vec::new(), true));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(DetachKeys::parse(Some("ctrl-1")).is_err());
        assert!(DetachKeys::parse(Some("a,,b")).is_err());
        assert!(DetachKeys::parse(Some("ctrl-P")).is_err());
    }

    #[test]
    fn keys_are_the_bytes_that_they_send() {
        let bytes = |text| DetachKeys::parse(Some(text)).unwrap().bytes().to_vec();
        assert_eq!((bytes("a,ctrl-[,ctrl-@"), bytes("")), (vec![b'a', 27, 0], vec![16, 17]));
    }
}

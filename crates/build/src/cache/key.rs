//! What a step is found again by: a digest of all that it reads.

use image::{Digest, Hasher};

/// A key in the making. Each part says how long it is, so that no two sequences of parts are the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Key(Hasher);

/// Keys of other versions are others: to be raised when the same parts come to mean something else.
const VERSION: u64 = 3;

impl Key {
    /// Begins the key of a kind of step.
    pub(crate) fn new(kind: &str) -> Key {
        Key(Hasher::new()).number(VERSION).text(kind)
    }

    /// Adds bytes.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Key {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a text.
    pub(crate) fn text(self, text: &str) -> Key {
        self.bytes(text.as_bytes())
    }

    /// Adds a number.
    pub(crate) fn number(self, number: u64) -> Key {
        self.bytes(&number.to_le_bytes())
    }

    /// Adds something that may not be there.
    pub(crate) fn option<T>(self, part: Option<T>, add: impl FnOnce(Key, T) -> Key) -> Key {
        match part {
            Some(part) => add(self.number(1), part),
            None => self.number(0),
        }
    }

    /// Adds several of something.
    pub(crate) fn each<T>(
        self,
        parts: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        add: impl FnMut(Key, T) -> Key,
    ) -> Key {
        let parts = parts.into_iter();
        let key = self.number(parts.len() as u64);
        parts.fold(key, add)
    }

    /// Adds a digest.
    pub(crate) fn digest(self, digest: &Digest) -> Key {
        self.bytes(digest.as_bytes())
    }

    /// The key.
    pub(crate) fn finish(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(parts: &[String]) -> Digest {
        Key::new("test").each(parts, |key, part| key.text(part)).finish()
    }

    proptest! {
        #[test]
        fn other_parts_are_another_key(one in proptest::collection::vec("[a-c]{0,3}", 0..4), other in proptest::collection::vec("[a-c]{0,3}", 0..4)) {
            prop_assert_eq!(one == other, key(&one) == key(&other));
        }
    }

    #[test]
    fn nothing_is_not_the_same_as_empty() {
        let key = |part: Option<&str>| Key::new("test").option(part, Key::text).finish();
        assert_ne!(key(None), key(Some("")));
        assert_ne!(Key::new("a").finish(), Key::new("b").finish());
    }
}

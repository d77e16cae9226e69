//! The strings of a plan.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt;
use std::ops::Deref;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string for the kernel. A plan that came as bytes borrows its strings from them: the process that clones owns none, so
/// that it has hundreds of small pieces of memory less to write to right after the clone, when each page that it
/// writes to is copied.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text<'p>(Cow<'p, CStr>);

impl Text<'_> {
    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl Deref for Text<'_> {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        &self.0
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<CString> for Text<'_> {
    fn from(text: CString) -> Self {
        Self(Cow::Owned(text))
    }
}

impl<'p> From<&'p CStr> for Text<'p> {
    fn from(text: &'p CStr) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.to_bytes_with_nul())
    }
}

impl<'de: 'p, 'p> Deserialize<'de> for Text<'p> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Terminated;

        impl<'de> Visitor<'de> for Terminated {
            type Value = &'de CStr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes that end in their only NUL")
            }

            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<&'de CStr, E> {
                CStr::from_bytes_with_nul(bytes).map_err(E::custom)
            }
        }

        deserializer.deserialize_bytes(Terminated).map(Self::from)
    }
}

/// Bytes that travel as one piece.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bytes<'p>(#[serde(borrow, with = "bytes")] pub(crate) Cow<'p, [u8]>);

impl From<Vec<u8>> for Bytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

mod bytes {
    use super::{Cow, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de: 'p, 'p, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'p, [u8]>, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Cow::Borrowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_as_bytes_is_borrowed_and_has_one_nul() {
        let bytes = postcard::to_stdvec(&Text::from(c"a b")).unwrap();
        let text: Text<'_> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(text.as_c_str(), c"a b");
        assert!(matches!(text.0, Cow::Borrowed(_)));
        for bad in [&b"ab"[..], b"a\0b\0", b""] {
            let bytes = postcard::to_stdvec(&Bytes::from(bad.to_vec())).unwrap();
            assert!(postcard::from_bytes::<Text<'_>>(&bytes).is_err(), "{bad:?}");
        }
    }
}

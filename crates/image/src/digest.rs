//! Digests: what content is called by.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;
use sha2::digest::common::hazmat::{SerializableState as _, SerializedState};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A text that is no digest this crate takes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DigestError {
    /// It has no `algorithm:` in front, or its hexadecimal part is not 64 lower-case digits.
    #[error("{0:?} is no digest: expected \"sha256:\" and 64 lower-case hexadecimal digits")]
    Malformed(String),
    /// It is a digest, of another algorithm.
    #[error("digest {0:?}: only sha256 is supported")]
    Algorithm(String),
}

/// A SHA-256 digest, written `sha256:<64 hexadecimal digits>` (OCI image-spec, descriptor.md).
///
/// The specification also registers sha512; no registry or builder in use makes it, so it is refused by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first twelve hexadecimal digits, as tables for people show them.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// A digest from 64 lower-case hexadecimal digits.
    pub fn from_hex(digits: &str) -> Result<Digest, DigestError> {
        let malformed = || DigestError::Malformed(digits.chars().take(160).collect());
        if digits.len() != 64 || digits.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(malformed());
        }
        let mut raw = [0; 32];
        hex::decode_to_slice(digits, &mut raw).map_err(|_| malformed())?;
        Ok(Digest(raw))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        match text.split_once(':') {
            Some(("sha256", digits)) => {
                Digest::from_hex(digits).map_err(|_| DigestError::Malformed(text.chars().take(160).collect()))
            }
            Some(("sha512" | "sha384" | "blake3", _)) => Err(DigestError::Algorithm(text.chars().take(160).collect())),
            _ => Err(DigestError::Malformed(text.chars().take(160).collect())),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Takes bytes in pieces and says their digest and number at the end.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    state: sha2::Sha256,
    size: u64,
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// What it came to so far, to [go on](Self::resumed) with.
    pub(crate) fn state(&self) -> Vec<u8> {
        self.state.serialize().to_vec()
    }

    /// Goes on after so many bytes; `None`: that is no hasher's state.
    pub(crate) fn resumed(state: &[u8], size: u64) -> Option<Hasher> {
        let state = SerializedState::<sha2::Sha256>::try_from(state).ok()?;
        Some(Hasher { state: sha2::Sha256::deserialize(&state).ok()?, size })
    }

    /// How many bytes were taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

/// An image's identity: the digest of its configuration document (OCI image-spec, config.md, "ImageID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// The digest of the configuration.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// The first twelve hexadecimal digits.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<ImageId, DigestError> {
        text.parse().map(ImageId)
    }
}

/// The chain id of a stack of layers, bottom first (OCI image-spec, config.md, "Layer ChainID"); `None` for no layers.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(*first, |chain, diff_id| Digest::of(format!("{chain} {diff_id}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(serde_json::from_str::<Digest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let upper = Digest::of(b"x").to_string().to_uppercase();
        for text in ["", "sha256:", "sha256:abc", "sha256:../../../../etc/passwd", "md5:00", upper.as_str()] {
            assert!(matches!(text.parse::<Digest>(), Err(DigestError::Malformed(_))), "{text}");
        }
        assert!(matches!("sha512:00".parse::<Digest>(), Err(DigestError::Algorithm(_))));
    }

    #[test]
    fn a_chain_of_one_is_its_layer() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]), Some(a));
        assert_eq!(chain_id(&[a, b]), Some(Digest::of(format!("{a} {b}").as_bytes())));
    }
}

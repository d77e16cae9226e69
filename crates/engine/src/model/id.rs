//! Identifiers of containers and execs: 64 lower-case hexadecimal digits, 256 random bits.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The identifier of a container: 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// Why a text is no identifier.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no identifier: it takes 64 lower-case hexadecimal digits")]
pub struct IdError(String);

impl ContainerId {
    /// A new identifier from the system's random source. Its first twelve digits are never all decimal, as a host
    /// name made of them would read as a number to some resolvers.
    pub fn random() -> Self {
        loop {
            let bytes: [u8; 32] = rand::random();
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            if text[..12].bytes().any(|digit| digit.is_ascii_alphabetic()) {
                return Self(text);
            }
        }
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as people write them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        let whole = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if whole { Ok(Self(text)) } else { Err(IdError(text)) }
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

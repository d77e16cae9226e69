//! What the store holds and tells: revisions, entries, listings, changes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a change to the store. Each transaction that changes something is given the next one; all that it
/// changes carries that same number. `Revision(0)` is before the first change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first change: a watch after it sees everything that is still remembered.
    pub const ZERO: Revision = Revision(0);

    pub(crate) fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key's present value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// The revision of the key's last change. [`crate::Expect::Revision`] compares it.
    pub revision: Revision,
    /// The revision at which the key came into being (since it was last absent).
    pub created: Revision,
    /// How many times the key was put since then, from 1.
    pub version: u64,
}

/// What was found below a prefix, all as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Keys, in the order of their bytes, and entries.
    pub entries: Vec<(String, Entry)>,
    /// The store's revision at that moment: a watch after it continues the listing without a gap.
    pub revision: Revision,
}

impl IntoIterator for Listing {
    type Item = (String, Entry);
    type IntoIter = std::vec::IntoIter<(String, Entry)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

/// One change of one key, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision of the transaction that made the change. Several changes may share one.
    pub revision: Revision,
    /// The key that changed.
    pub key: String,
    /// What became of it.
    pub kind: ChangeKind,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was put.
    Put {
        /// The value since then.
        value: Vec<u8>,
        /// The revision at which the key came into being.
        created: Revision,
        /// How many times it was put since then; 1 says that this change made it.
        version: u64,
    },
    /// It was deleted.
    Delete,
}

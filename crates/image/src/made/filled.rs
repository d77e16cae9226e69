//! What a large layer was filled with, written down beside it, so that the next one like it can lie [upon](super::NewLayer) it.
//!
//! A layer of a gigabyte of which one file differs from a former one's is a directory with that file, above the former's: nothing is
//! copied, and of the archive only what comes behind the first difference is hashed, as the hash of what comes before it stands here.
//! That goes only where nothing is missing that the former has: a deletion would hide what other layers below have, and the same
//! layer may come to lie on any others.

use super::fill::Look;
use crate::pack::{Packed, Piece};
use crate::tree::walk::order;
use crate::{Digest, Error, Hasher, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// The file, beside the layer's directory.
const FILE: &str = "contents";
/// Files of other versions say nothing.
const VERSION: u32 = 1;
/// What is less than this is as quickly copied: bytes in files, and so many for each thing.
const LARGE: u64 = 8 << 20;
const EACH: u64 = 4 << 10;
/// What differs may come to this part of the whole.
const PART: u64 = 4;

/// Something in a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) what: What,
    pub(super) look: Look,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    Directory,
    File { digest: [u8; 32], size: u64 },
    Symlink(Vec<u8>),
    Node { kind: u32, device: u64 },
}

impl What {
    /// Bytes that count as the layer's.
    fn bytes(&self) -> u64 {
        match self {
            What::File { size, .. } => *size,
            What::Symlink(target) => target.len() as u64,
            What::Directory | What::Node { .. } => 0,
        }
    }

    fn is_directory(&self) -> bool {
        matches!(self, What::Directory)
    }
}

/// All that a layer was filled with, by path.
#[derive(Debug, Default)]
pub(super) struct Filled {
    made: BTreeMap<Vec<u8>, Made>,
}

impl Filled {
    /// Notes something; what was there is no more.
    pub(super) fn note(&mut self, path: &[u8], made: Made) {
        self.made.insert(path.to_vec(), made);
    }

    /// Whether it is worth to be written down.
    pub(super) fn is_large(&self) -> bool {
        weight(self.made.values()) >= LARGE
    }

    /// Writes it down, for the layer whose archive was hashed.
    pub(super) fn write(self, beside: &Path, marks: Vec<Mark>) -> Result<()> {
        let path = beside.join(FILE);
        let written = Written { version: VERSION, made: self.made.into_iter().collect(), marks };
        let bytes = postcard::to_stdvec(&written).map_err(std::io::Error::other);
        let written = bytes.and_then(|mut bytes| {
            // What is damaged is not to become a layer.
            bytes.extend_from_slice(Digest::of(&bytes).as_bytes());
            fs::write(&path, bytes)
        });
        written.map_err(|e| Error::io(format!("writing {}", path.display()), e))
    }
}

fn weight<'m>(made: impl Iterator<Item = &'m Made>) -> u64 {
    made.map(|made| made.what.bytes() + EACH).sum()
}

/// The hash of an archive up to an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The entry's path.
    before: Vec<u8>,
    size: u64,
    state: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    made: Vec<(Vec<u8>, Made)>,
    marks: Vec<Mark>,
}

/// Hashes an archive, and marks what it came to on the way.
pub(super) fn hashed(mut archive: Packed) -> Result<(Hasher, Vec<Mark>)> {
    let (mut hasher, mut marks) = (Hasher::new(), Vec::new());
    while let Some(piece) = archive.next_piece()? {
        match piece {
            Piece::Bytes(bytes) => hasher.update(&bytes),
            Piece::Mark(before) => marks.push(Mark { before, size: hasher.size(), state: hasher.state() }),
        }
    }
    Ok((hasher, marks))
}

/// A former layer, with what it was filled with, and what the new one has of that.
#[derive(Debug)]
pub(super) struct Former {
    made: HashMap<Vec<u8>, Was>,
    marks: Vec<Mark>,
    /// What of it did not come again.
    missing: usize,
    /// What differs, with the bytes that it has.
    changed: BTreeMap<Vec<u8>, u64>,
    /// What may differ.
    left: u64,
    /// The new layer can't lie upon it.
    unfit: bool,
}

#[derive(Debug)]
struct Was {
    made: Made,
    came: bool,
}

/// What is to be done with something that goes into a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be made.
    Make,
    /// It is there, or nothing counts any more.
    Skip,
}

impl Former {
    /// What stands beside a layer's directory; `None`: nothing that is understood.
    pub(super) fn read(beside: &Path) -> Option<Former> {
        let bytes = fs::read(beside.join(FILE)).ok()?;
        let (bytes, digest) = bytes.split_last_chunk::<32>()?;
        let is_whole = Digest::of(bytes).as_bytes() == digest;
        let written =
            postcard::from_bytes(bytes).ok().filter(|written: &Written| is_whole && written.version == VERSION)?;
        Some(Former {
            missing: written.made.len(),
            left: weight(written.made.iter().map(|(_, made)| made)) / PART,
            made: written.made.into_iter().map(|(path, made)| (path, Was { made, came: false })).collect(),
            marks: written.marks,
            changed: BTreeMap::new(),
            unfit: false,
        })
    }

    /// Takes note of something that goes into the new layer.
    pub(super) fn note(&mut self, path: &[u8], made: &Made) -> Verdict {
        if self.unfit {
            return Verdict::Skip;
        }
        if let Some(was) = self.made.get_mut(path) {
            self.missing -= usize::from(!was.came);
            was.came = true;
            if was.made == *made && !self.changed.contains_key(path) {
                return Verdict::Skip;
            }
            if was.made.what.is_directory() != made.what.is_directory() {
                return self.give_up();
            }
        }
        let bytes = made.what.bytes();
        match self.left.checked_sub(bytes + EACH) {
            Some(left) => self.left = left,
            None => return self.give_up(),
        }
        self.changed.insert(path.to_vec(), bytes);
        Verdict::Make
    }

    /// Whether something of it is known to have come, as a directory that stays as it is.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.made.get(path).is_some_and(|was| was.came)
    }

    /// What comes now can't be compared.
    pub(super) fn give_up(&mut self) -> Verdict {
        self.unfit = true;
        Verdict::Skip
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.unfit
    }

    /// Whether the new layer can lie upon it, now that it has all that it is to have.
    pub(super) fn fits(&self) -> bool {
        !self.unfit && self.missing == 0
    }

    /// Bytes in the new layer's files.
    pub(super) fn bytes(&self) -> u64 {
        let stays = self.made.iter().filter(|(path, _)| !self.changed.contains_key(*path));
        stays.map(|(_, was)| was.made.what.bytes()).chain(self.changed.values().copied()).sum()
    }

    /// The hash of the new layer's archive up to an entry from which on it differs; and that entry's path.
    pub(super) fn hashed(&self) -> (Hasher, Option<&[u8]>) {
        let first = self.changed.keys().min_by(|a, b| order(a, b));
        let same = |mark: &&Mark| first.is_none_or(|first| order(&mark.before, first).is_le());
        let resumed = self
            .marks
            .iter()
            .rfind(same)
            .and_then(|mark| Some((Hasher::resumed(&mark.state, mark.size)?, Some(&mark.before[..]))));
        resumed.unwrap_or((Hasher::new(), None))
    }
}

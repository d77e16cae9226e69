//! What was chosen of layers before: they never change, so nobody need read their files again to say what a step is found by.

use super::{Choice, Selection};
use crate::cache::Key;
use image::Digest;
use parking_lot::Mutex;
use std::collections::HashMap;

/// The most choices that are remembered: a hundred bytes each.
const MOST: usize = 10_000;

/// Digests of selections, by the layers and what was asked for.
#[derive(Default)]
pub(crate) struct Choices(Mutex<HashMap<Digest, Digest>>);

/// What of some files is meant.
pub(crate) enum Chosen {
    /// It was looked up.
    Here(Selection, Digest),
    /// It was looked up before, and comes to this digest.
    Known(Digest),
}

impl Choices {
    /// What a choice of some layers is remembered by.
    pub(super) fn key(chain: &Digest, choice: &Choice) -> Digest {
        let Choice { sources, exclude, parents } = choice;
        let key = Key::new("choice").digest(chain).each(sources, |key, source| key.text(source));
        key.text(exclude.text()).number(u64::from(*parents)).finish()
    }

    pub(super) fn get(&self, key: &Digest) -> Option<Digest> {
        self.0.lock().get(key).copied()
    }

    pub(super) fn insert(&self, key: Digest, selection: Digest) {
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, selection);
    }
}

impl Chosen {
    /// The digest of all that makes a difference.
    pub(crate) fn digest(&self) -> &Digest {
        match self {
            Chosen::Here(_, digest) | Chosen::Known(digest) => digest,
        }
    }
}

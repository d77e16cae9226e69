//! The build cache: what steps came to, by all that they read.
//!
//! ```text
//! build/step/<key>    the layer that a step made, or that it made none
//! ```
//! A record and the note that its layer is needed are written in one transaction, so that there is never the one without the
//! other. The layer itself is on the disk before.

mod bounds;
mod inventory;
mod key;

pub use bounds::{CacheLimits, Meant, PruneOptions, Pruned};
pub(crate) use inventory::Keeps;
pub use inventory::{Cached, CachedKind};
pub(crate) use key::Key;

use crate::elsewhere::Given;
use crate::turns::Turns;
use crate::{Error, Result};
use image::{Digest, Images, KeptLayers};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use store::Collection;
use tokio::sync::OnceCell;

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    /// The layer; `None`: it changed nothing.
    pub(crate) layer: Option<Digest>,
    /// The instruction, for people.
    pub(crate) what: String,
    /// Bytes in the layer's files.
    pub(crate) size: u64,
    /// When it was carried out.
    pub(crate) made: Timestamp,
    /// When it was last found.
    pub(crate) used: Timestamp,
    /// How many times it was found.
    pub(crate) uses: u64,
    /// The key of the step that it followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Digest>,
    /// What copies have in common that are like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Digest>,
}

/// The cache of a data directory.
pub(crate) struct Cache {
    images: Images,
    steps: Collection<StepRecord>,
    /// Steps that are being carried out or looked for: one at a time for each key.
    busy: Turns<Digest>,
    /// The latest layer of each kind of copy that was made here, and the step whose it is; nothing before somebody asks.
    latest: OnceCell<Mutex<HashMap<Digest, (Digest, String)>>>,
    /// Held by all who write records, and by who removes them alone: the store and what the image store remembers of it are to
    /// change together.
    writing: tokio::sync::RwLock<()>,
}

/// A step, as far as its record says what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'s> {
    /// The instruction, for people.
    pub(crate) what: &'s str,
    /// The key of the step that it follows.
    pub(crate) parent: Option<Digest>,
    /// What copies have in common that are like it.
    pub(crate) kind: Option<Digest>,
}

/// A step's end.
pub(crate) struct Outcome {
    pub(crate) layer: Option<KeptLayers>,
    pub(crate) found: Found,
}

/// Where a step was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nowhere: it was carried out.
    Nowhere,
    /// Here.
    Here,
    /// In a cache of this name.
    Elsewhere(String),
}

/// Whose a retained layer is, in the image store's names.
fn owner(key: &str) -> String {
    format!("build-{key}")
}

impl Cache {
    pub(crate) fn new(images: Images, store: &store::Store) -> Cache {
        Cache {
            images,
            steps: Collection::new(store, "build/step/"),
            busy: Turns::default(),
            latest: OnceCell::new(),
            writing: tokio::sync::RwLock::default(),
        }
    }

    /// What the step of a key comes to: what it came to before, here or `elsewhere`, unless `anew`; else what `work` makes. The same
    /// step is carried out once, however many builds come to it.
    pub(crate) async fn step(
        &self,
        key: Digest,
        step: Step<'_>,
        anew: bool,
        elsewhere: impl Future<Output = Option<Given>>,
        work: impl Future<Output = Result<Option<KeptLayers>>>,
    ) -> Result<Outcome> {
        let turn = self.busy.of(key);
        let _mine = turn.lock().await;
        if !anew && let Some(layer) = self.find(&key).await? {
            return Ok(Outcome { layer, found: Found::Here });
        }
        let given = if anew { None } else { elsewhere.await };
        let (layer, found) = match given {
            Some(Given { layer, from }) => (layer, Found::Elsewhere(from)),
            None => (work.await?, Found::Nowhere),
        };
        // Nothing can lie upon what came from elsewhere.
        let kind = step.kind.filter(|_| found == Found::Nowhere);
        self.note(&key, Step { kind, ..step }, layer.as_ref()).await?;
        Ok(Outcome { layer, found })
    }

    /// The layer of the latest copy of a kind. It may be gone.
    pub(crate) async fn latest(&self, kind: &Digest) -> Result<Option<Digest>> {
        let read = || async {
            let steps = self.steps.clone();
            let failed = |e: &dyn std::fmt::Display| Error::failed("reading the build cache", e);
            let listed = tokio::task::spawn_blocking(move || steps.list()).await.map_err(|e| failed(&e))?;
            let mut copies = listed.map_err(|e| failed(&e))?.items;
            copies.sort_by_key(|copy| copy.value.made);
            let latest = copies.into_iter().filter_map(|copy| Some((copy.value.kind?, (copy.value.layer?, copy.id))));
            Ok::<_, Error>(Mutex::new(latest.collect()))
        };
        let latest = self.latest.get_or_try_init(read).await?;
        Ok(latest.lock().get(kind).map(|(layer, _)| *layer))
    }

    /// What is there, for who only looks; the outer `None`: nothing.
    pub(crate) async fn look(&self, key: &Digest) -> Result<Option<Option<KeptLayers>>> {
        let _stays = self.writing.read().await;
        Ok(self.read(key)?.map(|(_, layer)| layer))
    }

    /// A record, and its layer. One whose layer is gone counts as none.
    fn read(&self, key: &Digest) -> Result<Option<(StepRecord, Option<KeptLayers>)>> {
        let read = self.steps.get(&key.hex()).map_err(|e| Error::failed("reading the build cache", e))?;
        let Some(record) = read.map(|item| item.value) else { return Ok(None) };
        let Some(diff_id) = record.layer else { return Ok(Some((record, None))) };
        Ok(self.images.keep_layers(&[diff_id]).map(|layer| (record, Some(layer))))
    }

    /// What is there; the outer `None`: nothing.
    async fn find(&self, key: &Digest) -> Result<Option<Option<KeptLayers>>> {
        let _stays = self.writing.read().await;
        let id = key.hex();
        let Some((record, found)) = self.read(key)? else { return Ok(None) };
        let used = StepRecord { used: Timestamp::now(), uses: record.uses + 1, ..record };
        // It is worth no wait: after a power cut it was used a moment earlier.
        let failed = |e: &dyn std::fmt::Display| Error::failed("writing the build cache", e);
        let txn = self.steps.txn().durability(store::Durability::Relaxed);
        let txn = self.steps.put_in(txn, &id, &used).map_err(|e| failed(&e))?;
        txn.commit_async().await.map_err(|e| failed(&e))?;
        Ok(Some(found))
    }

    async fn note(&self, key: &Digest, step: Step<'_>, layer: Option<&KeptLayers>) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("writing the build cache", e);
        let layer = layer.and_then(|kept| kept.layers.first());
        let now = Timestamp::now();
        let record = StepRecord {
            layer: layer.map(|layer| layer.diff_id),
            what: step.what.to_owned(),
            size: layer.map_or(0, |layer| layer.size),
            made: now,
            used: now,
            uses: 0,
            parent: step.parent,
            kind: step.kind,
        };
        let mut txn = self.steps.put_in(self.steps.txn(), &key.hex(), &record).map_err(|e| failed(&e))?;
        txn = match &record.layer {
            Some(diff_id) => self.images.retain_in(txn, &owner(&key.hex()), diff_id).map_err(|e| failed(&e))?,
            None => self.images.let_go_in(txn, &owner(&key.hex())),
        };
        let _together = self.writing.read().await;
        // Remembered first: whoever gives the build up in this moment may find that it was written.
        if let Some(diff_id) = &record.layer {
            self.images.retained(&owner(&key.hex()), diff_id);
        }
        let written = txn.commit_async().await;
        if written.is_err() || record.layer.is_none() {
            self.images.let_go(&owner(&key.hex()));
        }
        if let (Some(latest), Some(kind), Some(layer)) = (self.latest.get(), record.kind, record.layer) {
            latest.lock().insert(kind, (layer, key.hex()));
        }
        written.map(drop).map_err(|e| failed(&e))
    }
}

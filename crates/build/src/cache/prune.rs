//! What is in the cache, and how it is emptied.

use super::{Cache, StepRecord, owner};
use crate::contexts::KeptContext;
use crate::solve::Builder;
use crate::{Error, Result};
use image::Digest;
use jiff::Timestamp;

/// A step that may be found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedStep {
    /// What it is found by.
    pub key: Digest,
    /// What it came to.
    pub record: StepRecord,
    /// An image has its layer.
    pub in_use: bool,
}

/// What is taken out of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Also what images have.
    pub all: bool,
    /// Only what was not used since then.
    pub unused_since: Option<Timestamp>,
    /// So many bytes stay, of what was used last.
    pub keep: u64,
}

/// What was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The steps.
    pub keys: Vec<Digest>,
    /// Bytes on the disk.
    pub reclaimed: u64,
}

impl Cache {
    fn list(&self) -> Result<Vec<CachedStep>> {
        let items = self.steps.list().map_err(|e| Error::failed("reading the build cache", e))?.items;
        let step = |item: store::Item<StepRecord>| {
            let key = Digest::from_hex(&item.id).map_err(|e| Error::failed("reading the build cache", e))?;
            let in_use = item.value.layer.is_some_and(|layer| self.images.in_an_image(&layer));
            Ok(CachedStep { key, record: item.value, in_use })
        };
        items.into_iter().map(step).collect()
    }

    async fn remove(&self, steps: &[CachedStep]) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("emptying the build cache", e);
        // A step that is being carried out in this moment writes its record afterwards.
        let _alone = self.writing.write().await;
        let txn = steps.iter().fold(self.steps.txn(), |txn, step| {
            self.images.let_go_in(txn.delete(self.steps.key(&step.key.hex())), &owner(&step.key))
        });
        if txn.is_empty() {
            return Ok(());
        }
        txn.commit_async().await.map_err(|e| failed(&e))?;
        steps.iter().for_each(|step| self.images.let_go(&owner(&step.key)));
        Ok(())
    }
}

impl Builder {
    /// All steps that may be found again, those that were used last first.
    ///
    /// # Errors
    /// Where the cache can't be read.
    pub fn cached(&self) -> Result<Vec<CachedStep>> {
        let mut steps = self.cache().list()?;
        steps.sort_by_key(|step| std::cmp::Reverse((step.record.used, step.key)));
        Ok(steps)
    }

    /// Contexts that are kept for the next build, those that were used last first. Blocks.
    pub fn contexts(&self) -> Vec<KeptContext> {
        self.kept().list()
    }

    /// Removes contexts that were not used since then, but for those that builds have; how many bytes that were. Blocks.
    fn prune_contexts(&self, unused_since: Option<Timestamp>) -> u64 {
        let unwanted =
            |one: &KeptContext| unused_since.is_none_or(|since| one.used < since) && self.kept().remove(&one.key);
        self.contexts().iter().filter(|one| unwanted(one)).map(|one| one.size).sum()
    }

    /// Takes steps out of the cache, and off the disk what nothing else needs.
    ///
    /// # Errors
    /// Where the cache can't be read or written.
    pub async fn prune(&self, options: PruneOptions) -> Result<Pruned> {
        let mut kept = 0;
        let mut unwanted = |step: &CachedStep| {
            kept += step.record.size;
            (options.all || !step.in_use)
                && options.unused_since.is_none_or(|since| step.record.used < since)
                && kept > options.keep
        };
        let mut steps = self.cached()?;
        steps.retain(&mut unwanted);
        self.cache().remove(&steps).await?;
        if options.all && options.keep == 0 && options.unused_since.is_none() {
            let builder = self.clone();
            let pruned =
                tokio::task::spawn_blocking(move || builder.caches().prune().and_then(|()| builder.web().prune()))
                    .await;
            pruned.map_err(|e| Error::failed("removing directories of caches", e))??;
        }
        let mut reclaimed = 0;
        if options.keep == 0 {
            let builder = self.clone();
            let pruned = tokio::task::spawn_blocking(move || builder.prune_contexts(options.unused_since)).await;
            reclaimed += pruned.map_err(|e| Error::failed("removing contexts", e))?;
        }
        let collected = self.engine().image_store().gc(false).await;
        let collected = collected.map_err(|e| Error::failed("removing layers of the build cache", e))?;
        Ok(Pruned { keys: steps.into_iter().map(|step| step.key).collect(), reclaimed: reclaimed + collected.bytes })
    }
}

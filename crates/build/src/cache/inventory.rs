//! What builds keep, as one list: steps, directories of cache mounts, and what others of this crate keep for the next build.

use super::{Cache, owner};
use crate::{Error, Result};
use image::Digest;
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};

/// What something is that builds keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachedKind {
    /// What a step came to.
    Step,
    /// A directory of `RUN --mount=type=cache`.
    Mount,
    /// Files of a client's, which sends only what changed of them.
    Context,
    /// A file that `ADD` took from an address.
    Web,
}

/// Something that builds keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// What it is called: nothing else of its kind is.
    pub id: String,
    /// What it is.
    pub kind: CachedKind,
    /// The same for people.
    pub what: String,
    /// Bytes in its files that nothing of a list has that is worth more: of what lies under several, one has them.
    pub size: u64,
    /// When it was made.
    pub made: Timestamp,
    /// When it was last used.
    pub used: Timestamp,
    /// How many times it was used since it was made.
    pub uses: u64,
    /// Steps that it follows.
    pub parents: Vec<String>,
    /// Something goes on that needs it.
    pub in_use: bool,
    /// It costs nothing, as an image has its layer, or another step.
    pub shared: bool,
    /// Of a layer, its directories, and the bytes in each.
    pub(crate) parts: Vec<(String, u64)>,
}

/// Others that keep something for the next build.
pub(crate) trait Keeps: Send + Sync {
    /// What all of it is.
    fn kind(&self) -> CachedKind;

    /// All of it. Blocks.
    fn list(&self) -> Result<Vec<Cached>>;

    /// Removes one, unless it is in use by now: whether it did. Blocks.
    fn remove(&self, id: &str) -> Result<bool>;
}

impl Cache {
    /// All steps that may be found again.
    pub(crate) fn list(&self) -> Result<Vec<Cached>> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("reading the build cache", e);
        let mut items = self.steps.list().map_err(|e| failed(&e))?.items;
        // The oldest of those that have a layer is the one that it counts for.
        items.sort_by_key(|item| item.value.made);
        let mut first: HashMap<Digest, String> = HashMap::new();
        let of_images = self.images.image_dirs();
        let mut steps = Vec::with_capacity(items.len());
        for item in items {
            let record = item.value;
            let layer = record.layer.as_ref();
            let other = layer.is_some_and(|layer| first.entry(*layer).or_insert_with(|| item.id.clone()) != &item.id);
            let shared = other || layer.is_some_and(|layer| self.images.in_an_image(layer));
            // What is shared counts for another, and what lies under an image's layer stays with that.
            let own = layer.filter(|_| !shared);
            let mut parts = own.map(|layer| self.images.layer_parts(layer)).unwrap_or_default();
            parts.iter_mut().filter(|(dir, _)| of_images.contains(dir)).for_each(|(_, bytes)| *bytes = 0);
            steps.push(Cached {
                kind: CachedKind::Step,
                what: record.what,
                size: record.size,
                made: record.made,
                used: record.used,
                uses: record.uses,
                parents: record.parent.iter().map(Digest::hex).collect(),
                in_use: layer.is_some_and(|layer| self.images.keeps_layer(layer)),
                shared,
                parts,
                id: item.id,
            });
        }
        Ok(steps)
    }

    /// Takes steps out.
    pub(crate) async fn remove(&self, steps: &[String]) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("emptying the build cache", e);
        // A step that is being carried out in this moment writes its record afterwards.
        let _alone = self.writing.write().await;
        let txn = steps
            .iter()
            .fold(self.steps.txn(), |txn, step| self.images.let_go_in(txn.delete(self.steps.key(step)), &owner(step)));
        if txn.is_empty() {
            return Ok(());
        }
        txn.commit_async().await.map_err(|e| failed(&e))?;
        steps.iter().for_each(|step| self.images.let_go(&owner(step)));
        if let Some(latest) = self.latest.get() {
            let gone: HashSet<&str> = steps.iter().map(String::as_str).collect();
            latest.lock().retain(|_, (_, step)| !gone.contains(&step[..]));
        }
        Ok(())
    }
}

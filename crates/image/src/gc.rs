//! Collecting garbage: what no image, no root file system and no work in progress needs.
//!
//! Marked under the state's lock, which is also where work in progress pins what it finds: what was looked at and
//! found unused is out of reach in the same moment. Then it is renamed away, and removed at leisure.

use crate::images::Inner;
use crate::record::{LAYER, LayerRecord, key_of};
use crate::{Images, Result, erofs};
use std::collections::HashSet;
use std::sync::Arc;

/// What a collection found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers that went.
    pub layers: u64,
    /// Blobs that went.
    pub blobs: u64,
    /// Bytes in their files.
    pub bytes: u64,
    /// Bytes in the files of layers alone, as images' sizes count them.
    pub unpacked: u64,
}

impl Images {
    /// Removes layers and blobs that nothing needs. Runs while anything else does, and takes nothing from it. Also
    /// what interrupted downloads left, after a day, or at once where `partial` says so.
    pub async fn gc(&self, partial: bool) -> Result<Collected> {
        self.blocking(move |inner| collect(inner, partial)).await
    }
}

fn collect(inner: &Arc<Inner>, partial: bool) -> Result<Collected> {
    let mut collected = Collected::default();
    collect_layers(inner, &mut collected)?;
    collect_blobs(inner, &mut collected)?;
    collected.bytes += inner.content.remove_partial(partial)?;
    Ok(collected)
}

fn collect_layers(inner: &Inner, collected: &mut Collected) -> Result<()> {
    let _one = inner.committing.lock();
    let (dead, needed) = {
        let mut state = inner.state.lock();
        let live = state.live_layers();
        let dead: Vec<Arc<LayerRecord>> =
            state.layers.values().filter(|layer| !live.contains(&layer.diff_id)).map(Arc::clone).collect();
        for layer in &dead {
            state.layers.remove(&layer.diff_id);
        }
        let needed: HashSet<String> = state.layers.values().flat_map(|layer| layer.dirs()).map(str::to_owned).collect();
        (dead, needed)
    };
    if dead.is_empty() {
        return Ok(());
    }
    let txn = dead.iter().fold(inner.store.txn(), |txn, layer| txn.delete(key_of(LAYER, &layer.diff_id)));
    if let Err(error) = txn.commit() {
        // They are still remembered there, so they are to be remembered here.
        inner.state.lock().layers.extend(dead.into_iter().map(|layer| (layer.diff_id, layer)));
        return Err(error.into());
    }
    let mut gone = HashSet::new();
    for layer in &dead {
        // One may lie under another's, which stays; and under several that go.
        for (dir, bytes) in layer.parts().filter(|(dir, _)| !needed.contains(*dir)) {
            if gone.insert(dir) {
                inner.reaper.discard(&inner.layer_dir(dir))?;
                collected.bytes += bytes;
                collected.unpacked += bytes;
            }
        }
        collected.bytes += erofs::remove(inner, layer)?;
        collected.layers += 1;
    }
    Ok(())
}

fn collect_blobs(inner: &Inner, collected: &mut Collected) -> Result<()> {
    for (digest, size) in inner.content.list()? {
        // Looked at one by one, so that nobody waits long for the lock, and gone before it is released.
        let state = inner.state.lock();
        let of_image = || {
            state.images.values().any(|image| {
                image.id.0 == digest
                    || image.manifest.as_ref().is_some_and(|manifest| manifest.digest == digest)
                    || image.attestations.iter().any(|said| said.predicate == digest)
            })
        };
        let of_layer = || state.layers.values().any(|layer| layer.blobs.iter().any(|blob| blob.digest == digest));
        if !state.is_pinned(&digest) && !of_image() && !of_layer() {
            inner.reaper.discard(&inner.content.path(&digest))?;
            collected.blobs += 1;
            collected.bytes += size;
        }
    }
    Ok(())
}

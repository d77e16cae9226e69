//! What is known in memory: a copy of the store's records, and what is in use at the moment.

use crate::images::Inner;
use crate::record::{self, HOLD, ImageRecord, LAYER, LayerRecord, RECORD, RETAIN, ROOTFS, RootfsRecord, TAG};
use crate::{Digest, Error, ImageId, Reference, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Everything behind the handle's lock. The store is written first, this afterwards.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) images: HashMap<ImageId, Arc<ImageRecord>>,
    /// Names with a tag or a digest.
    pub(crate) names: BTreeMap<Reference, ImageId>,
    pub(crate) layers: HashMap<Digest, Arc<LayerRecord>>,
    pub(crate) rootfs: HashMap<String, Arc<RootfsRecord>>,
    pub(crate) holds: BTreeMap<String, ImageId>,
    /// Layers that others than images and containers need.
    pub(crate) retained: BTreeMap<String, Digest>,
    /// Blobs, layers and images that work in progress needs, and how many times.
    pins: HashMap<Digest, usize>,
}

impl State {
    /// Reads all records.
    pub(crate) fn load(store: &store::Store) -> Result<State> {
        let mut state = State::default();
        for (key, entry) in store.list("image/")? {
            let value = &entry.value[..];
            if key.starts_with(RECORD) {
                let image: ImageRecord = record::decode(&key, value)?;
                state.images.insert(image.id, Arc::new(image));
            } else if let Some(name) = key.strip_prefix(TAG) {
                let bad = |reason: String| Error::BadRecord { key: key.clone(), reason };
                let name = Reference::parse_canonical(name).map_err(|e| bad(e.to_string()))?;
                state.names.insert(name, record::decode(&key, value)?);
            } else if key.starts_with(LAYER) {
                let layer: LayerRecord = record::decode(&key, value)?;
                state.layers.insert(layer.diff_id, Arc::new(layer));
            } else if let Some(container) = key.strip_prefix(ROOTFS) {
                state.rootfs.insert(container.into(), Arc::new(record::decode(&key, value)?));
            } else if let Some(owner) = key.strip_prefix(HOLD) {
                state.holds.insert(owner.into(), record::decode(&key, value)?);
            } else if let Some(owner) = key.strip_prefix(RETAIN) {
                state.retained.insert(owner.into(), record::decode(&key, value)?);
            }
        }
        Ok(state)
    }

    /// The image of that id.
    pub(crate) fn image(&self, id: &ImageId) -> Result<Arc<ImageRecord>> {
        self.images.get(id).map(Arc::clone).ok_or_else(|| Error::NoSuchImage(id.to_string()))
    }

    /// The layers of that name, or the first that is missing.
    pub(crate) fn layers_of(&self, diff_ids: &[Digest]) -> Result<Vec<Arc<LayerRecord>>> {
        let layer = |diff_id| self.layers.get(diff_id).map(Arc::clone).ok_or(Error::LayerMissing { diff_id: *diff_id });
        diff_ids.iter().map(layer).collect()
    }

    /// The names of an image, in order.
    pub(crate) fn names_of(&self, id: &ImageId) -> Vec<Reference> {
        self.names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
    }

    /// Images that were committed from this one.
    pub(crate) fn children(&self, id: &ImageId) -> Vec<ImageId> {
        self.images.values().filter(|image| image.parent == Some(*id)).map(|image| image.id).collect()
    }

    pub(crate) fn is_pinned(&self, digest: &Digest) -> bool {
        self.pins.contains_key(digest)
    }

    /// Layers that an image, a root file system or work in progress needs.
    pub(crate) fn live_layers(&self) -> HashSet<Digest> {
        let of_images = self.images.values().flat_map(|image| image.diff_ids.iter());
        let of_rootfs = self.rootfs.values().flat_map(|rootfs| rootfs.stacks().flatten());
        let mut live: HashSet<Digest> = of_images.chain(of_rootfs).chain(self.retained.values()).copied().collect();
        live.extend(self.layers.keys().filter(|diff_id| self.is_pinned(diff_id)));
        live
    }
}

/// Keeps what work in progress needs from being collected, until it is dropped.
pub(crate) struct Lease {
    inner: Arc<Inner>,
    held: parking_lot::Mutex<Vec<Digest>>,
}

impl Lease {
    pub(crate) fn new(inner: &Arc<Inner>) -> Lease {
        Lease { inner: Arc::clone(inner), held: parking_lot::Mutex::default() }
    }

    /// Holds a digest, and says whether `there` is true of the state, as one step.
    pub(crate) fn pin_if<T>(&self, digest: &Digest, there: impl FnOnce(&State) -> Option<T>) -> Option<T> {
        let mut state = self.inner.state.lock();
        let found = there(&state)?;
        *state.pins.entry(*digest).or_default() += 1;
        self.held.lock().push(*digest);
        Some(found)
    }

    /// Holds a digest, whether there is something of that name or not.
    pub(crate) fn pin(&self, digest: &Digest) {
        self.pin_if(digest, |_| Some(()));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        for digest in self.held.lock().drain(..) {
            if let Some(count) = state.pins.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(&digest);
                }
            }
        }
    }
}

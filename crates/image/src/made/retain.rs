//! Layers that others than images and containers need: what a build may find again.

use super::KeptLayers;
use crate::record::{self, RETAIN};
use crate::state::Lease;
use crate::{Digest, Images, Result};
use std::collections::HashSet;
use std::sync::Arc;
use store::Txn;

impl Images {
    /// Keeps layers; `None` where one of them is not here.
    pub fn keep_layers(&self, diff_ids: &[Digest]) -> Option<KeptLayers> {
        let lease: Lease = self.0.lease();
        let keep = |diff_id| lease.pin_if(diff_id, |state| state.layers.get(diff_id).map(Arc::clone));
        let layers = diff_ids.iter().map(keep).collect::<Option<_>>()?;
        Some(KeptLayers { layers, _lease: lease })
    }

    /// Whether something that goes on keeps the layer.
    pub fn keeps_layer(&self, diff_id: &Digest) -> bool {
        self.0.state.lock().is_pinned(diff_id)
    }

    /// Whether an image has the layer.
    pub fn in_an_image(&self, diff_id: &Digest) -> bool {
        self.0.state.lock().images.values().any(|image| image.diff_ids.contains(diff_id))
    }

    /// The directories of a layer, and the bytes in each. Others may have one of them, too.
    pub fn layer_parts(&self, diff_id: &Digest) -> Vec<(String, u64)> {
        let state = self.0.state.lock();
        let parts = state.layers.get(diff_id).into_iter().flat_map(|layer| layer.parts());
        parts.map(|(dir, bytes)| (dir.to_owned(), bytes)).collect()
    }

    /// The directories of all layers that images have.
    pub fn image_dirs(&self) -> HashSet<String> {
        let state = self.0.state.lock();
        let of_images: HashSet<&Digest> = state.images.values().flat_map(|image| &image.diff_ids).collect();
        let layers = of_images.into_iter().filter_map(|diff_id| state.layers.get(diff_id));
        layers.flat_map(|layer| layer.dirs()).map(str::to_owned).collect()
    }

    /// Adds to a transaction that `owner` needs a layer, which stays until it is let go. Whoever commits it keeps the layer
    /// meanwhile, and [says so](Self::retained) afterwards.
    ///
    /// # Errors
    /// Where it can't be encoded.
    pub fn retain_in<'s>(&self, txn: Txn<'s>, owner: &str, diff_id: &Digest) -> Result<Txn<'s>> {
        let key = format!("{RETAIN}{owner}");
        let value = record::encode(&key, diff_id)?;
        Ok(txn.put(&key, value))
    }

    /// A transaction of [`retain_in`](Self::retain_in) is committed.
    pub fn retained(&self, owner: &str, diff_id: &Digest) {
        self.0.state.lock().retained.insert(owner.to_owned(), *diff_id);
    }

    /// Adds to a transaction that `owner` needs its layer no more; [said](Self::let_go) once it is committed.
    pub fn let_go_in<'s>(&self, txn: Txn<'s>, owner: &str) -> Txn<'s> {
        txn.delete(format!("{RETAIN}{owner}"))
    }

    /// A transaction of [`let_go_in`](Self::let_go_in) is committed.
    pub fn let_go(&self, owner: &str) {
        self.0.state.lock().retained.remove(owner);
    }
}

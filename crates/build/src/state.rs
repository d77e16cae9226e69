//! An image in the making: what it would be if it ended here.

use crate::{Error, Result};
use image::{Digest, HistoryEntry, ImageConfig, ImageId, KeptLayers, Platform, RunConfig, chain_id};
use rustix::fs::{Timespec, Timestamps};
use std::sync::Arc;

/// The time of what has none of its own, seconds since 1970: 1980-01-02, as ZIP archives know no time before 1980, wherever one lives.
pub(crate) const FIXED_TIME: i64 = 315_619_200;

/// The same, as files have it.
pub(crate) const FIXED_TIMES: Timestamps = {
    let fixed = Timespec { tv_sec: FIXED_TIME, tv_nsec: 0 };
    Timestamps { last_access: fixed, last_modification: fixed }
};

/// Where programs are looked for in an image of nothing, or one that says nothing of it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image in the making.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) config: ImageConfig,
    /// Keeps its layers here.
    kept: Vec<Arc<KeptLayers>>,
    /// The image that it still is, as nothing was done to it.
    base: Option<ImageId>,
    /// The key of the latest step that may be found again.
    pub(crate) follows: Option<Digest>,
}

impl State {
    /// Of nothing.
    pub(crate) fn scratch(platform: &Platform) -> State {
        let config = ImageConfig {
            config: RunConfig { env: vec![DEFAULT_PATH.to_owned()], ..RunConfig::default() },
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            ..ImageConfig::default()
        };
        State { config, kept: Vec::new(), base: None, follows: None }
    }

    /// Of an image, whose layers are kept.
    pub(crate) fn of_image(id: ImageId, mut config: ImageConfig, kept: KeptLayers) -> State {
        // These speak of the image's own steps.
        config.build_cache = None;
        config.comment.clear();
        // As with dockerd and BuildKit: whatever is built upon it finds its programs.
        if !config.config.env.iter().any(|variable| variable.starts_with("PATH=")) {
            config.config.env.push(DEFAULT_PATH.to_owned());
        }
        State { config, kept: vec![Arc::new(kept)], base: Some(id), follows: None }
    }

    /// The image that it is, as nothing was done to one.
    pub(crate) fn untouched(&self) -> Option<ImageId> {
        self.base
    }

    /// What the image is called if it ends here.
    pub(crate) fn id(&self) -> Result<ImageId> {
        if let Some(id) = self.base {
            return Ok(id);
        }
        let json = self.config.to_json().map_err(|e| Error::failed("writing an image's configuration", e))?;
        Ok(ImageId(Digest::of(&json)))
    }

    /// The layers, bottom first.
    pub(crate) fn diff_ids(&self) -> &[Digest] {
        &self.config.rootfs.diff_ids
    }

    /// Bytes in the files of its layers but for so many at the bottom; `None`: it has no more.
    pub(crate) fn size_above(&self, layers: usize) -> Option<u64> {
        let own: Vec<u64> =
            self.kept.iter().flat_map(|kept| &kept.layers).skip(layers).map(|layer| layer.size).collect();
        (!own.is_empty()).then(|| own.iter().sum())
    }

    /// What the root file system is called; `None`: it is empty.
    pub(crate) fn chain(&self) -> Option<Digest> {
        chain_id(self.diff_ids())
    }

    /// Adds a step that made a layer, or none.
    pub(crate) fn add(&mut self, created_by: String, created: &str, layer: Option<KeptLayers>) {
        self.add_entry(created_by, created, layer.is_none());
        if let Some(layer) = layer {
            self.config.rootfs.diff_ids.extend(layer.layers.iter().map(|layer| layer.diff_id));
            self.kept.push(Arc::new(layer));
        }
    }

    /// Adds a step whose layer is not here: for who only looks.
    pub(crate) fn add_elsewhere(&mut self, created_by: String, created: &str, layer: Option<Digest>) {
        self.add_entry(created_by, created, layer.is_none());
        self.config.rootfs.diff_ids.extend(layer);
    }

    fn add_entry(&mut self, created_by: String, created: &str, empty_layer: bool) {
        self.base = None;
        self.config.created = Some(created.to_owned());
        let created = Some(created.to_owned());
        self.config.history.push(HistoryEntry { created, created_by, empty_layer, ..HistoryEntry::default() });
    }

    /// Becomes what another has come to that builds upon this one, with one layer for all that it added.
    pub(crate) fn squashed(mut self, end: &State, comment: String, created: &str, layer: Option<KeptLayers>) -> State {
        let (below, layers) = (self.config.history.len(), self.config.rootfs.clone());
        self.base = None;
        self.config = end.config.clone();
        self.config.rootfs = layers;
        self.config.created = Some(created.to_owned());
        // What was done stays to be read, though its files are elsewhere.
        self.config.history.iter_mut().skip(below).for_each(|entry| entry.empty_layer = true);
        self.config.history.push(HistoryEntry {
            created: Some(created.to_owned()),
            comment,
            ..HistoryEntry::default()
        });
        if let Some(layer) = layer {
            self.config.rootfs.diff_ids.extend(layer.layers.iter().map(|layer| layer.diff_id));
            self.kept.push(Arc::new(layer));
        }
        self
    }

    /// The environment, as names and values.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.config.config.env.iter().filter_map(pair).collect()
    }
}

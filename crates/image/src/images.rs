//! The handle on all images, and how its directory is opened.
//!
//! ```text
//! blobs/ ingest/     the content store
//! layers/<n>/fs      a layer, unpacked, read-only for ever
//! staging/<n>/fs     a layer that is being unpacked
//! erofs/<diff id>    a layer as an EROFS file
//! trash/             what is being removed
//! ```
//!
//! Beside it, where the opener says: `<id>/`, a container's directory, with the upper and the work directory of its root
//! file system and whatever else its owner puts there. It comes and goes as one.

use crate::content::{Content, list};
use crate::reaper::Reaper;
use crate::record::{ImageRecord, LAYER, key_of};
use crate::rootfs::{self, Birthplaces};
use crate::spread::spread;
use crate::state::{Lease, State};
use crate::sync::Syncer;
use crate::{Digest, Error, ImageConfig, ImageId, ImageIngest, Platform, Result, erofs, pace, skeleton, tree};
use parking_lot::Mutex;
use rustix::fd::AsFd as _;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// How images are kept.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// The directory of blobs and layers; made where it is missing. Its file system must be fit for overlayfs' upper
    /// directories.
    pub root: PathBuf,
    /// The directory in which each container has one, in the same file system.
    pub rootfs: PathBuf,
    /// Where the metadata is kept, below keys that begin with `image/`.
    pub store: store::Store,
    /// What images are chosen for where there is a choice.
    pub platform: Platform,
    /// What an archive may ask for at most.
    pub limits: UnpackLimits,
}

/// What an archive may ask for at most. Beyond: [`Error::LimitExceeded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Uncompressed bytes of one layer, and nominal bytes of one sparse file. 64 GiB.
    pub bytes: u64,
    /// Entries of one layer. 4 million.
    pub entries: u64,
    /// Bytes of a path. 4095, the kernel's own limit.
    pub path: u64,
    /// Bytes of memory for the names of a layer's directories, which are remembered to its end. 256 MiB: 4 million names
    /// of 4095 bytes would be 16 GiB.
    pub names: u64,
    /// Directories above one another. 512.
    pub depth: u64,
    /// Uncompressed bytes for a compressed one, once a layer has more than 1 GiB: gzip ends at 1032, zstd has no end. 400.
    pub ratio: u64,
}

impl Default for UnpackLimits {
    fn default() -> UnpackLimits {
        UnpackLimits { bytes: 64 << 30, entries: 4_000_000, path: 4095, names: 256 << 20, depth: 512, ratio: 400 }
    }
}

/// All images of one data directory. Clones share it.
///
/// Functions that are not `async` answer from memory (or read one small file) and may be called from anywhere; those
/// that are do their work on threads that may block.
#[derive(Clone)]
pub struct Images(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) store: store::Store,
    pub(crate) platform: Platform,
    pub(crate) limits: UnpackLimits,
    pub(crate) content: Arc<Content>,
    pub(crate) syncer: Syncer,
    pub(crate) reaper: Reaper,
    pub(crate) births: Birthplaces,
    pub(crate) state: Mutex<State>,
    /// One at a time makes a layer visible.
    pub(crate) committing: Mutex<()>,
    /// One at a time changes names and images.
    pub(crate) naming: Mutex<()>,
    /// For archives that clients send and take.
    pub(crate) threads: pace::Threads,
    /// EROFS files that are being written.
    pub(crate) writing: erofs::Writing,
    /// Configurations that were read once.
    configs: Mutex<HashMap<ImageId, Arc<ImageConfig>>>,
    next_layer: AtomicU64,
    /// Whether files of layers can have the same blocks; nobody has tried yet where there is nothing.
    pub(crate) shares_blocks: OnceLock<bool>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("root", &self.0.root).finish_non_exhaustive()
    }
}

impl Images {
    /// Opens the directory, and removes what an end in the middle of something left. Blocks: a few milliseconds.
    pub fn open(config: ImagesConfig) -> Result<Images> {
        let root = &config.root;
        for dir in ["layers", "staging"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(|e| Error::io(format!("making {}", dir.display()), e))?;
        }
        // Layers are made in there; where they go afterwards changes nothing.
        let staging = root.join("staging");
        spread(&File::open(&staging).map_err(|e| Error::io(format!("opening {}", staging.display()), e))?);
        // Layers hold set-uid programs of all ages: nobody but root has business there.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .map_err(|e| Error::io(format!("setting the mode of {}", root.display()), e))?;
        let content = Arc::new(Content::open(root)?);
        let reaper = Reaper::open(root)?;
        for entry in list(&staging)? {
            reaper.discard(&entry.path())?;
        }
        let mut state = State::load(&config.store)?;
        let last = tidy_layers(root, &reaper, &mut state)?;
        erofs::open(root, &reaper, &mut state)?;
        rootfs::open_directory(&config.rootfs, &reaper, &state)?;
        let births = Birthplaces::open(root, &reaper)?;
        let syncer = Syncer::new(root)?;
        skeleton::make(root)?;
        Ok(Images(Arc::new(Inner {
            root: root.clone(),
            rootfs: config.rootfs,
            store: config.store,
            platform: config.platform,
            limits: config.limits,
            content,
            syncer,
            reaper,
            births,
            state: Mutex::new(state),
            committing: Mutex::default(),
            naming: Mutex::default(),
            threads: pace::Threads::new(pace::Rules::default()),
            writing: erofs::Writing::default(),
            configs: Mutex::default(),
            next_layer: AtomicU64::new(last + 1),
            shares_blocks: OnceLock::new(),
        })))
    }

    /// Removes a directory of images, and all that a store knows of it. Nobody may have it open. In the kernel there is
    /// nothing to remove: what this crate mounts goes with the process. Blocks.
    pub fn clean(root: &Path, store: &store::Store) -> Result<()> {
        store.txn().delete_prefix("image/").commit()?;
        let failed = |e: rustix::io::Errno| Error::io(format!("removing {}", root.display()), e);
        let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
            return Err(Error::Invalid(format!("{} is no directory of images", root.display())));
        };
        match File::open(parent) {
            Ok(parent) => tree::remove(parent.as_fd(), name.as_encoded_bytes()).map_err(failed),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io(format!("opening {}", parent.display()), e)),
        }
    }

    /// What images are chosen for where there is a choice.
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// The directory that the short names of layers are relative to.
    pub fn layers_dir(&self) -> PathBuf {
        self.0.root.join("layers")
    }

    /// Begins to take in an image.
    pub fn begin_image(&self) -> ImageIngest {
        ImageIngest::new(self.clone())
    }

    /// The image of that id, if it is here.
    pub fn get(&self, id: &ImageId) -> Option<Arc<ImageRecord>> {
        self.0.state.lock().images.get(id).map(Arc::clone)
    }

    /// An image's configuration, parsed. Read from the content store the first time.
    pub fn config(&self, id: &ImageId) -> Result<Arc<ImageConfig>> {
        if let Some(config) = self.0.configs.lock().get(id) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(ImageConfig::parse(&self.config_json(id)?)?);
        self.0.configs.lock().insert(*id, Arc::clone(&config));
        Ok(config)
    }

    /// An image's configuration, as its maker wrote it.
    pub fn config_json(&self, id: &ImageId) -> Result<Vec<u8>> {
        self.0.state.lock().image(id)?;
        self.0.content.read(id.digest(), crate::manifest::MAX_DOCUMENT)
    }

    /// An image's manifest, as it came; `None` where it was made here.
    pub fn manifest_json(&self, id: &ImageId) -> Result<Option<Vec<u8>>> {
        let image = self.0.state.lock().image(id)?;
        let read = |manifest: &crate::Descriptor| self.0.content.read(&manifest.digest, crate::manifest::MAX_DOCUMENT);
        image.manifest.as_ref().map(read).transpose()
    }

    /// Waits until everything that was removed is off the disk, too. Blocks.
    pub fn settle(&self) {
        self.0.reaper.settle();
    }

    /// The threads for archives that clients send and take. [`Images::load`] and [`Images::import`] take one by themselves.
    pub fn threads(&self) -> &pace::Threads {
        &self.0.threads
    }

    /// Does work that is as fast as a client, on a thread for that.
    pub(crate) async fn paced<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        self.0.threads.take().await?.run(move || work(&inner)).await.flatten()
    }

    /// Does work that may block, on a thread that may.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|_| Err(Error::Interrupted("work on images".into())))
    }
}

impl Inner {
    /// A new name for a layer's directory.
    pub(crate) fn next_layer(&self) -> String {
        base36(self.next_layer.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn layer_dir(&self, dir: &str) -> PathBuf {
        self.root.join("layers").join(dir)
    }

    pub(crate) fn forget_config(&self, id: &ImageId) {
        self.configs.lock().remove(id);
    }

    pub(crate) fn lease(self: &Arc<Inner>) -> Lease {
        Lease::new(self)
    }
}

/// Brings layers' directories and records together: a directory without a record was never visible, a record without
/// a directory tells of something that is gone. The highest number in use.
fn tidy_layers(root: &Path, reaper: &Reaper, state: &mut State) -> Result<u64> {
    let mut there = HashSet::new();
    let mut last = 0;
    let known: HashSet<String> = state.layers.values().flat_map(|layer| layer.dirs()).map(str::to_owned).collect();
    for entry in list(&root.join("layers"))? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name == skeleton::DIR {
            continue;
        }
        last = last.max(u64::from_str_radix(&name, 36).unwrap_or(0));
        if known.contains(&name) {
            there.insert(name);
        } else {
            reaper.discard(&entry.path())?;
        }
    }
    state.layers.retain(|diff_id: &Digest, layer| {
        let kept = layer.dirs().all(|dir| there.contains(dir));
        if !kept {
            tracing::warn!(%diff_id, record = key_of(LAYER, diff_id), "a layer is missing from the disk: pull its images again");
        }
        kept
    });
    Ok(last)
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_are_short() {
        assert_eq!(
            (base36(0), base36(35), base36(36), base36(46_655)),
            ("0".into(), "z".into(), "10".into(), "zzz".into())
        );
    }
}

//! Making images here: of an archive (`import`), and of what a container changed (`commit`).

use crate::changes;
use crate::images::Inner;
use crate::layers::Stage;
use crate::naming::NewImage;
use crate::pack;
use crate::pipeline::{self, Blob, ReadSource};
use crate::record::LayerRecord;
use crate::state::Lease;
use crate::{
    Digest, Error, HistoryEntry, ImageConfig, ImageId, Images, Platform, Progress, Reference, Result, RunConfig,
};
use jiff::Timestamp;
use rustix::fd::AsFd as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The layer of an archive without entries: it is left out of images.
const EMPTY_LAYER: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// What an image made here is called and says of itself.
#[derive(Clone, Debug, Default)]
pub struct NewImageOptions {
    /// The name to give it.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// What is said about it.
    pub message: String,
    /// The command that made it, for its history.
    pub created_by: String,
    /// How its containers run, before changes.
    pub config: RunConfig,
    /// Dockerfile-like instructions that change the configuration, as [`changes::apply`] takes them.
    pub changes: Vec<String>,
    /// What it runs on; the configured platform where left out, or that of the image committed from.
    pub platform: Option<Platform>,
}

impl Images {
    /// Makes an image of one layer from an archive of a root file system, in any compression.
    pub async fn import(
        &self,
        archive: impl Read + Send + 'static,
        options: NewImageOptions,
        progress: Progress,
    ) -> Result<ImageId> {
        // Before anything is read, so that a mistyped instruction costs nothing.
        let config = changes::apply(options.config.clone(), &options.changes)?;
        let mut archive = archive;
        self.paced(move |inner| {
            let lease = inner.lease();
            let stage = Stage::new(inner)?;
            let blob = Blob::Keep(inner.content.begin()?);
            let mut source = ReadSource::new(&mut archive, "the archive");
            let fs = stage.fs().as_fd();
            let passed = pipeline::run(&mut source, blob, fs, &inner.limits, &progress, "import", 0)?;
            let layer = stage.commit(passed, None, &lease)?;
            let created = Timestamp::now().to_string();
            let platform = options.platform.clone().unwrap_or_else(|| inner.platform.clone());
            let mut document = document(&options, config, &platform, &created);
            document.history.push(HistoryEntry {
                created: Some(created),
                created_by: options.created_by.clone(),
                comment: options.message.clone(),
                ..HistoryEntry::default()
            });
            document.rootfs.diff_ids.push(layer.diff_id);
            add(inner, &document, None, options.name)
        })
        .await
    }

    /// Makes an image of layers that are here and that the caller keeps meanwhile, with names that are taken from whoever
    /// has them.
    ///
    /// # Errors
    /// [`Error::LayerMissing`].
    pub async fn assemble(&self, config: ImageConfig, names: Vec<Reference>) -> Result<ImageId> {
        self.blocking(move |inner| {
            let json = config.to_json()?;
            let lease = inner.lease();
            lease.pin(&Digest::of(&json));
            let new = NewImage {
                config_json: &json,
                config: &config,
                parent: None,
                manifest: None,
                names: &names,
                by_hand: true,
                now: true,
            };
            inner.add_image(new).map(|image| image.id)
        })
        .await
    }

    /// Makes an image of a container's: its image's layers, and one of what the container changed. The caller sees to
    /// it that the container changes nothing meanwhile. `upper` has the changes, in overlayfs' form; `None`: its own directory does.
    ///
    /// The layer's directory is filled from the same stream that its blob is made of, not by renaming or linking the
    /// container's own: that one stays in use and goes on changing, and so what is run is by construction what is
    /// pushed.
    pub async fn commit(&self, container: &str, upper: Option<PathBuf>, options: NewImageOptions) -> Result<ImageId> {
        let config = changes::apply(options.config.clone(), &options.changes)?;
        let (mut rootfs, parent) = (self.rootfs(container)?, self.rootfs_image(container)?);
        rootfs.upper = upper.unwrap_or(rootfs.upper);
        let says_root = rootfs.changes_root_to_plain().map_err(|e| Error::io("reading a root directory", e))?;
        let upper = rootfs.upper;
        let base = match parent.filter(|id| self.get(id).is_some()) {
            Some(id) => Some((id, self.config(&id)?)),
            None => None,
        };
        let layers = {
            let state = self.0.state.lock();
            state.rootfs.get(container).map_or_else(Vec::new, |record| record.layers.clone())
        };
        self.blocking(move |inner| {
            let lease = inner.lease();
            layers.iter().for_each(|diff_id| lease.pin(diff_id));
            let layer = commit_layer(inner, &upper, says_root, &lease)?;
            let created = Timestamp::now().to_string();
            let platform = options.platform.clone().or_else(|| base.as_ref().map(|(_, config)| config.platform()));
            let mut document =
                document(&options, config, &platform.unwrap_or_else(|| inner.platform.clone()), &created);
            document.history = base.as_ref().map_or_else(Vec::new, |(_, config)| config.history.clone());
            document.rootfs.diff_ids = layers;
            let empty_layer = layer.diff_id.to_string() == EMPTY_LAYER;
            if !empty_layer {
                document.rootfs.diff_ids.push(layer.diff_id);
            }
            document.history.push(HistoryEntry {
                created: Some(created),
                author: options.author.clone(),
                created_by: options.created_by.clone(),
                comment: options.message.clone(),
                empty_layer,
            });
            add(inner, &document, base.map(|(id, _)| id), options.name)
        })
        .await
    }
}

fn document(options: &NewImageOptions, config: RunConfig, platform: &Platform, created: &str) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        author: options.author.clone(),
        comment: options.message.clone(),
        config,
        created: Some(created.into()),
        ..ImageConfig::default()
    }
}

fn add(inner: &Inner, config: &ImageConfig, parent: Option<ImageId>, name: Option<Reference>) -> Result<ImageId> {
    let names: Vec<Reference> = name.map(Reference::with_default_tag).into_iter().collect();
    let json = config.to_json()?;
    let new = NewImage { config_json: &json, config, parent, manifest: None, names: &names, by_hand: true, now: false };
    inner.add_image(new).map(|image| image.id)
}

/// Makes a layer of an overlay's upper directory.
fn commit_layer(inner: &Arc<Inner>, upper: &Path, says_root: bool, lease: &Lease) -> Result<Arc<LayerRecord>> {
    let stage = Stage::new(inner)?;
    let blob = Blob::Make(inner.content.begin()?);
    let mut source = pack::packed(pack::open(upper)?, says_root)?;
    let fs = stage.fs().as_fd();
    let passed = pipeline::run(&mut source, blob, fs, &inner.limits, &Progress::none(), "commit", 0)?;
    stage.commit(passed, None, lease)
}

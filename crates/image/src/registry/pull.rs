//! Pulls an image: its manifest, its configuration, then its layers side by side, each fetched, verified and unpacked in one stream.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::auth::Auth;
use super::choice::choose;
use super::download::Download;
use super::error::RegistryError;
use super::repository::{RawManifest, Repository, is_old_manifest};
use super::{Registries, retrying};
use crate::manifest::{MAX_DOCUMENT, media_type};
use crate::{
    Descriptor, Digest, Error, FinishImage, ImageConfig, ImageId, ImageIngest, Images, Index, Manifest, Phase,
    Platform, Progress, Reference,
};

/// Indexes may point at indexes; deeper than this they are a trap.
const INDEX_DEPTH_MAX: usize = 4;
/// Bytes between two events of a download.
const EVENT_EVERY: u64 = 512 * 1024;
/// How often a layer is fetched from its beginning because what came was damaged.
const DAMAGED_MAX: u32 = 2;

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// The image wasn't here, or the tag meant another one.
    DownloadedNewer,
    /// Everything was here already.
    UpToDate,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image_id: ImageId,
    /// The digest of the manifest or index that the reference names.
    pub digest: Digest,
    /// Whether anything changed.
    pub status: PullStatus,
    /// What was pulled, with its tag or digest.
    pub reference: Reference,
}

/// A manifest of one image, found for a platform, with where its blobs are.
pub(super) struct Found {
    /// What the reference names: an index, or the manifest itself.
    top: Digest,
    pub(super) manifest: RawManifest,
    pub(super) sources: Arc<[Repository]>,
}

impl Registries {
    /// Pulls an image into `images`. A reference without tag and digest means the tag `latest`.
    ///
    /// The platform is `images`' own unless another is given. Events come as layers go on; the future may be dropped at any time:
    /// layers that are complete stay, and what was downloaded of others is taken up by the next pull.
    pub async fn pull(
        &self,
        images: &Images,
        reference: &Reference,
        platform: Option<&Platform>,
        auth: Option<&Auth>,
        progress: Progress,
    ) -> Result<Pulled, RegistryError> {
        let reference = reference.clone().with_default_tag();
        let platform = platform.unwrap_or_else(|| images.platform()).clone();
        let ingest = images.begin_image();
        let found = self.find(&reference, &platform, auth).await?;
        let manifest = parse_manifest(&found.manifest, &reference)?;
        let config = self.config_document(images, &ingest, &manifest.config, &found.sources).await?;
        let layers = pair_layers(&manifest, &config)?;
        let before = known(images, &reference)?;
        let ingest = Arc::new(ingest);
        // Of an image that is here there is nothing to tell but that.
        let is_here = images.get(&ImageId(manifest.config.digest)).is_some();
        let progress = if is_here { Progress::none() } else { progress };
        let fetched = self.pull_layers(&ingest, layers, &found.sources, &reference.name(), &progress).await?;
        let ingest =
            Arc::into_inner(ingest).ok_or_else(|| RegistryError::Task("a layer is still on its way".into()))?;
        let image_id = ingest
            .finish(FinishImage {
                manifest: found.manifest.bytes,
                manifest_media_type: found.manifest.media_type,
                config,
                tag: reference.digest().is_none().then(|| reference.clone()),
                repo_digest: Some(reference.with_digest(&found.top.to_string())?),
            })
            .await?;
        let status = match fetched == 0 && before == Some(image_id) {
            true => PullStatus::UpToDate,
            false => PullStatus::DownloadedNewer,
        };
        Ok(Pulled { image_id, digest: found.top, status, reference })
    }

    /// Asks the mirrors, then the registry.
    pub(super) async fn find(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<&Auth>,
    ) -> Result<Found, RegistryError> {
        let mut failure = None;
        let addresses = self.pull_addresses(reference.domain());
        for (tried, address) in addresses.iter().enumerate() {
            match self.find_at(address, reference, platform, auth).await {
                Ok((top, manifest, repository)) => {
                    let mut sources = vec![repository];
                    // The rest may have a blob that the first one lacks. One that can't be reached has nothing.
                    for address in &addresses[tried + 1..] {
                        match self.repository(address, reference, auth, "pull").await {
                            Ok(repository) => sources.push(repository),
                            Err(error) => tracing::debug!(address, %error, "is no further source of layers"),
                        }
                    }
                    return Ok(Found { top, manifest, sources: sources.into() });
                }
                Err(error) => {
                    if tried + 1 < addresses.len() {
                        tracing::info!(image = %reference, error = %error, "the mirror does not have it, going on to the next source");
                    }
                    failure = Some(error);
                }
            }
        }
        let failure = failure.unwrap_or_else(|| RegistryError::Task("no registry to ask".into()));
        Err(failure.of_pull(reference))
    }

    async fn find_at(
        &self,
        address: &str,
        reference: &Reference,
        platform: &Platform,
        auth: Option<&Auth>,
    ) -> Result<(Digest, RawManifest, Repository), RegistryError> {
        let repository = self.repository(address, reference, auth, "pull").await?;
        let version = reference.version().to_owned();
        let mut manifest = retrying(self.config(), || repository.manifest(&version)).await?;
        let top = manifest.digest;
        for _ in 0..INDEX_DEPTH_MAX {
            if !media_type::is_index(&manifest.media_type) {
                return Ok((top, manifest, repository));
            }
            let index = Index::parse(&manifest.bytes)?;
            let chosen = choose(&index, platform)
                .ok_or_else(|| RegistryError::NoMatchingPlatform(platform.normalized().to_string()))?;
            let digest = chosen.digest.to_string();
            manifest = retrying(self.config(), || repository.manifest(&digest)).await?;
        }
        Err(RegistryError::Malformed {
            what: format!("the index {top}"),
            reason: format!("more than {INDEX_DEPTH_MAX} indexes point at one another"),
        })
    }

    async fn config_document(
        &self,
        images: &Images,
        ingest: &ImageIngest,
        descriptor: &Descriptor,
        sources: &[Repository],
    ) -> Result<Bytes, RegistryError> {
        let digest = descriptor.digest;
        if descriptor.size > MAX_DOCUMENT {
            return Err(RegistryError::TooLarge { what: "the image's configuration".into(), limit: MAX_DOCUMENT });
        }
        match ingest.has_blob(&digest) {
            true => Ok(images.read_blob(&digest).await?),
            false => self.small_blob(descriptor, sources).await,
        }
    }

    /// Brings all layers in; answers how many had to be fetched.
    async fn pull_layers(
        &self,
        ingest: &Arc<ImageIngest>,
        layers: Vec<(Descriptor, Digest)>,
        sources: &Arc<[Repository]>,
        repository: &str,
        progress: &Progress,
    ) -> Result<usize, RegistryError> {
        let mut tasks = JoinSet::new();
        let mut begun = HashSet::new();
        for (descriptor, diff_id) in layers {
            ingest.note_source(&descriptor.digest, repository);
            let id = descriptor.digest.short();
            if ingest.has_layer(&diff_id) {
                progress.emit(&id, Phase::AlreadyExists);
                continue;
            }
            progress.emit(&id, Phase::PullingFsLayer);
            // The same layer may stand in an image more than once.
            if !begun.insert(diff_id) {
                continue;
            }
            let pull = LayerPull {
                registries: self.clone(),
                ingest: ingest.clone(),
                descriptor,
                diff_id,
                sources: sources.clone(),
                progress: progress.clone(),
            };
            tasks.spawn(pull.run());
        }
        // The first failure ends the pull: the rest is dropped with the set, and can be resumed.
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| RegistryError::Task(error.to_string()))??;
        }
        Ok(begun.len())
    }
}

/// One layer on its way in.
pub(super) struct LayerPull {
    pub(super) registries: Registries,
    pub(super) ingest: Arc<ImageIngest>,
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) sources: Arc<[Repository]>,
    pub(super) progress: Progress,
}

impl LayerPull {
    pub(super) async fn run(self) -> Result<(), RegistryError> {
        let id = self.descriptor.digest.short();
        let _permit = self.turn(&id).await?;
        // Somebody else may be pulling the same layer: then there is nothing left to do afterwards.
        let alone = self.registries.layer_lock(&self.diff_id);
        let _alone = alone.lock().await;
        if self.ingest.has_layer(&self.diff_id) {
            self.progress.emit(&id, Phase::PullComplete);
            return Ok(());
        }
        let mut damaged = 0;
        loop {
            match self.fetch(&id).await {
                Ok(()) => return Ok(()),
                Err(RegistryError::Store(error)) if is_damage(&error) && damaged + 1 < DAMAGED_MAX => {
                    tracing::warn!(layer = %self.descriptor.digest, %error, "fetching the layer again");
                    damaged += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn turn(&self, id: &str) -> Result<OwnedSemaphorePermit, RegistryError> {
        let turns = self.registries.downloads().clone();
        if let Ok(permit) = turns.clone().try_acquire_owned() {
            return Ok(permit);
        }
        self.progress.emit(id, Phase::Waiting);
        turns.acquire_owned().await.map_err(|error| RegistryError::Task(error.to_string()))
    }

    async fn fetch(&self, id: &str) -> Result<(), RegistryError> {
        let total = self.descriptor.size;
        let mut sink = self.ingest.unpack_layer(&self.descriptor, &self.diff_id, self.progress.clone()).await?;
        let config = self.registries.config();
        let mut download = Download::new(config, &self.sources, &self.descriptor, sink.resume_offset(), &self.progress);
        let mut told = download.offset();
        self.progress.emit(id, Phase::Downloading { current: told, total });
        while let Some(bytes) = download.next().await? {
            sink.write(bytes).await?;
            if download.offset() - told >= EVENT_EVERY {
                told = download.offset();
                self.progress.emit(id, Phase::Downloading { current: told, total });
            }
        }
        self.progress.emit(id, Phase::VerifyingChecksum);
        self.progress.emit(id, Phase::DownloadComplete);
        sink.finish().await?;
        self.progress.emit(id, Phase::PullComplete);
        Ok(())
    }
}

/// The image that a reference means so far.
fn known(images: &Images, reference: &Reference) -> Result<Option<ImageId>, RegistryError> {
    let named = match reference.digest() {
        Some(digest) => reference.with_digest(digest)?,
        None => reference.clone(),
    };
    match images.resolve(&named.canonical()) {
        Ok(image) => Ok(Some(image)),
        Err(Error::NoSuchImage(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the bytes that came were not the layer's: then others may be.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::DigestMismatch { .. } | Error::SizeMismatch { .. } | Error::Decompress { .. })
}

fn parse_manifest(raw: &RawManifest, reference: &Reference) -> Result<Manifest, RegistryError> {
    if is_old_manifest(&raw.media_type) {
        return Err(RegistryError::OldSchema(reference.familiar()));
    }
    if !media_type::is_manifest(&raw.media_type) {
        return Err(RegistryError::UnsupportedMedia(raw.media_type.clone()));
    }
    let manifest = Manifest::parse(&raw.bytes)?;
    // Some registries of old sent other types for configurations; what is certainly something else is refused.
    let config_type = &*manifest.config.media_type;
    let is_config = matches!(
        config_type,
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG | "application/octet-stream" | "text/html" | ""
    );
    match is_config {
        true => Ok(manifest),
        false => Err(RegistryError::UnsupportedMedia(config_type.to_owned())),
    }
}

/// Layers with their uncompressed digests, bottom first.
fn pair_layers(manifest: &Manifest, config: &[u8]) -> Result<Vec<(Descriptor, Digest)>, RegistryError> {
    let config = ImageConfig::parse(config)?;
    if !config.os.is_empty() && config.os != "linux" {
        return Err(RegistryError::ForeignSystem(config.os));
    }
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(RegistryError::Malformed {
            what: "the manifest".into(),
            reason: format!(
                "it has {} layers, but its configuration has {}: layers from manifest don't match image configuration",
                manifest.layers.len(),
                diff_ids.len()
            ),
        });
    }
    Ok(manifest.layers.iter().cloned().zip(diff_ids).collect())
}

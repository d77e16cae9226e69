//! Pushes an image: layers side by side (known ones left out, mounted from elsewhere where possible), configuration, manifest, and what
//! is said of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::auth::Auth;
use super::error::RegistryError;
use super::http::Pieces;
use super::repository::{Repository, Upload, UploadStart};
use super::{Registries, retrying};
use crate::{Descriptor, Digest, Error, ImageId, Images, Index, Phase, Progress, PushLayer, Reference, media_type};

/// The least size of a chunk, where a registry wants chunks: fewer, larger ones cost less.
const CHUNK_MIN: u64 = 8 << 20;
/// How many other repositories are tried to mount a layer from.
const MOUNTS_MAX: usize = 4;
const EVENT_EVERY: u64 = 512 * 1024;

/// What a push left at the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The repository and tag.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's size in bytes.
    pub size: u64,
    /// Its media type; an index has another one.
    pub media_type: String,
}

impl Registries {
    /// Pushes an image under a name and tag. A name without a tag means `latest`.
    ///
    /// Events carry the layers' uncompressed digests. The future may be dropped at any time: layers that went up stay there.
    pub async fn push(
        &self,
        images: &Images,
        image: &ImageId,
        reference: &Reference,
        auth: Option<&Auth>,
        progress: Progress,
    ) -> Result<Pushed, RegistryError> {
        if reference.digest().is_some() {
            return Err(RegistryError::PushByDigest);
        }
        let reference = reference.clone().with_default_tag();
        let tag = reference.tag_or_default().to_owned();
        let repository = self.repository(reference.domain(), &reference, auth, "pull,push").await?;
        let pushed = self.push_manifest(images, image, &reference, &tag, &repository, &progress).await?;
        Ok(Pushed { reference, digest: pushed.digest, size: pushed.size, media_type: pushed.media_type })
    }

    /// Pushes one image for each of several platforms, and an index of them under a name and tag.
    ///
    /// # Errors
    /// As [`Registries::push`]. The name stands for what it stood for, unless all of it has come.
    pub async fn push_index(
        &self,
        images: &Images,
        members: &[ImageId],
        reference: &Reference,
        auth: Option<&Auth>,
        progress: Progress,
    ) -> Result<Pushed, RegistryError> {
        let reference = reference.clone().with_default_tag();
        let tag = reference.tag_or_default().to_owned();
        let repository = self.repository(reference.domain(), &reference, auth, "pull,push").await?;
        let mut manifests = Vec::new();
        let mut media_type = media_type::DOCKER_INDEX;
        for image in members {
            let content = images.manifest_for_push(image).await?;
            let digest = Digest::of(&content.manifest).to_string();
            let mut manifest = self.push_manifest(images, image, &reference, &digest, &repository, &progress).await?;
            if manifest.media_type != media_type::DOCKER_MANIFEST {
                media_type = media_type::OCI_INDEX;
            }
            manifest.platform = Some(images.config(image)?.platform());
            manifests.push(manifest);
        }
        let index =
            Index { schema_version: 2, media_type: Some(media_type.into()), manifests, annotations: BTreeMap::new() };
        let bytes = serde_json::to_vec(&index)
            .map_err(|e| Error::MalformedDocument { document: "index", reason: e.to_string() })?;
        let bytes = Bytes::from(bytes);
        retrying(self.config(), || repository.put_manifest(&tag, media_type, bytes.clone())).await?;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        Ok(Pushed { reference, digest, size, media_type: media_type.to_owned() })
    }

    /// Pushes an image's blobs, and its manifest under a tag or its own digest.
    async fn push_manifest(
        &self,
        images: &Images,
        image: &ImageId,
        reference: &Reference,
        tag: &str,
        repository: &Repository,
        progress: &Progress,
    ) -> Result<Descriptor, RegistryError> {
        let content = images.manifest_for_push(image).await?;
        for layer in &content.layers {
            progress.emit(&layer.diff_id.short(), Phase::Preparing);
        }
        self.push_layers(images, content.layers, repository, reference, progress).await?;
        let config = BlobPush {
            registries: self.clone(),
            images: images.clone(),
            repository: repository.clone(),
            descriptor: content.config,
            mounts: Vec::new(),
            progress: None,
        };
        config.run().await?;
        let digest = Digest::of(&content.manifest);
        let bytes = content.manifest;
        retrying(self.config(), || repository.put_manifest(tag, &content.media_type, bytes.clone())).await?;
        images.note_pushed(image, &reference.name(), &digest).await?;
        let pushed = Descriptor::new(content.media_type, digest, bytes.len() as u64);
        self.push_referrers(images, image, reference, repository, &pushed).await?;
        Ok(pushed)
    }

    pub(super) async fn push_layers(
        &self,
        images: &Images,
        layers: Vec<PushLayer>,
        repository: &Repository,
        reference: &Reference,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let mut tasks = JoinSet::new();
        let mut begun = HashSet::new();
        for layer in layers {
            if !begun.insert(layer.descriptor.digest) {
                continue;
            }
            let push = BlobPush {
                registries: self.clone(),
                images: images.clone(),
                repository: repository.clone(),
                mounts: mounts(&layer, reference),
                descriptor: layer.descriptor,
                progress: Some((layer.diff_id.short(), progress.clone())),
            };
            tasks.spawn(push.in_turn());
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| RegistryError::Task(error.to_string()))??;
        }
        Ok(())
    }
}

/// Paths of other repositories on the same registry that are known to have the layer.
fn mounts(layer: &PushLayer, reference: &Reference) -> Vec<String> {
    let here = format!("{}/", reference.domain());
    let paths = layer.sources.iter().filter_map(|source| source.strip_prefix(&here));
    paths.filter(|path| *path != reference.path()).take(MOUNTS_MAX).map(str::to_owned).collect()
}

/// One blob on its way up.
struct BlobPush {
    registries: Registries,
    images: Images,
    repository: Repository,
    descriptor: Descriptor,
    mounts: Vec<String>,
    /// Whom to tell, under which id.
    progress: Option<(String, Progress)>,
}

impl BlobPush {
    async fn in_turn(self) -> Result<(), RegistryError> {
        let turns = self.registries.uploads().clone();
        let _permit = match turns.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.tell(Phase::Waiting);
                turns.acquire_owned().await.map_err(|error| RegistryError::Task(error.to_string()))?
            }
        };
        self.run().await
    }

    async fn run(&self) -> Result<(), RegistryError> {
        let digest = self.descriptor.digest;
        let config = self.registries.config();
        if retrying(config, || self.repository.has_blob(&digest)).await? {
            self.tell(Phase::LayerAlreadyExists);
            return Ok(());
        }
        let mut upload = match self.mount().await? {
            Mount::Done => return Ok(()),
            Mount::Upload(upload) => upload,
        };
        let mut failed = 0;
        let mut offset = 0;
        loop {
            let error = match self.upload(&upload, offset).await {
                Ok(()) => {
                    self.tell(Phase::Pushed);
                    return Ok(());
                }
                Err(error) => error,
            };
            failed += 1;
            let wait = is_worth_another_try(&error).then(|| config.wait_before_retry(failed, error.retry_after()));
            let Some(wait) = wait.flatten() else { return Err(error) };
            tracing::debug!(blob = %digest, %error, ?wait, "upload goes on later");
            self.tell(Phase::Retrying { seconds: wait.as_secs_f64().ceil() as u64 });
            tokio::time::sleep(wait).await;
            (upload, offset) = self.take_up(&upload).await?;
        }
    }

    /// Where a broken upload can go on: what the registry has of it is kept, where it still knows.
    async fn take_up(&self, broken: &Upload) -> Result<(Upload, u64), RegistryError> {
        let config = self.registries.config();
        let known = retrying(config, || self.repository.upload_offset(broken)).await;
        match known {
            Ok(Some((upload, offset))) if offset <= self.descriptor.size => Ok((upload, offset)),
            _ => match retrying(config, || self.repository.start_upload(&self.descriptor.digest, None)).await? {
                UploadStart::Open(upload) => Ok((upload, 0)),
                UploadStart::Mounted => Err(unasked_mount(&self.descriptor.digest)),
            },
        }
    }

    /// Asks the registry to take the blob from where it has it, else for an upload.
    async fn mount(&self) -> Result<Mount, RegistryError> {
        let (config, digest) = (self.registries.config(), self.descriptor.digest);
        for from in &self.mounts {
            match self.repository.start_upload(&digest, Some(from)).await {
                Ok(UploadStart::Mounted) => {
                    self.tell(Phase::Mounted { from: from.clone() });
                    return Ok(Mount::Done);
                }
                // The blob isn't there any more. The upload that was opened in its place serves the next way as well.
                Ok(UploadStart::Open(upload)) if Some(from) == self.mounts.last() => return Ok(Mount::Upload(upload)),
                Ok(UploadStart::Open(upload)) => {
                    if let Err(error) = self.repository.cancel_upload(&upload).await {
                        tracing::debug!(%error, "an upload that isn't needed stays open until the registry forgets it");
                    }
                }
                // Credentials for here needn't be good for there.
                Err(error) => tracing::debug!(blob = %digest, from, %error, "cannot be mounted"),
            }
        }
        match retrying(config, || self.repository.start_upload(&digest, None)).await? {
            UploadStart::Open(upload) => Ok(Mount::Upload(upload)),
            UploadStart::Mounted => Err(unasked_mount(&digest)),
        }
    }

    /// Sends the blob from `offset` on, in one piece or in the chunks that the registry asks for, and ends the upload.
    async fn upload(&self, upload: &Upload, mut offset: u64) -> Result<(), RegistryError> {
        let size = self.descriptor.size;
        let chunk = upload.chunk_min.map_or(u64::MAX, |min| min.max(CHUNK_MIN));
        let mut upload = upload.clone();
        let is_whole = offset == 0 && chunk >= size;
        while offset < size {
            let length = chunk.min(size - offset);
            let failure = Arc::new(Mutex::new(None));
            let pieces = self.pieces(offset, length, failure.clone()).await?;
            let sent = self.repository.send_chunk(&upload, (!is_whole).then_some(offset), length, pieces).await;
            // A local failure looks like one of the connection from there.
            if let Some(error) = failure.lock().take() {
                return Err(RegistryError::from(error));
            }
            upload = sent?;
            offset += length;
        }
        self.repository.finish_upload(&upload, &self.descriptor.digest).await
    }

    /// The bytes of the blob in a range, telling how far they are as they are taken.
    async fn pieces(
        &self,
        offset: u64,
        length: u64,
        failure: Arc<Mutex<Option<Error>>>,
    ) -> Result<Pieces, RegistryError> {
        let blob = self.images.open_blob(&self.descriptor.digest, offset).await?;
        let (progress, total) = (self.progress.clone(), self.descriptor.size);
        let state = (blob, offset, offset, failure);
        Ok(Box::pin(futures_util::stream::try_unfold(state, move |(mut blob, at, mut told, failure)| {
            let progress = progress.clone();
            async move {
                let left = offset + length - at;
                if left == 0 {
                    return Ok(None);
                }
                let piece: Bytes = match blob.next().await {
                    Ok(Some(piece)) => piece.slice(..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))),
                    Ok(None) => return Err("the blob is shorter than its descriptor says".into()),
                    Err(error) => {
                        let text = error.to_string();
                        *failure.lock() = Some(error);
                        return Err(text.into());
                    }
                };
                let at = at + piece.len() as u64;
                if let Some((id, progress)) = progress
                    && (at - told >= EVENT_EVERY || at == total)
                {
                    told = at;
                    progress.emit(&id, Phase::Pushing { current: at, total });
                }
                Ok(Some((piece, (blob, at, told, failure))))
            }
        })))
    }

    fn tell(&self, phase: Phase) {
        if let Some((id, progress)) = &self.progress {
            progress.emit(id, phase);
        }
    }
}

enum Mount {
    Done,
    Upload(Upload),
}

/// Beyond what passes by itself: the registry lost the upload, or no longer knows who sends it.
fn is_worth_another_try(error: &RegistryError) -> bool {
    let lost = matches!(error, RegistryError::Refused { status: 404 | 416, .. });
    // A token may end during a long upload, which can't be asked again by itself.
    let token_ended = matches!(error, RegistryError::Refused { status: 401, .. });
    error.is_passing() || lost || token_ended
}

fn unasked_mount(digest: &Digest) -> RegistryError {
    RegistryError::Malformed {
        what: format!("the answer to an upload of {digest}"),
        reason: "the registry says that it was created before a byte was sent".into(),
    }
}

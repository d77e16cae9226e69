//! Artifacts: a document, and layers that are fetched one by one when somebody wants them. A build cache is one.

use std::sync::Arc;

use bytes::Bytes;

use super::auth::Auth;
use super::download::Download;
use super::error::RegistryError;
use super::pull::{Found, LayerPull};
use super::repository::Repository;
use super::{Registries, retrying};
use crate::manifest::{MAX_DOCUMENT, media_type};
use crate::{ArtifactManifest, Descriptor, Digest, Images, KeptLayers, Platform, Progress, PushLayer, Reference};

/// An artifact at a registry, or an image: its document has come, its layers have not.
pub struct RemoteArtifact {
    registries: Registries,
    sources: Arc<[Repository]>,
    repository: String,
    /// The document: of an image, its configuration.
    pub document: Bytes,
    /// The document's media type.
    pub media_type: String,
    /// The layers.
    pub layers: Vec<Descriptor>,
}

/// An artifact on its way to a registry.
#[derive(Clone, Debug)]
pub struct NewArtifact {
    /// What it is.
    pub artifact_type: &'static str,
    /// The media type of its document.
    pub document_type: &'static str,
    /// The document.
    pub document: Bytes,
    /// Its layers, which whoever pushes it keeps.
    pub layers: Vec<PushLayer>,
}

impl NewArtifact {
    /// Its manifest.
    ///
    /// # Errors
    /// Where it would be larger than registries take.
    pub fn manifest(&self) -> crate::Result<Bytes> {
        let document = Descriptor::new(self.document_type, Digest::of(&self.document), self.document.len() as u64);
        let layers = self.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        ArtifactManifest::new(self.artifact_type, document, layers).to_json().map(Bytes::from)
    }
}

impl Registries {
    /// Looks up the artifact, or the image for a platform, that a reference names. Only its document is fetched.
    ///
    /// # Errors
    /// Where it isn't there, or makes no sense.
    pub async fn artifact(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<&Auth>,
    ) -> Result<RemoteArtifact, RegistryError> {
        let reference = reference.clone().with_default_tag();
        let Found { manifest, sources, .. } = self.find(&reference, platform, auth).await?;
        let mut manifest = ArtifactManifest::parse(&manifest.bytes)?;
        // What lies elsewhere is not asked for because a stranger's document says so.
        manifest.config.urls.clear();
        Ok(RemoteArtifact {
            document: self.small_blob(&manifest.config, &sources).await?,
            media_type: manifest.config.media_type,
            layers: manifest.layers,
            repository: reference.name(),
            registries: self.clone(),
            sources,
        })
    }

    /// A whole blob of at most [`MAX_DOCUMENT`] bytes, verified.
    pub(super) async fn small_blob(
        &self,
        descriptor: &Descriptor,
        sources: &[Repository],
    ) -> Result<Bytes, RegistryError> {
        let digest = descriptor.digest;
        if descriptor.size > MAX_DOCUMENT {
            return Err(RegistryError::TooLarge { what: format!("the document {digest}"), limit: MAX_DOCUMENT });
        }
        let mut document = Vec::new();
        let silent = Progress::none();
        let mut download = Download::new(self.config(), sources, descriptor, 0, &silent);
        while let Some(bytes) = download.next().await? {
            document.extend_from_slice(&bytes);
        }
        let actual = Digest::of(&document);
        if actual != digest {
            return Err(RegistryError::WrongDigest { expected: digest.to_string(), actual: actual.to_string() });
        }
        Ok(document.into())
    }

    /// Pushes an artifact under a name and tag: blobs that the repository has are left out, others of the registry's are mounted where
    /// possible.
    ///
    /// # Errors
    /// As [`Registries::push`]. The name stands for what it stood for, unless all of it has come.
    pub async fn push_artifact(
        &self,
        images: &Images,
        artifact: NewArtifact,
        reference: &Reference,
        auth: Option<&Auth>,
        progress: Progress,
    ) -> Result<Descriptor, RegistryError> {
        if reference.digest().is_some() {
            return Err(RegistryError::PushByDigest);
        }
        let reference = reference.clone().with_default_tag();
        let tag = reference.tag_or_default().to_owned();
        let manifest = artifact.manifest()?;
        let repository = self.repository(reference.domain(), &reference, auth, "pull,push").await?;
        self.push_layers(images, artifact.layers.clone(), &repository, &reference, &progress).await?;
        retrying(self.config(), || repository.put_blob(&artifact.document)).await?;
        retrying(self.config(), || repository.put_manifest(&tag, media_type::OCI_MANIFEST, manifest.clone())).await?;
        images.note_pushed_layers(&reference.name(), &artifact.layers).await?;
        Ok(Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&manifest), manifest.len() as u64))
    }
}

impl RemoteArtifact {
    /// Fetches a layer, verified by the digest of its blob and by that of what is in it.
    ///
    /// # Errors
    /// Where it isn't there, or isn't what it was said to be.
    pub async fn fetch_layer(
        &self,
        images: &Images,
        layer: &Descriptor,
        diff_id: &Digest,
        progress: Progress,
    ) -> Result<KeptLayers, RegistryError> {
        let ingest = Arc::new(images.begin_image());
        let pull = LayerPull {
            registries: self.registries.clone(),
            ingest: Arc::clone(&ingest),
            descriptor: Descriptor { urls: Vec::new(), ..layer.clone() },
            diff_id: *diff_id,
            sources: self.sources.clone(),
            progress,
        };
        pull.run().await?;
        let kept = images.keep_layers(&[*diff_id]).ok_or(crate::Error::LayerMissing { diff_id: *diff_id })?;
        let pushed = PushLayer { descriptor: layer.clone(), diff_id: *diff_id, sources: Vec::new() };
        images.note_pushed_layers(&self.repository, &[pushed]).await?;
        Ok(kept)
    }
}

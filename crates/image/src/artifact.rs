//! Artifacts that are no images: a document, and layers that it speaks of (OCI image-spec 1.1, manifest.md, "Guidelines for Artifact
//! Usage"). They lie in registries and in OCI layouts as images do.

use crate::images::Inner;
use crate::manifest::{check_size, media_type, parse};
use crate::push::{PushLayer, gzip_blob, push_layer};
use crate::{Descriptor, Digest, Error, Images, Result, layers};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The manifest of an artifact, whose configuration is the document. An image's is one, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactManifest {
    /// Always 2.
    pub schema_version: u32,
    /// The manifest's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What the artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The document.
    pub config: Descriptor,
    /// The layers.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

impl ArtifactManifest {
    /// Of a document and its layers.
    pub fn new(artifact_type: &str, document: Descriptor, layers: Vec<Descriptor>) -> ArtifactManifest {
        ArtifactManifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: Some(artifact_type.to_owned()),
            config: document,
            layers,
        }
    }

    /// Reads one, of a bounded size. Pure: suits a fuzzer.
    ///
    /// # Errors
    /// [`Error::MalformedDocument`].
    pub fn parse(bytes: &[u8]) -> Result<ArtifactManifest> {
        check_size("manifest", bytes)?;
        let manifest: ArtifactManifest = parse("manifest", bytes)?;
        if manifest.schema_version != 2 {
            let reason = format!("schemaVersion is {}, and only 2 is supported", manifest.schema_version);
            return Err(Error::MalformedDocument { document: "manifest", reason });
        }
        Ok(manifest)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Where it would be larger than registries take.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)
            .map_err(|e| Error::MalformedDocument { document: "manifest", reason: e.to_string() })?;
        check_size("manifest", &bytes).map(|()| bytes)
    }
}

impl Images {
    /// Layers as gzip blobs, compressed now where no such form of one is here; kept for the next time. The caller keeps the layers.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], and where one can't be read or written.
    pub async fn layers_for_push(&self, diff_ids: Vec<Digest>) -> Result<Vec<PushLayer>> {
        self.blocking(move |inner| {
            let lease = inner.lease();
            let records = inner.state.lock().layers_of(&diff_ids)?;
            let layer = |record| {
                let blob = gzip_blob(inner, record, &lease)?;
                Ok(push_layer(Descriptor::new(media_type::OCI_LAYER_GZIP, blob.digest, blob.size), record))
            };
            records.iter().map(|record| layer(record)).collect()
        })
        .await
    }

    /// Notes that a repository (`domain/path`) has the blobs of layers, so that its registry can be asked for them on behalf of another.
    ///
    /// # Errors
    /// Where it can't be written.
    pub async fn note_pushed_layers(&self, repository: &str, layers: &[PushLayer]) -> Result<()> {
        let (repository, layers) = ([repository.to_owned()], layers.to_vec());
        self.blocking(move |inner: &Arc<Inner>| {
            layers.iter().try_for_each(|layer| {
                let note = |record: &mut crate::LayerRecord| record.note_sources(&layer.descriptor.digest, &repository);
                layers::change(inner, &layer.diff_id, note)
            })
        })
        .await
    }
}

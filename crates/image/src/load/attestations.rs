//! What an archive says of its images: manifests in its index that refer to theirs, each with a statement.

use super::documents::{DEPTH, blob_path};
use super::{Contents, LoadedImage};
use crate::attestation::{IN_TOTO, statement};
use crate::images::Inner;
use crate::manifest::{media_type, parse};
use crate::state::Lease;
use crate::{Attestation, Descriptor, Digest, Error, ImageId, Index, Manifest, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A manifest that may refer to another.
#[derive(Deserialize)]
struct Referring {
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Keeps what is said of images that were taken in with them.
///
/// # Errors
/// [`Error::BadArchive`] where a statement is none, or of something else.
pub(super) fn take(inner: &Inner, contents: &Contents, loaded: &[LoadedImage], lease: &Lease) -> Result<()> {
    let Some(index) = contents.documents.get(&b"index.json"[..]) else { return Ok(()) };
    let mut manifests = BTreeSet::new();
    gather(contents, &Index::parse(index)?, 0, &mut manifests);
    let mut said: BTreeMap<ImageId, Vec<Attestation>> = BTreeMap::new();
    for manifest in &manifests {
        let Ok(manifest) = contents.document(&blob_path(manifest)) else { continue };
        let referring: Referring = parse("manifest of an archive", manifest)?;
        let Some(subject) = referring.subject else { continue };
        let Some(image) = image_of(contents, &subject.digest) else { continue };
        if !loaded.iter().any(|loaded| loaded.id == image) {
            continue;
        }
        for layer in referring.layers.iter().filter(|layer| layer.media_type == IN_TOTO) {
            let bytes = contents.document(&blob_path(&layer.digest))?;
            let attestation = statement(bytes, &subject.digest);
            let bad = |why| Error::BadArchive(format!("what it says of image {image} ({}): {why}", layer.digest));
            said.entry(image).or_default().push(attestation.map_err(bad)?);
        }
    }
    said.into_iter().try_for_each(|(image, attestations)| inner.attest(&image, &[], attestations, lease))
}

/// All manifests that an index leads to.
fn gather(contents: &Contents, index: &Index, depth: usize, into: &mut BTreeSet<Digest>) {
    for entry in &index.manifests {
        if media_type::is_manifest(&entry.media_type) {
            into.insert(entry.digest);
        } else if media_type::is_index(&entry.media_type)
            && depth < DEPTH
            && let Ok(document) = contents.document(&blob_path(&entry.digest))
            && let Ok(index) = Index::parse(document)
        {
            gather(contents, &index, depth + 1, into);
        }
    }
}

/// The image of a manifest of the archive.
fn image_of(contents: &Contents, manifest: &Digest) -> Option<ImageId> {
    let document = contents.document(&blob_path(manifest)).ok()?;
    Manifest::parse(document).ok().map(|manifest| ImageId(manifest.config.digest))
}

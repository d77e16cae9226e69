//! What an archive says of its images: manifests in its index that refer to theirs, each with a statement.
//!
//! Whatever others say of an image is no reason to refuse it: what is no statement, or one of something else, is left out, and the log
//! says so.

use super::documents::DEPTH;
use super::{Contents, LoadedImage};
use crate::attestation::{AttestationRecord, IN_TOTO, statement};
use crate::images::Inner;
use crate::manifest::{media_type, parse};
use crate::save::blob_path;
use crate::state::Lease;
use crate::{Descriptor, Digest, ImageId, Index, Manifest, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The most bytes of a statement: what is read of one takes some sixteen times as much.
const LARGEST: usize = 16 << 20;
/// The most statements about an image.
const MOST: usize = 64;

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
/// Where it can't be written.
pub(super) fn take(inner: &Inner, contents: &Contents, loaded: &[LoadedImage], lease: &Lease) -> Result<()> {
    for (image, said) in statements(contents, loaded) {
        let mut records: Vec<AttestationRecord> = Vec::new();
        for (subject, digest) in said {
            let read = contents.document(blob_path(&digest).as_bytes()).map_err(|e| e.to_string());
            let read = read.and_then(|bytes| match bytes.len() > LARGEST {
                true => Err(format!("it has more than {LARGEST} bytes")),
                false => statement(bytes, &subject),
            });
            match read {
                // One after the other, so that no more than one is in memory.
                Ok(attestation) => records.push(inner.keep_predicate(attestation, lease)?),
                Err(why) => tracing::warn!(%image, %digest, why, "what an archive says of an image is left out"),
            }
        }
        if !records.is_empty() {
            inner.keep_said(&image, &[], records)?;
        }
    }
    Ok(())
}

/// The statements about images that were taken in, each once, with the manifests that they have to be about.
fn statements(contents: &Contents, loaded: &[LoadedImage]) -> BTreeMap<ImageId, BTreeSet<(Digest, Digest)>> {
    let mut said: BTreeMap<ImageId, BTreeSet<(Digest, Digest)>> = BTreeMap::new();
    for manifest in manifests(contents) {
        let Ok(document) = contents.document(blob_path(&manifest).as_bytes()) else { continue };
        let Ok(Referring { subject: Some(subject), layers }) = parse("manifest", document) else { continue };
        let Some(image) = image_of(contents, &subject.digest) else { continue };
        if !loaded.iter().any(|loaded| loaded.id == image) {
            continue;
        }
        let all = said.entry(image).or_default();
        for layer in layers.iter().filter(|layer| layer.media_type == IN_TOTO) {
            if all.len() == MOST {
                tracing::warn!(%image, "an archive says more than {MOST} things of an image: the rest is left out");
                break;
            }
            all.insert((subject.digest, layer.digest));
        }
    }
    said
}

/// All manifests that the archive's index leads to.
fn manifests(contents: &Contents) -> BTreeSet<Digest> {
    let mut all = BTreeSet::new();
    let index = contents.documents.get(&b"index.json"[..]).and_then(|index| Index::parse(index).ok());
    if let Some(index) = index {
        gather(contents, &index, 0, &mut all);
    }
    all
}

fn gather(contents: &Contents, index: &Index, depth: usize, into: &mut BTreeSet<Digest>) {
    for entry in &index.manifests {
        if media_type::is_manifest(&entry.media_type) {
            into.insert(entry.digest);
        } else if media_type::is_index(&entry.media_type)
            && depth < DEPTH
            && into.insert(entry.digest)
            && let Ok(document) = contents.document(blob_path(&entry.digest).as_bytes())
            && let Ok(index) = Index::parse(document)
        {
            gather(contents, &index, depth + 1, into);
        }
    }
}

/// The image of a manifest of the archive.
fn image_of(contents: &Contents, manifest: &Digest) -> Option<ImageId> {
    let document = contents.document(blob_path(manifest).as_bytes()).ok()?;
    Manifest::parse(document).ok().map(|manifest| ImageId(manifest.config.digest))
}

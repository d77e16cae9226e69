//! A cache in a directory, in the form of an OCI layout (image-spec, image-layout.md). The directory is wherever whoever asks has it.

use crate::{Error, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use image::manifest::MAX_DOCUMENT;
use image::registry::NewArtifact;
use image::{ArtifactManifest, Descriptor, Digest, ImageIngest, Images, Index, KeptLayers, Progress, media_type};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The annotation that names an entry of an index.
pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";

/// What says that a directory is a layout.
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A file of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LayoutFile {
    /// `oci-layout`: what says that it is one.
    Marker,
    /// A blob.
    Blob(Digest),
}

/// Bytes, piece after piece. An error is one line for people.
pub type LayoutBytes = BoxStream<'static, Result<Bytes, String>>;

/// A directory in the form of an OCI layout. Errors are one line for people.
pub trait Layout: Send + Sync {
    /// What is in a file.
    fn read(&self, file: LayoutFile) -> LayoutBytes;

    /// Whether a file is there that is a blob of so many bytes.
    fn has(&self, blob: Digest, size: u64) -> BoxFuture<'static, Result<bool, String>>;

    /// Writes a file. It has its name once it is complete; the directory is made where it is missing.
    fn write(&self, file: LayoutFile, bytes: LayoutBytes) -> BoxFuture<'static, Result<(), String>>;

    /// What is in the index (`index.json`). `None`: there is none, which is something else than one that can't be read.
    fn index(&self) -> BoxFuture<'static, Result<Option<Bytes>, String>>;

    /// Puts an index in the place of the one of this digest (`None`: there was none). `false`: there is another by now, which stays.
    fn replace_index(&self, former: Option<Digest>, index: Bytes) -> BoxFuture<'static, Result<bool, String>>;
}

/// Which of the entries of a layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LayoutEntry {
    /// What a name stands for.
    Named(String),
    /// What has a digest.
    Digest(Digest),
}

/// What lies in a layout: the document, its type, and its layers.
pub(super) struct Found {
    pub(super) document: Bytes,
    pub(super) media_type: String,
    pub(super) layers: Vec<Descriptor>,
}

/// What it has.
pub(crate) async fn index(layout: &dyn Layout) -> Result<Index, String> {
    let index = layout.index().await?.ok_or("there is no index.json in it")?;
    Index::parse(&index).map_err(|e| e.to_string())
}

/// Looks up an entry. Only its document is read.
pub(super) async fn open(layout: &dyn Layout, entry: &LayoutEntry) -> Result<Found, String> {
    let index = index(layout).await?;
    let chosen = index.manifests.iter().find(|manifest| match entry {
        LayoutEntry::Named(name) => manifest.annotations.get(NAME) == Some(name),
        LayoutEntry::Digest(digest) => manifest.digest == *digest,
    });
    let chosen = chosen.ok_or_else(|| match entry {
        LayoutEntry::Named(name) => format!("nothing in it is called {name:?}"),
        LayoutEntry::Digest(digest) => format!("it has no {digest}"),
    })?;
    let manifest = blob(layout, chosen).await?;
    let manifest = ArtifactManifest::parse(&manifest).map_err(|e| e.to_string())?;
    let document = blob(layout, &manifest.config).await?;
    Ok(Found { document, media_type: manifest.config.media_type, layers: manifest.layers })
}

/// A whole small file.
async fn whole(layout: &dyn Layout, file: LayoutFile) -> Result<Bytes, String> {
    let (mut all, mut pieces) = (Vec::new(), layout.read(file));
    while let Some(piece) = pieces.next().await {
        all.extend_from_slice(&piece?);
        if all.len() as u64 > MAX_DOCUMENT {
            return Err(format!("a document in it has more than {MAX_DOCUMENT} bytes"));
        }
    }
    Ok(all.into())
}

/// A whole small blob, verified.
pub(crate) async fn blob(layout: &dyn Layout, descriptor: &Descriptor) -> Result<Bytes, String> {
    let bytes = whole(layout, LayoutFile::Blob(descriptor.digest)).await?;
    match Digest::of(&bytes) == descriptor.digest {
        true => Ok(bytes),
        false => Err(format!("its blob {} is damaged", descriptor.digest)),
    }
}

/// Takes a layer in that stays, verified by the digest of its blob and by that of what is in it.
pub(super) async fn fetch(
    layout: &dyn Layout,
    images: &Images,
    layer: &Descriptor,
    diff_id: &Digest,
    progress: Progress,
) -> Result<KeptLayers, String> {
    let ingest = images.begin_image();
    take(layout, &ingest, layer, diff_id, progress).await?;
    images.keep_layers(&[*diff_id]).ok_or_else(|| "the layer was removed as it came".to_owned())
}

/// Takes a layer in, as a part of an image.
pub(crate) async fn take(
    layout: &dyn Layout,
    ingest: &ImageIngest,
    layer: &Descriptor,
    diff_id: &Digest,
    progress: Progress,
) -> Result<(), String> {
    let failed = |e: image::Error| e.to_string();
    let mut sink = ingest.unpack_layer(layer, diff_id, progress).await.map_err(failed)?;
    // What an earlier attempt left is there already.
    let mut skip = sink.resume_offset();
    if skip < layer.size {
        let mut pieces = layout.read(LayoutFile::Blob(layer.digest));
        while let Some(piece) = pieces.next().await {
            let mut piece = piece?;
            let before = skip.min(piece.len() as u64);
            skip -= before;
            // No more than the piece has.
            let rest = piece.split_off(usize::try_from(before).unwrap_or(usize::MAX));
            if !rest.is_empty() {
                sink.write(rest).await.map_err(failed)?;
            }
        }
    }
    sink.finish().await.map_err(failed)
}

/// Writes an artifact, which a name stands for from then on. Blobs that are there already stay as they are, unless they are known to be
/// `damaged`, and so do other names.
pub(super) async fn write(
    layout: &dyn Layout,
    images: &Images,
    artifact: NewArtifact,
    name: &str,
    damaged: &BTreeSet<Digest>,
) -> Result<Descriptor> {
    let failed = |e: &dyn std::fmt::Display| Error::failed("writing the cache", e);
    let manifest = artifact.manifest().map_err(|e| failed(&e))?;
    for layer in &artifact.layers {
        let (digest, size) = (layer.descriptor.digest, layer.descriptor.size);
        if damaged.contains(&digest) || !layout.has(digest, size).await.map_err(Error::Invalid)? {
            let reader = images.open_blob(&digest, 0).await.map_err(|e| failed(&e))?;
            let pieces = stream::try_unfold(reader, |mut reader| async move {
                let piece = reader.next().await.map_err(|e| e.to_string())?;
                Ok(piece.map(|piece| (piece, reader)))
            });
            layout.write(LayoutFile::Blob(digest), pieces.boxed()).await.map_err(Error::Invalid)?;
        }
    }
    let put =
        async |file, bytes: Bytes| layout.write(file, stream::iter([Ok(bytes)]).boxed()).await.map_err(Error::Invalid);
    let put_blob = async |bytes: Bytes| {
        let there = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&bytes), bytes.len() as u64);
        match layout.has(there.digest, there.size).await.map_err(Error::Invalid)? {
            // It is small enough to be looked at.
            true if blob(layout, &there).await.is_ok() => Ok(()),
            _ => put(LayoutFile::Blob(there.digest), bytes).await,
        }
    };
    put_blob(artifact.document).await?;
    let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&manifest), manifest.len() as u64);
    put_blob(manifest).await?;
    put(LayoutFile::Marker, Bytes::from_static(MARKER.as_bytes())).await?;
    let plain = descriptor.clone();
    descriptor.annotations.insert(NAME.to_owned(), name.to_owned());
    // Where another build writes into the same directory at this moment, one of them has to look again.
    loop {
        let there = layout.index().await.map_err(Error::Invalid)?;
        let former = there.as_deref().map(Digest::of);
        let index = indexed(there, &descriptor, name)?;
        if layout.replace_index(former, index.into()).await.map_err(Error::Invalid)? {
            return Ok(plain);
        }
    }
}

/// An index with one more entry, in place of what had its name.
fn indexed(there: Option<Bytes>, descriptor: &Descriptor, name: &str) -> Result<Vec<u8>> {
    let there =
        there.map(|bytes| Index::parse(&bytes)).transpose().map_err(|e| Error::failed("adding to the cache", e))?;
    let (mut manifests, annotations) = there.map(|index| (index.manifests, index.annotations)).unwrap_or_default();
    manifests.retain(|other| other.annotations.get(NAME).is_none_or(|other| other != name));
    manifests.push(descriptor.clone());
    let media_type = Some(media_type::OCI_INDEX.to_owned());
    let index = Index { schema_version: 2, media_type, manifests, annotations };
    serde_json::to_vec(&index).map_err(|e| Error::failed("writing the index of the cache", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_into_an_index_stays() {
        let entry = |text: &str| Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text.as_bytes()), 1);
        let named = |text: &str| {
            let mut entry = entry(text);
            entry.annotations.insert(NAME.to_owned(), "cache".to_owned());
            entry
        };
        let there = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![entry("other"), named("former")],
            annotations: [("org.example.note".to_owned(), "of the whole".to_owned())].into(),
        };
        let there = Bytes::from(serde_json::to_vec(&there).unwrap());
        let index = Index::parse(&indexed(Some(there), &named("new"), "cache").unwrap()).unwrap();
        assert_eq!(index.manifests, [entry("other"), named("new")]);
        assert_eq!(index.annotations["org.example.note"], "of the whole");
        let first = Index::parse(&indexed(None, &named("new"), "cache").unwrap()).unwrap();
        assert_eq!((first.manifests, first.annotations.len()), (vec![named("new")], 0));
    }
}

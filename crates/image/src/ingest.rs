//! How an image comes in from a registry.

use crate::{Descriptor, Digest, ImageId, Images, Progress, Reference, Result};
use bytes::Bytes;

/// An image on its way in. What it brought in, and what it found there already, is not collected as garbage while it
/// lives; a drop before [`ImageIngest::finish`] leaves complete layers to the next attempt or the next collection.
pub struct ImageIngest {
    images: Images,
}

/// What completes an image.
#[derive(Clone, Debug)]
pub struct FinishImage {
    /// The image's own manifest (not the index), as it came.
    pub manifest: Bytes,
    /// The manifest's media type.
    pub manifest_media_type: String,
    /// The configuration, as it came. Verified against the manifest.
    pub config: Bytes,
    /// The name and tag to give it; `None` where it was asked for by digest.
    pub tag: Option<Reference>,
    /// The name and digest it was found under (of the index, where it came through one).
    pub repo_digest: Option<Reference>,
}

impl ImageIngest {
    /// Whether the layer is there, unpacked; it stays while this ingest lives.
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        let _ = diff_id;
        todo!()
    }

    /// Whether the blob is there; it stays while this ingest lives.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let _ = digest;
        todo!()
    }

    /// Notes that the repository (`domain/path`) has the blob, so that a push can ask its registry to mount it.
    pub fn note_source(&self, blob: &Digest, repository: &str) {
        let _ = (blob, repository);
        todo!()
    }

    /// Takes in a blob that is no layer. Begins where an earlier attempt ended: see [`BlobSink::resume_offset`].
    pub async fn ingest_blob(&self, descriptor: &Descriptor) -> Result<BlobSink> {
        let _ = (descriptor, &self.images);
        todo!()
    }

    /// Takes in a layer: its blob is hashed, decompressed, hashed and unpacked while it comes. Begins where an earlier
    /// attempt ended: see [`LayerSink::resume_offset`]. Events of unpacking go to `progress`.
    pub async fn unpack_layer(&self, descriptor: &Descriptor, diff_id: &Digest, progress: Progress) -> Result<LayerSink> {
        let _ = (descriptor, diff_id, progress);
        todo!()
    }

    /// Makes the image visible, durably. All its layers must be there.
    pub async fn finish(self, image: FinishImage) -> Result<ImageId> {
        let _ = image;
        todo!()
    }
}

/// Takes the bytes of a blob.
pub struct BlobSink {}

impl BlobSink {
    /// How many bytes are there already: the first byte to write is the one at this offset. Constant.
    pub fn resume_offset(&self) -> u64 {
        todo!()
    }

    /// Takes the next bytes. An error is final.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let _ = bytes;
        todo!()
    }

    /// Verifies size and digest and makes the blob visible. After a drop without this, a later attempt may resume.
    pub async fn finish(self) -> Result<()> {
        todo!()
    }
}

/// Takes the bytes of a layer's blob.
pub struct LayerSink {}

impl LayerSink {
    /// How many bytes are there already: the first byte to write is the one at this offset. Constant.
    pub fn resume_offset(&self) -> u64 {
        todo!()
    }

    /// Takes the next bytes; waits while those before are still being unpacked. An error is final.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let _ = bytes;
        todo!()
    }

    /// Verifies size, digest and diff id, and makes the layer visible, durably. After a drop without this, a later
    /// attempt may resume the download.
    pub async fn finish(self) -> Result<()> {
        todo!()
    }
}

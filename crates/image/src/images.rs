//! The handle on all images.

use crate::{Descriptor, Digest, ImageId, ImageIngest, Platform, Result};
use bytes::Bytes;
use std::path::PathBuf;

/// How images are kept.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// The directory of blobs, layers and root file systems; made where it is missing. Its file system must be fit for
    /// overlayfs' upper directories.
    pub root: PathBuf,
    /// Where the metadata is kept, below keys that begin with `image/`.
    pub store: store::Store,
    /// What images are chosen for where there is a choice.
    pub platform: Platform,
    /// What an archive may ask for at most.
    pub limits: UnpackLimits,
}

/// What an archive may ask for at most. Beyond: [`crate::Error::LimitExceeded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Uncompressed bytes of one layer, and nominal bytes of one sparse file. 64 GiB.
    pub bytes: u64,
    /// Entries of one layer. 4 million.
    pub entries: u64,
    /// Bytes of a path. 4095, the kernel's own limit.
    pub path: u64,
    /// Directories above one another. 512.
    pub depth: u64,
    /// Uncompressed bytes for a compressed one, once a layer has more than 1 GiB: gzip ends at 1032, zstd has no end. 400.
    pub ratio: u64,
}

impl Default for UnpackLimits {
    fn default() -> UnpackLimits {
        UnpackLimits { bytes: 64 << 30, entries: 4_000_000, path: 4095, depth: 512, ratio: 400 }
    }
}

/// All images of one data directory. Clones share it.
#[derive(Clone)]
pub struct Images {}

/// What a push sends.
#[derive(Clone, Debug)]
pub struct PushManifest {
    /// The manifest's bytes.
    pub manifest: Bytes,
    /// Its media type.
    pub media_type: String,
    /// The configuration; its bytes are a blob of the content store.
    pub config: Descriptor,
    /// The layers, bottom first; each is a blob of the content store.
    pub layers: Vec<PushLayer>,
}

/// A layer that a push sends.
#[derive(Clone, Debug)]
pub struct PushLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Its uncompressed digest.
    pub diff_id: Digest,
    /// Repositories (`domain/path`) known to have the blob.
    pub sources: Vec<String>,
}

impl Images {
    /// What images are chosen for where there is a choice.
    pub fn platform(&self) -> &Platform {
        todo!()
    }

    /// Begins to take in an image.
    pub fn begin_image(&self) -> ImageIngest {
        todo!()
    }

    /// What to send to push the image: its manifest as it was pulled, where all its blobs are here, else one made of
    /// gzip blobs (compressed now, where only another form of a layer is here; kept for the next push).
    pub async fn manifest_for_push(&self, image: &ImageId) -> Result<PushManifest> {
        let _ = image;
        todo!()
    }

    /// Notes, after a push, that the repository (`domain/path`) has these blobs.
    pub async fn note_pushed(&self, image: &ImageId, repository: &str, manifest: &Digest) -> Result<()> {
        let _ = (image, repository, manifest);
        todo!()
    }

    /// Reads a blob from `offset` on.
    pub async fn open_blob(&self, digest: &Digest, offset: u64) -> Result<BlobReader> {
        let _ = (digest, offset);
        todo!()
    }
}

/// Reads a blob in pieces.
pub struct BlobReader {}

impl BlobReader {
    /// The blob's size in bytes, from its beginning.
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// The next piece (up to 256 KiB); `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        todo!()
    }
}

//! What the store remembers of images, layers and root file systems.
//!
//! ```text
//! image/record/<hex>          an image, by its id
//! image/tag/<reference>       an image's id, by a name with a tag or a digest
//! image/layer/<hex>           an unpacked layer, by its diff id
//! image/rootfs/<container>    a container's root file system
//! image/hold/<owner>          an image's id that somebody else needs
//! image/retain/<owner>        a layer's diff id that somebody else needs
//! ```

use crate::compression::Compression;
use crate::{AttestationRecord, Descriptor, Digest, ErofsRecord, Error, ImageConfig, ImageId, Platform, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const RECORD: &str = "image/record/";
pub(crate) const TAG: &str = "image/tag/";
pub(crate) const LAYER: &str = "image/layer/";
pub(crate) const ROOTFS: &str = "image/rootfs/";
pub(crate) const HOLD: &str = "image/hold/";
pub(crate) const RETAIN: &str = "image/retain/";

/// An image, as far as it is looked for and counted by; the rest is in its [`ImageConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its identity.
    pub id: ImageId,
    /// When it was made. Of one that was built here, when it was: its configuration says the same on every day. Of one that came from
    /// elsewhere and whose configuration says nothing, or [a fixed time](says_when), when it came.
    pub created: Timestamp,
    /// When it was last given a name here.
    #[serde(default)]
    pub tagged: Option<Timestamp>,
    /// What it runs on.
    pub platform: Platform,
    /// Its layers, bottom first.
    pub diff_ids: Vec<Digest>,
    /// Bytes in the files of all its layers.
    pub size: u64,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The image it was committed from, if that was here.
    #[serde(default)]
    pub parent: Option<ImageId>,
    /// Its manifest, as it came; a blob of the content store. Images made here have none.
    #[serde(default)]
    pub manifest: Option<Descriptor>,
    /// What is said of it, by the kinds of that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<AttestationRecord>,
}

/// Images are younger than this: `docker` came out in March 2013. Builders whose images are the same on every day write an earlier
/// time, of 1970 or 1980.
const FIRST_IMAGES: i64 = 1_356_998_400;

/// Whether a configuration's time can be when its image was made.
pub(crate) fn says_when(created: Timestamp) -> bool {
    created.as_second() >= FIRST_IMAGES
}

impl ImageRecord {
    pub(crate) fn of(id: ImageId, config: &ImageConfig, size: u64) -> ImageRecord {
        ImageRecord {
            id,
            created: config.created_at().unwrap_or(Timestamp::UNIX_EPOCH),
            tagged: None,
            platform: config.platform(),
            diff_ids: config.rootfs.diff_ids.clone(),
            size,
            labels: config.config.labels.clone(),
            parent: None,
            manifest: None,
            attestations: Vec::new(),
        }
    }
}

/// A layer, unpacked once, shared by all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The name of its directory: a short number in base 36, as overlayfs is given many of them on one line.
    pub dir: String,
    /// What its directory lies upon; `None`: it has all of the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<Under>,
    /// Bytes in its files.
    pub size: u64,
    /// Bytes of the uncompressed archive.
    pub tar_size: u64,
    /// The forms in which the archive is in the content store; one at least, or it is [made anew](Self::repacked).
    pub blobs: Vec<LayerBlob>,
    /// It was made here, of its directory: packing that again gives the archive.
    #[serde(default)]
    pub repacked: bool,
    /// It has an entry for the root directory, or has to have one, though it is what nobody need say of one: root's own, `rwxr-xr-x`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub says_root: bool,
    /// Repositories (`domain/path`) that have a blob of it, by the blob's digest.
    #[serde(default)]
    pub sources: BTreeMap<Digest, Vec<String>>,
    /// The EROFS file that is kept of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erofs: Option<ErofsRecord>,
}

/// The directory of a former layer, which has all of a layer but for what differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Under {
    /// Its name. It stays for as long as it lies under something, whatever becomes of the former layer.
    pub dir: String,
    /// Bytes in the files that differ.
    pub own: u64,
}

/// A form in which a layer's archive is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

/// A container's root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootfsRecord {
    pub(crate) image: Option<ImageId>,
    /// The layers, bottom first.
    pub(crate) layers: Vec<Digest>,
    /// How many of the uppermost layers hold what the container itself changed before.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) raised: usize,
    /// Images that are mounted in the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounted: Vec<MountedImage>,
}

/// An image that is mounted in a container which is of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountedImage {
    pub(crate) image: ImageId,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_none(number: &usize) -> bool {
    *number == 0
}

impl RootfsRecord {
    /// The layers without those of what the container itself changed.
    pub(crate) fn below(&self) -> &[Digest] {
        &self.layers[..self.layers.len().saturating_sub(self.raised)]
    }

    /// The images that the container is of, and that are mounted in it.
    pub(crate) fn images(&self) -> impl Iterator<Item = ImageId> {
        self.image.into_iter().chain(self.mounted.iter().map(|mounted| mounted.image))
    }

    /// The stacks of layers that the container needs, each bottom first.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &[Digest]> {
        std::iter::once(&self.layers).chain(self.mounted.iter().map(|mounted| &mounted.layers)).map(Vec::as_slice)
    }
}

pub(crate) fn encode<T: Serialize>(key: &str, record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::BadRecord { key: key.into(), reason: e.to_string() })
}

pub(crate) fn decode<T: for<'a> Deserialize<'a>>(key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::BadRecord { key: key.into(), reason: e.to_string() })
}

pub(crate) fn key_of(prefix: &str, digest: &Digest) -> String {
    format!("{prefix}{}", digest.hex())
}

impl LayerRecord {
    /// The names of its directories, the uppermost first: together they are the layer.
    pub fn dirs(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.dir[..]).chain(self.under.iter().map(|under| &under.dir[..]))
    }

    /// Its directories, as [`dirs`](Self::dirs) names them, and the bytes in each.
    pub fn parts(&self) -> impl Iterator<Item = (&str, u64)> {
        let own = self.under.as_ref().map_or(self.size, |under| under.own);
        let below = self.under.iter().map(move |under| (&under.dir[..], self.size.saturating_sub(own)));
        std::iter::once((&self.dir[..], own)).chain(below)
    }

    /// Notes repositories that have a blob of the layer; the latest are remembered.
    pub(crate) fn note_sources(&mut self, blob: &Digest, repositories: &[String]) {
        const REMEMBERED: usize = 8;
        let known = self.sources.entry(*blob).or_default();
        for repository in repositories {
            known.retain(|other| other != repository);
            known.insert(0, repository.clone());
        }
        known.truncate(REMEMBERED);
    }
}

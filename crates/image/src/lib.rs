//! Images: content store, registries, layers and root file systems.
//!
//! [`Images`] is the handle on all of it. An image comes in from a registry through [`ImageIngest`], or by
//! [`Images::load`], [`Images::import`] and [`Images::commit`]; it goes out by [`Images::manifest_for_push`] and
//! [`Images::save`]; a container gets its root file system from [`Images::begin_rootfs`].
//!
//! * **Blobs** are files named by their digests. One is there whole and verified, or it is not there.
//! * **Layers** are unpacked once, into directories that never change again and that all images and containers share.
//!   One stream does everything: bytes come, are hashed and written as the blob, are decompressed, hashed again and
//!   unpacked, at the same time. They are known by their diff id alone: overlayfs stacks them when a container starts.
//! * **EROFS files** are layers for machines that have a kernel of their own: made once of a layer that one asks for
//!   ([`Images::erofs`]), and shared by all that run.
//! * **Records** (images, names, layers, root file systems) are in the [`store`], below `image/`. What a record names
//!   was on the disk before; what no record names is removed at the next start.
//! * **Garbage** is what neither records nor work in progress need; it is collected while everything else goes on.
//!
//! An archive is a stranger's: nothing in it reaches outside of the directory it is unpacked into, and limits bound
//! what it can cost. Nothing here looks up a path inside a root file system by string.
#![forbid(unsafe_code)]

pub mod archive;
mod artifact;
mod attestation;
pub mod bootstrap;
pub mod changes;
mod compression;
mod config;
mod content;
mod create;
mod digest;
mod duration;
mod erofs;
mod error;
mod gc;
mod ids;
mod images;
mod ingest;
mod layers;
mod load;
mod made;
pub mod manifest;
mod naming;
pub mod pace;
mod pack;
mod pipeline;
mod platform;
mod progress;
mod push;
mod query;
mod reaper;
mod record;
pub mod reference;
pub mod registry;
mod remove;
mod root;
mod rootfs;
mod save;
mod skeleton;
mod spread;
mod state;
pub mod stream;
mod sync;
pub mod tar;
pub mod tree;
mod unpack;

/// Entry points for fuzzing: what strangers send, read by what reads it. None of them may panic.
pub mod fuzz {
    use std::os::fd::BorrowedFd;

    /// The archive of a layer, unpacked below `root`.
    pub fn unpack(root: BorrowedFd<'_>, archive: &[u8]) {
        let limits = crate::UnpackLimits { bytes: 1 << 20, ..crate::UnpackLimits::default() };
        let _ = crate::unpack::unpack(root, archive, &crate::unpack::Options::of_layer(&limits, None));
    }

    /// What a registry has of referrers: their list, and a statement.
    pub fn referrers(document: &[u8]) {
        let entry = serde_json::json!({ "digest": crate::Digest::of(document) });
        let _ = crate::attestation::with_entries(Some(document), &[entry]);
        let _ = crate::attestation::statement(document, &crate::Digest::of(b""));
    }

    /// What a registry answers about who may come in.
    pub fn challenges(header: &str) {
        crate::registry::read_challenges(header);
    }
}

pub use artifact::ArtifactManifest;
pub use attestation::{Attestation, AttestationRecord};
pub use compression::Compression;
pub use config::{Healthcheck, HistoryEntry, ImageConfig, LayerList, RunConfig};
pub use create::NewImageOptions;
pub use digest::{Digest, DigestError, Hasher, ImageId, chain_id};
pub use duration::go_duration;
pub use erofs::{ErofsLayer, ErofsRecord};
pub use error::{Error, PathReason, Result};
pub use gc::Collected;
pub use ids::IdRange;
pub use images::{Images, ImagesConfig, UnpackLimits};
pub use ingest::{BlobReader, BlobSink, FinishImage, ImageIngest, LayerSink};
pub use load::LoadedImage;
pub use made::{Contents, Existing, Filling, KeptLayers, Look, NewLayer, Times};
pub use manifest::{Descriptor, Index, Manifest, media_type};
pub use platform::{Platform, PlatformError};
pub use progress::{Phase, Progress, ProgressEvent};
pub use push::{PushLayer, PushManifest};
pub use query::{DiskUsage, HistoryStep, ImageSummary, ImageUsage, ListFilters, ManifestContent};
pub use record::{ImageRecord, LayerBlob, LayerRecord};
pub use reference::Reference;
pub use remove::{ImageUser, LabelFilter, PruneFilters, RemoveOptions, Removed};
pub use rootfs::{
    Base, Change, ChangeKind, ImageTree, LayerDirs, MountedRootfs, NewRootfs, OVERLAY_OPTIONS, Over, Rootfs, RootfsSize,
};
pub use rootfs::{copy_changes, tree_bytes, tree_size};
pub use skeleton::is_place;
pub use tree::remove_tree;

//! Images: content store, registries, layers and root file systems.
#![forbid(unsafe_code)]

pub mod changes;
mod compression;
mod config;
mod content;
mod digest;
mod error;
mod gc;
mod images;
mod ingest;
mod layers;
pub mod manifest;
mod naming;
mod pipeline;
mod platform;
mod progress;
mod push;
mod query;
mod reaper;
mod record;
pub mod reference;
mod remove;
mod skeleton;
mod state;
mod sync;
pub mod tar;
mod tree;
mod unpack;
pub mod bootstrap;
pub mod registry;

pub use compression::Compression;
pub use config::{Healthcheck, HistoryEntry, ImageConfig, LayerList, RunConfig};
pub use digest::{Digest, DigestError, Hasher, ImageId, chain_id};
pub use error::{Error, PathReason, Result};
pub use gc::Collected;
pub use images::{Images, ImagesConfig, UnpackLimits};
pub use ingest::{BlobReader, BlobSink, FinishImage, ImageIngest, LayerSink};
pub use manifest::{Descriptor, Index, Manifest, media_type};
pub use platform::{Platform, PlatformError};
pub use progress::{Phase, Progress, ProgressEvent};
pub use push::{PushLayer, PushManifest};
pub use query::{DiskUsage, HistoryStep, ImageSummary, ImageUsage, ListFilters};
pub use record::{ImageRecord, LayerBlob, LayerRecord};
pub use reference::Reference;
pub use remove::{ImageUser, LabelFilter, PruneFilters, RemoveOptions, Removed};

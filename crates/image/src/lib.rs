//! Images: content store, registries, layers and root file systems.
#![forbid(unsafe_code)]

pub mod changes;
mod config;
mod digest;
mod error;
mod images;
mod ingest;
pub mod manifest;
mod platform;
mod progress;
pub mod reference;

pub use config::{Healthcheck, HistoryEntry, ImageConfig, LayerList, RunConfig};
pub use digest::{Digest, DigestError, Hasher, ImageId, chain_id};
pub use error::{Error, PathReason, Result};
pub use images::{BlobReader, Images, ImagesConfig, PushLayer, PushManifest, UnpackLimits};
pub use ingest::{BlobSink, FinishImage, ImageIngest, LayerSink};
pub use manifest::{Descriptor, Index, Manifest, media_type};
pub use platform::{Platform, PlatformError};
pub use progress::{Phase, Progress, ProgressEvent};
pub use reference::Reference;

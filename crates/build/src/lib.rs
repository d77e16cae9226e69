//! A Dockerfile and a context become an image, layer by layer, through a content-addressed cache.
//!
//! [`dockerfile`] is the language, [`glob`] what its paths may have, [`ignore`] which files of a context count; [`check`]
//! tells what is allowed and likely not meant. [`Builder::build`] carries it out: stages side by side, each step found again in the
//! cache by all that it reads, or made anew. The engine runs commands; nothing is run here.
#![forbid(unsafe_code)]

mod agent;
mod attest;
mod cache;
mod caches;
pub mod check;
mod contexts;
pub mod dockerfile;
mod elsewhere;
mod emulation;
mod entitlement;
mod error;
mod files;
pub mod glob;
pub mod ignore;
mod intermediate;
mod look;
mod named;
mod product;
mod progress;
mod pull;
mod remote;
mod request;
pub mod rpm;
mod sbom;
mod scratch;
mod solve;
mod stage;
mod state;
mod step;
mod suggest;
mod turns;

pub use attest::{Attest, Fetched, Provenance};
pub use cache::{CacheLimits, Cached, CachedKind, Meant, PruneOptions, Pruned};
pub use contexts::{Expected, LayoutImage, List, Listed, Received, Stamp, Taking, Update, Verdict, What};
pub use elsewhere::{CacheFrom, CacheMode, CacheTo, Layout, LayoutBytes, LayoutEntry, LayoutFile};
pub use entitlement::{Entitlement, UnknownEntitlement};
pub use error::{Error, Result};
pub use files::Files;
pub use look::{Graph, GraphStage, GraphStep, Outlook};
pub use named::NamedBuild;
pub use product::{Product, ProductFiles};
pub use progress::{Event, Events, ExportEvent, Found, PlannedStage, Progress, StepEvent, StepId, Told};
pub use request::{Built, Leaves, Lender, NamedContext, Request, Settings};
pub use solve::Builder;

//! The Docker Engine API, versions 1.24 to 1.50: a door of stratus.
//!
//! It translates: a request becomes one call of the [`engine`], and what comes back becomes the status, the words and
//! the JSON that clients of dockerd know. It holds no state and decides nothing.
//!
//! - [`Door`] is what connections are served with; [`serve()`] serves a listener.
//! - `route` finds the handler of a path; handlers stand in the modules named for what they are about, each with the
//!   JSON shapes that it reads or writes. Their fields have the order of moby's own types, which `docker inspect` shows.
//! - `decode` reads JSON as Go reads it, `query`, `filters` and `time` read parameters.
//! - `hijack` takes a connection out of HTTP for `attach` and `exec`, `upgrade` for protocols of others, `frames` puts two streams on one connection,
//!   `progress` tells how far a pull is.
#![forbid(unsafe_code)]

mod body;
mod build;
mod call;
mod containers;
mod decode;
mod error;
mod events;
mod filters;
mod frames;
mod hijack;
mod images;
mod microvms;
mod networks;
mod progress;
mod query;
mod route;
mod serve;
mod snapshots;
mod swarm;
mod system;
mod time;
mod upgrade;
mod usage;
mod version;
mod volumes;

pub use hijack::{ClientStream, Taken};
pub use serve::{Listener, serve};
pub use upgrade::{Protocol, Serving};
pub use version::{ApiVersion, MAX_API_VERSION, MIN_API_VERSION};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::build::Builder;
use ::microvms::Microvms;
use engine::Engine;

/// What this door says about the program behind it.
#[derive(Clone, Debug)]
pub struct DoorInfo {
    /// The program's own version: `0.1.0`. What clients compare is Docker's that it stands for.
    pub version: String,
    /// The commit it was built from; empty where unknown.
    pub commit: String,
    /// When it was built, as RFC 3339; empty where unknown.
    pub build_time: String,
}

/// The door: the engine, and how the program presents itself.
pub struct Door {
    pub(crate) engine: Engine,
    pub(crate) builder: Builder,
    pub(crate) microvms: Microvms,
    pub(crate) info: DoorInfo,
    /// What is spoken here beside Docker's API.
    pub(crate) protocols: Vec<Arc<Protocol>>,
    /// How many requests have come.
    pub(crate) requests: AtomicU64,
}

impl Door {
    /// A door to `engine`, to what builds with it, and to what saves machines with it.
    pub fn new(engine: Engine, builder: Builder, microvms: Microvms, info: DoorInfo) -> Self {
        Self { engine, builder, microvms, info, protocols: Vec::new(), requests: AtomicU64::new(0) }
    }

    /// The same with a further protocol, of which this door knows nothing but where it is asked for.
    pub fn with(mut self, protocol: Protocol) -> Self {
        self.protocols.push(Arc::new(protocol));
        self
    }

    /// How many requests have come since the daemon's start.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Entry points for fuzzing: what strangers send, read without an engine. None of them may panic.
pub mod fuzz {
    /// A body of `POST /containers/create`.
    pub fn container_create(body: &[u8]) {
        let _ = crate::decode::document::<crate::containers::create::CreateBody>(body)
            .and_then(crate::containers::create::CreateBody::into_parts);
    }

    /// The parameter `filters`.
    pub fn filters(text: &str) {
        let _ = crate::filters::parse(text);
    }

    /// A whole query.
    pub fn query(text: &str) {
        let _ = crate::query::Query::parse(text);
    }

    /// `since` and `until`.
    pub fn timestamp(text: &str) {
        let _ = crate::time::parse_seconds(text);
    }
}

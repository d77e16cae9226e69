//! What lasts says how far it is.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A step of something that lasts. Doors turn it into their protocol's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// A layer is going to be pulled.
    PullingFsLayer,
    /// A layer waits for its turn.
    Waiting,
    /// Bytes of the compressed layer that have come.
    Downloading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 where unknown.
        total: u64,
    },
    /// A connection broke; the download goes on in a while.
    Retrying {
        /// Seconds until then.
        seconds: u64,
    },
    /// All bytes are there and are compared with their digest.
    VerifyingChecksum,
    /// All bytes are there.
    DownloadComplete,
    /// Bytes of the compressed layer that are unpacked.
    Extracting {
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 where unknown.
        total: u64,
    },
    /// The layer is there, unpacked.
    PullComplete,
    /// The layer was there before.
    AlreadyExists,
    /// A layer is going to be pushed.
    Preparing,
    /// Bytes of the layer that have gone.
    Pushing {
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 where unknown.
        total: u64,
    },
    /// The layer is at the registry.
    Pushed,
    /// The registry had the layer already.
    LayerAlreadyExists,
    /// The registry took the layer from another of its repositories.
    Mounted {
        /// The path of that repository.
        from: String,
    },
    /// Bytes of an archive that were read and unpacked into a layer.
    Loading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 where unknown.
        total: u64,
    },
    /// Bytes of a root file system's archive that were read.
    Importing {
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 where unknown.
        total: u64,
    },
    /// An image of an archive is complete; the event's id is its reference, or its id where it has none.
    Loaded,
}

/// What happened to what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressEvent {
    /// The layer: the first twelve digits of its blob's digest (when pulling) or of its diff id (otherwise).
    pub id: String,
    /// What happened.
    pub phase: Phase,
}

/// Where events go; cheap to clone. The receiver is called on whatever thread the work happens, and must not block.
#[derive(Clone)]
pub struct Progress(Option<Arc<dyn Fn(ProgressEvent) + Send + Sync>>);

impl Progress {
    /// Calls `receive` with every event.
    pub fn new(receive: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Progress {
        Progress(Some(Arc::new(receive)))
    }

    /// Nobody listens.
    pub fn none() -> Progress {
        Progress(None)
    }

    /// Tells an event.
    pub fn emit(&self, id: &str, phase: Phase) {
        if let Some(receive) = &self.0 {
            receive(ProgressEvent { id: id.to_owned(), phase });
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(heard)" } else { "Progress(unheard)" })
    }
}

//! What is written down of microVMs beside their containers: when somebody asked one something, so that it is as idle after a restart of the daemon as before, and which of its tokens are good.
//!
//! It goes with the microVM.

use std::collections::HashMap;
use std::time::Duration;

use engine::Result;
use engine::model::Timestamp;
use serde::{Deserialize, Serialize};
use store::{Collection, Store};

use crate::step;

/// How old what is written down of the last request may be, while there are some: a request costs no write to the disk, and a microVM one a minute.
pub(crate) const GRAIN: Duration = Duration::from_secs(60);

/// What is written down of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    /// When somebody asked it something through the endpoint, and within the minute that followed.
    #[serde(default)]
    pub(crate) asked: Option<Timestamp>,
    /// How often all tokens were taken back that it had: those are good that were made since.
    #[serde(default)]
    pub(crate) tokens: u64,
}

/// Where it is written down.
pub(crate) struct Notes(Collection<Noted>);

impl Notes {
    /// With what there is.
    ///
    /// # Errors
    /// The store can't be read.
    pub(crate) fn open(store: &Store) -> Result<(Self, HashMap<String, Noted>)> {
        let records: Collection<Noted> = Collection::new(store, "microvm-noted/");
        let listed = records.list().map_err(|error| step("read what is known of microVMs", error))?;
        let known = listed.items.into_iter().map(|item| (item.id, item.value)).collect();
        Ok((Self(records), known))
    }

    /// Blocks until it is on the disk.
    pub(crate) fn write(&self, id: &str, noted: &Noted) -> Result<()> {
        self.0.put(id, noted).map(drop).map_err(|error| step("write down what is known of a microVM", error))
    }

    /// A loss of power in the next second may take it.
    pub(crate) fn write_soon(&self, id: &str, noted: &Noted) {
        if let Err(error) = self.0.put_relaxed(id, noted) {
            tracing::warn!(%error, "could not write down when a microVM was asked something: after a restart it is taken to be idle for longer");
        }
    }

    /// The microVM is gone.
    pub(crate) fn forget(&self, id: &str) {
        if let Err(error) = self.0.delete(id) {
            tracing::warn!(%error, "could not forget what was known of a microVM");
        }
    }
}

//! Who works on the files of a container, apart from what runs in it.
//!
//! A copy or an export may take as long as its client wants, so none of them holds the container's life: a reader sees
//! the files through a mount that nobody writes to, beside whatever else goes on, and only keeps them from being
//! deleted; a writer has the directory of the container's changes mounted for itself, which a start waits for, and a
//! removal ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, RwLock, watch};

use super::Life;
use crate::{Error, Result};

/// How long a start waits for somebody who writes to the files.
const PATIENCE: Duration = Duration::from_secs(10);

/// The files of one container.
#[derive(Default)]
pub(super) struct Files {
    /// Read by whoever needs them to be there, written by their deletion.
    there: Arc<RwLock<()>>,
    writer: Arc<Mutex<()>>,
    /// How often whoever writes was told to end.
    ended: watch::Sender<u64>,
}

/// The files stay until this is dropped.
pub(super) struct Reading {
    _there: OwnedRwLockReadGuard<()>,
}

/// Nobody else writes to the files, and nothing is started on them, until this is dropped.
pub(super) struct Writing {
    _there: OwnedRwLockReadGuard<()>,
    _alone: OwnedMutexGuard<()>,
    ended: watch::Receiver<u64>,
}

impl Files {
    /// Keeps the files of a container that is there.
    pub(super) fn read(&self, life: &Life<'_>) -> Result<Reading> {
        Ok(Reading { _there: self.keep(life)? })
    }

    /// Begins to write to the files of a container that does not run; `None`: somebody else does
    /// ([`written`](Self::written)).
    pub(super) fn write(&self, life: &Life<'_>) -> Result<Option<Writing>> {
        let Ok(alone) = self.writer.clone().try_lock_owned() else { return Ok(None) };
        Ok(Some(Writing { _there: self.keep(life)?, _alone: alone, ended: self.ended.subscribe() }))
    }

    fn keep(&self, life: &Life<'_>) -> Result<OwnedRwLockReadGuard<()>> {
        // They are deleted without their container only.
        self.there.clone().try_read_owned().map_err(|_| Error::no_such_container(life.id.as_str()))
    }

    /// Waits until nobody writes to them any more.
    pub(super) async fn written(&self) {
        drop(self.writer.lock().await);
    }

    /// Waits, with patience, until nobody writes to them any more: as long as the life is held, nobody begins to.
    pub(super) async fn settle(&self, life: &Life<'_>) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.written()).await.map_err(|_| {
            Error::conflict(format!(
                "files are being copied into container {}: start it when that is done, or end the copy",
                life.id.short()
            ))
        })
    }

    /// Ends whoever writes: what is written is of no use to anybody.
    pub(super) fn end_writing(&self) {
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// Waits until nobody needs them any more; the container is removed.
    pub(super) async fn unused(&self) {
        drop(self.there.write().await);
    }
}

impl Writing {
    /// Comes when it is to end.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            // An error means that the container is gone: that is an end as well.
            let _ = ended.changed().await;
        }
    }
}

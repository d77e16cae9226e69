//! Snapshots of machines: their records and files, and how long they are there.
//!
//! One that has a name is there until somebody removes it, or its container. Every one is there as long as a container goes on from it, or is to, and as
//! long as another one is a difference to it: so who asks for nothing (a fork) leaves nothing. What is not needed any more is [collected](Snapshots::collect)
//! where something has ended.
//!
//! The files are in a directory for each, which has its record only once they are whole: what has none at a start of the daemon is swept.

mod copied;
mod files;
mod making;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use store::{Collection, Store};

pub(crate) use copied::{SavedCopies, name_also};
pub(crate) use files::NewFiles;
pub(crate) use making::NewSnapshot;

use crate::model::{ContainerId, SnapshotId, SnapshotRecord};
use crate::{Engine, Error, Result};

/// All snapshots.
pub(crate) struct Snapshots {
    records: Collection<SnapshotRecord>,
    root: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: BTreeMap<SnapshotId, Arc<SnapshotRecord>>,
    /// Who needs it beside what records say.
    held: BTreeMap<SnapshotId, usize>,
}

/// A snapshot that is not collected until this is dropped.
pub(crate) struct Held {
    snapshots: Arc<Snapshots>,
    record: Arc<SnapshotRecord>,
}

impl Held {
    pub(crate) fn record(&self) -> &Arc<SnapshotRecord> {
        &self.record
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = &mut self.snapshots.inner.lock().held;
        if let Some(count) = held.get_mut(&self.record.id) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.record.id);
            }
        }
    }
}

impl Snapshots {
    /// Reads the records, and sweeps what has none.
    pub(crate) fn open(store: &Store, root: PathBuf) -> Result<Self> {
        let records: Collection<SnapshotRecord> = Collection::new(store, "snapshot/");
        let listed = records.list().map_err(|error| Error::step("read the snapshots", error))?;
        let known: BTreeMap<_, _> =
            listed.items.into_iter().map(|item| (item.value.id.clone(), Arc::new(item.value))).collect();
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            if !known.keys().any(|id| entry.file_name() == id.as_str()) {
                remove(&entry.path());
            }
        }
        Ok(Self { records, root, inner: Mutex::new(Inner { known, held: BTreeMap::new() }) })
    }

    fn directory(&self, id: &SnapshotId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Where a snapshot's copy of its container's disk is.
    pub(crate) fn disk(&self, id: &SnapshotId) -> PathBuf {
        self.directory(id).join("disk")
    }

    /// Where a snapshot has what was copied into its container, if that is [anything](SnapshotRecord::copied).
    pub(crate) fn copied(&self, id: &SnapshotId) -> SavedCopies {
        SavedCopies::below(&self.directory(id))
    }

    /// Keeps a snapshot from being collected.
    pub(crate) fn hold(self: &Arc<Self>, id: &SnapshotId) -> Result<Held> {
        let mut inner = self.inner.lock();
        let record = inner.known.get(id).cloned().ok_or_else(|| {
            Error::not_found(format!("No such snapshot: {}: the container has to begin anew, stop it", id.short()))
        })?;
        *inner.held.entry(id.clone()).or_default() += 1;
        Ok(Held { snapshots: self.clone(), record })
    }

    /// The directories of a snapshot and of what it is a difference to, the first one first.
    pub(crate) fn directories(&self, id: &SnapshotId) -> Vec<PathBuf> {
        let inner = self.inner.lock();
        let mut directories: Vec<_> = ancestry(&inner.known, id).map(|id| self.directory(id)).collect();
        directories.reverse();
        directories
    }

    /// A container's snapshots that have names, the oldest first.
    pub(crate) fn of(&self, container: &ContainerId) -> Vec<Arc<SnapshotRecord>> {
        let inner = self.inner.lock();
        let named = inner.known.values().filter(|record| record.container == *container && record.name.is_some());
        let mut named: Vec<_> = named.cloned().collect();
        named.sort_by_key(|record| record.created);
        named
    }

    /// Takes a snapshot's name away: it is there for as long as something needs it.
    pub(crate) fn unname(&self, id: &SnapshotId) -> Result<()> {
        let mut inner = self.inner.lock();
        let Some(record) = inner.known.get_mut(id) else { return Ok(()) };
        let unnamed = SnapshotRecord { name: None, ..(**record).clone() };
        self.records.put(id.as_str(), &unnamed).map_err(|error| Error::step("record a snapshot", error))?;
        *record = Arc::new(unnamed);
        Ok(())
    }

    /// Removes what nothing needs. `exists` says whether a container is there; `used` are the snapshots that containers go on from, or are to. Nobody waits for what takes its time.
    fn collect(&self, exists: impl Fn(&ContainerId) -> bool, used: &BTreeSet<SnapshotId>) {
        for record in self.take_unneeded(exists, used) {
            if let Err(error) = self.records.delete(record.id.as_str()) {
                tracing::error!(snapshot = record.id.short(), %error, "could not forget a snapshot");
                self.inner.lock().known.insert(record.id.clone(), record);
                continue;
            }
            remove(&self.directory(&record.id));
        }
    }

    /// Takes out what nothing needs: nobody finds it any more.
    fn take_unneeded(
        &self,
        exists: impl Fn(&ContainerId) -> bool,
        used: &BTreeSet<SnapshotId>,
    ) -> Vec<Arc<SnapshotRecord>> {
        let mut inner = self.inner.lock();
        let Inner { known, held } = &mut *inner;
        let named = known.values().filter(|record| record.name.is_some() && exists(&record.container));
        let roots = named.map(|record| &record.id).chain(held.keys()).chain(used);
        let needed: BTreeSet<SnapshotId> = roots.flat_map(|id| ancestry(known, id)).cloned().collect();
        let (needed, unneeded) = std::mem::take(known).into_iter().partition(|(id, _)| needed.contains(id));
        *known = needed;
        BTreeMap::into_values(unneeded).collect()
    }
}

/// A snapshot, and what it is a difference to.
fn ancestry<'k>(
    known: &'k BTreeMap<SnapshotId, Arc<SnapshotRecord>>,
    id: &SnapshotId,
) -> impl Iterator<Item = &'k SnapshotId> {
    let first = known.get(id);
    std::iter::successors(first, |record| known.get(record.parent.as_ref()?)).map(|record| &record.id)
}

/// Removes the files of a machine that was saved.
pub(crate) fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!(directory = %directory.display(), %error, "could not remove the files of a saved machine");
    }
}

impl Engine {
    /// As [`Engine::collect_snapshots`], for whoever does not wait for it.
    pub(crate) fn collect_snapshots_beside(&self) {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || engine.collect_snapshots());
    }

    /// Removes the snapshots that nothing needs any more. Blocks for as long as files take to go.
    pub(crate) fn collect_snapshots(&self) {
        if self.0.snapshots.inner.lock().known.is_empty() {
            return;
        }
        let mut used = self.0.machine_images.snapshots();
        for container in self.0.containers.all() {
            let record = container.record();
            used.extend(record.state.origin.clone());
            used.extend(record.state.suspended.clone());
            used.extend(record.state.halting.as_ref().map(|halting| halting.snapshot.clone()));
        }
        self.0.snapshots.collect(|id| self.0.containers.by_id(id.as_str()).is_some(), &used);
    }
}

//! A snapshot that is being made.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use microvm::SnapshotFiles;

use super::{Held, NewFiles, Snapshots};
use crate::model::{SnapshotId, SnapshotRecord};
use crate::{Error, Result};

/// A snapshot without a record: dropped, it was never there.
pub(crate) struct NewSnapshot {
    snapshots: Arc<Snapshots>,
    pub(crate) id: SnapshotId,
    made: NewFiles,
}

impl Snapshots {
    /// Makes the two empty files of a snapshot.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<NewSnapshot> {
        let id = SnapshotId::random();
        let made = NewFiles::make(&self.root, id.as_str())?;
        Ok(NewSnapshot { snapshots: self.clone(), id, made })
    }
}

impl NewSnapshot {
    /// Its two files.
    pub(crate) fn files(&self) -> &SnapshotFiles {
        &self.made.files
    }

    /// Takes a copy of a disk into it.
    pub(crate) fn copy_disk(&self, disk: &Path) -> Result<()> {
        let copied = microvm::disk::copy(disk, &self.snapshots.disk(&self.id));
        copied.map_err(|error| Error::step(format!("copy the disk {}", disk.display()), error))
    }

    /// Bytes that its files take on the disk.
    pub(crate) fn size(&self) -> Result<u64> {
        let size = |file: &File| Ok::<_, std::io::Error>(file.metadata()?.blocks() * 512);
        let disk = fs::metadata(self.snapshots.disk(&self.id)).map_or(0, |disk| disk.blocks() * 512);
        let copies = image::tree_bytes(&self.snapshots.copied(&self.id).upper).unwrap_or(0);
        let files = self.files();
        let all = size(&files.state).and_then(|state| Ok(state + size(&files.memory)? + disk + copies));
        all.map_err(|error| Error::system(format!("look at {}: {error}", self.made.directory().display())))
    }

    /// Writes its record: from here on it is there. `lasts`: after a loss of power, too.
    pub(crate) fn keep(mut self, record: SnapshotRecord, lasts: bool) -> Result<Held> {
        let directory = self.made.directory().to_owned();
        let failed = |error: std::io::Error| Error::system(format!("write {}: {error}", directory.display()));
        self.made.seal()?;
        if lasts {
            // What it is a difference to may have been made for a moment.
            for directory in record.parent.iter().flat_map(|parent| self.snapshots.directories(parent)) {
                let parent = SnapshotFiles::open(&directory).and_then(|files| files.sync());
                parent.map_err(|error| Error::system(error.to_string()))?;
            }
            if record.disk {
                microvm::disk::sync(&self.snapshots.disk(&self.id)).map_err(failed)?;
            }
            if record.copied {
                self.snapshots.copied(&self.id).sync().map_err(failed)?;
            }
            self.made.files.sync().map_err(|error| Error::system(error.to_string()))?;
            for directory in [&directory, &self.snapshots.root] {
                File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
            }
        }
        let put = self.snapshots.records.put(self.id.as_str(), &record);
        put.map_err(|error| Error::step("record a snapshot", error))?;
        self.made.keep();
        let record = Arc::new(record);
        let mut inner = self.snapshots.inner.lock();
        inner.known.insert(self.id.clone(), record.clone());
        *inner.held.entry(self.id.clone()).or_default() += 1;
        drop(inner);
        Ok(Held { snapshots: self.snapshots.clone(), record })
    }
}

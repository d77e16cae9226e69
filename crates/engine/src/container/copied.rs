//! What is copied into a container in a microVM while it does not run: it is on the host, in the directory where an ordinary container's changes are, and its machine has it as one more layer above those of
//! the image.
//!
//! The layer is an EROFS file, `copied`, beside that directory. It is written by the start that finds none, and taken away before anything is written to the directory: so it is whole, and as the directory is,
//! whenever it is there. While a machine runs nobody writes to either, so that what `diff` and `commit` find there is what the machine has.
//!
//! A snapshot has both, as they were: the file as a further name, so that a machine that goes on finds the very bytes that its kernel knows, once in memory for all of them; the directory as a copy. What goes on from
//! a snapshot has what that has, in place of its own, as it has its disk ([`super::brought_back`]).

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::model::{ContainerRecord, SnapshotRecord};
use crate::snapshots::NewSnapshot;
use crate::{Engine, Error, Result};

/// The name of the layer's file, in the directory of the container's root file system.
pub(super) const LAYER: &str = "copied";

/// What a container is to have of what was copied into it, to be as it was in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AsSaved {
    /// What it has.
    AsItIs,
    /// What the snapshot has.
    Saved,
    /// Nothing at all.
    Nothing,
}

impl Engine {
    /// The layer of a container that begins anew, written where it is not there; `None`: nothing was copied into it. Blocks.
    pub(super) fn copied_layer(&self, record: &ContainerRecord) -> Result<Option<PathBuf>> {
        self.put_back_own(record)?;
        let path = self.own_layer(record)?;
        if is_there(&path)? {
            return Ok(Some(path));
        }
        if !self.0.images.has_changes(record.id.as_str()).map_err(crate::images::error)? {
            return Ok(None);
        }
        self.0.images.changes_as_erofs(record.id.as_str(), &path).map_err(crate::images::error)?;
        Ok(Some(path))
    }

    /// The layer of a machine that was saved.
    pub(super) fn saved_layer(&self, saved: &SnapshotRecord) -> Option<PathBuf> {
        saved.copied.then(|| self.0.snapshots.copied(&saved.id).layer)
    }

    /// Forgets a container's layer, as something is about to be copied into the container: a loss of power does not bring it back. Blocks.
    pub(super) fn forget_copied_layer(&self, record: &ContainerRecord) -> Result<()> {
        let path = self.own_layer(record)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(|error| Error::step(format!("remove {}", path.display()), error))?,
        }
        let directory = self.rootfs_directory(record)?;
        File::open(&directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| Error::step(format!("sync {}", directory.display()), error))
    }

    /// Takes what was copied into a container that runs into a snapshot. Whether that is anything. Blocks.
    pub(super) fn save_copied(&self, record: &ContainerRecord, new: &NewSnapshot) -> Result<bool> {
        let layer = self.own_layer(record)?;
        if !is_there(&layer)? {
            return Ok(false);
        }
        let saved = self.0.snapshots.copied(&new.id);
        let upper = self.0.images.rootfs(record.id.as_str()).map_err(crate::images::error)?.upper;
        saved.take(&layer, &upper)?;
        Ok(true)
    }

    /// What a container that goes on from a snapshot is to have of what is copied into it. Blocks.
    pub(super) fn copied_as_saved(&self, record: &ContainerRecord, saved: &SnapshotRecord) -> Result<AsSaved> {
        if saved.copied {
            let is_its = is_same(&self.own_layer(record)?, &self.0.snapshots.copied(&saved.id).layer)?;
            return Ok(if is_its { AsSaved::AsItIs } else { AsSaved::Saved });
        }
        let has_some = self.0.images.has_changes(record.id.as_str()).map_err(crate::images::error)?;
        Ok(if has_some { AsSaved::Nothing } else { AsSaved::AsItIs })
    }

    fn own_layer(&self, record: &ContainerRecord) -> Result<PathBuf> {
        self.rootfs_directory(record).map(|directory| directory.join(LAYER))
    }
}

pub(super) fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|error| Error::step(format!("look at {}", path.display()), error))
}

/// Whether two names are of one file.
fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let identity = |path: &Path| match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::step(format!("look at {}", path.display()), error)),
    };
    Ok(matches!((identity(one)?, identity(other)?), (Some(one), Some(other)) if one == other))
}

//! Layers as EROFS files, for guests that have a kernel of their own.
//!
//! A layer's directory is of no use in a machine that has its own kernel, and a copy for each machine would cost each of them the whole
//! image. So a layer is written once as a file system of one file, read-only, which any number of machines has as a disk: in the host's page
//! cache it is there once. Linux 6.1 and newer mount it, and overlayfs takes it as a lower directory: it has all that the layer's directory
//! has, in the same form ([`write`]).
//!
//! Files' contents are not compressed, and begin at blocks: so they can be read as they lie, and a file system that shares blocks has them
//! once with the layer's directory. Only the last bytes of a file, where they are few, small directories and links lie behind their inodes;
//! a file with large holes is one of chunks, of which some are nowhere.
//!
//! There is no library for it: `erofs-rs` and what `composefs` writes with know no uncompressed contents together with extended
//! attributes, devices and several names of a file. `mkfs.erofs` is a program, which would have to be installed, and holds a tree in memory.
//!
//! ```text
//! erofs/<diff id>    a layer's file, read-only for ever
//! staging/<n>        one that is being written
//! ```
//!
//! What there is, a layer's record says, once it is on the disk. What no record says is removed at the next start.

mod attributes;
pub(crate) mod contents;
mod directory;
mod format;
mod space;
#[cfg(test)]
mod tests;
mod write;

use crate::content::list;
use crate::images::Inner;
use crate::reaper::Reaper;
use crate::record::LayerRecord;
use crate::state::{Lease, State};
use crate::{Digest, Error, Images, Result, layers, pack};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Where the files are, below the directory of images.
const DIRECTORY: &str = "erofs";
/// What is written differently from this is written anew.
const FORMAT: u32 = 1;

/// The EROFS file that is kept of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErofsRecord {
    /// Bytes in it.
    pub size: u64,
    /// The way in which it was written.
    pub(crate) format: u32,
}

/// A layer as an EROFS file. The layer and the file stay while this lives.
pub struct ErofsLayer {
    path: PathBuf,
    file: File,
    size: u64,
    _lease: Lease,
}

impl ErofsLayer {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, open to be read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes in it: a multiple of 4096.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl std::fmt::Debug for ErofsLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErofsLayer").field("path", &self.path).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Layers that are being written at the moment, so that each is written once.
#[derive(Default)]
pub(crate) struct Writing(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Writing {
    /// The turn of those who want a layer.
    fn turn(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock();
        if let Some(turn) = turns.get(diff_id).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(*diff_id, Arc::downgrade(&turn));
        turn
    }
}

impl Images {
    /// The EROFS file of a layer, which is written the first time that it is asked for: whiteouts and opaque directories are in it as overlayfs
    /// takes them, owners as they are in the layer's directory. Its root directory has the time 0, and looks as the layer's own does,
    /// even where that [says nothing](LayerRecord::says_root) of it.
    ///
    /// The same layer gives the same bytes. It is written to its end though nobody waits for it any more.
    ///
    /// # Errors
    /// [`Error::LayerMissing`]; [`Error::NoSpace`]; where the layer can't be read; [`Error::HostileEntry`] for what no EROFS file can hold: 256 KiB
    /// of extended attributes of one file, or more than 512 directories above one another.
    pub async fn erofs(&self, diff_id: &Digest) -> Result<ErofsLayer> {
        let lease = self.0.lease();
        let layer = |state: &State| state.layers.get(diff_id).map(drop);
        lease.pin_if(diff_id, layer).ok_or(Error::LayerMissing { diff_id: *diff_id })?;
        let turn = self.0.writing.turn(diff_id).lock_owned().await;
        let diff_id = *diff_id;
        self.blocking(move |inner| {
            let made = made(inner, &diff_id, lease);
            drop(turn);
            made
        })
        .await
    }
}

/// The file of a layer that is held, which is written where it is not there.
fn made(inner: &Inner, diff_id: &Digest, lease: Lease) -> Result<ErofsLayer> {
    let missing = || Error::LayerMissing { diff_id: *diff_id };
    let layer = inner.state.lock().layers.get(diff_id).map(Arc::clone).ok_or_else(missing)?;
    let path = path(&inner.root, diff_id);
    let is_there = layer.erofs.is_some_and(|erofs| erofs.is_at(&path));
    let record = match layer.erofs.filter(|_| is_there) {
        Some(record) => record,
        None => write(inner, &layer, &path)?,
    };
    let file = File::open(&path).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    Ok(ErofsLayer { path, file, size: record.size, _lease: lease })
}

/// Writes a layer's file: under another name, to the disk, by its own name, into the layer's record.
fn write(inner: &Inner, layer: &LayerRecord, path: &Path) -> Result<ErofsRecord> {
    let name = inner.next_layer();
    let staged = Staged { path: inner.root.join("staging").join(name) };
    let id = layer.diff_id.short();
    let failed = |e: std::io::Error| Error::io(format!("writing layer {id} as an EROFS file"), e);
    // For the processes of machines, who are nobody: they see it where it is mounted for them, and others don't get as far as here.
    let new = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&staged.path);
    let parts = layer.dirs().map(|dir| pack::open(&inner.layer_dir(dir).join("fs"))).collect::<Result<_>>()?;
    let (file, size) = write::write(parts, new.map_err(failed)?, &layer.diff_id)?;
    file.sync_all().map_err(failed)?;
    let publish = || {
        fs::rename(&staged.path, path)?;
        File::open(inner.root.join(DIRECTORY))?.sync_all()
    };
    publish().map_err(failed)?;
    let record = ErofsRecord { size, format: FORMAT };
    let noted = layers::change(inner, &layer.diff_id, |layer| layer.erofs = Some(record));
    if noted.is_err() {
        inner.reaper.discard(path)?;
    }
    noted.map(|()| record)
}

/// Writes a directory in overlayfs' form as an EROFS file, beside which it is until it is whole and on the disk.
pub(crate) fn write_directory(directory: &Path, path: &Path, identity: &Digest) -> Result<()> {
    let staged = Staged { path: path.with_extension("new") };
    let failed = |e: std::io::Error| Error::io(format!("writing {} as an EROFS file", directory.display()), e);
    // What a start that was killed has left is written anew.
    let new = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o644).open(&staged.path);
    let (file, _) = write::write(vec![pack::open(directory)?], new.map_err(failed)?, identity)?;
    // For the processes of machines, who are nobody, whatever the umask is.
    let readable = file.set_permissions(fs::Permissions::from_mode(0o644));
    readable.and_then(|()| file.sync_all()).and_then(|()| fs::rename(&staged.path, path)).map_err(failed)
}

/// A file that is being written. It goes where it does not get its name.
struct Staged {
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "an EROFS file that was not finished stays until the next start");
            }
            _ => {}
        }
    }
}

impl ErofsRecord {
    /// Whether the file is there, as it was written.
    fn is_at(&self, path: &Path) -> bool {
        let meta = fs::symlink_metadata(path);
        self.format == FORMAT && meta.is_ok_and(|meta| meta.is_file() && meta.len() == self.size)
    }
}

fn path(root: &Path, diff_id: &Digest) -> PathBuf {
    root.join(DIRECTORY).join(diff_id.hex())
}

/// Brings files and records together, at a start: a file without a record was never whole, or its layer is gone; a record without its file
/// has it written anew.
pub(crate) fn open(root: &Path, reaper: &Reaper, state: &mut State) -> Result<()> {
    let directory = root.join(DIRECTORY);
    fs::create_dir_all(&directory).map_err(|e| Error::io(format!("making {}", directory.display()), e))?;
    let mut known = HashSet::new();
    for layer in state.layers.values_mut() {
        match layer.erofs {
            Some(erofs) if erofs.is_at(&path(root, &layer.diff_id)) => drop(known.insert(layer.diff_id.hex())),
            Some(_) => Arc::make_mut(layer).erofs = None,
            None => {}
        }
    }
    for entry in list(&directory)? {
        if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
            reaper.discard(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the file of a layer that is gone. The bytes that it had.
pub(crate) fn remove(inner: &Inner, layer: &LayerRecord) -> Result<u64> {
    let Some(erofs) = layer.erofs else { return Ok(0) };
    inner.reaper.discard(&path(&inner.root, &layer.diff_id)).map(|()| erofs.size)
}

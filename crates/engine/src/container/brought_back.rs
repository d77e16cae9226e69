//! What a container that goes on from a snapshot has of that in place of its own: its disk, and what was copied into it.
//!
//! Its own is put aside until it is recorded that it runs, and is put back where nothing comes of that. All of it lies in the directory of the container's root file system:
//!
//! - `next`: what is brought back, until all of it is there and synced, and nothing of the container's own was touched;
//! - `former`: what is the container's own. The disk and the layer are there by a further name from the beginning, so that one which is missing there is one that the container had none of; the directory of
//!   its changes is moved there, so that it is there once another one may have its place.
//!
//! So what a daemon that was killed has left says how far it was, and each step can be made again. The next one goes by the record: what runs, or has run, has what was brought back.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copied::{self, LAYER, is_there};
use super::disk::DISK;
use super::{Container, Life};
use crate::model::{ContainerRecord, SnapshotRecord};
use crate::snapshots::name_also;
use crate::{Engine, Error, Result};

/// What is brought back, while it is being made.
const NEXT: &str = "next";
/// What is the container's own, while something else has its place.
const FORMER: &str = "former";
/// The directory of what was copied into a container.
const UPPER: &str = "upper";
/// What a daemon that was killed may have left half-made: besides [`NEXT`], by their makers' names, of which the first one is of earlier releases.
const HALF_MADE: [&str; 3] = ["upper.next", "disk.new", "copied.new"];

/// A container's own files, of which a snapshot may have others.
struct Own {
    directory: PathBuf,
    upper: PathBuf,
}

impl Own {
    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn sync(&self) -> Result<()> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("sync", &self.directory))
    }
}

impl Engine {
    /// Has a container that is to go on from a snapshot have what that has, until it is [settled](Self::settle_own) whether it does. Blocks.
    ///
    /// # Errors
    /// It can't be made, as the disk is full for example: then the container has its own.
    pub(super) fn bring_back(&self, record: &ContainerRecord, saved: &SnapshotRecord) -> Result<()> {
        let own = self.own(record)?;
        // Of a start that could not put it back.
        self.put_back(&own)?;
        let copied = self.copied_as_saved(record, saved)?;
        if !saved.disk && copied == copied::AsSaved::AsItIs {
            return Ok(());
        }
        let next = own.at(NEXT);
        let exchanged = self.make_next(record, saved, copied, &next).and_then(|()| self.exchange(&own, copied));
        let cleared = self.discard(&next);
        if let Err(error) = exchanged.and(cleared) {
            self.put_back(&own).unwrap_or_else(|error| not_settled(record, &error));
            return Err(error.context(format!("bring back what container {} had in the snapshot", record.name)));
        }
        Ok(())
    }

    /// Makes an end of what [`bring_back`](Self::bring_back) began, as the container goes on from its snapshot: what that had is its own from here on. Blocks.
    ///
    /// # Errors
    /// What was its own is there still, and the next start would put it over what this run writes: it is to be ended.
    pub(super) fn keep_brought_back(&self, record: &ContainerRecord) -> Result<()> {
        let kept = self.own(record).and_then(|own| self.forget_former(&own));
        kept.map_err(|error| error.context(format!("keep what container {} had in the snapshot", record.name)))
    }

    /// Makes an end of what [`bring_back`](Self::bring_back) began, as nothing came of the start: the container has its own again. Where it can't have it at the moment, that is told, and
    /// [done](Self::own_again) before anybody works on its files. Blocks.
    pub(super) fn give_up_brought_back(&self, record: &ContainerRecord) {
        self.put_back_own(record).unwrap_or_else(|error| not_settled(record, &error));
    }

    /// Makes an end of what a daemon that was killed has begun with a container's own files, of which nothing runs any more unless its record says so. Blocks.
    pub(super) fn settle_own_of_killed(&self, record: &ContainerRecord) {
        match record.state.phase.is_live() {
            true => self.keep_brought_back(record).unwrap_or_else(|error| not_settled(record, &error)),
            false => self.give_up_brought_back(record),
        }
        let cleared = self.own(record).and_then(|own| {
            let left = [NEXT].into_iter().chain(HALF_MADE);
            left.map(|name| own.at(name)).try_for_each(|path| self.discard(&path))
        });
        cleared.unwrap_or_else(|error| not_settled(record, &error));
    }

    /// What was brought back is a container's own.
    fn forget_former(&self, own: &Own) -> Result<()> {
        let (former, next) = (own.at(FORMER), own.at(NEXT));
        if !is_there(&former)? {
            return Ok(());
        }
        // By that name nobody puts it back, whether it can be thrown away or not.
        if is_there(&next)? {
            self.discard(&next)?;
        }
        rename(&former, &next)?;
        // It does not come back behind what the container writes from now on.
        if let Err(error) = own.sync() {
            rename(&next, &former)?;
            return Err(error);
        }
        if let Err(error) = self.discard(&next) {
            tracing::warn!(%error, "what was a container's own before it went on from a snapshot takes room until it does so again, or the daemon starts");
        }
        Ok(())
    }

    /// Has a container that does not run have its own again before anybody works on its files, where a start could not put it back.
    ///
    /// # Errors
    /// It still can't be put back: what there is are the snapshot's files.
    pub(super) async fn own_again(&self, container: &Arc<Container>) -> Result<()> {
        // There is mostly nothing to be done, and nobody to be waited for.
        let record = container.record();
        if !record.is_machine() || !self.is_aside(&record)? {
            return Ok(());
        }
        self.own_again_of(&container.life(container.id.as_str()).await?).await
    }

    /// As [`own_again`](Self::own_again), for who has its life.
    ///
    /// # Errors
    /// Likewise.
    pub(super) async fn own_again_of(&self, life: &Life<'_>) -> Result<()> {
        let record = life.record();
        if !record.is_machine() || record.state.phase.is_live() || !self.is_aside(&record)? {
            return Ok(());
        }
        // No machine for its files has the disk meanwhile.
        let _disk = self.take_disk(life).await?;
        let engine = self.clone();
        crate::blocking(move || engine.put_back_own(&record)).await
    }

    /// Whether a container's own was put aside, and is there still.
    fn is_aside(&self, record: &ContainerRecord) -> Result<bool> {
        is_there(&self.own(record)?.at(FORMER))
    }

    /// Has a container have its own again, where a start could not put it back; the caller sees to it that nothing is started meanwhile. Blocks.
    pub(super) fn put_back_own(&self, record: &ContainerRecord) -> Result<()> {
        let put_back = self.own(record).and_then(|own| self.put_back(&own));
        put_back
            .map_err(|error| error.context(format!("put back what is container {}'s own of its files", record.name)))
    }

    fn own(&self, record: &ContainerRecord) -> Result<Own> {
        Ok(Own {
            directory: self.rootfs_directory(record)?,
            upper: self.0.images.rootfs(record.id.as_str()).map_err(crate::images::error)?.upper,
        })
    }

    fn discard(&self, path: &Path) -> Result<()> {
        self.0.images.throw_away(path).map_err(crate::images::error)
    }

    /// Makes what is brought back, and has it outlast a loss of power.
    fn make_next(
        &self,
        record: &ContainerRecord,
        saved: &SnapshotRecord,
        copied: copied::AsSaved,
        next: &Path,
    ) -> Result<()> {
        self.discard(next)?;
        DirBuilder::new().mode(0o700).create(next).map_err(failed("make", next))?;
        if saved.disk {
            let (from, to) = (self.0.snapshots.disk(&saved.id), next.join(DISK));
            microvm::disk::copy(&from, &to).map_err(failed("make the disk", &to))?;
            microvm::disk::sync(&to).map_err(failed("sync", &to))?;
        }
        if copied == copied::AsSaved::AsItIs {
            return Ok(());
        }
        let files = (copied == copied::AsSaved::Saved).then(|| self.0.snapshots.copied(&saved.id));
        let of = files.as_ref().map(|files| files.upper.as_path());
        let made = self.0.images.make_changes(record.id.as_str(), of, &next.join(UPPER));
        made.map_err(crate::images::error)?;
        if let Some(files) = files {
            name_also(&files.layer, &next.join(LAYER))?;
        }
        // There may be a great many files.
        let synced = File::open(next).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
        synced.map_err(failed("sync", next))
    }

    /// Puts the container's own aside, and has what was made take its place.
    fn exchange(&self, own: &Own, copied: copied::AsSaved) -> Result<()> {
        let (next, former) = (own.at(NEXT), own.at(FORMER));
        let aside = next.join(FORMER);
        DirBuilder::new().mode(0o700).create(&aside).map_err(failed("make", &aside))?;
        for name in [DISK, LAYER] {
            if is_there(&own.at(name))? {
                name_also(&own.at(name), &aside.join(name))?;
            }
        }
        File::open(&aside).and_then(|aside| aside.sync_all()).map_err(failed("sync", &aside))?;
        rename(&aside, &former)?;
        own.sync()?;
        if copied != copied::AsSaved::AsItIs {
            // First of all, as a layer is what its directory is.
            remove(&own.at(LAYER))?;
            rename(&own.upper, &former.join(UPPER))?;
            rename(&next.join(UPPER), &own.upper)?;
        }
        for name in [LAYER, DISK] {
            if is_there(&next.join(name))? {
                rename(&next.join(name), &own.at(name))?;
            }
        }
        own.sync()
    }

    /// Has a container have its own again, if that was put aside.
    fn put_back(&self, own: &Own) -> Result<()> {
        let former = own.at(FORMER);
        if !is_there(&former)? {
            return Ok(());
        }
        for name in [LAYER, DISK] {
            let (kept, back) = (former.join(name), own.at(&format!("{name}.new")));
            match is_there(&kept)? {
                false => remove(&own.at(name))?,
                // It stays there, too, until all is done: where it is missing, there was none.
                true => {
                    remove(&back)?;
                    name_also(&kept, &back)?;
                    rename(&back, &own.at(name))?;
                    // rename(2): of two names of one file both stay.
                    remove(&back)?;
                }
            }
        }
        if is_there(&former.join(UPPER))? {
            self.discard(&own.upper)?;
            rename(&former.join(UPPER), &own.upper)?;
        }
        own.sync()?;
        self.discard(&former)?;
        own.sync()
    }
}

fn not_settled(record: &ContainerRecord, error: &Error) {
    tracing::error!(container = record.id.short(), %error, "what is its own of its files, beside what it had in a snapshot, could not be put in order");
}

fn failed(what: &str, on: &Path) -> impl FnOnce(io::Error) -> Error {
    let step = format!("{what} {}", on.display());
    move |error| Error::step(step, error)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| Error::step(format!("rename {} to {}", from.display(), to.display()), error))
}

/// What is not there is gone already.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed("remove", path)),
    }
}

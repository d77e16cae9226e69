//! Layers that are made here: somebody fills a directory, or takes what a container changed, and it becomes a layer as it is.
//!
//! Nothing is copied, and no archive is kept: packing the same directory again gives the same bytes ([`crate::pack`]), so that
//! a push or a save makes the archive when it needs it.

mod fill;
mod filled;
mod merge;
mod retain;

pub use fill::{Contents, Existing, Filling, Look};
pub(crate) use merge::stacked;

use crate::images::Inner;
use crate::layers::Stage;
use crate::pack;
use crate::pipeline::{Passed, Source as _};
use crate::record::{LayerRecord, Under};
use crate::root::RootLook;
use crate::state::Lease;
use crate::tree;
use crate::tree::walk::{Found, walk};
use crate::unpack::Unpacked;
use crate::{Compression, Digest, Error, Hasher, Images, Result, UnpackLimits};
use filled::{Filled, Former};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{AtFlags, FileType, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A layer whose directory is being filled: what is in there is in overlayfs' form of an upper directory. Dropped before
/// [`NewLayer::finish`], it is gone.
pub struct NewLayer {
    images: Images,
    stage: Stage,
    /// What its root directory looks like says something, though it is what nobody need say.
    says_root: bool,
    content: Content,
}

/// Bytes in a layer's files that take so long to be hashed that it is worth a sync of its own to have them on the disk by then.
const LONG: u64 = 8 << 20;

/// What is known of a layer's content beside its directory.
enum Content {
    /// The directory has all of it.
    Whole,
    /// The same, and this is all that it was filled with.
    Filled(Filled),
    /// A former layer has what the directory lacks.
    Upon(Box<Upon>),
}

/// What a new layer lies upon.
struct Upon {
    former: Former,
    /// Its directory's name.
    dir: String,
    /// Whichever layer has that directory, so that it stays.
    _kept: Lease,
}

/// Times of what a step made: they would be others on another day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When the step began, seconds since 1970. What was changed since then was changed by it.
    pub since: i64,
    /// What such times become, seconds since 1970.
    pub becomes: i64,
}

/// Layers that are here, and stay while this lives, whatever becomes of the images that need them.
pub struct KeptLayers {
    /// The layers, in the order in which they were asked for.
    pub layers: Vec<Arc<LayerRecord>>,
    _lease: Lease,
}

impl std::fmt::Debug for KeptLayers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeptLayers").field(&self.layers).finish()
    }
}

impl Images {
    /// Begins a layer with an empty directory.
    ///
    /// # Errors
    /// Where the directory can't be made.
    pub fn begin_layer(&self) -> Result<NewLayer> {
        Ok(NewLayer { images: self.clone(), stage: Stage::new(&self.0)?, says_root: false, content: Content::Whole })
    }

    /// Begins a layer that is to be like a former one in most of its files, and takes those from there. `None` where that is not here,
    /// or nobody wrote down what it was filled with, as it is small.
    ///
    /// Whoever has [filled](NewLayer::fill) it asks whether it [fits](Filling::fits): else it is to be made as any other.
    ///
    /// # Errors
    /// Where the directory can't be made.
    pub fn begin_layer_like(&self, former: &Digest) -> Result<Option<NewLayer>> {
        let kept = self.0.lease();
        let Some(record) = kept.pin_if(former, |state| state.layers.get(former).map(Arc::clone)) else {
            return Ok(None);
        };
        // What lies upon another was filled in no more than what differs.
        let dir = record.under.as_ref().map_or(&record.dir, |under| &under.dir).clone();
        let Some(former) = Former::read(&self.0.layer_dir(&dir)) else { return Ok(None) };
        let content = Content::Upon(Box::new(Upon { former, dir, _kept: kept }));
        Ok(Some(NewLayer { images: self.clone(), stage: Stage::new(&self.0)?, says_root: false, content }))
    }

    /// Begins a layer with what a container changed. The caller sees to it that the container does not run; it has changed
    /// nothing afterwards.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`], and where the directory can't be moved.
    pub fn take_changes(&self, container: &str) -> Result<NewLayer> {
        let rootfs = self.rootfs(container)?;
        let says_root = rootfs.changes_root_to_plain().map_err(|e| Error::io("reading a root directory", e))?;
        let upper = rootfs.upper;
        let stage = Stage::new(&self.0)?;
        let take = || {
            let look = RootLook::of(&upper)?;
            fs::rename(&upper, stage.fs_path())?;
            fs::DirBuilder::new().mode(0o700).create(&upper)?;
            look.give(&upper)
        };
        take().map_err(|e| Error::io(format!("taking {}", upper.display()), e))?;
        Ok(NewLayer { images: self.clone(), stage, says_root, content: Content::Whole })
    }
}

impl NewLayer {
    fn limits(&self) -> &UnpackLimits {
        &self.images.0.limits
    }

    /// The directory that it lies upon.
    fn under(&self) -> Option<PathBuf> {
        match &self.content {
            Content::Upon(upon) => Some(self.images.0.layer_dir(&upon.dir).join("fs")),
            Content::Whole | Content::Filled(_) => None,
        }
    }

    /// The directory to fill.
    pub fn directory(&self) -> PathBuf {
        self.stage.fs_path()
    }

    /// Takes out what was made to mount something on, at `path` and above it up to `first`, the first that was not below. Where
    /// something is in it, it stays.
    ///
    /// # Errors
    /// Where it can't be removed.
    pub fn remove_mount_point(&self, path: &Path, first: &Path) -> Result<()> {
        let root = pack::open(&self.directory())?;
        let mut at = path;
        while at.starts_with(first) {
            let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Ok(()) };
            match remove_empty(root.as_fd(), parent, name) {
                Ok(()) => at = parent,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => return Ok(()),
                Err(other) => return Err(Error::io(format!("removing {}", at.display()), other)),
            }
        }
        Ok(())
    }

    /// Makes the layer visible, durably; `None` where nothing is in it. Sockets, which no archive can hold, are taken out.
    ///
    /// # Errors
    /// Where something in it can't be read, or is called as a layer's deletions are; [`Error::NoSpace`].
    pub async fn finish(self, times: Option<Times>) -> Result<Option<KeptLayers>> {
        let images = self.images.clone();
        images.blocking(move |inner| self.finish_here(inner, times)).await
    }

    fn finish_here(mut self, inner: &Arc<Inner>, times: Option<Times>) -> Result<Option<KeptLayers>> {
        let directory = self.stage.fs_path();
        let mut unpacked = settle(&directory, self.says_root, times)?;
        if unpacked.entries == 0 && !matches!(self.content, Content::Upon(_)) {
            return Ok(None);
        }
        if let Content::Upon(upon) = &self.content {
            self.stage.under = Some(Under { dir: upon.dir.clone(), own: unpacked.file_bytes });
            unpacked.file_bytes = upon.former.bytes();
        }
        let hash = || match &self.content {
            Content::Whole | Content::Filled(_) => {
                filled::hashed(pack::packed(pack::open(&directory)?, self.says_root)?)
            }
            Content::Upon(upon) => {
                let hasher = upon.hashed(&directory, &inner.layer_dir(&upon.dir), unpacked.says_top)?;
                Ok((hasher, Vec::new()))
            }
        };
        let (hasher, marks) = if unpacked.file_bytes >= LONG { inner.syncer.beside(hash)? } else { hash()? };
        let (tar_size, diff_id) = (hasher.size(), hasher.finish());
        if let Content::Filled(filled) = self.content {
            filled.write(&self.stage.path(), marks)?;
        }
        let passed = Passed { blob: None, compression: Compression::None, tar_size, diff_id, unpacked };
        let lease = inner.lease();
        let layer = self.stage.commit(passed, None, &lease)?;
        Ok(Some(KeptLayers { layers: vec![layer], _lease: lease }))
    }
}

impl Upon {
    /// The hash of the archive of a directory that lies upon it.
    fn hashed(&self, directory: &Path, under: &Path, says_root: bool) -> Result<Hasher> {
        let (mut hasher, from) = self.former.hashed();
        let roots = vec![pack::open(directory)?, pack::open(&under.join("fs"))?];
        let mut archive = stacked(roots, says_root, from.map(<[u8]>::to_vec))?;
        while let Some(bytes) = archive.next()? {
            hasher.update(&bytes);
        }
        Ok(hasher)
    }
}

/// Sets the times of what was changed, takes out what is no part of a layer, and counts the rest.
fn settle(directory: &Path, says_root: bool, times: Option<Times>) -> Result<Unpacked> {
    let root = pack::open(directory)?;
    let own = rustix::fs::fstat(&root).map_err(|e| Error::io("reading a layer's directory", e))?;
    let says_top = says_root || RootLook::from(&own) != RootLook::PLAIN;
    let mut done = Unpacked { entries: u64::from(says_top), says_top, ..Unpacked::default() };
    walk(root, &mut |found| {
        if found.kind() == FileType::Socket {
            return take_out(found).map(|()| false).map_err(|errno| found.failed(errno));
        }
        done.entries += 1;
        if matches!(found.kind(), FileType::RegularFile | FileType::Symlink) {
            done.file_bytes += u64::try_from(found.stat.st_size).unwrap_or(0);
        }
        if let Some(times) = times.filter(|times| found.stat.st_mtime >= times.since) {
            let to = Timespec { tv_sec: times.becomes, tv_nsec: 0 };
            set_time(found.parent, found.name, to).map_err(|errno| found.failed(errno))?;
        }
        Ok(true)
    })?;
    Ok(done)
}

/// Removes something, and leaves its directory's time as it was.
fn take_out(found: &Found<'_>) -> Result<(), Errno> {
    let before = rustix::fs::fstat(found.parent)?;
    rustix::fs::unlinkat(found.parent, found.name, AtFlags::empty())?;
    let nanoseconds = before.st_mtime_nsec.try_into().unwrap_or(0);
    let time = Timespec { tv_sec: before.st_mtime, tv_nsec: nanoseconds };
    rustix::fs::futimens(found.parent, &only_changed(time))
}

/// Removes an empty directory or an empty file.
fn remove_empty(root: BorrowedFd<'_>, parent: &Path, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let parent = tree::open(root, parent.as_os_str().as_bytes(), flags)?;
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let flags = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => AtFlags::REMOVEDIR,
        FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
        _ => return Err(Errno::NOTEMPTY),
    };
    rustix::fs::unlinkat(&parent, name, flags)
}

fn set_time(parent: BorrowedFd<'_>, name: &[u8], time: Timespec) -> Result<(), Errno> {
    rustix::fs::utimensat(parent, name, &only_changed(time), AtFlags::SYMLINK_NOFOLLOW)
}

/// The time of the last change, and that of the last access as it is.
fn only_changed(time: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time }
}

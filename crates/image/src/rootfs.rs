//! Root file systems of containers: an overlay of a directory of their own over shared layers.

mod diff;
mod mount;

pub(crate) use diff::is_opaque;
pub use diff::{Change, ChangeKind};
pub use mount::MountedRootfs;

use crate::images::Inner;
use crate::record::{self, ROOTFS, RootfsRecord};
use crate::tree::walk::walk;
use crate::{Error, ImageId, Images, Result, skeleton};
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mount options that an overlay over these layers needs: every directory and file in the upper directory is whole by
/// itself, whatever the kernel's defaults are, so that it can be read without being mounted.
pub const OVERLAY_OPTIONS: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];

/// What to mount, to see a container's root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// The directory that names in `lower` are relative to: a mount made there has room for all of them in one page.
    pub layers_dir: PathBuf,
    /// The layers, top first, as overlayfs' `lowerdir` has them. One at least.
    pub lower: Vec<String>,
    /// The container's own changes.
    pub upper: PathBuf,
    /// Overlayfs' work directory.
    pub work: PathBuf,
}

/// Bytes of a container's root file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootfsSize {
    /// In files that the container made or changed.
    pub own: u64,
    /// In those and in its image's.
    pub total: u64,
}

impl Images {
    /// Makes a root file system for a container, of an image or of nothing. Its layers stay until it is removed.
    ///
    /// # Errors
    /// [`Error::RootfsExists`], [`Error::NoSuchImage`], [`Error::Invalid`] for an id that cannot name a directory.
    pub async fn create_rootfs(&self, container: &str, image: Option<&ImageId>) -> Result<Rootfs> {
        let (container, image) = (container.to_owned(), image.copied());
        self.blocking(move |inner| create(inner, &container, image)).await
    }

    /// A container's root file system.
    pub fn rootfs(&self, container: &str) -> Result<Rootfs> {
        let state = self.0.state.lock();
        let record = state.rootfs.get(container).ok_or_else(|| Error::NoSuchRootfs(container.into()))?;
        describe(&self.0, &state, container, record)
    }

    /// The image that a container's root file system was made of.
    pub fn rootfs_image(&self, container: &str) -> Result<Option<ImageId>> {
        let state = self.0.state.lock();
        state.rootfs.get(container).map(|record| record.image).ok_or_else(|| Error::NoSuchRootfs(container.into()))
    }

    /// All containers that have a root file system, in order: for those who look for what nobody owns any more.
    pub fn rootfs_owners(&self) -> Vec<String> {
        let mut owners: Vec<String> = self.0.state.lock().rootfs.keys().cloned().collect();
        owners.sort_unstable();
        owners
    }

    /// Removes a container's root file system: gone when this returns, off the disk a while later. What is not there
    /// is removed already.
    pub async fn remove_rootfs(&self, container: &str) -> Result<()> {
        let container = container.to_owned();
        self.blocking(move |inner| {
            if !inner.state.lock().rootfs.contains_key(&container) {
                return Ok(());
            }
            inner.store.txn().delete(format!("{ROOTFS}{container}")).commit()?;
            inner.reaper.discard(&directory(inner, &container))?;
            inner.state.lock().rootfs.remove(&container);
            Ok(())
        })
        .await
    }

    /// What a container's root file system takes. Walks over what the container changed.
    pub async fn rootfs_size(&self, container: &str) -> Result<RootfsSize> {
        let upper = self.rootfs(container)?.upper;
        let below = {
            let state = self.0.state.lock();
            let record = state.rootfs.get(container).ok_or_else(|| Error::NoSuchRootfs(container.into()))?;
            state.layers_of(&record.layers)?.iter().map(|layer| layer.size).sum::<u64>()
        };
        let own = self.blocking(move |_| file_bytes(&upper)).await?;
        Ok(RootfsSize { own, total: own + below })
    }

    /// What a container changed, in the order of paths: what `docker diff` shows.
    pub async fn diff(&self, container: &str) -> Result<Vec<Change>> {
        let rootfs = self.rootfs(container)?;
        self.blocking(move |inner| diff::diff(&inner.root, &rootfs)).await
    }

    /// Mounts the root file system of a container that does not run, where nobody but the holder of the result sees it.
    pub async fn mount_rootfs(&self, container: &str) -> Result<MountedRootfs> {
        let rootfs = self.rootfs(container)?;
        self.blocking(move |inner| mount::writable(&inner.root, &rootfs)).await
    }
}

fn directory(inner: &Inner, container: &str) -> PathBuf {
    inner.root.join("rootfs").join(container)
}

/// Whether the id can be a directory's name and a part of a key, and nothing else.
fn check_id(container: &str) -> Result<()> {
    let fits = container.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !fits || container.is_empty() || container.len() > 128 || container.starts_with('.') {
        return Err(Error::Invalid(format!("{container:?} cannot be a container's id")));
    }
    Ok(())
}

fn create(inner: &Arc<Inner>, container: &str, image: Option<ImageId>) -> Result<Rootfs> {
    check_id(container)?;
    let (record, rootfs) = {
        // In one step: once it is in the state, its layers are in use.
        let mut state = inner.state.lock();
        if state.rootfs.contains_key(container) {
            return Err(Error::RootfsExists(container.into()));
        }
        let layers =
            image.map(|id| state.image(&id)).transpose()?.map_or_else(Vec::new, |image| image.diff_ids.clone());
        let record = Arc::new(RootfsRecord { image, layers });
        let rootfs = describe(inner, &state, container, &record)?;
        state.rootfs.insert(container.into(), Arc::clone(&record));
        (record, rootfs)
    };
    let made = make_directories(inner, container, &rootfs).and_then(|()| put(inner, container, &record));
    if let Err(error) = made {
        inner.state.lock().rootfs.remove(container);
        inner.reaper.discard(&directory(inner, container))?;
        return Err(error);
    }
    Ok(rootfs)
}

fn make_directories(inner: &Inner, container: &str, rootfs: &Rootfs) -> Result<()> {
    let directory = directory(inner, container);
    let make = || {
        fs::create_dir(&directory)?;
        fs::create_dir(&rootfs.upper)?;
        fs::create_dir(&rootfs.work)?;
        // The upper directory is the root that the container sees: it looks as the image's does.
        let top = rootfs.lower.first().map_or(skeleton::DIR, String::as_str);
        let like = fs::metadata(rootfs.layers_dir.join(top))?;
        if (like.uid(), like.gid()) != (0, 0) {
            std::os::unix::fs::chown(&rootfs.upper, Some(like.uid()), Some(like.gid()))?;
        }
        fs::set_permissions(&rootfs.upper, fs::Permissions::from_mode(like.mode() & 0o7777))
    };
    make().map_err(|e| Error::io(format!("making {}", directory.display()), e))
}

fn put(inner: &Inner, container: &str, rootfs: &RootfsRecord) -> Result<()> {
    let key = format!("{ROOTFS}{container}");
    let value = record::encode(&key, rootfs)?;
    match inner.store.txn().expect(&key, store::Expect::Absent).put(&key, value).commit() {
        Err(store::CommitError::Conflict(_)) => Err(Error::RootfsExists(container.into())),
        other => other.map(drop).map_err(Error::from),
    }
}

fn describe(inner: &Inner, state: &crate::state::State, container: &str, record: &RootfsRecord) -> Result<Rootfs> {
    let layers = state.layers_of(&record.layers)?;
    let mut lower: Vec<String> = layers.iter().rev().map(|layer| format!("{}/fs", layer.dir)).collect();
    // An image may have the same layer twice, overlayfs may not: only the upper one shows.
    let mut seen = HashSet::new();
    lower.retain(|dir| seen.insert(dir.clone()));
    lower.push(format!("{}/fs", skeleton::DIR));
    let directory = directory(inner, container);
    Ok(Rootfs {
        layers_dir: inner.root.join("layers"),
        lower,
        upper: directory.join("upper"),
        work: directory.join("work"),
    })
}

/// Bytes in the regular files below a directory, those with several names once.
fn file_bytes(path: &Path) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty());
    let root = root.map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    let (mut sum, mut seen) = (0, HashSet::new());
    walk(root, &mut |found| {
        if found.kind() == FileType::RegularFile && (found.stat.st_nlink == 1 || seen.insert(found.stat.st_ino)) {
            sum += u64::try_from(found.stat.st_size).unwrap_or(0);
        }
        Ok(true)
    })?;
    Ok(sum)
}

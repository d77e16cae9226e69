//! How root file systems come and go: their directories, and the records that say that they are there.

use super::{Rootfs, UPPER, WORK, describe, directory};
use crate::content::list;
use crate::images::Inner;
use crate::reaper::Reaper;
use crate::record::{self, MountedImage, ROOTFS, RootfsRecord};
use crate::state::State;
use crate::{Digest, Error, ImageId, Images, Result};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use store::{Expect, Txn};

/// A root file system whose directories are there, and its record is not yet. Its layers stay meanwhile. It goes again
/// with this, unless it is [kept](Self::keep).
pub struct NewRootfs {
    inner: Arc<Inner>,
    container: String,
    record: Arc<RootfsRecord>,
    rootfs: Rootfs,
    kept: bool,
}

/// What a root file system is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing but what every container has.
    Nothing,
    /// An image that is here.
    Image(ImageId),
    /// Layers that are here, bottom first, of an image that is being built and is called so.
    Layers {
        /// What the image would be called if it ended with these.
        image: ImageId,
        /// Its layers.
        diff_ids: Vec<Digest>,
    },
}

impl Base {
    /// The image that it is called for.
    pub fn image(&self) -> Option<&ImageId> {
        match self {
            Base::Nothing => None,
            Base::Image(id) | Base::Layers { image: id, .. } => Some(id),
        }
    }
}

impl Images {
    /// Begins to make a root file system for a container: what it belongs to is recorded in
    /// the same transaction. `mounted` are what the container has [mounted](Images::mounted_image) besides.
    /// Blocks for as long as it takes to make three directories.
    ///
    /// # Errors
    /// [`Error::RootfsExists`], [`Error::NoSuchImage`], [`Error::LayerMissing`], [`Error::Invalid`] for an id that cannot name a
    /// directory.
    pub fn begin_rootfs(&self, container: &str, base: &Base, mounted: &[Base]) -> Result<NewRootfs> {
        check_id(container)?;
        let inner = Arc::clone(&self.0);
        let new = {
            // In one step: once it is in the state, its layers are in use.
            let mut state = inner.state.lock();
            if state.rootfs.contains_key(container) {
                return Err(Error::RootfsExists(container.into()));
            }
            let layers_of = |id: &ImageId| state.image(id).map(|image| image.diff_ids.clone());
            let stack = |base: &Base| match base {
                Base::Nothing => Ok((None, Vec::new())),
                Base::Image(id) => Ok((Some(*id), layers_of(id)?)),
                Base::Layers { image, diff_ids } => Ok((Some(*image), diff_ids.clone())),
            };
            let mounted = mounted.iter().map(stack).filter_map(|mounted| match mounted {
                Ok((image, layers)) => image.map(|image| Ok(MountedImage { image, layers })),
                Err(error) => Some(Err(error)),
            });
            let (image, layers) = stack(base)?;
            let record = Arc::new(RootfsRecord { image, layers, raised: 0, mounted: mounted.collect::<Result<_>>()? });
            let rootfs = describe(&inner, &state, container, &record)?;
            state.rootfs.insert(container.into(), Arc::clone(&record));
            drop(state);
            NewRootfs { inner, container: container.into(), record, rootfs, kept: false }
        };
        make_directories(&new.inner, container, &new.rootfs)?;
        Ok(new)
    }

    /// Makes a root file system for a container. Its layers stay until it is removed.
    ///
    /// # Errors
    /// As [`begin_rootfs`](Self::begin_rootfs).
    pub async fn create_rootfs(&self, container: &str, image: Option<&ImageId>) -> Result<Rootfs> {
        let (images, container, image) = (self.clone(), container.to_owned(), image.copied());
        self.blocking(move |inner| {
            let new = images.begin_rootfs(&container, &image.map_or(Base::Nothing, Base::Image), &[])?;
            match new.record_in(inner.store.txn())?.commit() {
                Ok(_) => Ok(new.keep()),
                Err(store::CommitError::Conflict(_)) => Err(Error::RootfsExists(container)),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Has a root file system lie upon further layers, which are above its own, and forgets what was mounted beside it: a step of a build that
    /// stays to be looked at has the files that it made, though they are a layer by now. `layers` are kept by the caller, bottom first.
    /// The container must not run. Blocks.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`], [`Error::LayerMissing`], and where it can't be written.
    pub fn raise_rootfs(&self, container: &str, layers: &[Digest]) -> Result<()> {
        let inner = &self.0;
        let (former, raised) = {
            // In one step: once it is in the state, its layers are in use.
            let mut state = inner.state.lock();
            let former = state.rootfs.get(container).map(Arc::clone);
            let former = former.ok_or_else(|| Error::NoSuchRootfs(container.into()))?;
            let raised = former.raised + layers.len();
            let layers = former.layers.iter().chain(layers).copied().collect();
            let raised = Arc::new(RootfsRecord { image: former.image, layers, raised, mounted: Vec::new() });
            describe(inner, &state, container, &raised)?;
            state.rootfs.insert(container.into(), Arc::clone(&raised));
            (former, raised)
        };
        let key = key(container);
        let written = record::encode(&key, &*raised)
            .and_then(|value| Ok(inner.store.txn().expect(&key, Expect::Present).put(&key, value).commit()?));
        written.map(drop).inspect_err(|_| {
            inner.state.lock().rootfs.insert(container.into(), former);
        })
    }

    /// Adds to a transaction that a container's root file system is no more. Once it is committed,
    /// [`discard_rootfs`](Self::discard_rootfs) takes its files.
    pub fn forget_rootfs<'s>(&self, container: &str, txn: Txn<'s>) -> Txn<'s> {
        txn.delete(key(container))
    }

    /// Takes a root file system away that has no record any more: gone when this returns, off the disk a while later.
    /// What is not there is gone already.
    pub async fn discard_rootfs(&self, container: &str) -> Result<()> {
        let container = container.to_owned();
        self.blocking(move |inner| discard(inner, &container)).await
    }

    /// Removes a container's root file system, and its record.
    pub async fn remove_rootfs(&self, container: &str) -> Result<()> {
        let container = container.to_owned();
        self.blocking(move |inner| {
            if !inner.state.lock().rootfs.contains_key(&container) {
                return Ok(());
            }
            inner.store.txn().delete(key(&container)).commit()?;
            discard(inner, &container)
        })
        .await
    }
}

impl NewRootfs {
    /// What to mount.
    pub fn rootfs(&self) -> &Rootfs {
        &self.rootfs
    }

    /// Adds its record to a transaction, which conflicts where the container has one already.
    pub fn record_in<'s>(&self, txn: Txn<'s>) -> Result<Txn<'s>> {
        let key = key(&self.container);
        let value = record::encode(&key, &*self.record)?;
        Ok(txn.expect(&key, Expect::Absent).put(&key, value))
    }

    /// Its record is committed: it stays until it is removed.
    pub fn keep(mut self) -> Rootfs {
        self.kept = true;
        self.rootfs.clone()
    }
}

impl Drop for NewRootfs {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = discard(&self.inner, &self.container)
        {
            tracing::warn!(container = self.container, %error, "could not take back a root file system");
        }
    }
}

fn key(container: &str) -> String {
    format!("{ROOTFS}{container}")
}

fn discard(inner: &Inner, container: &str) -> Result<()> {
    inner.reaper.discard(&directory(inner, container))?;
    inner.state.lock().rootfs.remove(container);
    Ok(())
}

/// Whether the id can be a directory's name and a part of a key, and nothing else.
fn check_id(container: &str) -> Result<()> {
    let fits = container.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !fits || container.is_empty() || container.len() > 128 || container.starts_with('.') {
        return Err(Error::Invalid(format!("{container:?} cannot be a container's id")));
    }
    Ok(())
}

fn make_directories(inner: &Inner, container: &str, rootfs: &Rootfs) -> Result<()> {
    let to = directory(inner, container);
    let made = inner.births.make(&to, |directory| {
        let upper = directory.join(UPPER);
        fs::create_dir(&upper)?;
        fs::create_dir(directory.join(WORK))?;
        // The upper directory is the root that the container sees: it looks as the image's does.
        rootfs.root_below()?.give(&upper)
    });
    made.map_err(|e| Error::io(format!("making {}", to.display()), e))
}

/// Makes the directory of all root file systems ready, and removes what is in it of containers that have no record:
/// they were being made or removed.
pub(crate) fn open_directory(path: &Path, reaper: &Reaper, state: &State) -> Result<()> {
    let make = || {
        fs::create_dir_all(path)?;
        // Containers hold set-uid programs of all ages: nobody but root has business there.
        fs::set_permissions(path, Permissions::from_mode(0o700))
    };
    make().map_err(|e| Error::io(format!("making {}", path.display()), e))?;
    for entry in list(path)? {
        let known = entry.file_name().to_str().is_some_and(|name| state.rootfs.contains_key(name));
        if !known {
            reaper.discard(&entry.path())?;
        }
    }
    Ok(())
}

//! Root file systems of containers: an overlay of a directory of their own over shared layers.

mod birth;
mod composed;
mod diff;
mod life;
mod mount;
mod own;
mod shared;

pub(crate) use birth::Birthplaces;
pub use composed::Over;
pub(crate) use diff::is_opaque;
pub use diff::{Change, ChangeKind};
pub(crate) use life::open_directory;
pub use life::{Base, NewRootfs};
pub use mount::MountedRootfs;
pub(crate) use mount::in_own_namespace;
pub use own::copy_changes;
pub use shared::LayerDirs;

use composed::Writes;
use mount::{Own, Stack};

use crate::images::Inner;
use crate::record::RootfsRecord;
use crate::root::RootLook;
use crate::tree::TreeSize;
use crate::{Error, ImageId, Images, Result, root, skeleton};
use rustix::fs::{Mode, OFlags};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Mount options that an overlay over these layers needs: every directory and file in the upper directory is whole by
/// itself, whatever the kernel's defaults are, so that it can be read without being mounted.
pub const OVERLAY_OPTIONS: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];

/// The container's own changes, in the directory of a root file system.
const UPPER: &str = "upper";
/// Overlayfs' work directory, beside it.
const WORK: &str = "work";

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

/// What to stack, to see an image's files without a container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTree {
    /// The directory that names in `lower` are relative to.
    pub layers_dir: PathBuf,
    /// The layers, top first; two at least, as an overlay of one alone does not exist.
    pub lower: Vec<String>,
}

/// Bytes of a container's root file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootfsSize {
    /// In files that the container made or changed.
    pub own: u64,
    /// In those and in its image's.
    pub total: u64,
}

impl Rootfs {
    /// What the root directory looks like without what the container changed.
    pub(crate) fn root_below(&self) -> std::io::Result<RootLook> {
        let top = self.lower.first().map_or(skeleton::DIR, String::as_str);
        RootLook::of(&self.layers_dir.join(top))
    }

    /// Whether the container made its root directory plain, which it was not below: its changes have to say so.
    pub(crate) fn changes_root_to_plain(&self) -> std::io::Result<bool> {
        Ok(RootLook::of(&self.upper)? == RootLook::PLAIN && self.root_below()? != RootLook::PLAIN)
    }
}

impl Images {
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

    /// The files of an image that is mounted in a container. They stay, whatever becomes of the image.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`]; [`Error::NoSuchImage`] where the container's root file system was begun without it.
    pub fn mounted_image(&self, container: &str, image: &ImageId) -> Result<ImageTree> {
        let state = self.0.state.lock();
        let record = state.rootfs.get(container).ok_or_else(|| Error::NoSuchRootfs(container.into()))?;
        let mounted = record.mounted.iter().find(|mounted| mounted.image == *image);
        let mounted = mounted.ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
        Ok(ImageTree { layers_dir: self.0.root.join("layers"), lower: alone(&self.0, &state, &mounted.layers)? })
    }

    /// Mounts layers, bottom first, where nobody but the holder of the result sees them, to be read. The caller keeps them.
    ///
    /// # Errors
    /// [`Error::LayerMissing`].
    pub async fn view_layers(&self, diff_ids: Vec<crate::Digest>) -> Result<MountedRootfs> {
        self.blocking(move |inner| {
            let lower = alone(inner, &inner.state.lock(), &diff_ids)?;
            mount::layers(&inner.root, &lower)
        })
        .await
    }

    /// Mounts the files of an image that is [mounted](Self::mounted_image) in a container, where nobody but the holder
    /// of the result sees them.
    pub async fn mount_image(&self, container: &str, image: &ImageId) -> Result<MountedRootfs> {
        let tree = self.mounted_image(container, image)?;
        self.blocking(move |inner| mount::layers(&inner.root, &tree.lower)).await
    }

    /// All containers that have a root file system, in order: for those who look for what nobody owns any more.
    pub fn rootfs_owners(&self) -> Vec<String> {
        let mut owners: Vec<String> = self.0.state.lock().rootfs.keys().cloned().collect();
        owners.sort_unstable();
        owners
    }

    /// What a container's root file system takes. Walks over what the container changed.
    pub async fn rootfs_size(&self, container: &str) -> Result<RootfsSize> {
        let upper = self.rootfs(container)?.upper;
        let below = {
            let state = self.0.state.lock();
            let record = state.rootfs.get(container).ok_or_else(|| Error::NoSuchRootfs(container.into()))?;
            state.layers_of(&record.layers)?.iter().map(|layer| layer.size).sum::<u64>()
        };
        let own = self.blocking(move |_| tree_bytes(&upper)).await?;
        Ok(RootfsSize { own, total: own + below })
    }

    /// What a container changed, in the order of paths: what `docker diff` shows. `upper` has what is not a layer of it yet, in overlayfs'
    /// form; `None`: its own directory does.
    pub async fn diff(&self, container: &str, upper: Option<PathBuf>) -> Result<Vec<Change>> {
        let (rootfs, below) = {
            let state = self.0.state.lock();
            let record = state.rootfs.get(container).ok_or_else(|| Error::NoSuchRootfs(container.into()))?;
            let below = with_skeleton(lower(&self.0, &state, record.below())?);
            (describe(&self.0, &state, container, record)?, below)
        };
        self.blocking(move |inner| {
            let raised = rootfs.lower.iter().rev().filter(|dir| !below.contains(dir));
            let mut own: Vec<PathBuf> = raised.map(|dir| rootfs.layers_dir.join(dir)).collect();
            own.push(upper.unwrap_or_else(|| rootfs.upper.clone()));
            diff::diff(&inner.root, &below, &own)
        })
        .await
    }

    /// Mounts the root file system of a container that does not run, where nobody but the holder of the result sees it, to
    /// be written to: nobody else may have it mounted so meanwhile. What is `over` it is written to as well; with `only_over`
    /// nothing else is.
    pub async fn mount_rootfs(&self, container: &str, over: Vec<Over>, only_over: bool) -> Result<MountedRootfs> {
        let rootfs = self.rootfs(container)?;
        self.blocking(move |inner| {
            if over.is_empty() && !only_over {
                return mount::writable(&inner.root, &rootfs);
            }
            let stack = Stack { lower: &rootfs.lower, own: Own::Above([&rootfs.upper, &rootfs.work]) };
            let writes = if only_over { Writes::Refused } else { Writes::Kept };
            composed::compose(&inner.root, &stack, over, writes)
        })
        .await
    }

    /// Mounts the root file system of a container, where nobody but the holder of the result sees it, to be read: whatever
    /// else is done with it meanwhile.
    pub async fn view_rootfs(&self, container: &str, over: Vec<Over>) -> Result<MountedRootfs> {
        let rootfs = self.rootfs(container)?;
        self.blocking(move |inner| {
            if over.is_empty() {
                return mount::readable(&inner.root, &rootfs);
            }
            let stack = Stack { lower: &rootfs.lower, own: Own::Below(&rootfs.upper) };
            composed::compose(&inner.root, &stack, over, Writes::Dropped)
        })
        .await
    }
}

fn directory(inner: &Inner, container: &str) -> PathBuf {
    inner.rootfs.join(container)
}

fn describe(inner: &Inner, state: &crate::state::State, container: &str, record: &RootfsRecord) -> Result<Rootfs> {
    let lower = with_skeleton(lower(inner, state, &record.layers)?);
    let directory = directory(inner, container);
    Ok(Rootfs {
        layers_dir: inner.root.join("layers"),
        lower,
        upper: directory.join(UPPER),
        work: directory.join(WORK),
    })
}

/// What every container has below its image.
fn with_skeleton(mut lower: Vec<String>) -> Vec<String> {
    lower.push(format!("{}/fs", skeleton::DIR));
    lower
}

/// The directories of layers, top first.
fn lower(inner: &Inner, state: &crate::state::State, layers: &[crate::Digest]) -> Result<Vec<String>> {
    let layers = state.layers_of(layers)?;
    let layers_dir = inner.root.join("layers");
    let above = root::above(&layers_dir, &layers);
    let above = above.map_err(|e| Error::io(format!("looking at root directories in {}", layers_dir.display()), e))?;
    let all = layers.iter().rev().flat_map(|layer| layer.dirs()).map(|dir| format!("{dir}/fs"));
    let mut lower: Vec<String> = above.into_iter().chain(all).collect();
    // An image may have the same layer twice, overlayfs may not: only the upper one shows.
    let mut seen = HashSet::new();
    lower.retain(|dir| seen.insert(dir.clone()));
    Ok(lower)
}

/// The directories of layers, top first, as an overlay of them alone takes them: two at least.
fn alone(inner: &Inner, state: &crate::state::State, layers: &[crate::Digest]) -> Result<Vec<String>> {
    let mut lower = lower(inner, state, layers)?;
    while lower.len() < 2 {
        lower.push(skeleton::EMPTY[lower.len()].to_owned());
    }
    Ok(lower)
}

/// Bytes in the regular files and symbolic links below a directory of any depth, those with several names once. Blocks.
///
/// # Errors
/// Where a directory can't be read.
pub fn tree_bytes(path: &Path) -> Result<u64> {
    tree_size(path, &TreeSize::ENDLESS).map(|size| size.bytes)
}

/// How much there is below a directory of any depth; files with several names are so many entries, and their bytes count once. Where it is
/// more than may be, that is not looked for how much. Blocks.
///
/// # Errors
/// Where a directory can't be read.
pub fn tree_size(path: &Path, most: &TreeSize) -> Result<TreeSize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty());
    let root = root.map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    crate::tree::size(root, most).map_err(|e| Error::io(format!("measuring {}", path.display()), e))
}

//! Directories of `RUN --mount=type=cache`: they outlive builds, and are in no image.

use crate::dockerfile::Sharing;
use crate::files::Files;
use crate::turns::Turns;
use crate::{Error, Result};
use image::Digest;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// All of them.
pub(crate) struct Caches {
    root: PathBuf,
    users: Users,
    /// Of those that let nobody else in.
    turns: Turns<String>,
    /// Of those that are being filled.
    filling: Turns<String>,
}

/// How many use a directory.
type Users = Arc<Mutex<HashMap<String, usize>>>;

/// What a directory is like when it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What is in a directory when it is made.
pub(crate) struct Filled {
    pub(crate) files: Arc<Files>,
    /// Which part of them.
    pub(crate) source: String,
    /// Where it is put together, on the same file system.
    pub(crate) scratch: tempfile::TempDir,
}

/// One that is in use while this lives.
pub(crate) struct InUse {
    path: PathBuf,
    name: String,
    users: Users,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl InUse {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut users = self.users.lock();
        if let Some(number) = users.get_mut(&self.name) {
            *number -= 1;
            if *number == 0 {
                users.remove(&self.name);
            }
        }
    }
}

impl Caches {
    pub(crate) fn new(root: PathBuf) -> Caches {
        Caches { root, users: Users::default(), turns: Turns::default(), filling: Turns::default() }
    }

    /// The directory of an id, made where it is missing; waits where it is another's alone.
    pub(crate) async fn take(&self, id: &str, sharing: Sharing, made: Made, filled: Option<Filled>) -> Result<InUse> {
        // An id is what people write: no name of a file.
        let name = Digest::of(id.as_bytes()).hex();
        let turn = match sharing {
            Sharing::Locked => Some(self.turns.of(name.clone()).lock_owned().await),
            Sharing::Shared | Sharing::Private => None,
        };
        let name = {
            let mut users = self.users.lock();
            let free = |name: &String| !users.contains_key(name);
            let name = match sharing {
                Sharing::Private => {
                    let mut names = std::iter::once(name.clone()).chain((1..).map(|n: u32| format!("{name}-{n}")));
                    names.find(free).unwrap_or(name)
                }
                Sharing::Shared | Sharing::Locked => name,
            };
            *users.entry(name.clone()).or_default() += 1;
            name
        };
        let path = self.root.join(&name);
        let in_use = InUse { path, name, users: Arc::clone(&self.users), _turn: turn };
        let failed = |e: &dyn std::fmt::Display| Error::failed(format!("making the cache {id}"), e);
        if let Some(filled) = filled {
            // Of several that come to it at once, one fills it.
            let turn = self.filling.of(in_use.name.clone());
            let _mine = turn.lock().await;
            let path = in_use.path.clone();
            let filling = tokio::task::spawn_blocking(move || fill(&path, made, &filled)).await;
            filling.map_err(|e| failed(&e))?.map_err(Error::Invalid)?;
        }
        make(&in_use.path, made).map_err(|e| failed(&e))?;
        Ok(in_use)
    }

    /// Removes those that nobody uses. Blocks.
    pub(crate) fn prune(&self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("removing directories of caches", e);
        let listed = match fs::read_dir(&self.root) {
            Ok(listed) => listed,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(&e)),
        };
        for entry in listed {
            let entry = entry.map_err(|e| failed(&e))?;
            // Held, so that nobody takes it meanwhile.
            let users = self.users.lock();
            if entry.file_name().to_str().is_some_and(|name| !users.contains_key(name)) {
                image::remove_tree(&entry.path()).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }
}

/// Makes a directory with what is to be in it, unless it is there. It gets its name when it is whole. Blocks.
fn fill(path: &Path, made: Made, filled: &Filled) -> std::result::Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    let failed = |e: std::io::Error| format!("filling a cache: {e}");
    let Filled { files, source, scratch } = filled;
    let whole = files.copy_whole(source, scratch.path())?;
    if !whole.symlink_metadata().map_err(failed)?.is_dir() {
        return Err(format!("{source} is no directory that a cache could be filled from"));
    }
    let parent = path.parent().unwrap_or(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    dress(&whole, made).map_err(failed)?;
    fs::rename(&whole, path).map_err(failed)
}

fn dress(path: &Path, made: Made) -> std::io::Result<()> {
    std::os::unix::fs::chown(path, Some(made.uid), Some(made.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(made.mode))
}

fn make(path: &Path, made: Made) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => dress(path, made),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

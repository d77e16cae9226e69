//! Directories of `RUN --mount=type=cache`: they outlive builds, and are in no image.

use crate::dockerfile::Sharing;
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
        Caches { root, users: Users::default(), turns: Turns::default() }
    }

    /// The directory of an id, made where it is missing; waits where it is another's alone.
    pub(crate) async fn take(&self, id: &str, sharing: Sharing, made: Made) -> Result<InUse> {
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
        make(&in_use.path, made).map_err(|e| Error::failed(format!("making the cache {id}"), e))?;
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

fn make(path: &Path, made: Made) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            std::os::unix::fs::chown(path, Some(made.uid), Some(made.gid))?;
            fs::set_permissions(path, fs::Permissions::from_mode(made.mode))
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

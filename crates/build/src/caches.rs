//! Directories of `RUN --mount=type=cache`: they outlive builds, and are in no image.
//!
//! ```text
//! build/mount/<name>    whose a directory is, and when it was used
//! ```

use crate::cache::{Cached, CachedKind, Keeps};
use crate::dockerfile::Sharing;
use crate::files::Files;
use crate::scratch::{Directory, Scratch};
use crate::turns::Turns;
use crate::{Error, Result};
use image::Digest;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Collection;
use tokio::sync::OwnedMutexGuard;

/// All of them.
pub(crate) struct Caches {
    shared: Arc<Shared>,
    /// Of those that let nobody else in.
    turns: Turns<String>,
    /// Of those that are being filled.
    filling: Turns<String>,
}

/// What those that are in use need, too.
struct Shared {
    root: PathBuf,
    /// What is removed goes there first.
    scratch: Arc<Scratch>,
    records: Collection<Record>,
    /// How many use a directory.
    users: Mutex<HashMap<String, usize>>,
}

/// What is known of a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// What people call it.
    id: String,
    made: Timestamp,
    used: Timestamp,
    uses: u64,
    /// Bytes in its files, when it was last let go.
    size: u64,
}

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
    pub(crate) scratch: Directory,
}

/// One that is in use while this lives.
pub(crate) struct InUse {
    path: PathBuf,
    name: String,
    id: String,
    shared: Arc<Shared>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl InUse {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut users = self.shared.users.lock();
        let Some(number) = users.get_mut(&self.name) else { return };
        *number -= 1;
        if *number > 0 {
            return;
        }
        users.remove(&self.name);
        let (shared, name, id) = (Arc::clone(&self.shared), self.name.clone(), self.id.clone());
        let note = move || {
            if let Err(error) = shared.note(&name, &id) {
                tracing::warn!(%error, id, "could not write down that a cache was used");
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(note);
        }
    }
}

impl Shared {
    /// Writes down that a directory was used, and what it takes now.
    fn note(&self, name: &str, id: &str) -> Result<()> {
        let path = self.root.join(name);
        let size = image::tree_bytes(&path).map_err(|e| Error::failed(format!("measuring {}", path.display()), e))?;
        let failed = |e: &dyn std::fmt::Display| Error::failed(format!("writing what is known of the cache {id}"), e);
        let now = Timestamp::now();
        let known = self.records.get(name).map_err(|e| failed(&e))?.map(|item| item.value);
        let record = match known {
            Some(known) => Record { used: now, uses: known.uses + 1, size, ..known },
            None => Record { id: id.to_owned(), made: now, used: now, uses: 1, size },
        };
        // After a power cut it was used a moment earlier.
        self.records.put_relaxed(name, &record).map(drop).map_err(|e| failed(&e))
    }

    fn cached(&self, name: String, record: Option<Record>) -> Result<Cached> {
        let in_use = self.users.lock().contains_key(&name);
        let record = match record {
            Some(record) => record,
            // It was used for the first time when the daemon was killed.
            None => {
                let path = self.root.join(&name);
                let failed = |e: &dyn std::fmt::Display| Error::failed(format!("measuring {}", path.display()), e);
                let size = image::tree_bytes(&path).map_err(|e| failed(&e))?;
                let changed = fs::metadata(&path).and_then(|meta| meta.modified()).map_err(|e| failed(&e))?;
                let used = Timestamp::try_from(changed).map_err(|e| failed(&e))?;
                Record { id: name.clone(), made: used, used, uses: 1, size }
            }
        };
        Ok(Cached {
            id: name,
            kind: CachedKind::Mount,
            what: format!("mount of the cache {}", record.id),
            size: record.size,
            made: record.made,
            used: record.used,
            uses: record.uses,
            parents: Vec::new(),
            in_use,
            shared: false,
        })
    }
}

impl Caches {
    pub(crate) fn new(root: PathBuf, scratch: Arc<Scratch>, store: &store::Store) -> Caches {
        let records = Collection::new(store, "build/mount/");
        Caches {
            shared: Arc::new(Shared { root, scratch, records, users: Mutex::default() }),
            turns: Turns::default(),
            filling: Turns::default(),
        }
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
            let mut users = self.shared.users.lock();
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
        let (path, shared) = (self.shared.root.join(&name), Arc::clone(&self.shared));
        let in_use = InUse { path, name, id: id.to_owned(), shared, _turn: turn };
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
}

impl Keeps for Caches {
    fn list(&self) -> Result<Vec<Cached>> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("listing directories of caches", e);
        let listed = match fs::read_dir(&self.shared.root) {
            Ok(listed) => listed,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(&e)),
        };
        let records = self.shared.records.list().map_err(|e| failed(&e))?.items;
        let mut records: HashMap<String, Record> = records.into_iter().map(|item| (item.id, item.value)).collect();
        let mut all = Vec::new();
        for entry in listed {
            let Ok(name) = entry.map_err(|e| failed(&e))?.file_name().into_string() else { continue };
            let record = records.remove(&name);
            match self.shared.cached(name.clone(), record) {
                Ok(cached) => all.push(cached),
                // Somebody removed it meanwhile.
                Err(_) if !self.shared.root.join(&name).exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn remove(&self, id: &str) -> Result<bool> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("removing directories of caches", e);
        let aside = self.shared.scratch.directory().map_err(|e| failed(&e))?;
        {
            // Held, so that nobody takes it meanwhile.
            let users = self.shared.users.lock();
            if users.contains_key(id) || Path::new(id).file_name().is_none_or(|name| name != id) {
                return Ok(false);
            }
            match fs::rename(self.shared.root.join(id), aside.path().join(id)) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(failed(&e)),
            }
        }
        self.shared.records.delete(id).map_err(|e| failed(&e))?;
        image::remove_tree(&aside.path().join(id)).map_err(|e| failed(&e))?;
        Ok(true)
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
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

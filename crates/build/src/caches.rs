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
use tokio::sync::Notify;

/// All of them.
pub(crate) struct Caches {
    shared: Arc<Shared>,
    /// Of those who wait to have one alone.
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
    /// Who uses a directory.
    users: Mutex<HashMap<String, Users>>,
    /// How many wait for one to have it alone.
    awaited: Mutex<HashMap<String, usize>>,
    /// Some directory has no user any more.
    freed: Notify,
}

/// Somebody waits to have a directory alone, for as long as this lives.
struct Awaits<'s> {
    shared: &'s Shared,
    name: &'s str,
}

impl<'s> Awaits<'s> {
    fn new(shared: &'s Shared, name: &'s str) -> Awaits<'s> {
        *shared.awaited.lock().entry(name.to_owned()).or_default() += 1;
        Awaits { shared, name }
    }
}

impl Drop for Awaits<'_> {
    fn drop(&mut self) {
        let mut awaited = self.shared.awaited.lock();
        match awaited.get_mut(self.name) {
            Some(others @ 2..) => *others -= 1,
            _ => _ = awaited.remove(self.name),
        }
    }
}

/// Who uses a directory at present.
#[derive(Debug)]
enum Users {
    /// One that lets nobody else in.
    Alone,
    /// So many who share it.
    Sharing(usize),
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
}

impl InUse {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut users = self.shared.users.lock();
        if let Some(Users::Sharing(number @ 2..)) = users.get_mut(&self.name) {
            *number -= 1;
            return;
        }
        users.remove(&self.name);
        drop(users);
        self.shared.freed.notify_waiters();
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
    /// The name of the directory that one gets who comes now: `name`, or another where that is in use by somebody who can't be joined, or
    /// waited for by somebody who wants it alone: who would have to wait for ever if others joined those who have it.
    /// `None`: that is to be waited for.
    fn enter(&self, name: &str, sharing: Sharing) -> Option<String> {
        let mut users = self.users.lock();
        let joins = sharing == Sharing::Shared;
        let mut names = std::iter::once(name.to_owned()).chain((1..).map(|n: u32| format!("{name}-{n}")));
        let awaited = self.awaited.lock();
        let is_open = |name: &String| match users.get(name) {
            _ if sharing != Sharing::Locked && awaited.contains_key(name) => false,
            None => true,
            Some(Users::Sharing(_)) => joins,
            Some(Users::Alone) => false,
        };
        let name = match sharing {
            Sharing::Locked => names.next().filter(is_open)?,
            Sharing::Shared | Sharing::Private => names.find(is_open)?,
        };
        match users.entry(name.clone()).or_insert(if joins { Users::Sharing(0) } else { Users::Alone }) {
            Users::Sharing(number) => *number += 1,
            Users::Alone => {}
        }
        Some(name)
    }

    /// The same, once one gets it.
    async fn entered(&self, name: &str, sharing: Sharing) -> String {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on it misses none.
            freed.as_mut().enable();
            if let Some(name) = self.enter(name, sharing) {
                return name;
            }
            freed.await;
        }
    }

    /// Writes down whose a directory is that nothing is known of.
    fn begin(&self, name: &str, id: &str) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed(format!("writing what is known of the cache {id}"), e);
        if self.records.get(name).map_err(|e| failed(&e))?.is_some() {
            return Ok(());
        }
        let now = Timestamp::now();
        let record = Record { id: id.to_owned(), made: now, used: now, uses: 0, size: 0 };
        self.records.put_relaxed(name, &record).map(drop).map_err(|e| failed(&e))
    }

    /// Writes down that a directory was used, and what it takes now.
    fn note(&self, name: &str, id: &str) -> Result<()> {
        let path = self.root.join(name);
        let size = measured(&path);
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
            Some(record) if record.uses > 0 => record,
            // It is used for the first time, or was when the daemon was killed.
            begun => {
                let path = self.root.join(&name);
                let failed = |e: &dyn std::fmt::Display| Error::failed(format!("measuring {}", path.display()), e);
                let changed = fs::metadata(&path).and_then(|meta| meta.modified()).map_err(|e| failed(&e))?;
                let used = Timestamp::try_from(changed).map_err(|e| failed(&e))?;
                let id = begun.map_or_else(|| name.clone(), |begun| begun.id);
                Record { id, made: used, used, uses: 1, size: measured(&path) }
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
            parts: Vec::new(),
        })
    }
}

impl Caches {
    pub(crate) fn new(root: PathBuf, scratch: Arc<Scratch>, store: &store::Store) -> Caches {
        let records = Collection::new(store, "build/mount/");
        Caches {
            shared: Arc::new(Shared {
                root,
                scratch,
                records,
                users: Mutex::default(),
                awaited: Mutex::default(),
                freed: Notify::new(),
            }),
            turns: Turns::default(),
            filling: Turns::default(),
        }
    }

    /// The directory of an id, made where it is missing. Who locks it waits for all others to be done; who shares it with others, or wants a
    /// private one, gets another directory of the id where this is not to be had.
    pub(crate) async fn take(&self, id: &str, sharing: Sharing, made: Made, filled: Option<Filled>) -> Result<InUse> {
        // An id is what people write: no name of a file.
        let name = Digest::of(id.as_bytes()).hex();
        let name = match sharing {
            Sharing::Locked => {
                // It waits before it has its turn, too: nobody gets in between two who wait.
                let _awaits = Awaits::new(&self.shared, &name);
                // Those who wait get it in the order in which they came.
                let _turn = self.turns.of(name.clone()).lock_owned().await;
                self.shared.entered(&name, sharing).await
            }
            Sharing::Shared | Sharing::Private => self.shared.entered(&name, sharing).await,
        };
        let (path, shared) = (self.shared.root.join(&name), Arc::clone(&self.shared));
        let in_use = InUse { path, name, id: id.to_owned(), shared };
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
        in_use.shared.begin(&in_use.name, id)?;
        Ok(in_use)
    }
}

impl Keeps for Caches {
    fn kind(&self) -> CachedKind {
        CachedKind::Mount
    }

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

/// Bytes in a directory's files. One that can't be measured is shown all the same, and can be removed. Blocks.
fn measured(path: &Path) -> u64 {
    image::tree_bytes(path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the directory of a cache mount can't be measured");
        0
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Where one gets in who does not have to wait.
    async fn now(caches: &Caches, sharing: Sharing) -> Option<InUse> {
        let made = Made { mode: 0o755, uid: 0, gid: 0 };
        // It is polled once.
        tokio::time::timeout(Duration::ZERO, caches.take("id", sharing, made, None)).await.ok().map(Result::unwrap)
    }

    fn caches(directory: &Path) -> Caches {
        let store = store::Store::open(directory.join("store")).unwrap();
        Caches::new(directory.join("caches"), Arc::new(Scratch::open(&directory.join("build")).unwrap()), &store)
    }

    #[tokio::test]
    async fn who_has_one_alone_has_it_alone() {
        let temp = tempfile::tempdir().unwrap();
        let caches = caches(temp.path());
        let shared = now(&caches, Sharing::Shared).await.unwrap();
        let too = now(&caches, Sharing::Shared).await.unwrap();
        assert_eq!(shared.path(), too.path());
        assert!(now(&caches, Sharing::Locked).await.is_none());
        let private = now(&caches, Sharing::Private).await.unwrap();
        assert_ne!(private.path(), shared.path());
        let other = now(&caches, Sharing::Private).await.unwrap();
        assert!(other.path() != shared.path() && other.path() != private.path());
        let path = shared.path().to_owned();
        drop(shared);
        assert!(now(&caches, Sharing::Locked).await.is_none());
        drop(too);
        let locked = now(&caches, Sharing::Locked).await.unwrap();
        assert_eq!(locked.path(), path);
        assert!(now(&caches, Sharing::Locked).await.is_none());
        assert_ne!(now(&caches, Sharing::Shared).await.unwrap().path(), path);
        drop(locked);
        assert_eq!(now(&caches, Sharing::Private).await.unwrap().path(), path);
    }

    #[tokio::test]
    async fn who_waits_gets_it_when_the_last_one_is_done() {
        let temp = tempfile::tempdir().unwrap();
        let caches = caches(temp.path());
        let shared = now(&caches, Sharing::Shared).await.unwrap();
        let path = shared.path().to_owned();
        let made = Made { mode: 0o755, uid: 0, gid: 0 };
        let waiting = async { caches.take("id", Sharing::Locked, made, None).await.unwrap().path().to_owned() };
        let ending = async {
            tokio::task::yield_now().await;
            drop(shared);
        };
        assert_eq!(tokio::join!(waiting, ending).0, path);
    }

    #[tokio::test]
    async fn who_waits_to_have_one_alone_is_not_passed_by_others() {
        let temp = tempfile::tempdir().unwrap();
        let caches = caches(temp.path());
        let shared = now(&caches, Sharing::Shared).await.unwrap();
        let path = shared.path().to_owned();
        let made = Made { mode: 0o755, uid: 0, gid: 0 };
        let mut waiting = Box::pin(caches.take("id", Sharing::Locked, made, None));
        assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err());
        let later = now(&caches, Sharing::Shared).await.unwrap();
        assert_ne!(later.path(), path);
        drop(shared);
        let private = now(&caches, Sharing::Private).await.unwrap();
        assert_ne!(private.path(), path);
        assert_eq!(waiting.await.unwrap().path(), path);
        // Who gives it up keeps nobody out.
        let shared = now(&caches, Sharing::Shared).await.unwrap();
        let mut waiting = Box::pin(caches.take("id", Sharing::Locked, made, None));
        assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err());
        drop(waiting);
        assert_eq!(now(&caches, Sharing::Shared).await.unwrap().path(), shared.path());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_lets_nobody_pass_the_others_who_wait() {
        let temp = tempfile::tempdir().unwrap();
        let caches = caches(temp.path());
        let shared = now(&caches, Sharing::Shared).await.unwrap();
        let path = shared.path().to_owned();
        let made = Made { mode: 0o755, uid: 0, gid: 0 };
        let mut first = Box::pin(caches.take("id", Sharing::Locked, made, None));
        let mut second = Box::pin(caches.take("id", Sharing::Locked, made, None));
        assert!(tokio::time::timeout(Duration::ZERO, &mut first).await.is_err());
        assert!(tokio::time::timeout(Duration::ZERO, &mut second).await.is_err());
        drop(first);
        assert_ne!(now(&caches, Sharing::Shared).await.unwrap().path(), path);
        drop(shared);
        assert_ne!(now(&caches, Sharing::Private).await.unwrap().path(), path);
        assert_eq!(second.await.unwrap().path(), path);
    }

    #[tokio::test]
    async fn one_has_its_name_while_it_is_used_for_the_first_time() {
        let temp = tempfile::tempdir().unwrap();
        let caches = caches(temp.path());
        let _used = now(&caches, Sharing::Shared).await.unwrap();
        assert_eq!(caches.list().unwrap()[0].what, "mount of the cache id");
    }

    #[tokio::test]
    async fn one_of_any_depth_is_listed_and_removed() {
        let temp = tempfile::tempdir().unwrap();
        let caches = caches(temp.path());
        let used = now(&caches, Sharing::Shared).await.unwrap();
        let mut at = rustix::fd::OwnedFd::from(fs::File::open(used.path()).unwrap());
        for _ in 0..600 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
        }
        rustix::fs::symlinkat("four", &at, "link").unwrap();
        let list = caches.list().unwrap();
        assert_eq!((list.len(), list[0].size, list[0].in_use), (1, 4, true));
        assert!(!caches.remove(&list[0].id).unwrap());
        drop(used);
        assert!(caches.remove(&list[0].id).unwrap());
        assert!(caches.list().unwrap().is_empty());
    }
}

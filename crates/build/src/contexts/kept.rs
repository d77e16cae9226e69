//! Copies of clients' directories that stay for the next build: it sends what changed since, and no more.
//!
//! ```text
//! build/kept/<key>/tree     the directory, as the client had it
//! build/kept/<key>/index    what is in it, by what each file was known as, and digests of contents
//! ```
//! Who changes the tree takes the index away first and writes it anew afterwards: a copy without one is worth nothing, and is removed once
//! nobody has it. Neither
//! is synced, so a copy is of one boot: what a power cut left of it, nobody could say.

use super::list::Listed;
use crate::cache::{Cached, CachedKind, Keeps};
use crate::files::ListedFile;
use crate::turns::Turns;
use crate::{Error, Result};
use image::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;
use tokio::sync::OwnedMutexGuard;

/// Copies that are kept: of more, those that were used last.
const MOST: usize = 16;
/// Bytes in all their files. The one that was used last stays in any case.
const BYTES: u64 = 16 << 30;

/// All of them.
pub(crate) struct Kept {
    root: PathBuf,
    boot: String,
    turns: Turns<String>,
}

/// One that a build has for itself.
pub(crate) struct Mine {
    key: String,
    path: PathBuf,
    boot: String,
    turn: Option<OwnedMutexGuard<()>>,
    /// Who writes down what is in it, beside what the build does next.
    writing: Option<JoinHandle<()>>,
}

/// A file's contents, as they were hashed on the way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) digest: Digest,
    /// Bytes of it.
    pub(crate) size: u64,
    /// What the file may do beyond its user, as the kernel keeps it.
    pub(crate) capabilities: Vec<u8>,
}

/// What stands before an index's entries.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    boot: String,
    /// Bytes in the files.
    size: u64,
}

/// Indexes of other versions are none.
const VERSION: u32 = 3;

/// What is in a tree; of a file that was sent while it changed, or right after, nothing is known.
pub(crate) type Indexed = Vec<(Listed, Option<Known>)>;

/// One that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeptContext {
    /// What it is found by.
    key: String,
    /// Bytes in its files.
    size: u64,
    /// When a build last had it.
    used: Timestamp,
}

impl Kept {
    /// Those of a data directory.
    pub(crate) fn open(root: PathBuf) -> io::Result<Kept> {
        fs::create_dir_all(&root)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Kept { root, boot, turns: Turns::default() })
    }

    /// Removes what is worth nothing, as a former daemon or a power cut left it. Blocks.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for key in self.keys()? {
            let turn = self.turns.of(key.clone());
            // Who has one makes something of it.
            if let Ok(_turn) = turn.try_lock()
                && self.look(&key).is_none()
            {
                discard(&self.root.join(&key));
            }
        }
        Ok(())
    }

    /// The copy of a key, for one build at a time; `None`: another build has it.
    pub(crate) fn take(&self, key: &str) -> Option<Mine> {
        let turn = self.turns.of(key.to_owned()).try_lock_owned().ok()?;
        Some(Mine {
            key: key.to_owned(),
            path: self.root.join(key),
            boot: self.boot.clone(),
            turn: Some(turn),
            writing: None,
        })
    }

    /// All of them, those that were used last first.
    fn all(&self) -> Vec<KeptContext> {
        let mut all: Vec<KeptContext> =
            self.keys().unwrap_or_default().iter().filter_map(|key| self.look(key)).collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.used));
        all
    }

    /// Removes one, unless a build has it; whether it is gone.
    fn take_out(&self, key: &str) -> bool {
        let turn = self.turns.of(key.to_owned());
        let Ok(_turn) = turn.try_lock() else { return false };
        discard(&self.root.join(key));
        true
    }

    /// Removes those that are too many, or too much, beside that of a build, which has so many bytes. Nobody waits for that: whose build
    /// it is has no part in others' contexts.
    pub(crate) fn bound(&self, mine: &str, size: u64) {
        let mut bytes = size;
        for (place, one) in (1..).zip(self.all().into_iter().filter(|one| one.key != mine)) {
            bytes = bytes.saturating_add(one.size);
            let is_more = place >= MOST || bytes > BYTES;
            // What has no index goes with who has it.
            if let Some(mine) = is_more.then(|| self.take(&one.key)).flatten()
                && let Err(error) = mine.forget()
            {
                tracing::warn!(%error, "a copy of a build context stays that is one too many");
            }
        }
    }

    fn keys(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.root)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        names.collect()
    }

    fn look(&self, key: &str) -> Option<KeptContext> {
        let path = self.root.join(key).join("index");
        let mut beginning = Vec::new();
        let file = fs::File::open(path).ok()?;
        let used = Timestamp::try_from(file.metadata().ok()?.modified().ok()?).ok()?;
        file.take(256).read_to_end(&mut beginning).ok()?;
        let (header, _) = postcard::take_from_bytes::<Header>(&beginning).ok()?;
        let is_one = header.version == VERSION && header.boot == self.boot;
        is_one.then(|| KeptContext { key: key.to_owned(), size: header.size, used })
    }
}

impl Keeps for Kept {
    fn kind(&self) -> CachedKind {
        CachedKind::Context
    }

    fn list(&self) -> Result<Vec<Cached>> {
        let cached = |one: KeptContext| Cached {
            in_use: self.turns.of(one.key.clone()).try_lock().is_err(),
            id: one.key,
            kind: CachedKind::Context,
            what: "files of a client's directory".into(),
            size: one.size,
            made: one.used,
            used: one.used,
            uses: 1,
            parents: Vec::new(),
            shared: false,
            parts: Vec::new(),
        };
        Ok(self.all().into_iter().map(cached).collect())
    }

    fn remove(&self, id: &str) -> Result<bool> {
        Ok(is_key(id) && self.look(id).is_some() && self.take_out(id))
    }
}

fn discard(path: &Path) {
    if let Err(error) = image::remove_tree(path) {
        tracing::warn!(path = %path.display(), %error, "a copy of a build context can't be removed");
    }
}

/// Whether a client's word can be a copy's name.
pub(crate) fn is_key(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Mine {
    pub(crate) fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// What is in the tree. Of one that is new, or worth nothing, that is nothing, and so it is made.
    pub(crate) fn open(&self) -> Result<Indexed> {
        if let Some(indexed) = self.read() {
            return Ok(indexed);
        }
        let failed = |e: &dyn std::fmt::Display| Error::failed("making a directory for the context", e);
        image::remove_tree(&self.path).map_err(|e| failed(&e))?;
        fs::create_dir_all(self.tree()).map_err(|e| failed(&e))?;
        Ok(Indexed::new())
    }

    fn read(&self) -> Option<Indexed> {
        let bytes = fs::read(self.index()).ok()?;
        let (header, entries) = postcard::take_from_bytes::<Header>(&bytes).ok()?;
        let is_one = header.version == VERSION && header.boot == self.boot && self.tree().is_dir();
        is_one.then(|| postcard::from_bytes(entries).ok()).flatten()
    }

    /// The tree is about to change: nobody knows what is in it until [`Mine::write`].
    pub(crate) fn forget(&self) -> Result<()> {
        match fs::remove_file(self.index()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::failed("changing a context", error)),
            _ => Ok(()),
        }
    }

    /// Writes down what is in the tree, beside what comes next: whoever has it waits for that in the end.
    ///
    /// # Errors
    /// Where nobody can be made to write it.
    pub(crate) fn write(&mut self, files: &Arc<Vec<ListedFile>>, size: u64) -> Result<()> {
        let (path, files) = (self.path.clone(), Arc::clone(files));
        let header = Header { version: VERSION, boot: self.boot.clone(), size };
        let write = move || {
            // The copy goes, and the next build sends all of it.
            if let Err(error) = write_index(&path, &header, &files) {
                tracing::warn!(%error, path = %path.display(), "what is in a copy of a build context can't be written");
            }
        };
        let thread = thread::Builder::new().name("context-index".into()).spawn(write);
        self.writing = Some(thread.map_err(|e| Error::failed("starting a thread to write what is in a context", e))?);
        Ok(())
    }

    /// What it is found by.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// It was used now.
    pub(crate) fn touch(&self) {
        let touched = fs::File::open(self.index()).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(%error, "when a context was used is not written down");
        }
    }

    fn index(&self) -> PathBuf {
        self.path.join("index")
    }
}

/// Writes what is in a tree beside it.
fn write_index(path: &Path, header: &Header, files: &[ListedFile]) -> io::Result<()> {
    // As an `Indexed` is written.
    let indexed: Vec<(&Listed, Option<&Known>)> =
        files.iter().map(|file| (&file.listed, file.known.as_ref().filter(|_| file.settled))).collect();
    let bytes = postcard::to_stdvec(header).map_err(io::Error::other)?;
    let bytes = postcard::to_extend(&indexed, bytes).map_err(io::Error::other)?;
    let new = path.join("index.new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path.join("index"))
}

impl Drop for Mine {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            drop(writing.join());
        }
        if self.index().exists() {
            return;
        }
        // It broke off while it came. Nobody gets it until it is gone, and nobody waits for that.
        let (path, turn) = (std::mem::take(&mut self.path), self.turn.take());
        let remove = move || {
            discard(&path);
            drop(turn);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(kept: &Kept, key: &str, size: u64) {
        let mut mine = kept.take(key).unwrap();
        assert_eq!(mine.open().unwrap(), Indexed::new());
        fs::write(mine.tree().join("file"), "contents").unwrap();
        mine.write(&Arc::default(), size).unwrap();
    }

    #[test]
    fn what_breaks_off_while_it_comes_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let kept = Kept::open(temp.path().join("kept")).unwrap();
        let key = "a".repeat(64);
        keep(&kept, &key, 8);
        assert_eq!(kept.keys().unwrap().len(), 1);
        let mine = kept.take(&key).unwrap();
        mine.forget().unwrap();
        assert!(kept.take(&key).is_none());
        drop(mine);
        assert!(kept.keys().unwrap().is_empty());
        keep(&kept, &key, 8);
    }

    #[tokio::test]
    async fn who_bounds_them_does_not_wait_until_they_are_gone() {
        let temp = tempfile::tempdir().unwrap();
        let kept = Kept::open(temp.path().join("kept")).unwrap();
        let keys = ["a", "b"].map(|key| key.repeat(64));
        keys.iter().for_each(|key| keep(&kept, key, u64::MAX));
        kept.bound(&keys[1], u64::MAX);
        // It is none any more, and nobody gets it before it is gone.
        let [left] = &kept.all()[..] else { panic!("one is left") };
        let gone = keys.iter().find(|key| **key != left.key).unwrap();
        let turn = kept.turns.of(gone.clone());
        let _turn = turn.lock().await;
        assert!(!temp.path().join("kept").join(gone).exists());
    }

    #[test]
    fn no_size_is_too_large_to_be_bounded() {
        let temp = tempfile::tempdir().unwrap();
        let kept = Kept::open(temp.path().join("kept")).unwrap();
        for key in ["a", "b", "c"] {
            keep(&kept, &key.repeat(64), u64::MAX);
        }
        kept.bound(&"c".repeat(64), u64::MAX);
        assert_eq!(kept.all().len(), 1);
    }
}

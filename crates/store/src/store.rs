//! The store itself: opening it, reading it, handing transactions to its writer.

use crate::file::{DatabaseFile, State};
use crate::schema::{self, CHANGES, KEYS, META};
use crate::txn::{Op, Request};
use crate::watch::Waiters;
use crate::writer::{self, Outcome, Reply, Shared, Submission, Writer};
use crate::{BackupError, CommitError, Entry, Listing, OpenError, ReadError, Revision, Txn, Watch, WatchError, backup};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest key, in bytes.
const KEY_LIMIT: usize = 4096;
/// The most bytes of keys and values in one transaction.
const TXN_LIMIT: usize = 64 << 20;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many revisions are remembered for watches that start in the past. 10,000.
    pub history_revisions: u64,
    /// How many bytes of changes are remembered at most, whatever their number. 4 MiB.
    pub history_bytes: u64,
    /// Memory for pages of the file, in bytes. 1 MiB.
    pub cache_bytes: usize,
    /// How often the backup beside the file is written anew, if something changed; `None` for no backup. An hour.
    pub backup_interval: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            history_revisions: 10_000,
            history_bytes: 4 << 20,
            cache_bytes: 1 << 20,
            backup_interval: Some(Duration::from_secs(3600)),
        }
    }
}

/// A handle on the store; clones share it. The file is closed when the last handle and the last watch are gone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What the handles share. When it goes, the writer ends, and then the file is closed.
#[derive(Debug)]
pub(crate) struct Inner {
    shared: Arc<Shared>,
    submissions: Option<Sender<Submission>>,
    writer: Option<JoinHandle<()>>,
}

impl Inner {
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn submit(&self, submission: Submission) {
        // Where the writer is gone, the reply is dropped with the submission, and that is the answer: closed.
        if let Some(submissions) = &self.submissions {
            let _ = submissions.send(submission);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.submissions = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Store {
    /// Opens the store in the file `path` (made with mode 0600 where there is none), with the default [`Options`].
    /// The directory must exist. Never resets what it cannot read: see [`OpenError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store, OpenError> {
        Store::open_with(path, Options::default())
    }

    /// As [`Store::open`], with options.
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Store, OpenError> {
        let (file, state) = DatabaseFile::open(path.as_ref(), options)?;
        Store::start(file, state)
    }

    /// A store without a file, gone with its last handle. For tests, and for what needs no disk.
    pub fn in_memory() -> Result<Store, OpenError> {
        let (file, state) = DatabaseFile::in_memory(Options::default())?;
        Store::start(file, state)
    }

    fn start(file: DatabaseFile, state: State) -> Result<Store, OpenError> {
        let path = file.path().to_owned();
        let revision = AtomicU64::new(state.revision.0);
        let shared = Arc::new(Shared { file, revision, waiters: Waiters::default() });
        let (sender, receiver) = mpsc::channel();
        let writer = Writer::new(shared.clone(), receiver, state.oldest);
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io { action: "start the writer of", path, source })?;
        Ok(Store { inner: Arc::new(Inner { shared, submissions: Some(sender), writer: Some(writer) }) })
    }

    /// The value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.inner.shared.file.read(key, |txn| {
            let place = txn.open_table(KEYS)?.get(key)?.map(|place| place.value());
            place.map(|place| schema::entry(&txn.open_table(CHANGES)?, key, place)).transpose()
        })
    }

    /// Everything whose key begins with `prefix`, as of one moment; the empty prefix is everything.
    pub fn list(&self, prefix: &str) -> Result<Listing, ReadError> {
        self.inner.shared.file.read(prefix, |txn| {
            let changes = txn.open_table(CHANGES)?;
            let places = schema::places(&txn.open_table(KEYS)?, prefix)?;
            let mut entries = Vec::with_capacity(places.len());
            for (key, place) in places {
                let entry = schema::entry(&changes, &key, place)?;
                entries.push((key, entry));
            }
            Ok(Listing { entries, revision: schema::revision(&changes, &txn.open_table(META)?)? })
        })
    }

    /// As [`Store::list`], without reading the values: keys and the revisions of their last changes.
    pub fn keys(&self, prefix: &str) -> Result<Vec<(String, Revision)>, ReadError> {
        self.inner.shared.file.read(prefix, |txn| {
            let places = schema::places(&txn.open_table(KEYS)?, prefix)?;
            Ok(places.into_iter().map(|(key, place)| (key, Revision(place.0))).collect())
        })
    }

    /// The first `limit` entries whose keys are not less than `from`, and less than `until`: what is too much to be read at
    /// once is read in steps, each from [`after`](Store::after) the last key of the one before.
    pub fn range(&self, from: &str, until: &str, limit: usize) -> Result<Vec<(String, Entry)>, ReadError> {
        self.inner.shared.file.read(from, |txn| {
            let (keys, changes) = (txn.open_table(KEYS)?, txn.open_table(CHANGES)?);
            let mut entries = Vec::new();
            for row in keys.range::<&str>(from..until.max(from))?.take(limit) {
                let (key, place) = row?;
                entries.push((key.value().to_owned(), schema::entry(&changes, key.value(), place.value())?));
            }
            Ok(entries)
        })
    }

    /// How many keys are not less than `from`, and less than `until`.
    pub fn count(&self, from: &str, until: &str) -> Result<u64, ReadError> {
        self.inner.shared.file.read(from, |txn| {
            let (mut number, keys) = (0, txn.open_table(KEYS)?);
            for row in keys.range::<&str>(from..until.max(from))? {
                row?;
                number += 1;
            }
            Ok(number)
        })
    }

    /// Where the keys after `key` begin.
    pub fn after(key: &str) -> String {
        // The least of all characters, which no key has.
        format!("{key}\0")
    }

    /// The revision of the last change. A listing that was made at the same moment may be ahead of it.
    pub fn revision(&self) -> Revision {
        self.inner.shared.revision()
    }

    /// Begins a transaction.
    pub fn txn(&self) -> Txn<'_> {
        Txn::new(self)
    }

    /// Every change to keys that begin with `prefix` with a revision greater than `after`: those that were made
    /// already, then those to come, in order, each once. `watch(prefix, listing.revision)` continues a listing.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] where changes after `after` are no longer remembered (also later, from the watch, when
    /// it was left alone for too long); [`WatchError::Ahead`] where the store has not reached `after`.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        Watch::new(self.inner.clone(), prefix, after)
    }

    /// Writes the backup beside the file now, and returns when it is on the disk; without being asked, the store does
    /// so every [`Options::backup_interval`]. The backup holds the present values, without history, and is a store
    /// itself. For a store in memory this does nothing.
    pub fn backup(&self) -> Result<(), BackupError> {
        backup::write(&self.inner.shared.file).map(drop)
    }

    pub(crate) fn commit(&self, request: Request) -> Outcome {
        self.validate(&request)?;
        let (sender, outcome) = mpsc::sync_channel(1);
        self.inner.submit(Submission { request, reply: Reply::Thread(sender) });
        outcome.recv().unwrap_or_else(|_| Err(self.closed()))
    }

    pub(crate) fn commit_async(&self, request: Request) -> impl Future<Output = Outcome> + Send + 'static + use<> {
        let (sender, outcome) = oneshot::channel();
        let valid = self.validate(&request);
        if valid.is_ok() {
            self.inner.submit(Submission { request, reply: Reply::Task(sender) });
        }
        let closed = self.closed();
        async move {
            valid?;
            outcome.await.unwrap_or(Err(closed))
        }
    }

    fn closed(&self) -> CommitError {
        CommitError::Closed { path: self.inner.shared.file.path().to_owned() }
    }

    fn validate(&self, request: &Request) -> Result<(), CommitError> {
        let changed = request.ops.iter().filter_map(|op| match op {
            Op::Put { key, .. } => Some(key),
            Op::Delete { .. } | Op::DeletePrefix { .. } => None,
        });
        for key in changed {
            let reason = match key {
                key if key.is_empty() => "it is empty",
                key if key.len() > KEY_LIMIT => "it is longer than 4,096 bytes",
                key if key.contains('\0') => "it has a NUL in it",
                _ => continue,
            };
            return Err(CommitError::InvalidKey { key: key.chars().take(64).collect(), reason });
        }
        let size = writer::size(request);
        if size > TXN_LIMIT {
            return Err(CommitError::TooLarge { size, limit: TXN_LIMIT });
        }
        Ok(())
    }
}

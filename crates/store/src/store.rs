//! The store itself: opening it, reading it, handing transactions to its writer.

use crate::txn::Request;
use crate::{CommitError, Entry, Listing, OpenError, ReadError, Revision, Txn, Watch, WatchError};
use std::path::Path;
use std::time::Duration;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many revisions are remembered for watches that start in the past. 10,000.
    pub history_revisions: u64,
    /// How many bytes of changes are remembered at most, whatever their number. 16 MiB.
    pub history_bytes: u64,
    /// Memory for pages of the file. 4 MiB.
    pub cache_bytes: usize,
    /// How often the backup beside the file is written anew, if something changed; `None` for no backup. An hour.
    pub backup_interval: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            history_revisions: 10_000,
            history_bytes: 16 << 20,
            cache_bytes: 4 << 20,
            backup_interval: Some(Duration::from_secs(3600)),
        }
    }
}

/// A handle on the store; clones share it. The file is closed when the last handle and the last watch are gone.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Opens the store in the file `path` (made with mode 0600 where there is none), with the default [`Options`].
    /// The directory must exist. Never resets what it cannot read: see [`OpenError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store, OpenError> {
        Store::open_with(path, Options::default())
    }

    /// As [`Store::open`], with options.
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Store, OpenError> {
        let _ = (path, options);
        unimplemented!()
    }

    /// A store without a file, gone with its last handle. For tests, and for what needs no disk.
    pub fn in_memory() -> Result<Store, OpenError> {
        unimplemented!()
    }

    /// The value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let _ = key;
        unimplemented!()
    }

    /// Everything whose key begins with `prefix`, as of one moment; the empty prefix is everything.
    pub fn list(&self, prefix: &str) -> Result<Listing, ReadError> {
        let _ = prefix;
        unimplemented!()
    }

    /// As [`Store::list`], without reading the values: keys and the revisions of their last changes.
    pub fn keys(&self, prefix: &str) -> Result<Vec<(String, Revision)>, ReadError> {
        let _ = prefix;
        unimplemented!()
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        unimplemented!()
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
        let _ = (prefix, after);
        unimplemented!()
    }

    /// Writes the backup beside the file now. It holds the present values, without history; it is a store itself.
    pub fn backup(&self) -> Result<(), CommitError> {
        unimplemented!()
    }

    pub(crate) fn commit(&self, request: Request) -> Result<Revision, CommitError> {
        let _ = request;
        unimplemented!()
    }

    pub(crate) fn commit_async(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send + 'static + use<> {
        let _ = request;
        std::future::pending()
    }
}

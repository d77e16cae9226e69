//! A transaction: what is expected of the store, and what shall change if it is so.

use crate::store::Store;
use crate::{CommitError, Revision};
use std::fmt;

/// What a transaction expects of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last changed at this revision.
    Revision(Revision),
    /// Anything: no condition at all. For callers that compute their expectation.
    Any,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Absent => f.write_str("absent"),
            Expect::Present => f.write_str("present"),
            Expect::Revision(revision) => write!(f, "at revision {revision}"),
            Expect::Any => f.write_str("anything"),
        }
    }
}

/// A key was not as a transaction expected it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: String,
    /// What was expected of it.
    pub expected: Expect,
    /// The revision of its last change; `None` where it does not exist.
    pub found: Option<Revision>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found {
            Some(found) => write!(f, "{} was expected {}, but is at revision {found}", self.key, self.expected),
            None => write!(f, "{} was expected {}, but does not exist", self.key, self.expected),
        }
    }
}

impl std::error::Error for Conflict {}

/// When a commit returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the change is on the disk (`fdatasync`). Nothing takes it back then.
    #[default]
    Durable,
    /// When the change is visible. It reaches the disk with the next durable commit, with the store's closing, or
    /// after about a second. A power cut, `kill -9`, or a disk that fails or is full before then loses it, whole, with
    /// everything else that was relaxed since; its revision is not given out again, and watches from before are told
    /// to look anew ([`crate::WatchError::Compacted`]). Much cheaper. For what can be found out again, such as samples
    /// and progress.
    Relaxed,
}

/// One change that a transaction makes.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
    DeletePrefix { prefix: String },
}

/// A transaction being put together. Nothing happens until it is committed; then all of it happens, or nothing.
///
/// Expectations are about the store as it was before the transaction. Changes apply in the order they were added.
#[must_use = "a transaction does nothing until it is committed"]
pub struct Txn<'a> {
    store: &'a Store,
    pub(crate) request: Request,
}

/// What a transaction asks of the writer.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) expects: Vec<(String, Expect)>,
    pub(crate) ops: Vec<Op>,
    pub(crate) durability: Durability,
    /// It may be written into the space that is kept back for a full disk.
    pub(crate) from_reserve: bool,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(store: &'a Store) -> Txn<'a> {
        Txn { store, request: Request::default() }
    }

    /// Commits only if `key` is as expected, else fails with a [`Conflict`].
    pub fn expect(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.request.expects.push((key.into(), expect));
        self
    }

    /// Sets `key` to `value`. Putting an equal value is a change, too.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.request.ops.push(Op::Put { key: key.into(), value: value.into() });
        self
    }

    /// Deletes `key`. A key that does not exist is none to delete, and no error.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.request.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Deletes every key that begins with `prefix`; the empty prefix is everything.
    pub fn delete_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.request.ops.push(Op::DeletePrefix { prefix: prefix.into() });
        self
    }

    /// Says when the commit returns; [`Durability::Durable`] unless told otherwise.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.request.durability = durability;
        self
    }

    /// On a full disk, it may be written into the space that is kept back for deleting, if it holds at most
    /// [`RESERVED_BYTES`](crate::RESERVED_BYTES). For what has happened already, and for what comes before space is freed.
    pub fn from_reserve(mut self) -> Self {
        self.request.from_reserve = true;
        self
    }

    /// Whether the transaction would change nothing, whatever the store holds.
    pub fn is_empty(&self) -> bool {
        self.request.ops.is_empty()
    }

    /// Commits, and waits for it (about a disk's `fdatasync`). For threads that may block; in an asynchronous task
    /// use [`Txn::commit_async`].
    ///
    /// Returns the transaction's revision: the next one of the store, or the present one where nothing changed.
    pub fn commit(self) -> Result<Revision, CommitError> {
        self.store.commit(self.request)
    }

    /// Commits, as [`Txn::commit`]. The transaction is handed over when this is called: it is committed even if the
    /// future is dropped.
    pub fn commit_async(self) -> impl Future<Output = Result<Revision, CommitError>> + Send + use<> {
        self.store.commit_async(self.request)
    }
}

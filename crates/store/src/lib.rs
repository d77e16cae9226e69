//! Durable state: a revisioned key-value store in one file, with transactions and watches.
//!
//! ```
//! use store::{Expect, Revision, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::in_memory()?;
//! let made = store.txn().expect("container/c1", Expect::Absent).put("container/c1", b"created".to_vec()).commit()?;
//! store.txn().expect("container/c1", Expect::Revision(made)).put("container/c1", b"running".to_vec()).commit()?;
//!
//! let listing = store.list("container/")?;
//! assert_eq!(listing.entries.len(), 1);
//!
//! // A watch that starts where a listing ended misses nothing.
//! let mut watch = store.watch("container/", listing.revision)?;
//! store.txn().delete("container/c1").commit()?;
//! assert_eq!(watch.next_blocking()?.key, "container/c1");
//! # Ok(())
//! # }
//! ```
//!
//! **Keys** are paths in UTF-8 (`container/<id>`, `image/tag/<name>`), **values** are bytes. Every transaction that
//! changes something is given the next [`Revision`] of the whole store; each [`Entry`] tells the revision of its last
//! change, which is what compare-and-swap compares.
//!
//! **A commit that returned is on the disk** (`fdatasync`), unless it asked for [`Durability::Relaxed`]. One thread
//! writes: transactions that wait for it at the same time share one write and one sync, and each is still atomic by
//! itself. Readers never wait for the writer.
//!
//! **Nothing is reset silently.** A file that is cut short, damaged, missing while its backup is there, in use, or
//! written by a newer program is refused with an [`OpenError`] that says what to do.
#![forbid(unsafe_code)]

mod backup;
mod collection;
mod disk;
mod error;
mod file;
mod header;
mod history;
mod schema;
mod store;
mod txn;
mod types;
mod watch;
mod writer;

pub use collection::{Collection, Item, Items, Update};
pub use error::{BackupError, CommitError, Error, OpenError, ReadError, WatchError};
pub use store::{Options, Store};
pub use txn::{Conflict, Durability, Expect, Txn};
pub use types::{Change, ChangeKind, Entry, Listing, Revision};
pub use watch::Watch;
pub use writer::RESERVED_BYTES;

//! What can go wrong, and what to do then.

use crate::{Conflict, Revision};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error as ThisError;

/// Why a store could not be opened. Nothing was changed on the disk.
#[derive(Debug, ThisError)]
pub enum OpenError {
    /// Another process has the store open.
    #[error("{} is in use by another process: stop that one first, or use another data directory", path.display())]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// The file is cut short, damaged, or no store at all.
    #[error("{} is damaged ({reason}) and was left as it is. {}", path.display(), remedy(path, backup.as_deref()))]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        reason: String,
        /// The automatic backup, where there is one.
        backup: Option<PathBuf>,
    },
    /// The file is gone, but its automatic backup is there: starting empty would lose what somebody relies on.
    #[error(
        "{} is missing, but its backup {} is there. To restore the backup: `mv {1} {0}`. To start empty: `rm {1}`",
        path.display(), backup.display()
    )]
    Missing {
        /// The store's file.
        path: PathBuf,
        /// Its backup.
        backup: PathBuf,
    },
    /// A newer version of the program wrote the file.
    #[error(
        "{} has schema version {found}, but this program knows versions up to {supported}: run the newer program that \
         wrote it",
        path.display()
    )]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// The version found in it.
        found: u64,
        /// The newest version this program knows.
        supported: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as "open", "create", "lock".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

fn remedy(path: &std::path::Path, backup: Option<&std::path::Path>) -> String {
    let path = path.display();
    match backup {
        Some(backup) => format!(
            "To restore the automatic backup (changes made after it are lost): `mv {path} {path}.damaged && mv {} {path}`",
            backup.display()
        ),
        None => {
            format!("There is no backup of it. Restore one of your own, or start empty with `mv {path} {path}.damaged`")
        }
    }
}

/// Why a read failed.
#[derive(Clone, Debug, ThisError)]
pub enum ReadError {
    /// Something in the file does not fit together.
    #[error("reading {what} from {}: the store is damaged: {reason}. Stop the daemon and start it again: it says what to do", path.display())]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was read.
        what: String,
        /// What was found.
        reason: String,
    },
    /// The operating system refused.
    #[error("reading {what} from {}: {source}", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// What was read.
        what: String,
        /// The answer.
        source: Arc<io::Error>,
    },
}

/// Why a transaction was not committed.
#[derive(Clone, Debug, ThisError)]
pub enum CommitError {
    /// A key was not as expected. Nothing was changed.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// No space is left on the disk. Nothing was changed, and the store works on.
    #[error("no space left on device for {}: free some and try again", path.display())]
    Full {
        /// The store's file.
        path: PathBuf,
    },
    /// A key that cannot be one: empty, longer than 4,096 bytes, or with a NUL in it.
    #[error("{key:?} cannot be a key: {reason}")]
    InvalidKey {
        /// The key, cut to 64 characters.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value or the whole transaction is larger than the store takes.
    #[error("the transaction holds {size} bytes, and at most {limit} fit into one")]
    TooLarge {
        /// The bytes of its keys and values.
        size: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// The disk failed while the transaction was written: it may have been applied or not. Read before trying again.
    #[error("writing to {}: {source}; the change may have been made or not", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// The answer.
        source: Arc<io::Error>,
    },
    /// Something in the file does not fit together. Nothing was changed.
    #[error("writing to {}: the store is damaged: {reason}. Stop the daemon and start it again: it says what to do", path.display())]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The writing thread has ended. Nothing was changed.
    #[error("the store {} is closed", path.display())]
    Closed {
        /// The store's file.
        path: PathBuf,
    },
}

impl CommitError {
    /// The conflict, when that was the reason.
    pub fn conflict(&self) -> Option<&Conflict> {
        match self {
            CommitError::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }
}

/// Why a watch cannot go on.
#[derive(Clone, Debug, ThisError)]
pub enum WatchError {
    /// The changes asked for are no longer remembered: list again, and watch after that listing's revision.
    #[error("changes before revision {oldest} are no longer remembered: list again and watch from there")]
    Compacted {
        /// The oldest revision whose changes are all still remembered.
        oldest: Revision,
    },
    /// The revision asked for is one the store has not reached: it comes from another store, or from before a backup
    /// was restored. List again.
    #[error("revision {asked} is ahead of the store, which is at {current}: list again and watch from there")]
    Ahead {
        /// The revision asked for.
        asked: Revision,
        /// The store's.
        current: Revision,
    },
    /// The changes could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why the backup was not written. The one before is still there.
#[derive(Debug, ThisError)]
pub enum BackupError {
    /// The store could not be read.
    #[error(transparent)]
    Read(ReadError),
    /// The backup could not be written.
    #[error("cannot write the backup {}: {source}", path.display())]
    Write {
        /// The backup's file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// Anything that can go wrong with a store: what a [`crate::Collection`] answers, and what callers that do not care
/// which of it turn everything into.
#[derive(Debug, ThisError)]
pub enum Error {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A transaction was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A watch cannot go on.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// What is stored is not a value of the collection's type, for instance since a newer program wrote it.
    #[error("what is stored as {key} cannot be understood: {source}")]
    Decode {
        /// The key.
        key: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// The value cannot be written as JSON.
    #[error("the value for {key} cannot be written as JSON: {source}")]
    Encode {
        /// The key.
        key: String,
        /// Why not.
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether a key was not as expected: made by another, changed or gone meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Error::Commit(CommitError::Conflict(_)))
    }
}

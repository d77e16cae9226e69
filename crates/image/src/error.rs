//! What can go wrong, and what to do about it.

use crate::reference::ReferenceError;
use crate::{Digest, DigestError, ImageId};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something with images did not work.
#[derive(Debug, Error)]
pub enum Error {
    /// No image has that name or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// An id was cut so short that several images share it.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousId(String),
    /// A name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Something uses the image; Docker's words.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A request that makes no sense, with what would.
    #[error("{0}")]
    Invalid(String),

    /// Content is not what its digest says.
    #[error("{what}: its digest should be {expected}, but is {actual}: it was damaged or tampered with")]
    DigestMismatch {
        /// The content, as "layer abc".
        what: String,
        /// The digest it was asked for by.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// Content has another size than its descriptor says.
    #[error("{what}: it should have {expected} bytes, but has {actual}")]
    SizeMismatch {
        /// The content.
        what: String,
        /// The size it was announced with.
        expected: u64,
        /// The size it has (or has so far, where it is too large).
        actual: u64,
    },
    /// A manifest, index or configuration cannot be used.
    #[error("the {document} cannot be used: {reason}")]
    MalformedDocument {
        /// What kind of document.
        document: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A tar archive cannot be read.
    #[error("malformed tar archive at byte {offset}: {reason}")]
    MalformedTar {
        /// Where, in uncompressed bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A compressed stream cannot be read.
    #[error("decompressing {what}: {reason}")]
    Decompress {
        /// What was decompressed.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of an archive asks for something that is never done.
    #[error("archive entry {entry:?} refused: {reason}")]
    HostileEntry {
        /// The entry's name, as it stands in the archive.
        entry: String,
        /// Why.
        reason: String,
    },
    /// An archive grows beyond a limit of the configuration.
    #[error("archive entry {entry:?}: {what} exceeds the limit of {limit}")]
    LimitExceeded {
        /// The entry at which it happened.
        entry: String,
        /// What grew.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An archive that was to be loaded holds no image, or not all of one.
    #[error("the archive cannot be loaded: {0}")]
    BadArchive(String),
    /// An instruction given with `--change` cannot be used.
    #[error("{0}")]
    BadChange(#[from] crate::changes::ChangeError),

    /// No root file system has that container's id.
    #[error("container {0} has no root file system")]
    NoSuchRootfs(String),
    /// There is one already.
    #[error("container {0} has a root file system already")]
    RootfsExists(String),
    /// A path inside a root file system does not exist or is not what it should be.
    #[error("{}: {reason}", path.display())]
    Path {
        /// The path, as seen inside.
        path: PathBuf,
        /// What is wrong.
        reason: PathReason,
    },
    /// A layer that an image needs is gone from the disk.
    #[error("layer {diff_id} is missing from the disk: remove the image that uses it and pull it again")]
    LayerMissing {
        /// The layer.
        diff_id: Digest,
    },
    /// A blob is not in the content store.
    #[error("blob {0} is not in the content store: pull or load its image again")]
    BlobMissing(Digest),

    /// The disk is full. What was being written is gone again.
    #[error("no space left on device while {doing}: free some and try again")]
    NoSpace {
        /// What was tried.
        doing: String,
    },
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried, on what.
        doing: String,
        /// The answer.
        source: io::Error,
    },
    /// The store refused a change.
    #[error(transparent)]
    Commit(#[from] store::CommitError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] store::ReadError),
    /// A record in the store cannot be read.
    #[error("the record {key} in the store cannot be read: {reason}. Restore the store from its backup")]
    BadRecord {
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// As many archives come in and go out as may at a time, for a while already.
    #[error("{archives} archives are being sent or received already, and none of them ends: try again in a while")]
    Busy {
        /// How many may at a time.
        archives: usize,
    },
    /// The work was given up: its handle was dropped, or a part of it ended early.
    #[error("{0} was interrupted")]
    Interrupted(String),
    /// An image is half known: its record is there, but not what it needs.
    #[error("image {image} cannot be used: {reason}")]
    BrokenImage {
        /// The image.
        image: ImageId,
        /// What is missing.
        reason: String,
    },
}

/// What is wrong with a path inside a root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathReason {
    /// Nothing is there.
    #[error("no such file or directory")]
    NotFound,
    /// A parent, or the place itself, is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// A directory is in the way of a file.
    #[error("cannot overwrite directory with non-directory")]
    DirectoryInTheWay,
    /// A file is in the way of a directory.
    #[error("cannot overwrite non-directory with directory")]
    FileInTheWay,
    /// Too many symbolic links on the way.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
}

impl Error {
    /// An answer of the operating system, with what was tried. A full disk or quota becomes [`Error::NoSpace`].
    pub fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        let (doing, source) = (doing.into(), source.into());
        match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => Error::NoSpace { doing },
            Some(code) if code == rustix::io::Errno::DQUOT.raw_os_error() => Error::NoSpace { doing },
            _ => match source.downcast::<Error>() {
                // One of our own errors that travelled through an `io::Read`.
                Ok(ours) => ours,
                Err(source) => Error::Io { doing, source },
            },
        }
    }

    /// Whether the disk was full, below the content store or below the metadata.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::NoSpace { .. } | Error::Commit(store::CommitError::Full { .. }))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Io { source, .. } if source.raw_os_error().is_some() => source,
            other => io::Error::other(other),
        }
    }
}

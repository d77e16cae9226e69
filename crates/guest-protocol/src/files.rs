//! A container's files: what `cp`, `diff`, `export` and `commit` need of them. Archives are the host's matter.
//!
//! Paths are looked up as the container sees them, links included, and never lead out of its root (`openat2`, `RESOLVE_IN_ROOT`). What is
//! opened stays open until it is closed, or the conversation breaks off.

use serde::{Deserialize, Serialize};

use crate::message::Blob;

/// The most bytes of one read or write.
pub const MAX_IO: u32 = 256 << 10;
/// The most files that a host has open at once.
pub const MAX_OPEN: usize = 64;
/// The most entries of one answer to [`FileRequest::List`].
pub const MAX_ENTRIES: usize = 1024;

/// Which of a container's trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// Its root as it sees it, with its volumes while it runs.
    Root,
    /// What it has changed: the overlay's upper directory, in overlayfs's own form.
    Changes,
}

/// A path in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Which tree.
    pub tree: Tree,
    /// The path in it.
    pub path: Blob,
}

/// An open file, of the guest's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Handle(pub u32);

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileRequest {
    /// What is there, a link itself: [`FileReply::Stat`].
    Stat(At),
    /// Where a link leads: [`FileReply::Link`].
    ReadLink(At),
    /// The entries of a directory, but for `.` and `..`, in an order that holds while nothing changes: [`FileReply::Entries`].
    List {
        /// Which.
        at: At,
        /// How many to skip.
        skip: u64,
    },
    /// Open a regular file to be read: [`FileReply::Opened`].
    Open(At),
    /// Open a regular file to be written, a new one or what is there, cut to nothing: [`FileReply::Opened`].
    Create {
        /// Where.
        at: At,
        /// Its permissions and whose it is.
        attributes: Attributes,
    },
    /// At most [`MAX_IO`] bytes: [`FileReply::Bytes`], none of them at the end.
    Read {
        /// Of which.
        handle: Handle,
        /// From where on.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// At most [`MAX_IO`] bytes: [`FileReply::Done`].
    Write {
        /// To which.
        handle: Handle,
        /// From where on.
        offset: u64,
        /// What.
        bytes: Blob,
    },
    /// It is not needed any more: [`FileReply::Done`].
    Close(Handle),
    /// Make what is no regular file: [`FileReply::Done`], also where it is there already as a directory.
    Make {
        /// Where.
        at: At,
        /// What.
        what: Make,
        /// Its permissions and whose it is.
        attributes: Attributes,
    },
    /// Remove it, a directory with all that is in it: [`FileReply::Done`], also where there is nothing.
    Remove(At),
    /// Give something other attributes, a link itself: [`FileReply::Done`].
    Set {
        /// What.
        at: At,
        /// Which.
        attributes: Attributes,
    },
    /// What was written to the file system of a tree is to be there after a loss of power: [`FileReply::Done`].
    Sync(Tree),
}

/// What can be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Make {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// Where it leads.
        to: Blob,
    },
    /// Another name of a file.
    HardLink {
        /// Which file.
        to: At,
    },
    /// A pipe, a socket or a device.
    Node {
        /// `S_IFIFO`, `S_IFCHR`, … (inode(7)).
        kind: u32,
        /// Which device (makedev(3)).
        device: u64,
    },
}

/// What a file has beyond its contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permissions; `None` leaves them, or takes 0644 and 0755.
    pub mode: Option<u32>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// When it was last changed: seconds since 1970, and nanoseconds.
    pub modified: Option<(i64, u32)>,
    /// Extended attributes to be set.
    pub extended: Vec<(Blob, Blob)>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileReply {
    /// It is done.
    Done,
    /// What is there.
    Stat(Stat),
    /// Where a link leads.
    Link(Blob),
    /// Entries of a directory.
    Entries {
        /// Names, and what is there.
        entries: Vec<(Blob, Stat)>,
        /// There are more.
        more: bool,
    },
    /// A file is open.
    Opened(Handle, Stat),
    /// What is in a file.
    Bytes(Blob),
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Type and permissions (inode(7)).
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// When it was last changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// How many names it has.
    pub links: u64,
    /// The file itself: its number, in its file system.
    pub inode: u64,
    /// Its file system.
    pub filesystem: u64,
    /// Which device it stands for.
    pub device: u64,
    /// Extended attributes.
    pub extended: Vec<(Blob, Blob)>,
}

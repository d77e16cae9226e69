//! Tar archives: POSIX ustar and pax, GNU's extensions, and old V7 (tar(5) of libarchive, POSIX.1-2008 `pax`).
//!
//! This is the crate's own reader, not the `tar` crate's: an archive comes from a stranger, and here every extension
//! header has a bound before memory is spent on it, all of GNU's sparse formats are understood, times keep their
//! nanoseconds, and file contents are handed out in the buffers they were decompressed into, without a copy.

mod header;
mod pax;
mod read;
mod sparse;
mod write;

#[cfg(test)]
mod tests;

pub use read::TarReader;
pub use write::TarWriter;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A hard link to the entry named by [`Entry::link`].
    HardLink,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A part of a sparse file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// A time: seconds since 1970 (negative before it) and nanoseconds after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below a billion.
    pub nanoseconds: u32,
}

/// Extended attributes: full names (`security.capability`) and values.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// One entry of an archive, with everything that headers of any format say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, as it stands in the archive.
    pub path: Vec<u8>,
    /// What a link points at; empty otherwise.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was last changed.
    pub mtime: Time,
    /// Bytes of the file as it will be (not as it is stored, where it is sparse).
    pub size: u64,
    /// Where the stored bytes belong, in a sparse file: in order, without overlap, within `size`.
    pub extents: Option<Vec<Extent>>,
    /// Its extended attributes.
    pub xattrs: Attributes,
}

impl Entry {
    /// An entry of root's, without extras.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind, mode: u32) -> Entry {
        Entry {
            path: path.into(),
            link: Vec::new(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            extents: None,
            xattrs: Vec::new(),
        }
    }

    /// The name for people.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Bytes of a block: headers take one, contents are filled up to one.
pub(crate) const BLOCK: u64 = 512;

/// Bytes to fill up `size` to whole blocks.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}

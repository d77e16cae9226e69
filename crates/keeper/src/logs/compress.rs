//! Compressing rotated files, which the daemon does, as it would hold up the keeper.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, GzHeader};

/// Writes a compressed copy of a rotated file beside it, and returns its name for [`crate::protocol::Request::AdoptCompressed`]. The copy
/// keeps the time of the last change, and says what it was made from, by which readers know it again. A copy that cannot be
/// finished is removed. Takes as long as compressing takes: not for a thread that has others to serve.
pub fn compress(rotated: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(rotated);
    name.push(".compressing");
    let copy = PathBuf::from(name);
    let written = write(rotated, &copy);
    if written.is_err() {
        _ = fs::remove_file(&copy);
    }
    written.map(|()| copy)
}

fn write(rotated: &Path, copy: &Path) -> io::Result<()> {
    let mut from = File::open(rotated)?;
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(copy)?;
    let original = from.metadata()?;
    let builder = GzBuilder::new().comment(Origin::of(&original).to_string());
    let mut encoder = builder.write(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    let to = encoder.finish()?;
    to.set_modified(original.modified()?)
}

/// What a copy was made from. Not unique: an inode's number is used again once its file has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    inode: u64,
    size: u64,
}

impl Origin {
    pub(super) fn of(original: &Metadata) -> Origin {
        Origin { inode: original.ino(), size: original.len() }
    }

    /// What the header says of a copy that was made by [`compress`].
    pub(super) fn read(header: &GzHeader) -> Option<Origin> {
        let comment = std::str::from_utf8(header.comment()?).ok()?;
        let (inode, size) = comment.strip_prefix("inode ")?.split_once(" size ")?;
        Some(Origin { inode: inode.parse().ok()?, size: size.parse().ok()? })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode {} size {}", self.inode, self.size)
    }
}

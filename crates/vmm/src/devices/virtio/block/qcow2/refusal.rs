//! Why an image is not taken for a disk.

use std::io;

/// Why a qcow2 image is not taken for a disk, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It is no qcow2 image at all.
    #[error("it does not begin as a qcow2 image does: say that it is raw, if it is")]
    NoImage,
    /// It is of a version that nobody has.
    #[error("it is qcow2 of version {0}, and 2 and 3 are known")]
    Version(u32),
    /// What it does not have itself is in another file, which it names.
    #[error(
        "it names a backing file, and no file is opened that an image names: `qemu-img convert -O qcow2` makes an image of both"
    )]
    BackingFile,
    /// Its data are in another file, which it names.
    #[error(
        "its data are in a file of their own, and no file is opened that an image names: `qemu-img convert -O qcow2` makes an image that has them itself"
    )]
    DataFile,
    /// Its data are encrypted.
    #[error("it is encrypted, which is not supported: `qemu-img convert` makes one that is not")]
    Encrypted,
    /// It has snapshots within, which what is written must not change.
    #[error(
        "it has {0} snapshots within, and is to be written to: take it read-only, or have `qemu-img convert` make an image without them"
    )]
    Snapshots(u32),
    /// Who wrote to it last did not come to the end.
    #[error("it was not closed by who wrote to it last: `qemu-img check -r all` mends it")]
    Dirty,
    /// Somebody found it to be damaged.
    #[error("it is marked as damaged: `qemu-img check -r all` mends what can be mended")]
    Corrupt,
    /// It has a feature without which it can't be read.
    #[error(
        "it has features that are not supported (incompatible features {0:#x}): `qemu-img convert -O qcow2` makes an image without them"
    )]
    Features(u64),
    /// What it says of itself can't be.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It can't be read.
    #[error("read it: {0}")]
    Read(#[from] io::Error),
}

impl ImageError {
    pub(super) fn damaged(what: impl Into<String>) -> ImageError {
        ImageError::Damaged(what.into())
    }
}

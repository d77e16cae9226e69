//! What a guest starts from: a kernel, a first root file system, a command line.

pub use crate::arch::current::boot::{BzImage, Kernel, PvhKernel};

use crate::memory::PAGE;
use std::io;
use vm_memory::GuestAddress;

/// Why a file can't be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is neither of the two.
    #[error("the kernel {0} is neither an ELF file nor a bzImage")]
    Unknown(String),
    /// An ELF file that is not what it says.
    #[error("the kernel {path} is no ELF file that can be read: {why}")]
    Elf {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// An ELF file without an entry for PVH.
    #[error(
        "the kernel {0} has no PVH entry (a note of the name Xen and the type 18): build it with CONFIG_PVH=y, or give the bzImage"
    )]
    NoPvhEntry(String),
    /// A bzImage that is not what it says, or too old.
    #[error("the kernel {path} is no bzImage that can be booted: {why}")]
    BzImage {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// It can't be read.
    #[error("read the kernel {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A first root file system, as it lies in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Initrd {
    /// Where: at the beginning of a page, below 4 GiB.
    pub(crate) at: GuestAddress,
    /// How many bytes.
    pub(crate) length: u64,
}

impl Initrd {
    /// Where one of that length goes: as far up as it can below `end`, so that it is not where a kernel unpacks itself.
    pub(crate) fn below(end: u64, length: u64) -> Option<Initrd> {
        let at = end.checked_sub(length)?;
        Some(Initrd { at: GuestAddress(at - at % PAGE), length })
    }
}

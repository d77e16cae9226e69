//! What a guest starts from: a kernel, a first root file system, a command line.

mod bzimage;
mod payload;
mod pvh;

pub use bzimage::BzImage;
pub use pvh::PvhKernel;

use crate::memory::PAGE;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
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

/// A kernel that was looked at, and not yet put anywhere.
#[derive(Debug)]
pub enum Kernel {
    /// An ELF file that is entered as PVH says.
    Pvh(PvhKernel),
    /// What distributions ship: the kernel, compressed, and a program that unpacks it in the guest.
    BzImage(BzImage),
}

impl Kernel {
    /// Up to where it needs the guest's memory for itself before it looks at anything else.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Kernel::Pvh(kernel) => {
                kernel.segments().iter().map(|segment| segment.at.0.saturating_add(segment.memory)).max().unwrap_or(0)
            }
            Kernel::BzImage(kernel) => kernel.end(),
        }
    }

    /// Looks at a file's first bytes, and reads the headers of what it turns out to be. `path` is for errors.
    pub fn open(file: File, path: &Path) -> Result<Kernel, Error> {
        let name = || path.display().to_string();
        let mut start = [0; bzimage::MAGIC_END];
        match file.read_exact_at(&mut start, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Error::Unknown(name())),
            Err(source) => return Err(Error::Read { path: name(), source }),
        }
        if start.starts_with(b"\x7fELF") {
            Ok(Kernel::Pvh(PvhKernel::read(file, name())?))
        } else if BzImage::is(&start) {
            Ok(Kernel::BzImage(BzImage::read(file, name())?))
        } else {
            Err(Error::Unknown(name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn open(bytes: &[u8]) -> Error {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Kernel::open(file, Path::new("/boot/kernel")).unwrap_err()
    }

    #[test]
    fn what_is_no_kernel_is_told_by_its_name() {
        for bytes in [&b""[..], b"#!/bin/sh\n", &[0; 8192]] {
            assert_eq!(open(bytes).to_string(), "the kernel /boot/kernel is neither an ELF file nor a bzImage");
        }
        let mut cut = b"\x7fELF".to_vec();
        cut.resize(4096, 0);
        assert!(open(&cut).to_string().starts_with("the kernel /boot/kernel is no ELF file that can be read"));
    }

    #[test]
    fn a_program_is_no_kernel() {
        let program = std::fs::read("/bin/true").unwrap();
        assert!(open(&program).to_string().contains("has no PVH entry"));
    }
}

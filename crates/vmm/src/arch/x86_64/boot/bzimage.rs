//! A kernel as distributions ship it: a program that unpacks the kernel behind it, entered in 64-bit mode.
//!
//! The kernel's Documentation/arch/x86/boot.rst says how.

use super::Error;
use linux_loader::loader::bootparam::setup_header;
use std::fs::File;
use std::os::unix::fs::FileExt;
use vm_memory::{ByteValued, GuestAddress};

/// Where the setup header begins in the file.
const HEADER: u64 = 0x1f1;
/// Where its magic number is, and ends.
const MAGIC: std::ops::Range<usize> = 0x202..MAGIC_END;
pub(super) const MAGIC_END: usize = 0x206;
/// The 64-bit entry, from the beginning of what is loaded.
pub(super) const ENTRY_64: u64 = 0x200;
/// `XLF_KERNEL_64`: there is one.
const HAS_ENTRY_64: u16 = 1;
/// Bytes of a sector of the real-mode part.
const SECTOR: u64 = 512;
/// The first version of the protocol that tells `xloadflags`.
const VERSION: u16 = 0x20c;

/// A bzImage that was looked at.
#[derive(Debug)]
pub struct BzImage {
    file: File,
    /// For errors.
    path: String,
    header: setup_header,
    /// Where the part of protected mode is in the file: offset and length in bytes.
    kernel: (u64, u64),
}

impl BzImage {
    /// Whether a file that begins so is one.
    pub(super) fn is(start: &[u8; MAGIC_END]) -> bool {
        &start[MAGIC] == b"HdrS"
    }

    /// Reads the setup header.
    pub(super) fn read(file: File, path: String) -> Result<BzImage, Error> {
        let read = |source| Error::Read { path: path.clone(), source };
        let fail = |why: &str| Error::BzImage { path: path.clone(), why: why.to_owned() };
        let mut header = setup_header::default();
        file.read_exact_at(header.as_mut_slice(), HEADER).map_err(|_| fail("its header is cut short"))?;
        let length = file.metadata().map_err(read)?.len();
        // Zero stands for four, says the protocol.
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let start = (sectors + 1) * SECTOR;
        if header.version < VERSION {
            return Err(fail("it is older than Linux 3.8"));
        }
        if header.xloadflags & HAS_ENTRY_64 == 0 {
            return Err(fail("it has no 64-bit entry"));
        }
        if length <= start + ENTRY_64 {
            return Err(fail("it is cut short"));
        }
        Ok(BzImage { file, path, header, kernel: (start, length - start) })
    }

    /// An error about it.
    pub(super) fn damaged(&self, why: &str) -> Error {
        Error::BzImage { path: self.path.clone(), why: why.to_owned() }
    }

    /// The kernel that it has packed: its offset in the file, and its length, in bytes.
    pub(super) fn payload(&self) -> (u64, u64) {
        (self.kernel.0 + u64::from(self.header.payload_offset), self.header.payload_length.into())
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The header, to be told to the kernel.
    pub(crate) fn header(&self) -> setup_header {
        self.header
    }

    /// What is loaded: its offset and length in the file, in bytes.
    pub(crate) fn kernel(&self) -> (u64, u64) {
        self.kernel
    }

    /// Where it is loaded.
    pub(crate) fn load_address(&self) -> GuestAddress {
        GuestAddress(u64::from(self.header.code32_start))
    }

    /// Where the first instruction is.
    pub(crate) fn entry(&self) -> GuestAddress {
        GuestAddress(self.load_address().0 + ENTRY_64)
    }

    /// Up to where it needs memory while it unpacks itself.
    pub(crate) fn end(&self) -> u64 {
        let unpacked = self.header.pref_address.saturating_add(u64::from(self.header.init_size));
        unpacked.max(self.load_address().0 + self.kernel.1)
    }
}

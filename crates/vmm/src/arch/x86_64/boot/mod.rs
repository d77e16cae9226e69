//! Kernels in the forms in which this architecture has them.

mod bzimage;
mod payload;
mod pvh;

pub use bzimage::BzImage;
pub use pvh::PvhKernel;

use super::entry::Entry;
use super::{linux, start_info};
use crate::boot::{Error, Initrd};
use crate::error;
use crate::memory::Memory;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vm_memory::GuestAddress;

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

    /// Puts it into memory, with what it is told: where `initrd` lies, and from `rsdp` on ACPI's tables. Returns its first instruction.
    pub(crate) fn put(&self, initrd: Option<Initrd>, rsdp: GuestAddress, memory: &Memory) -> error::Result<Entry> {
        let entry = match self {
            Kernel::Pvh(kernel) => {
                for segment in kernel.segments() {
                    if !memory.has(segment.at, segment.memory) {
                        return Err(error::Error::DoesNotFit {
                            what: "the kernel",
                            at: segment.at.0,
                            needs: segment.memory,
                        });
                    }
                    memory.put_file("the kernel", segment.at, kernel.file(), segment.offset, segment.length)?;
                }
                start_info::write(memory, initrd, rsdp)?;
                Entry::Pvh(kernel.entry())
            }
            Kernel::BzImage(kernel) => {
                let at = kernel.load_address();
                if !memory.has(at, kernel.end().saturating_sub(at.0)) {
                    return Err(error::Error::DoesNotFit { what: "the kernel", at: at.0, needs: kernel.end() - at.0 });
                }
                let (offset, length) = kernel.kernel();
                memory.put_file("the kernel", at, kernel.file(), offset, length)?;
                linux::write(memory, kernel, initrd, rsdp)?;
                Entry::Linux64(kernel.entry())
            }
        };
        entry.prepare(memory)?;
        Ok(entry)
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

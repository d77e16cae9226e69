//! The guest's memory: pages of this process, and files that are mapped over them.
//!
//! What a guest starts from (its kernel's segments, its initramfs) is mapped from its file, private to this process: the guest reads the
//! host's page cache, which all guests share, and a page is copied when the guest writes to it. Nothing is copied to start. Or it comes in huge pages as it is
//! touched first ([`pieces`]), which the guest then has of its own.

mod awaited;
mod filler;
mod given_back;
mod grown;
mod mapping;
mod pager;
mod pieces;
mod ranges;
mod saved;
mod sources;
mod userfault;
mod working_set;

use crate::config::MemorySize;
use crate::error::{Error, Result};
use awaited::Awaited;
pub(crate) use awaited::Whole;
pub(crate) use filler::Filler;
pub(crate) use grown::More;
use mapping::Mapping;
pub(crate) use pager::{Pager, Part, Touched};
use pieces::Pieces;
use ranges::Ranges;
use rustix::mm::{Advice, MapFlags, ProtFlags};
pub(crate) use saved::Run;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
pub(crate) use userfault::{REQUESTS, Userfault};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
pub use working_set::WorkingSet;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes that are copied at once.
const PIECE: u64 = 1 << 16;

/// The guest's memory. Clones are the same memory.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    size: MemorySize,
    regions: GuestMemoryMmap,
    /// What the regions are of.
    _mappings: Arc<[Mapping]>,
    mapped: Arc<Mutex<Mapped>>,
    /// The last region, where that is for memory that comes while the machine runs.
    more: Option<More>,
    whole: Whole,
}

/// What the guest's memory is where it is not as it was made.
#[derive(Debug, Default)]
struct Mapped {
    /// Where files are mapped.
    files: Ranges,
    /// Where they were, and zeros are now.
    holes: Ranges,
    /// What the guest has of the memory that comes while it runs.
    plugged: Ranges,
    /// What comes from files as it is touched.
    awaited: Option<Awaited>,
    /// What is put there when it is touched first, if anything is.
    pieces: Option<Pieces>,
}

impl Memory {
    /// Memory of that size, at the addresses of `ranges`: first byte and length of each, which are together as long. Nothing of it is taken
    /// from the host before it is touched.
    pub(crate) fn new(size: MemorySize, ranges: &[(GuestAddress, u64)]) -> Result<Memory> {
        Memory::growing(size, ranges, None)
    }

    /// As [`Memory::new`], and with room for `more` while the machine runs, behind all others: one reservation of addresses for all that may come.
    pub(crate) fn growing(size: MemorySize, ranges: &[(GuestAddress, u64)], more: Option<More>) -> Result<Memory> {
        let failed = |source| Error::Memory { size: size.mib(), source };
        let (mut regions, mut mappings) = (Vec::with_capacity(ranges.len()), Vec::with_capacity(ranges.len()));
        let last = more.map(|more| (more.start, more.length));
        for (start, length) in ranges.iter().chain(&last) {
            let length = usize::try_from(*length).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
            let mapping = Mapping::new(length).map_err(failed)?;
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
            // SAFETY: the mapping has that many bytes from its start on, and lives for as long as any clone of what is returned.
            let region = unsafe { MmapRegion::build_raw(mapping.start(), length, protection, flags) };
            let region = region.map_err(|error| failed(io::Error::other(error)))?;
            regions
                .push(GuestRegionMmap::new(region, *start).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?);
            mappings.push(mapping);
        }
        let regions = GuestMemoryMmap::from_regions(regions).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Memory { size, regions, _mappings: mappings.into(), mapped: Arc::default(), more, whole: Whole::default() })
    }

    /// How much it is.
    pub(crate) fn size(&self) -> MemorySize {
        self.size
    }

    /// The regions, as the crates of rust-vmm take them.
    pub(crate) fn regions(&self) -> &GuestMemoryMmap {
        &self.regions
    }

    /// Whether all of that lies in memory.
    pub(crate) fn has(&self, at: GuestAddress, length: u64) -> bool {
        usize::try_from(length).is_ok_and(|length| self.regions.check_range(at, length))
    }

    /// Writes `bytes` at an address. `what` they are is for the error.
    pub(crate) fn write(&self, what: &'static str, at: GuestAddress, bytes: &[u8]) -> Result<()> {
        let does_not_fit = |_| Error::DoesNotFit { what, at: at.0, needs: bytes.len() as u64 };
        self.regions.write_slice(bytes, at).map_err(does_not_fit)
    }

    /// Puts `length` bytes of `file` from `offset` on to an address: whole pages are mapped where both the file's offset and the address
    /// begin one, the rest is copied; or it is put there when it is touched first ([`Memory::in_huge_pages`]).
    pub(crate) fn put_file(
        &self,
        what: &'static str,
        at: GuestAddress,
        file: &File,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        if !self.has(at, length) {
            return Err(Error::DoesNotFit { what, at: at.0, needs: length });
        }
        let (start, end) = (at.0, at.0 + length);
        let Some(later) = self.lay_pieces(&(start..end), file, offset)? else {
            return self.put_at_once(what, at, file, offset, length);
        };
        self.put_at_once(what, at, file, offset, later.start - start)?;
        let behind = offset + (later.end - start);
        self.put_at_once(what, GuestAddress(later.end), file, behind, end - later.end)
    }

    fn put_at_once(&self, what: &'static str, at: GuestAddress, file: &File, offset: u64, length: u64) -> Result<()> {
        let pages = if at.0.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE) { length - length % PAGE } else { 0 };
        self.map(what, at, file, offset, pages)?;
        self.copy(what, GuestAddress(at.0 + pages), file, offset + pages, length - pages)
    }

    /// Maps whole pages of a file over the guest's, private to this process.
    fn map(&self, what: &'static str, at: GuestAddress, file: &File, offset: u64, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let does_not_fit = || Error::DoesNotFit { what, at: at.0, needs: length };
        let size = usize::try_from(length).map_err(|_| does_not_fit())?;
        // A slice that ends beyond its region is refused here: the pages below are one region's.
        let slice = self.regions.get_slice(at, size).map_err(|_| does_not_fit())?;
        // SAFETY: the range is part of one mapping of the guest's memory, which nothing in this process has a reference into: all go through
        // volatile accesses. It stays mapped as it was, with other contents, for as long as the region lives.
        let mapped = unsafe {
            rustix::mm::mmap(
                slice.ptr_guard_mut().as_ptr().cast(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                file,
                offset,
            )
        };
        let start = mapped.map_err(Error::host("map a file into the guest's memory"))?;
        // SAFETY: the range was just mapped, and stays as it is: a dump of this process has nothing of the guest's.
        let hidden = unsafe { rustix::mm::madvise(start, size, Advice::LinuxDontDump) };
        hidden.map_err(Error::host("keep the guest's memory out of dumps"))?;
        let mut mapped = self.mapped();
        mapped.holes.remove(&(at.0..at.0 + length));
        mapped.files.insert(at.0..at.0 + length);
        Ok(())
    }

    /// Copies a part of a file, piece by piece.
    fn copy(&self, what: &'static str, at: GuestAddress, file: &File, offset: u64, length: u64) -> Result<()> {
        let mut piece = vec![0; length.min(PIECE) as usize];
        let mut done = 0;
        while done < length {
            let piece = &mut piece[..(length - done).min(PIECE) as usize];
            file.read_exact_at(piece, offset + done).map_err(Error::host("read a file into the guest's memory"))?;
            self.write(what, GuestAddress(at.0 + done), piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn memory(mib: u64) -> Memory {
        let size = MemorySize::from_mib(mib).unwrap();
        Memory::new(size, &[(GuestAddress(0), size.bytes())]).unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn read(memory: &Memory, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.regions().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    #[test]
    fn a_file_is_in_memory_to_its_last_byte_and_nothing_behind_it() {
        let contents: Vec<u8> = (0..3 * PAGE + 100).map(|at| (at % 251) as u8 + 1).collect();
        let memory = memory(32);
        for (at, offset) in [(0x10_0000, 0), (0x20_0000, PAGE), (0x30_0001, 0), (0x40_0000, 7)] {
            let length = contents.len() as u64 - offset;
            memory.put_file("a file", GuestAddress(at), &file(&contents), offset, length).unwrap();
            assert_eq!(read(&memory, at, length as usize), contents[offset as usize..], "at {at:#x} from {offset}");
            assert_eq!(read(&memory, at + length, 50), [0; 50], "behind the one at {at:#x}");
        }
    }

    #[test]
    fn what_the_guest_writes_never_reaches_the_file() {
        let file = file(&[1; 2 * PAGE as usize]);
        let memory = memory(32);
        memory.put_file("a file", GuestAddress(0x10_0000), &file, 0, 2 * PAGE).unwrap();
        memory.write("bytes", GuestAddress(0x10_0000), &[2; 100]).unwrap();
        let mut first = [0; 100];
        file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [1; 100]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let memory = memory(32);
        for at in [32 * 1024 * 1024 - PAGE, 32 * 1024 * 1024, u64::MAX - PAGE] {
            let error = memory.put_file("the kernel", GuestAddress(at), &file(&[1; 8192]), 0, 8192).unwrap_err();
            assert!(error.to_string().contains("the kernel takes 8192 bytes"), "{error}");
        }
    }
}

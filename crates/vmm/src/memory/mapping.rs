//! A mapping of anonymous memory that begins where huge pages do.
//!
//! A guest's memory begins at a multiple of 2 MiB for the guest. Where it does in this process, too, the kernel can back it by huge pages, if
//! that is the machine's policy, and KVM can map those as they are: one exit for 2 MiB that a guest touches first, and not 512.

use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ptr;

/// Bytes of a huge page.
pub(super) const HUGE: u64 = 2 << 20;

/// The mapping. It is taken away when this is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    /// What was reserved: a huge page more than what is used, so that one begins in it.
    reserved: *mut c_void,
    length: usize,
    /// Where the memory begins.
    start: *mut c_void,
}

// SAFETY: it is a range of addresses of this process, whichever thread has it; what is in it is accessed by others' means.
unsafe impl Send for Mapping {}
// SAFETY: as above; through a shared reference nothing but its start can be had.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes, of which none is taken from the host before it is touched.
    pub(super) fn new(length: usize) -> io::Result<Mapping> {
        let with_room = length.checked_add(HUGE as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address where nothing is.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), with_room, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        // A dump of this process has nothing of the guest's.
        // SAFETY: the range was just mapped, and stays as it is but for that.
        unsafe { rustix::mm::madvise(reserved, with_room, Advice::LinuxDontDump)? };
        let offset = reserved.cast::<u8>().align_offset(HUGE as usize);
        // SAFETY: the offset is less than a huge page, which the reservation is longer by.
        let start = unsafe { reserved.byte_add(offset) };
        Ok(Mapping { reserved, length: with_room, start })
    }

    /// Its first byte.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, with that length, and whoever had a pointer into it had this as well.
        // It fails for no range that is mapped.
        let _ = unsafe { rustix::mm::munmap(self.reserved, self.length) };
    }
}

/// A huge page beside the guest's memory, of zeros at first: of small pages, where the kernel has no huge one.
#[derive(Debug)]
pub(super) struct HugePage(*mut c_void);

impl HugePage {
    /// Reserves one.
    pub(super) fn new() -> io::Result<HugePage> {
        let huge = HUGE as usize;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // Twice as much as is needed, so that one begins in it.
        // SAFETY: the kernel chooses an address where nothing is.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), 2 * huge, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let before = reserved.cast::<u8>().align_offset(huge);
        // SAFETY: of what was just mapped, and nobody else knows of, all goes but the page.
        let page = unsafe {
            let page = reserved.byte_add(before);
            if before > 0 {
                rustix::mm::munmap(reserved, before)?;
            }
            if before < huge {
                rustix::mm::munmap(page.byte_add(huge), huge - before)?;
            }
            HugePage(page)
        };
        // SAFETY: the range was just mapped, and stays as it is but for that: a dump of this process has nothing of the guest's.
        unsafe { rustix::mm::madvise(page.0, huge, Advice::LinuxDontDump)? };
        // SAFETY: as above. It fails where the kernel has no huge pages.
        let _ = unsafe { rustix::mm::madvise(page.0, huge, Advice::LinuxHugepage) };
        Ok(page)
    }

    /// What is in it.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes are mapped there, of zeros or of what was written through this, and nobody else has a reference into them.
        unsafe { std::slice::from_raw_parts_mut(self.0.cast(), HUGE as usize) }
    }

    /// Has it be at `place` and nowhere else, which begins a huge page, in one step: who touches that meanwhile finds what was there or the page.
    ///
    /// # Safety
    /// A huge page of memory is mapped at `place`, and nothing has a reference into it.
    pub(super) unsafe fn move_to(self, place: *mut c_void) -> io::Result<()> {
        let page = std::mem::ManuallyDrop::new(self);
        let huge = HUGE as usize;
        let flags = MremapFlags::MAYMOVE;
        // SAFETY: the page is this one's alone; of the place, the caller says so.
        let moved = unsafe { rustix::mm::mremap_fixed(page.0, huge, huge, flags, place) };
        moved.map(drop).map_err(|error| {
            // What was there may be gone: whoever touches that is to find zeros, and the range to stay the guest's.
            // SAFETY: where something is mapped this does nothing.
            let _ = unsafe {
                rustix::mm::mmap_anonymous(
                    place,
                    huge,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE,
                )
            };
            error.into()
        })
    }
}

impl Drop for HugePage {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and nobody has a reference into it. It fails for no range that is mapped.
        let _ = unsafe { rustix::mm::munmap(self.0, HUGE as usize) };
    }
}

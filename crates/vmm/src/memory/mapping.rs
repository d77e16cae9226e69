//! A mapping of anonymous memory that begins where huge pages do.
//!
//! A guest's memory begins at a multiple of 2 MiB for the guest. Where it does in this process, too, the kernel can back it by huge pages, if
//! that is the machine's policy, and KVM can map those as they are: one exit for 2 MiB that a guest touches first, and not 512.

use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ptr;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

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
        let with_room = length.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address where nothing is.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), with_room, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        // A dump of this process has nothing of the guest's.
        // SAFETY: the range was just mapped, and stays as it is but for that.
        unsafe { rustix::mm::madvise(reserved, with_room, Advice::LinuxDontDump)? };
        let offset = reserved.cast::<u8>().align_offset(HUGE);
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

//! Pages of the guest's memory that the host has back, as the guest does not need them: they read as zeros until something is written there.
//!
//! What is the process's own is dropped. What is mapped from a file (a kernel, a snapshot) would be read from that again, and the guest find there what it had deleted
//! long ago; so a new mapping is put over it, where there is enough of it to be worth one. A snapshot that is a difference says of such pages that they are zeros now.

use super::{Memory, PAGE};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ops::Range;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Bytes of a file's pages that are worth a mapping, and the most such mappings of a machine: a process may have 65,530, and each of these makes two.
const WORTH: u64 = 64 << 10;
const MOST: usize = 8192;

impl Memory {
    /// Gives the whole pages of a range back to the host, as far as they are memory. What can't be given back stays as it is.
    pub(crate) fn give_back(&self, at: GuestAddress, length: u64) {
        let end = at.0.saturating_add(length) / PAGE * PAGE;
        let Some(start) = at.0.checked_next_multiple_of(PAGE) else { return };
        let range = start..end;
        for region in self.regions().iter() {
            let start = region.start_addr().raw_value();
            let part = range.start.max(start)..range.end.min(start + region.len());
            if part.start < part.end {
                self.give_back_within(&part, region.as_ptr() as u64 - start);
            }
        }
    }

    /// Where in the guest's memory a part of it is that this process has at `place`.
    pub(crate) fn guest_address(&self, place: *const u8) -> Option<GuestAddress> {
        let place = place as u64;
        self.regions().iter().find_map(|region| {
            let offset = place.checked_sub(region.as_ptr() as u64).filter(|offset| *offset < region.len())?;
            region.start_addr().checked_add(offset)
        })
    }

    /// Gives back a part of a region, whose addresses in this process are greater by `distance`, counted around.
    fn give_back_within(&self, part: &Range<u64>, distance: u64) {
        let mut mapped = self.mapped();
        if let (Some(awaited), Some(first)) = (&mut mapped.awaited, self.page_of(GuestAddress(part.start))) {
            awaited.has_come(first..first + (part.end - part.start) / PAGE);
        }
        if let Some(pieces) = &mut mapped.pieces {
            pieces.forget(part);
        }
        let place = |at: u64| at.wrapping_add(distance) as *mut std::ffi::c_void;
        for own in mapped.files.without(part) {
            let length = (own.end - own.start) as usize;
            // SAFETY: the range is a part of a region, which is mapped for as long as `self` lives, and of anonymous memory: it reads as zeros then. Nothing in this
            // process has a reference into it: all go through volatile accesses, and the guest has said that it needs it no more.
            // It fails where the memory is locked, and then stays as it is.
            let _ = unsafe { rustix::mm::madvise(place(own.start), length, Advice::LinuxDontNeed) };
        }
        for of_file in mapped.files.within(part) {
            if of_file.end - of_file.start < WORTH || mapped.holes.len() >= MOST {
                continue;
            }
            let length = (of_file.end - of_file.start) as usize;
            // SAFETY: as above; the range stays mapped as it was, with zeros for contents.
            let fresh = unsafe {
                rustix::mm::mmap_anonymous(
                    place(of_file.start),
                    length,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                )
            };
            // It fails for want of mappings, before anything was changed.
            let Ok(fresh) = fresh else { continue };
            // SAFETY: the range was just mapped, and stays as it is: a dump of this process has nothing of the guest's.
            let _ = unsafe { rustix::mm::madvise(fresh, length, Advice::LinuxDontDump) };
            mapped.files.remove(&of_file);
            mapped.holes.insert(of_file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemorySize;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use vm_memory::Bytes;

    const MIB: u64 = 1 << 20;

    fn memory() -> Memory {
        let size = MemorySize::from_mib(32).unwrap();
        Memory::new(size, &[(GuestAddress(0), size.bytes())]).unwrap()
    }

    fn read(memory: &Memory, at: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0xee; length as usize];
        memory.regions().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn fill(memory: &Memory, at: u64, length: u64, byte: u8) {
        memory.write("bytes", GuestAddress(at), &vec![byte; length as usize]).unwrap();
    }

    /// How much of the memory's first part the process has pages of.
    fn resident(memory: &Memory, length: u64) -> usize {
        let mut pages = vec![0u8; (length / PAGE) as usize];
        let start = memory.regions().get_host_address(GuestAddress(0)).unwrap();
        // SAFETY: the range is mapped, and the list has a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(start.cast(), length as usize, pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    }

    #[test]
    fn whole_pages_are_given_back_and_read_as_zeros() {
        let memory = memory();
        fill(&memory, 0, MIB, 7);
        assert_eq!(resident(&memory, MIB), 256);
        memory.give_back(GuestAddress(PAGE - 1), 2 * PAGE + 2);
        assert!(read(&memory, 0, PAGE).iter().all(|byte| *byte == 7));
        assert_eq!(resident(&memory, MIB), 254);
        assert!(read(&memory, PAGE, 2 * PAGE).iter().all(|byte| *byte == 0));
        assert!(read(&memory, 3 * PAGE, PAGE).iter().all(|byte| *byte == 7));
        // What is no memory, in part or as a whole.
        memory.give_back(GuestAddress(31 * MIB), u64::MAX);
        memory.give_back(GuestAddress(u64::MAX - 5), 100);
        memory.give_back(GuestAddress(PAGE - 1), 5);
        assert!(read(&memory, 0, PAGE).iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_a_file_has_is_not_seen_again() {
        let memory = memory();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![1; MIB as usize], 0).unwrap();
        memory.put_file("a file", GuestAddress(MIB), &file, 0, MIB).unwrap();
        fill(&memory, MIB + 8 * PAGE, PAGE, 2);
        // Memory before it and behind it goes with it.
        fill(&memory, 0, 3 * MIB, 3);
        memory.put_file("a file", GuestAddress(MIB), &file, 0, MIB).unwrap();
        fill(&memory, MIB, PAGE, 2);
        memory.give_back(GuestAddress(MIB / 2), 2 * MIB);
        assert!(read(&memory, MIB / 2, 2 * MIB).iter().all(|byte| *byte == 0));
        assert!(read(&memory, 0, MIB / 2).iter().chain(&read(&memory, 5 * MIB / 2, MIB / 2)).all(|byte| *byte == 3));
        // It is memory as any other: written to, and given back page by page.
        fill(&memory, MIB, MIB, 4);
        memory.give_back(GuestAddress(MIB + PAGE), PAGE);
        assert_eq!(read(&memory, MIB + PAGE - 1, PAGE + 2), [&[4][..], &[0; PAGE as usize], &[4]].concat());
        let mut kept = [0; 4096];
        file.read_exact_at(&mut kept, 0).unwrap();
        assert_eq!(kept, [1; 4096]);
    }

    #[test]
    fn little_of_a_file_stays_as_it_is() {
        let memory = memory();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![1; MIB as usize], 0).unwrap();
        memory.put_file("a file", GuestAddress(0), &file, 0, MIB).unwrap();
        fill(&memory, 0, PAGE, 2);
        memory.give_back(GuestAddress(0), 2 * PAGE);
        assert_eq!(read(&memory, PAGE - 1, 2), [2, 1]);
    }

    #[test]
    fn a_difference_says_what_was_given_back() {
        let (first, base) = (memory(), tempfile::tempfile().unwrap());
        fill(&first, 0, 4 * MIB, 1);
        first.save(&base).unwrap();
        let second = memory();
        second.map_saved(&base).unwrap();
        fill(&second, 0, PAGE, 2);
        second.give_back(GuestAddress(MIB), 2 * MIB);
        fill(&second, MIB + PAGE, PAGE, 5);
        let difference: File = tempfile::tempfile().unwrap();
        let runs = second.save_changed(&difference).unwrap();
        let third = memory();
        third.map_saved(&base).unwrap();
        third.map_changed(&difference, &runs).unwrap();
        assert!(read(&third, 0, 32 * MIB) == read(&second, 0, 32 * MIB));
        assert_eq!(read(&third, MIB - 1, 2), [1, 0]);
        // So does one that has all of it.
        let whole = tempfile::tempfile().unwrap();
        second.save(&whole).unwrap();
        let fourth = memory();
        fourth.map_saved(&whole).unwrap();
        assert!(read(&fourth, 0, 32 * MIB) == read(&second, 0, 32 * MIB));
    }

    #[test]
    fn a_place_in_this_process_is_an_address_of_the_guest() {
        let memory = memory();
        let place = memory.regions().get_host_address(GuestAddress(5 * PAGE + 3)).unwrap();
        assert_eq!(memory.guest_address(place), Some(GuestAddress(5 * PAGE + 3)));
        let end = memory.regions().get_host_address(GuestAddress(32 * MIB - 1)).unwrap();
        assert_eq!(memory.guest_address(end.wrapping_add(1)), None);
    }
}

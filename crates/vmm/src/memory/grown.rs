//! Memory that comes while the machine runs.
//!
//! All of its addresses are reserved from the beginning, by a region of their own behind all others; what the guest has of it is plugged, and nothing else of it is saved.

use super::{Mapped, Memory};
use crate::config::MemorySize;
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestRegionMmap};

/// Where memory is that may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct More {
    pub(crate) start: GuestAddress,
    /// In bytes.
    pub(crate) length: u64,
}

impl More {
    /// Kernels add memory by as much.
    const STEP: u64 = 128 << 20;

    /// What a machine needs that has `size` at its start and may have `most`, from `start` on.
    ///
    /// # Errors
    /// It has more at its start than it may have.
    pub(crate) fn new(start: GuestAddress, size: MemorySize, most: MemorySize) -> Result<Option<More>> {
        let more = most.bytes().checked_sub(size.bytes()).ok_or_else(|| {
            let (size, most) = (size.mib(), most.mib());
            Error::Size(format!("a machine that may have {most} MiB of memory can't have {size} MiB at its start"))
        })?;
        Ok((more > 0).then(|| More { start, length: more.next_multiple_of(More::STEP) }))
    }

    /// Its addresses.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start.0..self.start.0 + self.length
    }
}

impl Memory {
    pub(super) fn mapped(&self) -> MutexGuard<'_, Mapped> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where memory is that may come, if any may.
    pub(crate) fn more(&self) -> Option<More> {
        self.more
    }

    /// The regions that the machine has from its start on.
    pub(crate) fn at_start(&self) -> impl Iterator<Item = &GuestRegionMmap> {
        let count = self.regions().num_regions() - usize::from(self.more.is_some());
        self.regions().iter().take(count)
    }

    /// What of a range is plugged.
    pub(crate) fn plugged(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.mapped().plugged.within(range)
    }

    /// Everything that is plugged.
    pub(crate) fn all_plugged(&self) -> Vec<Range<u64>> {
        self.more.map_or_else(Vec::new, |more| self.plugged(&more.range()))
    }

    /// Whether the guest has all of a range, as far as that is memory that may come: devices go nowhere else, or a guest could have them fill what it was not given.
    pub(crate) fn is_the_guests(&self, at: GuestAddress, length: u64) -> bool {
        let Some(more) = self.more.map(|more| more.range()) else { return true };
        let range = at.0.max(more.start)..at.0.saturating_add(length).min(more.end);
        range.is_empty() || self.mapped().plugged.without(&range).is_empty()
    }

    /// The guest has it now. It reads as zeros.
    pub(crate) fn plug(&self, range: Range<u64>) {
        self.mapped().plugged.insert(range);
    }

    /// The guest has it no more: the host has it back, with whatever a device that was in the middle of a request has written since then to what went before.
    pub(crate) fn unplug(&self, range: &Range<u64>) {
        let gaps = {
            let mut mapped = self.mapped();
            mapped.plugged.remove(range);
            self.more.map(|more| mapped.plugged.without(&more.range())).unwrap_or_default()
        };
        for gap in gaps {
            self.give_back(GuestAddress(gap.start), gap.end - gap.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn what_has_come_is_saved_and_what_has_gone_is_not() {
        const BLOCK: u64 = 2 << 20;
        let (start, mib) = (1 << 32, |mib| MemorySize::from_mib(mib).unwrap());
        let memory = || {
            let more = More::new(GuestAddress(start), mib(32), mib(100)).unwrap();
            Memory::growing(mib(32), &[(GuestAddress(0), 32 << 20)], more).unwrap()
        };
        let fill = |memory: &Memory, block: u64, byte| {
            memory.write("bytes", GuestAddress(start + block * BLOCK), &vec![byte; BLOCK as usize]).unwrap();
        };
        let block = |number: u64| start + number * BLOCK..start + (number + 1) * BLOCK;
        let tell = |memory: &Memory| {
            [0, 1, 2, 3].map(|number| memory.regions().read_obj::<u8>(GuestAddress(block(number).start + 5)).unwrap())
        };
        // As a machine goes on: what it had is plugged before it is mapped.
        let goes_on = |from: &Memory| {
            let memory = memory();
            from.all_plugged().into_iter().for_each(|range| memory.plug(range));
            memory
        };
        let first = memory();
        [0, 1].into_iter().for_each(|number| first.plug(block(number)));
        [0, 1].into_iter().for_each(|number| fill(&first, number, 10 + number as u8));
        let base = tempfile::tempfile().unwrap();
        first.save(&base).unwrap();
        let second = goes_on(&first);
        second.map_saved(&base).unwrap();
        assert_eq!(tell(&second), [10, 11, 0, 0]);
        // One goes, one comes, one goes and comes again.
        second.unplug(&block(0));
        second.plug(block(3));
        fill(&second, 3, 13);
        second.unplug(&block(1));
        second.plug(block(1));
        assert_eq!(tell(&second), [0, 0, 0, 13]);
        let difference = tempfile::tempfile().unwrap();
        let runs = second.save_changed(&difference).unwrap();
        let third = goes_on(&second);
        third.map_saved(&base).unwrap();
        third.map_changed(&difference, &runs).unwrap();
        assert_eq!((tell(&third), third.all_plugged()), ([0, 0, 0, 13], vec![block(1), block(3)]));
        // What it had before, and has no more.
        let whole = tempfile::tempfile().unwrap();
        third.save(&whole).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert!(whole.metadata().unwrap().blocks() * 512 < 2 * BLOCK, "it has more than one block");
    }

    #[test]
    fn the_guest_has_what_is_plugged_and_what_went_before_is_given_back_again() {
        const BLOCK: u64 = 2 << 20;
        let (start, mib) = (4u64 << 30, |mib| MemorySize::from_mib(mib).unwrap());
        let more = More::new(GuestAddress(start), mib(32), mib(100)).unwrap();
        let memory = Memory::growing(mib(32), &[(GuestAddress(0), 32 << 20)], more).unwrap();
        memory.plug(start + BLOCK..start + 3 * BLOCK);
        memory.plug(start + 3 * BLOCK..start + 4 * BLOCK);
        let has = |at, length| memory.is_the_guests(GuestAddress(at), length);
        assert!(has(0, 32 << 20) && has(start + BLOCK, 3 * BLOCK) && has(start, 0) && has(u64::MAX, u64::MAX));
        for (at, length) in
            [(start, 1), (start + BLOCK - 1, 2), (start + 4 * BLOCK - 1, 2), (start - 1, 2), (0, u64::MAX)]
        {
            assert!(!has(at, length), "{at:#x} {length}");
        }
        // A device was late.
        memory.unplug(&(start + BLOCK..start + 2 * BLOCK));
        memory.write("bytes", GuestAddress(start + BLOCK), &[7; 100]).unwrap();
        memory.unplug(&(start + 3 * BLOCK..start + 4 * BLOCK));
        assert_eq!(memory.regions().read_obj::<u64>(GuestAddress(start + BLOCK)).unwrap(), 0);
    }

    #[test]
    fn what_may_come_is_of_whole_blocks() {
        let mib = |mib| MemorySize::from_mib(mib).unwrap();
        let more = |size, most| More::new(GuestAddress(1 << 32), mib(size), mib(most));
        assert_eq!(more(512, 512).unwrap(), None);
        assert_eq!(more(512, 513).unwrap().unwrap().length, 128 << 20);
        assert!(more(512, 511).unwrap_err().to_string().contains("511 MiB of memory can't have 512"));
    }
}

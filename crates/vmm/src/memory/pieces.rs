//! What a guest starts from, in huge pages that are made when it touches them first.
//!
//! A kernel writes to three quarters of its own pages while it starts: it patches its calls and returns. Each of them, mapped from its file, takes the processor out of the guest two or
//! three times. So where memory is to be in huge pages, nothing is mapped: a piece of 2 MiB that has something of a file is made beside the guest's memory when somebody touches it
//! ([`super::Filler`]), in a page as large, and moved there as a whole (mremap(2)), of which nobody who touches it meanwhile sees a half. Copying all of it before the start would
//! take longer than the rest of the start.

use super::mapping::{HUGE, HugePage};
use super::{Mapped, Memory};
use crate::error::{Error, Result};
use rustix::mm::Advice;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// A part of a file, and the guest's addresses that it belongs to, which are of one piece.
#[derive(Clone, Debug)]
struct FilePart {
    at: Range<u64>,
    file: Arc<File>,
    offset: u64,
}

impl FilePart {
    /// What remains of it without a range of addresses.
    fn without(self, range: &Range<u64>) -> impl Iterator<Item = FilePart> {
        let FilePart { at, file, offset } = self;
        let before = at.start..at.end.min(range.start);
        let behind = at.start.max(range.end)..at.end;
        [before, behind].into_iter().filter(|part| part.start < part.end).map(move |part| FilePart {
            offset: offset + (part.start - at.start),
            file: Arc::clone(&file),
            at: part,
        })
    }
}

/// The pieces that nobody has touched yet, by the guest's address of each, and what belongs into it: the rest is zeros.
#[derive(Debug, Default)]
pub(super) struct Pieces(BTreeMap<u64, Vec<FilePart>>);

impl Pieces {
    /// A part of a file belongs to whole or parts of pieces.
    fn lay(&mut self, at: &Range<u64>, file: &Arc<File>, offset: u64) {
        for piece in (at.start / HUGE * HUGE..at.end).step_by(HUGE as usize) {
            let part = at.start.max(piece)..at.end.min(piece + HUGE);
            let offset = offset + (part.start - at.start);
            self.0.entry(piece).or_default().push(FilePart { at: part, file: Arc::clone(file), offset });
        }
    }

    /// A range reads as zeros from now on, as far as it is of pieces that nobody has touched.
    pub(super) fn forget(&mut self, range: &Range<u64>) {
        let first = range.start / HUGE * HUGE;
        for (_, parts) in self.0.range_mut(first..range.end.max(first)) {
            *parts = std::mem::take(parts).into_iter().flat_map(|part| part.without(range)).collect();
        }
    }
}

impl Memory {
    /// From now on what is put into memory from files comes when it is touched first, in huge pages: somebody has to answer for that ([`super::Filler`]) before anybody touches it, and
    /// nothing else may be written there before. What is not of whole pieces of the guest's memory, or lies in the first one, is there at once all the same.
    pub(crate) fn in_huge_pages(&self) {
        for region in self.regions().iter() {
            let start = region.start_addr().raw_value();
            // The first piece is written to before the start, which would take it a whole huge page.
            let skipped = if start == 0 { HUGE.min(region.len()) } else { 0 };
            let place = region.as_ptr().wrapping_add(skipped as usize).cast();
            // SAFETY: the range is a part of a region, which is mapped for as long as `self` lives, and stays as it is.
            // It fails where the kernel has no huge pages: then these are small ones.
            let _ = unsafe { rustix::mm::madvise(place, (region.len() - skipped) as usize, Advice::LinuxHugepage) };
        }
        self.mapped().pieces = Some(Pieces::default());
    }

    /// Notes that a part of a file belongs into memory, as far as it is of pieces. Returns which part of the range that is, if there is one.
    pub(super) fn lay_pieces(&self, at: &Range<u64>, file: &File, offset: u64) -> Result<Option<Range<u64>>> {
        let mut mapped = self.mapped();
        let Some(pieces) = &mut mapped.pieces else { return Ok(None) };
        let Some(region) = self.at_start().find(|region| {
            (region.start_addr().raw_value()..region.start_addr().raw_value() + region.len()).contains(&at.start)
        }) else {
            return Ok(None);
        };
        let (start, end) = (region.start_addr().raw_value(), region.start_addr().raw_value() + region.len());
        let part = at.start.max(start.max(HUGE).next_multiple_of(HUGE))..at.end.min(end / HUGE * HUGE);
        if part.start >= part.end {
            return Ok(None);
        }
        let file = Arc::new(file.try_clone().map_err(Error::host("have a file of a machine twice"))?);
        pieces.lay(&part, &file, offset + (part.start - at.start));
        Ok(Some(part))
    }

    /// The pieces that nobody has touched yet, by their addresses in this process.
    pub(super) fn pieces_away(&self) -> Vec<Range<u64>> {
        let away: Vec<_> = self.mapped().pieces.iter().flat_map(|pieces| pieces.0.keys().copied()).collect();
        let place = |piece| self.regions().get_host_address(GuestAddress(piece)).ok().map(|place| place as u64);
        away.into_iter().filter_map(place).map(|place| place..place + HUGE).collect()
    }

    /// Makes the piece of an address, if it was not yet.
    ///
    /// # Errors
    /// A file can't be read or was cut, or the host has no memory.
    pub(super) fn bring_piece(&self, at: GuestAddress) -> io::Result<()> {
        self.bring(at.0 / HUGE * HUGE)
    }

    /// Makes all pieces that were not yet.
    ///
    /// # Errors
    /// As [`Memory::bring_piece`].
    pub(super) fn bring_pieces(&self) -> io::Result<()> {
        let next = || self.mapped().pieces.as_ref().and_then(|pieces| pieces.0.keys().next().copied());
        while let Some(piece) = next() {
            self.bring(piece)?;
        }
        Ok(())
    }

    /// Nothing is locked while files are read; what was given back meanwhile is not in the piece that comes.
    fn bring(&self, piece: u64) -> io::Result<()> {
        let place = self.regions().get_host_address(GuestAddress(piece)).map_err(io::Error::other)?;
        let parts_of = |mapped: &Mapped| mapped.pieces.as_ref().and_then(|pieces| pieces.0.get(&piece).cloned());
        loop {
            let Some(parts) = parts_of(&self.mapped()) else { return Ok(()) };
            let mut page = HugePage::new()?;
            for FilePart { at, file, offset } in &parts {
                let inside = (at.start - piece) as usize..(at.end - piece) as usize;
                file.read_exact_at(&mut page.bytes()[inside], *offset)?;
            }
            let mut mapped = self.mapped();
            match (parts_of(&mapped), &mut mapped.pieces) {
                (Some(now), Some(pieces)) if now.iter().map(|part| &part.at).eq(parts.iter().map(|part| &part.at)) => {
                    // SAFETY: the place is of a region, which is mapped for as long as `self` lives, and nobody has touched it; nothing in this process has a reference into it.
                    unsafe { page.move_to(place.cast())? };
                    pieces.0.remove(&piece);
                    return Ok(());
                }
                // A part of it was given back: again without that. That can't be as often as the guest likes, as each time there is less of it.
                (Some(_), _) => {}
                (None, _) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What pieces have is what a plain memory would, that files are read into and zeros written over.
        #[test]
        fn what_is_laid_and_forgotten_is_what_a_memory_has(
            parts in prop::collection::vec((0u64..8000, 1u64..4000, 0u64..100), 1..4),
            gone in prop::collection::vec((0u64..12_000, 0u64..3000), 0..4),
        ) {
            // In units, so that pieces' borders are among what is tried.
            const UNIT: u64 = HUGE / 2048;
            let file = Arc::new(tempfile::tempfile().unwrap());
            let (mut pieces, mut expected) = (Pieces::default(), vec![None; 16 << 10]);
            for (start, count, from) in parts {
                pieces.lay(&(start * UNIT..(start + count) * UNIT), &file, from * UNIT);
                (0..count).for_each(|unit| expected[(start + unit) as usize] = Some(from + unit));
            }
            for (start, count) in gone {
                pieces.forget(&(start * UNIT..(start + count) * UNIT));
                expected[start as usize..(start + count) as usize].fill(None);
            }
            let mut found = vec![None; 16 << 10];
            for (piece, parts) in &pieces.0 {
                for FilePart { at, offset, .. } in parts {
                    prop_assert!(at.start >= *piece && at.end <= piece + HUGE && at.start < at.end);
                    for unit in 0..(at.end - at.start) / UNIT {
                        found[(at.start / UNIT + unit) as usize] = Some(offset / UNIT + unit);
                    }
                }
            }
            prop_assert!(found == expected);
        }
    }
}

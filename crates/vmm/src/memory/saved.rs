//! The guest's memory in a file: written there, mapped from there, and what changed between.
//!
//! The file has the guest's regions one behind the other, and holes for pages of zeros. A machine that goes on from it has it mapped, private to its process: it reads
//! what it touches, and what it writes is its own. So what a machine changed since then is what its process has pages of its own of, which the kernel says
//! (`/proc/self/pagemap`, its Documentation/admin-guide/mm/pagemap.rst): whoever wrote it, a processor or a device, and at no cost while it runs.

use super::awaited::Came;
use super::{Memory, PAGE};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Pages one behind the other in the file: the number of the first, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// Pages that are looked at at once.
const PIECE: u64 = 256;
/// Runs of at least so many pages are mapped from a file of differences, shorter ones are copied: a process may have 65,530 mappings.
const MAPPED: u64 = 256;

/// Bits of a page's entry: it is there, it is in swap, it is a file's.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Takes pages of a region, and what the kernel says of them, if it does.
type Take<'a> = dyn FnMut(Range<u64>, Option<&[u64]>) -> Result<()> + 'a;

/// A region of the guest's memory.
#[derive(Clone, Copy)]
struct Part {
    /// Its first address for the guest, in this process, and in the file.
    guest: u64,
    host: u64,
    file: u64,
    length: u64,
}

impl Memory {
    /// The parts that the guest has: its regions, and what is plugged of the last one. In the file each has its place, whatever is plugged.
    fn parts(&self) -> Vec<Part> {
        let (mut parts, mut file) = (Vec::new(), 0);
        for region in self.regions().iter() {
            let (start, length) = (region.start_addr().raw_value(), region.len());
            let part = |range: Range<u64>| Part {
                guest: range.start,
                host: region.as_ptr() as u64 + (range.start - start),
                file: file + (range.start - start),
                length: range.end - range.start,
            };
            match self.more() {
                Some(more) if more.start == region.start_addr() => {
                    parts.extend(self.all_plugged().into_iter().map(part));
                }
                _ => parts.push(part(start..start + length)),
            }
            file += length;
        }
        parts
    }

    /// Bytes of the file.
    pub(super) fn length_of_file(&self) -> u64 {
        self.regions().iter().map(GuestMemoryRegion::len).sum()
    }

    /// Writes all of it into an empty file. Nothing may write to it meanwhile.
    pub(crate) fn save(&self, to: &File) -> Result<()> {
        to.set_len(self.length_of_file()).map_err(Error::host(WRITE))?;
        self.bring_pieces().map_err(Error::host("put the kernel or its initramfs into the guest's memory"))?;
        let pages = pages_of_process();
        for part in self.parts() {
            self.each_piece(part, pages.as_ref(), &mut |piece, entries| {
                // Without an entry it may be anything, as may be what is mapped from a file and was not touched.
                let came = self.came(part.guest + piece.start * PAGE, piece.end - piece.start);
                let may_have = |number: usize| {
                    let at = part.guest + (piece.start + number as u64) * PAGE;
                    entries.is_none_or(|entries| entries[number] & (PRESENT | SWAPPED) != 0)
                        || self.is_of_file(at)
                        || came[number] == Some(Came::Not)
                };
                let wanted: Vec<_> = (0..(piece.end - piece.start) as usize).map(may_have).collect();
                self.write_pages(part, piece.start, &wanted, to).map(drop)
            })?;
        }
        Ok(())
    }

    /// Writes into an empty file what of it changed since it was mapped as a whole. Returns which pages that is. Nothing may write to it meanwhile.
    pub(crate) fn save_changed(&self, to: &File) -> Result<Vec<Run>> {
        to.set_len(self.length_of_file()).map_err(Error::host(WRITE))?;
        let pages = pages_of_process().map_err(Error::host(
            "ask which pages a machine changed (/proc/self/pagemap): mount /proc for its process, or save all of it",
        ))?;
        let mut runs: Vec<Run> = Vec::new();
        for part in self.parts() {
            self.each_piece(part, Ok(&pages), &mut |piece, entries| {
                let entries = entries.unwrap_or_default();
                let at = |number: u64| part.guest + number * PAGE;
                let holes = self.holes(&(at(piece.start)..at(piece.end)));
                let came = self.came(at(piece.start), piece.end - piece.start);
                let changed = |(number, entry): (usize, &u64)| {
                    came[number] == Some(Came::OrWas)
                        || entry & SWAPPED != 0
                        || entry & (PRESENT | OF_FILE) == PRESENT
                        || holes.iter().any(|hole| hole.contains(&at(piece.start + number as u64)))
                };
                let mut wanted: Vec<_> = entries.iter().enumerate().map(changed).collect();
                self.leave_out_same(part, piece.start, &mut wanted)?;
                for run in self.write_pages(part, piece.start, &wanted, to)? {
                    match runs.last_mut() {
                        Some(last) if last.first + last.count == run.first => last.count += run.count,
                        _ => runs.push(run),
                    }
                }
                Ok(())
            })?;
        }
        Ok(runs)
    }

    /// Maps all of it from a file that it was saved in, and which nobody writes to any more.
    pub(crate) fn map_saved(&self, file: &File) -> Result<()> {
        self.is_whole(file)?;
        for part in self.parts() {
            self.map("a snapshot", GuestAddress(part.guest), file, part.file, part.length)?;
        }
        Ok(())
    }

    /// Puts what changed over it, of a file as [`Memory::save_changed`] writes.
    pub(crate) fn map_changed(&self, file: &File, runs: &[Run]) -> Result<()> {
        self.is_whole(file)?;
        let parts = self.parts();
        for run in runs {
            let pages = self.pages_of(run)?;
            let (start, end) = (pages.start * PAGE, pages.end * PAGE);
            // What was unplugged later is in none.
            for part in &parts {
                let (start, end) = (start.max(part.file), end.min(part.file + part.length));
                let Some(length) = end.checked_sub(start).filter(|length| *length > 0) else { continue };
                let at = GuestAddress(part.guest + (start - part.file));
                if length >= MAPPED * PAGE {
                    self.map("a snapshot", at, file, start, length)?;
                } else {
                    self.copy("a snapshot", at, file, start, length)?;
                }
            }
        }
        Ok(())
    }

    /// The pages that a run is of, if the file has them.
    pub(super) fn pages_of(&self, run: &Run) -> Result<Range<u64>> {
        let end = run.first.checked_add(run.count).filter(|end| *end <= self.length_of_file() / PAGE);
        let end = end.ok_or_else(|| Error::Snapshot("a snapshot has pages that its machine has not".to_owned()))?;
        Ok(run.first..end)
    }

    /// The pages that the guest has, by their numbers in a snapshot's files.
    pub(super) fn saved_pages(&self) -> Vec<Range<u64>> {
        self.parts().iter().map(|part| part.file / PAGE..(part.file + part.length) / PAGE).collect()
    }

    /// Leaves out of some pages of a region that are to be written those that are in memory as they are in the files that they came from.
    fn leave_out_same(&self, part: Part, first: u64, wanted: &mut [bool]) -> Result<()> {
        if !self.whole().may_be_lost() || !wanted.contains(&true) {
            return Ok(());
        }
        let mut bytes = vec![0; wanted.len() * PAGE as usize];
        self.read_pages(GuestAddress(part.guest + first * PAGE), &mut bytes)?;
        let differing = self.differing(part.file / PAGE + first, &bytes)?;
        wanted.iter_mut().zip(differing).for_each(|(wanted, differs)| *wanted &= differs);
        Ok(())
    }

    pub(super) fn is_whole(&self, file: &File) -> Result<()> {
        let length = file.metadata().map_err(Error::host("look at a snapshot's memory"))?.len();
        if length == self.length_of_file() {
            Ok(())
        } else {
            Err(Error::Snapshot(format!(
                "the memory of a snapshot has {length} bytes, and its machine {}: it is of another one, or was cut",
                self.length_of_file()
            )))
        }
    }

    /// Goes through a region piece by piece, with what the kernel says of the pages, if it does.
    fn each_piece(
        &self,
        part: Part,
        pages: std::result::Result<&File, &std::io::Error>,
        take: &mut Take<'_>,
    ) -> Result<()> {
        let count = part.length / PAGE;
        for start in (0..count).step_by(PIECE as usize) {
            let piece = start..(start + PIECE).min(count);
            let entries = pages.ok().map(|pages| entries(pages, part.host / PAGE + start, piece.end - start));
            take(piece, entries.transpose()?.as_deref())?;
        }
        Ok(())
    }

    /// Writes the wanted ones of some pages of a region, those that are all zeros as holes. Returns which they were.
    fn write_pages(&self, part: Part, first: u64, wanted: &[bool], to: &File) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        let mut next = 0;
        while next < wanted.len() {
            let count = wanted[next..].iter().take_while(|wanted| **wanted).count();
            if count == 0 {
                next += 1;
                continue;
            }
            let mut bytes = vec![0; count * PAGE as usize];
            let start = (first + next as u64) * PAGE;
            let at = GuestAddress(part.guest + start);
            self.read_pages(at, &mut bytes)?;
            let has_something = |page: &[u8]| page.iter().any(|byte| *byte != 0);
            let written: Vec<_> = bytes.chunks(PAGE as usize).map(has_something).collect();
            let mut done = 0;
            for alike in written.chunk_by(bool::eq) {
                let end = done + alike.len() * PAGE as usize;
                if alike[0] {
                    to.write_all_at(&bytes[done..end], part.file + start + done as u64).map_err(Error::host(WRITE))?;
                }
                done = end;
            }
            runs.push(Run { first: (part.file + start) / PAGE, count: count as u64 });
            next += count;
        }
        Ok(runs)
    }

    /// Whether an address is of what was mapped from a file.
    fn is_of_file(&self, at: u64) -> bool {
        self.mapped().files.contains(at)
    }

    /// Where in a range are zeros, whatever was mapped there.
    fn holes(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.mapped().holes.within(range)
    }
}

const WRITE: &str = "write the memory of a snapshot";

fn pages_of_process() -> std::io::Result<File> {
    File::open("/proc/self/pagemap")
}

/// What the kernel says of pages, from the number of the first one on.
fn entries(pages: &File, first: u64, count: u64) -> Result<Vec<u64>> {
    let mut bytes = vec![0; (count * 8) as usize];
    pages.read_exact_at(&mut bytes, first * 8).map_err(Error::host("read /proc/self/pagemap"))?;
    Ok(bytes.as_chunks().0.iter().map(|entry| u64::from_ne_bytes(*entry)).collect())
}

//! Memory that comes from a snapshot's files when it is touched first, page by page: what of it has come.
//!
//! A page that a file has and that has not come is nowhere else. Once it has come, or the guest has given it back, the file counts no more: what is then not there
//! is zeros. Whoever changes one or the other has [`Mapped`](super::Mapped) locked, so that a page can't come from the file after it was given back.

use super::sources::Sources;
use super::{Memory, PAGE};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// What has come of what files have.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) sources: Arc<Sources>,
    /// A bit for each page, by its number in the files: it has come, or was given back.
    come: Vec<u64>,
}

impl Awaited {
    fn new(sources: Arc<Sources>, pages: u64) -> Awaited {
        Awaited { sources, come: vec![0; pages.div_ceil(64) as usize] }
    }

    /// Whether a page is still where a file has it.
    pub(super) fn is_away(&self, page: u64) -> bool {
        let has_come = self.come.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1);
        !has_come && self.sources.has(page)
    }

    /// Of a range of pages, the runs of those that are still where a file has them.
    pub(super) fn away(&self, pages: Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in pages.filter(|page| self.is_away(*page)) {
            match runs.last_mut() {
                Some(last) if last.end == page => last.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    /// These pages count as they are in memory from now on.
    pub(super) fn has_come(&mut self, pages: Range<u64>) {
        for page in pages {
            if let Some(word) = self.come.get_mut((page / 64) as usize) {
                *word |= 1 << (page % 64);
            }
        }
    }
}

/// Whether the guest's memory has all that it should: a file may not have had a page when it was touched, which then is zeros. Whoever takes something from the guest to where
/// it lasts looks at this after it has read it, and before it writes. Clones look at the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole(Arc<AtomicU8>);

/// All is there; some has to come; some can't come any more.
const IS_THERE: u8 = 0;
const MAY_BE_LOST: u8 = 1;
const LOST: u8 = 2;

impl Whole {
    /// Whether pages may come at all.
    pub(crate) fn may_be_lost(&self) -> bool {
        self.0.load(Ordering::SeqCst) != IS_THERE
    }

    /// Whether nothing is missing.
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst) != LOST
    }

    /// Something has to come.
    pub(super) fn may_lose(&self) {
        self.change(IS_THERE, MAY_BE_LOST);
    }

    /// Something is missing, unless all is there.
    pub(super) fn lose(&self) {
        self.change(MAY_BE_LOST, LOST);
    }

    /// All has come, unless something is missing.
    pub(super) fn keep(&self) {
        self.change(MAY_BE_LOST, IS_THERE);
    }

    fn change(&self, from: u8, to: u8) {
        // Else it stays as it is.
        let _ = self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl Memory {
    /// From now on it has what files have, from which it comes as it is touched: somebody has to answer for that ([`super::Pager`]) before anybody touches it.
    pub(super) fn await_pages(&self, sources: Arc<Sources>) {
        self.mapped().awaited = Some(Awaited::new(sources, self.length_of_file() / PAGE));
        self.whole.may_lose();
    }

    /// Whether it has all that it should.
    pub(crate) fn whole(&self) -> &Whole {
        &self.whole
    }

    /// The number that a page of the guest's has in a snapshot's files.
    pub(super) fn page_of(&self, at: GuestAddress) -> Option<u64> {
        let mut file = 0;
        for region in self.regions().iter() {
            let start = region.start_addr().raw_value();
            if (start..start + region.len()).contains(&at.0) {
                return Some((file + at.0 - start) / PAGE);
            }
            file += region.len();
        }
        None
    }

    /// Of pages by their numbers in files, the parts that lie together: each with the address that it has in this process.
    pub(super) fn places(&self, pages: &Range<u64>) -> Vec<(Range<u64>, u64)> {
        let (mut places, mut first) = (Vec::new(), 0);
        for region in self.regions().iter() {
            let count = region.len() / PAGE;
            let part = pages.start.max(first)..pages.end.min(first + count);
            if part.start < part.end {
                let host = region.as_ptr() as u64 + (part.start - first) * PAGE;
                places.push((part, host));
            }
            first += count;
        }
        places
    }

    /// Reads whole pages from an address on, as they are to be saved: those that have not come, from where they are.
    pub(super) fn read_pages(&self, at: GuestAddress, bytes: &mut [u8]) -> Result<()> {
        let needs = bytes.len() as u64;
        let failed = |_| Error::DoesNotFit { what: "a snapshot", at: at.0, needs };
        let away = {
            let mapped = self.mapped();
            mapped.awaited.as_ref().zip(self.page_of(at)).map(|(awaited, first)| {
                (Arc::clone(&awaited.sources), first, awaited.away(first..first + needs / PAGE))
            })
        };
        let Some((sources, first, away)) = away else {
            return self.regions().read_slice(bytes, at).map_err(failed);
        };
        let mut done = first;
        let bytes_of =
            |pages: Range<u64>| ((pages.start - first) * PAGE) as usize..((pages.end - first) * PAGE) as usize;
        for run in away {
            let before = bytes_of(done..run.start);
            let place = GuestAddress(at.0 + before.start as u64);
            self.regions().read_slice(&mut bytes[before], place).map_err(failed)?;
            done = run.end;
            sources.read(run.start, &mut bytes[bytes_of(run)]).map_err(Error::host("read the memory of a snapshot"))?;
        }
        let rest = bytes_of(done..first + needs / PAGE);
        let place = GuestAddress(at.0 + rest.start as u64);
        self.regions().read_slice(&mut bytes[rest], place).map_err(failed)
    }

    /// What is known of pages from an address on by what has come, if any come; `None` for those that no file has.
    pub(super) fn came(&self, at: u64, count: u64) -> Vec<Option<Came>> {
        let mapped = self.mapped();
        let Some((awaited, first)) = mapped.awaited.as_ref().zip(self.page_of(GuestAddress(at))) else {
            return vec![None; count as usize];
        };
        let came = |page| {
            let came = if awaited.is_away(page) { Came::Not } else { Came::OrWas };
            awaited.sources.has(page).then_some(came)
        };
        (first..first + count).map(came).collect()
    }

    /// Of runs of pages that may have changed, those that differ from what the files have: that a page has come is no change.
    pub(super) fn differing(&self, first: u64, bytes: &[u8]) -> Result<Vec<bool>> {
        let sources = self.mapped().awaited.as_ref().map(|awaited| Arc::clone(&awaited.sources));
        let count = bytes.len() / PAGE as usize;
        let Some(sources) = sources else { return Ok(vec![true; count]) };
        let mut before = vec![0; bytes.len()];
        sources.read(first, &mut before).map_err(Error::host("read the memory of a snapshot"))?;
        let pages = bytes.chunks(PAGE as usize).zip(before.chunks(PAGE as usize));
        Ok(pages.map(|(now, before)| now != before).collect())
    }
}

/// What became of a page that a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It is still there alone.
    Not,
    /// It has come, or was given back.
    OrWas,
}

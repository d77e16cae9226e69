//! Where each page of a saved machine's memory is: in one of the files of its snapshot, of which each is a difference to the one before, or in none.
//!
//! All of these files have every page in the same place: pages are named by their number there.

use super::PAGE;
use super::ranges::Ranges;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The files, and which of them counts where.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<File>,
    /// By the number of a first page: where its run ends, and the number of its file. Disjoint.
    runs: BTreeMap<u64, (u64, usize)>,
}

impl Sources {
    /// Another file, over all that were given before. Returns its number, for [`Sources::lay`].
    pub(crate) fn file(&mut self, file: File) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// From now on these pages are in that file.
    pub(crate) fn lay(&mut self, file: usize, pages: Range<u64>) {
        if pages.is_empty() {
            return;
        }
        let before = self.runs.range(..pages.start).next_back();
        let cut: Vec<_> = before
            .into_iter()
            .chain(self.runs.range(pages.start..pages.end))
            .map(|(start, (end, file))| (*start, *end, *file))
            .filter(|(_, end, _)| *end > pages.start)
            .collect();
        for (start, end, other) in cut {
            self.runs.remove(&start);
            if start < pages.start {
                self.runs.insert(start, (pages.start, other));
            }
            if end > pages.end {
                self.runs.insert(pages.end, (end, other));
            }
        }
        self.runs.insert(pages.start, (pages.end, file));
    }

    /// Of a range of pages, the parts that a file has, each with the number of that.
    fn within(&self, pages: &Range<u64>) -> Vec<(Range<u64>, usize)> {
        let before = self.runs.range(..pages.start).next_back();
        let from = self.runs.range(pages.start..pages.end.max(pages.start));
        let part = |(start, (end, file)): (&u64, &(u64, usize))| (pages.start.max(*start)..pages.end.min(*end), *file);
        before.into_iter().chain(from).map(part).filter(|(part, _)| part.start < part.end).collect()
    }

    /// Whether a file has a page.
    pub(crate) fn has(&self, page: u64) -> bool {
        self.runs.range(..=page).next_back().is_some_and(|(_, (end, _))| page < *end)
    }

    /// All pages that a file has.
    pub(super) fn all(&self) -> Ranges {
        let mut all = Ranges::default();
        self.runs.iter().for_each(|(start, (end, _))| all.insert(*start..*end));
        all
    }

    /// Reads pages from the number `first` on: what no file has is zeros.
    ///
    /// # Errors
    /// What a file says, or that it was cut.
    pub(super) fn read(&self, first: u64, bytes: &mut [u8]) -> io::Result<()> {
        let count = bytes.len() as u64 / PAGE;
        bytes.fill(0);
        for (part, file) in self.within(&(first..first + count)) {
            let at = |page: u64| ((page - first) * PAGE) as usize;
            self.files[file].read_exact_at(&mut bytes[at(part.start)..at(part.end)], part.start * PAGE)?;
        }
        Ok(())
    }
}

/// The parts of a file that are no holes, where its file system tells (lseek(2)); gaps of less than `gap` pages belong to them. Each begins and ends with a page.
pub(super) fn filled(file: &File, gap: u64) -> io::Result<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    let pages = file.metadata()?.len().div_ceil(PAGE);
    let (mut parts, mut at): (Vec<Range<u64>>, u64) = (Vec::new(), 0);
    loop {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(parts),
            // It does not tell: anything may be anywhere.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(std::iter::once(0..pages).collect()),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(data))?;
        let (start, end) = (data / PAGE, at.div_ceil(PAGE).min(pages));
        match parts.last_mut() {
            Some(last) if start < last.end + gap => last.end = end,
            _ => parts.push(start..end),
        }
        if end == pages {
            return Ok(parts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_last_file_that_has_a_page_counts(
            layers in prop::collection::vec((0usize..4, 0u64..30, 0u64..12), 0..20),
            look in (0u64..35, 0u64..12),
        ) {
            let mut sources = Sources::default();
            for byte in 1..=4u8 {
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(&vec![byte; 50 * PAGE as usize], 0).unwrap();
                sources.file(file);
            }
            let mut expected = [0u8; 60];
            for (file, start, count) in layers {
                sources.lay(file, start..start + count);
                expected[start as usize..(start + count) as usize].fill(file as u8 + 1);
            }
            let mut bytes = vec![0xee; (look.1 * PAGE) as usize];
            sources.read(look.0, &mut bytes).unwrap();
            for (number, page) in bytes.chunks(PAGE as usize).enumerate() {
                let byte = expected[look.0 as usize + number];
                prop_assert!(page.iter().all(|found| *found == byte));
                prop_assert_eq!(sources.has(look.0 + number as u64), byte != 0);
            }
        }
    }

    #[test]
    fn holes_are_left_out_and_a_file_that_was_cut_is_told() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 * PAGE).unwrap();
        for page in [3, 5, 60] {
            file.write_all_at(&[1; PAGE as usize], page * PAGE).unwrap();
        }
        assert_eq!(filled(&file, 0).unwrap(), [3..4, 5..6, 60..61]);
        assert_eq!(filled(&file, 16).unwrap(), [3..6, 60..61]);
        let mut sources = Sources::default();
        let number = sources.file(file.try_clone().unwrap());
        sources.lay(number, 60..61);
        sources.read(60, &mut [0; PAGE as usize]).unwrap();
        file.set_len(60 * PAGE + 1).unwrap();
        let error = sources.read(60, &mut [0; PAGE as usize]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

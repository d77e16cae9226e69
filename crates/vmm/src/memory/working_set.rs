//! Which pages of a snapshot a machine touched first: told by one that went on from it, kept beside it, and read ahead by the next one.
//!
//! A guest decides what it touches, and one that has taken over its machine's process what that tells. So nothing here is believed: it says in which order pages of the snapshot are read,
//! and nothing of what is in them; it is bounded, and pages that the snapshot's machine does not have are left out.
//!
//! | bytes of the file | what |
//! |---|---|
//! | 8 | `STRATOUC` |
//! | 4 | the version of what follows, little-endian |
//! | 4 | how many runs follow, little-endian |
//! | 8 each | the first page's number, in bytes 0 to 5, and how many pages, in bytes 6 and 7, little-endian |
//! | 16 | XXH3 of 128 bits of all that, little-endian |

use super::Run;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use twox_hash::XxHash3_128;

const MAGIC: [u8; 8] = *b"STRATOUC";
const VERSION: u32 = 1;
const HEADER: usize = 16;
const RUN: usize = 8;
const SUM: usize = 16;
/// The most runs.
pub(super) const MOST_RUNS: usize = 1 << 16;
/// Bytes of the longest file.
const MOST: usize = HEADER + MOST_RUNS * RUN + SUM;
/// Bits of a page's number: of more memory than any processor addresses.
const PAGE_BITS: u32 = 48;

/// Pages in the order in which they were touched first, in runs: what a machine that goes on from the same snapshot is likely to need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet(pub(super) Vec<Run>);

impl WorkingSet {
    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.0.iter().map(|run| run.count).fold(0, u64::saturating_add)
    }

    /// As a file has it, half a MiB at most: runs that are longer than one of the file can be are several, and what is beyond the bound, or is no page, is left out.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut runs = Vec::new();
        let is_page = |run: &&Run| run.first.checked_add(run.count).is_some_and(|end| end <= 1 << PAGE_BITS);
        'all: for run in self.0.iter().filter(is_page) {
            let (mut first, mut rest) = (run.first, run.count);
            while rest > 0 {
                if runs.len() == MOST_RUNS {
                    break 'all;
                }
                let count = rest.min(u16::MAX.into());
                runs.push(first | count << PAGE_BITS);
                (first, rest) = (first + count, rest - count);
            }
        }
        let mut bytes = Vec::with_capacity(HEADER + runs.len() * RUN + SUM);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((runs.len() as u32).to_le_bytes());
        runs.iter().for_each(|run| bytes.extend(run.to_le_bytes()));
        bytes.extend(XxHash3_128::oneshot(&bytes).to_le_bytes());
        bytes
    }

    /// From what [`WorkingSet::to_bytes`] made.
    ///
    /// # Errors
    /// It is something else, of another version, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<WorkingSet> {
        let wrong = |why: &str| Error::Snapshot(format!("which pages were touched can't be read: {why}"));
        let (body, sum) = bytes.split_last_chunk::<SUM>().ok_or_else(|| wrong("it is too short"))?;
        let (header, runs) = body.split_first_chunk::<HEADER>().ok_or_else(|| wrong("it is too short"))?;
        let [version, count] = [8, 12].map(|at| [header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..8] != MAGIC || u32::from_le_bytes(version) != VERSION {
            return Err(wrong("it does not begin as such, or is of another version"));
        }
        if runs.len() > MOST_RUNS * RUN || runs.len() != u32::from_le_bytes(count) as usize * RUN {
            return Err(wrong("its length is not what it says"));
        }
        if XxHash3_128::oneshot(body).to_le_bytes() != *sum {
            return Err(wrong("it is damaged"));
        }
        let (runs, _) = runs.as_chunks::<RUN>();
        let run = |bytes: &[u8; RUN]| {
            let word = u64::from_le_bytes(*bytes);
            Run { first: word & ((1 << PAGE_BITS) - 1), count: word >> PAGE_BITS }
        };
        Ok(WorkingSet(runs.iter().map(run).collect()))
    }

    /// Reads the file of one.
    ///
    /// # Errors
    /// As [`WorkingSet::from_bytes`]; or it can't be read.
    pub fn read(from: &File) -> Result<WorkingSet> {
        let mut bytes = Vec::new();
        // One byte more shows that it is too long.
        let read = from.take(MOST as u64 + 1).read_to_end(&mut bytes);
        read.map_err(Error::host("read which pages of a snapshot were touched"))?;
        WorkingSet::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn pages(set: &WorkingSet) -> Vec<u64> {
        set.0.iter().flat_map(|run| run.first..run.first + run.count).collect()
    }

    #[test]
    fn what_is_too_much_or_no_page_is_left_out() {
        let many = WorkingSet((0..MOST_RUNS as u64 + 9).map(|at| Run { first: at * 2, count: 1 }).collect());
        let bytes = many.to_bytes();
        assert_eq!(bytes.len(), MOST);
        assert_eq!(WorkingSet::from_bytes(&bytes).unwrap(), WorkingSet(many.0[..MOST_RUNS].to_vec()));
        let wrong =
            [Run { first: u64::MAX, count: 2 }, Run { first: 0, count: u64::MAX }, Run { first: 1 << 48, count: 1 }];
        let set = WorkingSet([&wrong[..], &[Run { first: 7, count: 3 }]].concat());
        assert_eq!(set.pages(), u64::MAX);
        assert_eq!(WorkingSet::from_bytes(&set.to_bytes()).unwrap(), WorkingSet(vec![Run { first: 7, count: 3 }]));
    }

    #[test]
    fn a_file_that_is_longer_than_any_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&WorkingSet(vec![Run { first: 1, count: 2 }]).to_bytes()).unwrap();
        let again = |file: &mut File| {
            std::io::Seek::rewind(file).unwrap();
            WorkingSet::read(file)
        };
        assert_eq!(again(&mut file).unwrap().pages(), 2);
        file.set_len(1 << 40).unwrap();
        assert!(again(&mut file).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(runs in proptest::collection::vec((0u64..1 << 40, 0u64..80_000), 0..4)) {
            let set = WorkingSet(runs.into_iter().map(|(first, count)| Run { first, count }).collect());
            prop_assert_eq!(pages(&WorkingSet::from_bytes(&set.to_bytes()).unwrap()), pages(&set));
        }

        #[test]
        fn what_is_damaged_is_refused(count in 0u64..50, at: prop::sample::Index, by in 1u8.., cut: prop::sample::Index) {
            let set = WorkingSet((0..count).map(|at| Run { first: at * 3, count: 2 }).collect());
            let mut bytes = set.to_bytes();
            prop_assert!(WorkingSet::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert!(WorkingSet::from_bytes(&bytes).is_err());
        }

        #[test]
        fn nothing_that_is_read_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(WorkingSet::from_bytes(&bytes).is_err());
        }
    }
}

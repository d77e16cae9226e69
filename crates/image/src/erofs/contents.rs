//! Bytes of files, from a layer into its EROFS file, of which none are held here.
//!
//! `copy_file_range(2)` shares the blocks where the file system can (XFS, Btrfs): it tries what `FICLONERANGE` does first. Where it can't
//! copy at all, the bytes are read and written.

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Bytes that are read at once, where they have to be.
const PIECE: usize = 128 << 10;

/// Copies a part of one file to a place in another.
pub(crate) fn copy(from: &OwnedFd, part: Range<u64>, to: &File, at: u64) -> io::Result<()> {
    let (mut read, mut write) = (part.start, at);
    while read < part.end {
        let length = usize::try_from(part.end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
            // Some file systems say that there is nothing where they can't (copy_file_range(2)).
            Ok(0) => return through_memory(from, read..part.end, to, write),
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM | Errno::TXTBSY) => {
                return through_memory(from, read..part.end, to, write);
            }
            Err(Errno::INTR | Errno::AGAIN) | Ok(_) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

fn through_memory(from: &OwnedFd, part: Range<u64>, to: &File, mut at: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut read = part.start;
    while read < part.end {
        let length = usize::try_from(part.end - read).unwrap_or(PIECE).min(PIECE);
        let got = rustix::io::pread(from.as_fd(), &mut buffer[..length], read)?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile"));
        }
        to.write_all_at(&buffer[..got], at)?;
        read += got as u64;
        at += got as u64;
    }
    Ok(())
}

/// Whether a file has holes. What it has on the disk says less: XFS takes more than is in a file that grows.
pub(super) fn has_holes(file: &OwnedFd, size: u64) -> Result<bool, Errno> {
    match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(first) => Ok(first < size),
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NXIO) => Ok(false),
        Err(other) => Err(other),
    }
}

/// The parts of a file that are no holes, in order.
pub(crate) fn data(file: &OwnedFd, size: u64, visit: &mut dyn FnMut(Range<u64>) -> io::Result<()>) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin.max(at),
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => return Ok(()),
            // There are none where nobody knows them.
            Err(Errno::INVAL | Errno::NOTSUP) => at,
            Err(other) => return Err(other.into()),
        };
        if begin >= size {
            return Ok(());
        }
        let end = match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::NOTSUP) => size,
            Err(other) => return Err(other.into()),
        };
        visit(begin..end)?;
        // A file that changes meanwhile is not to hold this up for ever.
        at = end.max(begin + 1);
    }
    Ok(())
}

/// Which chunks of a sparse file have something in them: so many that what says where each is fits beside the inode.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Bytes of each, as a power of two.
    bits: u8,
    /// The first block of each; `None`: a hole.
    pub(super) blocks: Vec<Option<u32>>,
}

impl Chunks {
    const MOST: u64 = 512;
    const BLOCK_BITS: u8 = 12;

    /// Those of a file, which has something in none of them yet.
    pub(super) fn of(size: u64) -> Chunks {
        let mut bits = Chunks::BLOCK_BITS;
        while size.div_ceil(1 << bits) > Chunks::MOST {
            bits += 1;
        }
        Chunks { bits, blocks: vec![None; size.div_ceil(1 << bits) as usize] }
    }

    /// Blocks in each, as a power of two.
    pub(super) fn block_bits(&self) -> u8 {
        self.bits - Chunks::BLOCK_BITS
    }

    /// A part of the file is none of its holes.
    pub(super) fn note(&mut self, part: &Range<u64>) {
        let (first, last) = (self.index(part.start), self.index(part.end - 1));
        if let Some(chunks) = self.blocks.get_mut(first..=last) {
            chunks.fill(Some(0));
        }
    }

    fn index(&self, at: u64) -> usize {
        usize::try_from(at >> self.bits).unwrap_or(usize::MAX)
    }

    /// Bytes in chunks that have nothing in them.
    pub(super) fn holes(&self, size: u64) -> u64 {
        (0..self.blocks.len()).filter(|index| self.blocks[*index].is_none()).map(|index| self.bytes(index, size)).sum()
    }

    /// Bytes of a file of a size that are in a chunk.
    fn bytes(&self, index: usize, size: u64) -> u64 {
        let chunk = 1u64 << self.bits;
        (size - index as u64 * chunk).min(chunk)
    }

    /// Gives the chunks that have something their places, one after the other: the bytes of all of them, of a file of a size.
    pub(super) fn place(&mut self, size: u64, take: &mut dyn FnMut(u64) -> io::Result<u32>) -> io::Result<()> {
        let mut next = take(size - self.holes(size))?;
        for block in self.blocks.iter_mut().flatten() {
            *block = next;
            next = next.wrapping_add(1 << (self.bits - Chunks::BLOCK_BITS));
        }
        Ok(())
    }

    /// Where a byte of the file that is none of its holes goes.
    pub(super) fn at(&self, offset: u64) -> Option<u64> {
        let block = u64::from((*self.blocks.get(self.index(offset))?)?);
        Some((block << Chunks::BLOCK_BITS) + (offset & ((1 << self.bits) - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_as_small_as_their_number_allows() {
        let of = |size| (Chunks::of(size).block_bits(), Chunks::of(size).blocks.len());
        assert_eq!(of(1), (0, 1));
        assert_eq!(of(512 * 4096), (0, 512));
        assert_eq!(of(512 * 4096 + 1), (1, 257));
        assert_eq!(of(1 << 40), (19, 512));
    }

    #[test]
    fn chunks_that_have_something_follow_one_another() {
        let mut chunks = Chunks::of(10 * 4096 + 5);
        chunks.note(&(4096 * 2 + 1..4096 * 4));
        chunks.note(&(4096 * 10..4096 * 10 + 5));
        assert_eq!(chunks.holes(10 * 4096 + 5), 8 * 4096);
        let mut taken = 0;
        let mut take = |bytes| {
            taken = bytes;
            Ok(100)
        };
        chunks.place(10 * 4096 + 5, &mut take).unwrap();
        assert_eq!(taken, 2 * 4096 + 5);
        assert_eq!((chunks.at(0), chunks.at(4096 * 2 + 7)), (None, Some(100 * 4096 + 7)));
        assert_eq!(chunks.at(4096 * 10 + 1), Some(102 * 4096 + 1));
    }

    #[test]
    fn bytes_are_the_same_by_either_way() {
        use std::io::Write as _;
        let mut from = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
        from.write_all(&bytes).unwrap();
        let from = OwnedFd::from(from);
        for way in [copy, through_memory] {
            let to = tempfile::tempfile().unwrap();
            way(&from, 7..299_999, &to, 4096).unwrap();
            let mut got = vec![0; 299_992];
            to.read_exact_at(&mut got, 4096).unwrap();
            assert!(got == bytes[7..299_999]);
        }
        let to = tempfile::tempfile().unwrap();
        let error = copy(&from, 0..400_000, &to, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

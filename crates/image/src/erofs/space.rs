//! The file that is written, and who has which part of it.
//!
//! One walk over a layer writes all of it, so blocks of inodes and blocks of contents lie among one another, as they come. Inodes are put
//! into a few open blocks, each where it fits best; one that is closed is written, and may be written to afterwards by its place.

use super::format::{BLOCK, SLOT, SUPER, SUPER_AT, Super};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Blocks for inodes that are taken at once, so that they lie beside each other.
const RUN: u32 = 16;
/// Bytes by which the file's length is ahead of what is written to it. A part of a block that is copied to a file's end is shared as if it
/// were a whole one, and XFS copies it, with 128 KiB of room for more, once the file goes on there.
const AHEAD: u64 = 64 << 20;
/// Blocks for inodes that are held open.
const OPEN: usize = 8;

/// A file, as far as it is given away.
#[derive(Debug)]
pub(super) struct Space {
    file: File,
    /// The first block that is nobody's.
    end: u32,
    /// Bytes that the file is said to have.
    length: u64,
    /// Blocks for inodes that have none yet.
    run: Range<u32>,
    open: Vec<Open>,
}

/// A block of inodes that has room.
#[derive(Debug)]
struct Open {
    block: u32,
    used: usize,
    bytes: Box<[u8; BLOCK]>,
}

impl Open {
    fn new(block: u32, used: usize) -> Open {
        Open { block, used, bytes: Box::new([0; BLOCK]) }
    }

    fn room(&self) -> usize {
        BLOCK - self.used
    }
}

impl Space {
    /// An empty file, whose first block has room behind where the superblock is to be.
    pub(super) fn new(file: File) -> Space {
        Space { file, end: RUN, length: 0, run: 1..RUN, open: vec![Open::new(0, SUPER_AT + SUPER)] }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Takes room for whole blocks, one after the other: the first.
    pub(super) fn take_blocks(&mut self, bytes: u64) -> io::Result<u32> {
        let first = self.end;
        let count = u32::try_from(bytes.div_ceil(BLOCK as u64)).ok();
        self.end = count.and_then(|count| first.checked_add(count)).ok_or_else(too_large)?;
        let needed = u64::from(self.end) * BLOCK as u64;
        if needed > self.length {
            self.length = needed.next_multiple_of(AHEAD);
            self.file.set_len(self.length)?;
        }
        Ok(first)
    }

    /// Takes room for an inode and what follows it: within one block, if that is enough. Where it begins, in bytes.
    pub(super) fn take_inode(&mut self, bytes: usize) -> io::Result<u64> {
        if bytes > BLOCK {
            return Ok(u64::from(self.take_blocks(bytes as u64)?) * BLOCK as u64);
        }
        let best = self.open.iter().enumerate().filter(|(_, open)| open.room() >= bytes);
        let best = match best.min_by_key(|(_, open)| open.room()) {
            Some((best, _)) => best,
            None => self.open_block()?,
        };
        let Some(open) = self.open.get_mut(best) else { return Err(io::ErrorKind::Other.into()) };
        let at = u64::from(open.block) * BLOCK as u64 + open.used as u64;
        open.used = (open.used + bytes).next_multiple_of(SLOT as usize);
        Ok(at)
    }

    /// Begins a block of inodes, for which the fullest one is closed. Its place among those that are open.
    fn open_block(&mut self) -> io::Result<usize> {
        if self.open.len() >= OPEN {
            let fullest = self.open.iter().enumerate().min_by_key(|(_, open)| open.room());
            let closed = self.open.remove(fullest.map_or(0, |(index, _)| index));
            self.file.write_all_at(&closed.bytes[..], u64::from(closed.block) * BLOCK as u64)?;
        }
        let block = match self.run.next() {
            Some(block) => block,
            None => {
                let first = self.take_blocks(u64::from(RUN) * BLOCK as u64)?;
                self.run = first + 1..first + RUN;
                first
            }
        };
        self.open.push(Open::new(block, 0));
        Ok(self.open.len() - 1)
    }

    /// Writes something that room was taken for.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (block, offset) = ((at / BLOCK as u64) as u32, (at % BLOCK as u64) as usize);
        let open = self.open.iter_mut().find(|open| open.block == block);
        match open.and_then(|open| open.bytes.get_mut(offset..offset + bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => self.file.write_all_at(bytes, at),
        }
    }

    /// Writes what is left, and the superblock, to which the number of blocks is added. All of the file's bytes.
    pub(super) fn finish(mut self, mut superblock: Super) -> io::Result<(File, u64)> {
        for open in &self.open {
            self.file.write_all_at(&open.bytes[..], u64::from(open.block) * BLOCK as u64)?;
        }
        if self.run.end == self.end {
            // Nothing came behind the last blocks for inodes.
            self.end = self.run.start;
        }
        let size = u64::from(self.end) * BLOCK as u64;
        self.file.set_len(size)?;
        let mut first = [0; BLOCK];
        self.file.read_exact_at(&mut first, 0)?;
        superblock.blocks = self.end;
        superblock.seal(&mut first);
        self.file.write_all_at(&first, 0)?;
        Ok((self.file, size))
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "a layer of more than 16 TiB does not fit into an EROFS file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn an_inode_lies_in_one_block_and_no_two_in_the_same_place() {
        let mut space = Space::new(tempfile::tempfile().unwrap());
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for n in 0..2000usize {
            let bytes = 64 + n * 7919 % 4033;
            let at = space.take_inode(bytes).unwrap();
            assert_eq!((at % SLOT, at / BLOCK as u64), (0, (at + bytes as u64 - 1) / BLOCK as u64), "{n}");
            taken.push((at, at + bytes as u64));
            if n % 50 == 0 {
                let first = space.take_blocks(10_000).unwrap();
                taken.push((u64::from(first) * 4096, u64::from(first + 3) * 4096));
            }
        }
        taken.sort_unstable();
        assert!(taken[0].0 >= 1024 + 128 && taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }

    #[test]
    fn what_is_written_is_there_whether_its_block_is_open_or_not() {
        let mut space = Space::new(tempfile::tempfile().unwrap());
        let places: Vec<u64> = (0..500).map(|_| space.take_inode(1000).unwrap()).collect();
        for (n, at) in places.iter().enumerate() {
            space.write(*at, &[n as u8; 1000]).unwrap();
        }
        let identity = Digest::of(b"");
        let superblock = Super { root: 36, inodes: 1, blocks: 0, shared: 0, has_chunks: false, identity };
        let (file, size) = space.finish(superblock).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        for (n, at) in places.iter().enumerate() {
            let mut bytes = [0; 1000];
            file.read_exact_at(&mut bytes, *at).unwrap();
            assert_eq!(bytes, [n as u8; 1000]);
        }
    }
}

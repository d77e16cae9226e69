//! A directory of a layer: which names it has, in which of the layer's parts, and how EROFS writes them down.

use super::attributes::is_opaque;
use super::format::{BLOCK, ENTRY, kind};
use crate::Result;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

/// Bytes for what the kernel says of names at once.
const LISTED: usize = 32 << 10;

/// A directory, in each part of a layer that has it, the topmost first.
#[derive(Debug)]
pub(super) struct Parts {
    open: Vec<OwnedFd>,
    /// Nothing of it is seen that lies below these.
    closed: bool,
}

impl Parts {
    /// The root directories of a layer's parts, the topmost first.
    pub(super) fn roots(open: Vec<OwnedFd>) -> Parts {
        Parts { open, closed: false }
    }

    /// The part that says what the directory looks like.
    pub(super) fn top(&self) -> Option<&OwnedFd> {
        self.open.first()
    }

    /// A part's directory.
    pub(super) fn get(&self, part: u16) -> Result<BorrowedFd<'_>, Errno> {
        self.open.get(usize::from(part)).map(|fd| fd.as_fd()).ok_or(Errno::BADF)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// A directory in this one, which its first `part` has.
    pub(super) fn enter(&self, part: u16, name: &[u8]) -> Result<Parts, Errno> {
        let mut below = Parts { open: Vec::new(), closed: self.closed };
        for parent in self.open.iter().skip(usize::from(part)) {
            let directory = match open(parent.as_fd(), name, OFlags::DIRECTORY) {
                Ok(directory) => directory,
                Err(Errno::NOENT) if !below.open.is_empty() => continue,
                // It lies upon something that is none: nothing is seen of what lies below that.
                Err(Errno::NOTDIR | Errno::LOOP) if !below.open.is_empty() => {
                    below.closed = true;
                    break;
                }
                Err(other) => return Err(other),
            };
            // Where nothing lies below, it makes no difference.
            let hides = self.open.len() > 1 && is_opaque(&directory)?;
            below.open.push(directory);
            if hides {
                below.closed = true;
                break;
            }
        }
        Ok(below)
    }

    /// The names in it, in order.
    pub(super) fn names(&self, several: bool) -> Result<Names, Errno> {
        let mut names = Names::default();
        let mut buffer = Vec::with_capacity(LISTED);
        for (part, directory) in (0..).zip(&self.open) {
            let mut list = RawDir::new(directory, buffer.spare_capacity_mut());
            while let Some(entry) = list.next() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    names.add(name, entry.file_type(), part)?;
                }
            }
        }
        names.sort();
        if several && self.closed {
            // There is nothing left that they would hide.
            let is_whiteout = |named: &Named, name: &[u8]| -> Result<bool, Errno> {
                if !matches!(named.kind, FileType::CharacterDevice | FileType::Unknown) {
                    return Ok(false);
                }
                Ok(is_whiteout(&stat(self.get(named.part)?, name)?))
            };
            names.remove_if(is_whiteout)?;
        }
        Ok(names)
    }
}

/// Opens something, if it is still there, without following a link, and without a trace on its time.
pub(super) fn open(parent: BorrowedFd<'_>, name: &[u8], kind: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | kind;
    match rustix::fs::openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Whose it is not may not ask for that.
        Err(Errno::PERM) => rustix::fs::openat(parent, name, flags, Mode::empty()),
        other => other,
    }
}

pub(super) fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Something with a name in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    start: u32,
    length: u8,
    /// The topmost part of the layer that has it.
    pub(super) part: u16,
    /// What it is, as far as the directory said.
    pub(super) kind: FileType,
    /// The number of its inode, once it has one.
    pub(super) inode: u64,
}

/// The names in a directory, close together, as there may be millions.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    named: Vec<Named>,
}

impl Names {
    fn add(&mut self, name: &[u8], kind: FileType, part: u16) -> Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::FBIG)?;
        let length = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.named.push(Named { start, length, part, kind, inode: 0 });
        Ok(())
    }

    fn sort(&mut self) {
        let Names { bytes, named } = self;
        named.sort_unstable_by(|a, b| (name(bytes, a), a.part).cmp(&(name(bytes, b), b.part)));
        named.dedup_by(|later, first| name(bytes, later) == name(bytes, first));
    }

    fn remove_if(&mut self, is: impl Fn(&Named, &[u8]) -> Result<bool, Errno>) -> Result<(), Errno> {
        let Names { bytes, named } = self;
        let mut result = Ok(());
        named.retain(|one| match is(one, name(bytes, one)) {
            Ok(removed) => !removed,
            Err(errno) => {
                result = Err(errno);
                true
            }
        });
        result
    }

    pub(super) fn get(&self, index: usize) -> Option<(&[u8], Named)> {
        self.named.get(index).map(|named| (name(&self.bytes, named), *named))
    }

    /// Something with a name has an inode.
    pub(super) fn made(&mut self, index: usize, inode: u64, kind: FileType) {
        if let Some(named) = self.named.get_mut(index) {
            (named.inode, named.kind) = (inode, kind);
        }
    }

    /// All entries of the directory, in the order in which EROFS looks for them: those of itself and of the one above, too.
    fn entries(&self, own: u64, above: u64) -> impl Iterator<Item = (&[u8], u64, u8)> {
        let before = |name_of: &[u8]| self.named.partition_point(|named| name(&self.bytes, named) < name_of);
        // There may be names between these two, too.
        let (own_at, above_at) = (before(b"."), before(b".."));
        let (first, rest) = self.named.split_at(own_at);
        let (between, last) = rest.split_at(above_at - own_at);
        let directory = kind(FileType::Directory);
        let entry = |named: &Named| (name(&self.bytes, named), named.inode, kind(named.kind));
        let dot = |name, inode| std::iter::once((name, inode, directory));
        let below_own = between.iter().map(entry).chain(dot(&b".."[..], above)).chain(last.iter().map(entry));
        first.iter().map(entry).chain(dot(&b"."[..], own)).chain(below_own)
    }

    /// Bytes of the directory: whole blocks, and those in a last one.
    pub(super) fn bytes(&self) -> (u64, usize) {
        let (mut whole, mut last) = (0, 0);
        for (name, ..) in self.entries(0, 0) {
            let needed = ENTRY + name.len();
            if last + needed > BLOCK {
                whole += BLOCK as u64;
                last = 0;
            }
            last += needed;
        }
        (whole, last)
    }

    /// The directory's blocks, of which each but the last is filled with zeros. One of their entries has the inode `own`, the other `above`.
    pub(super) fn write<E>(
        &self,
        own: u64,
        above: u64,
        block: &mut dyn FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut entries = Vec::new();
        let mut used = 0;
        for entry in self.entries(own, above) {
            let needed = ENTRY + entry.0.len();
            if used + needed > BLOCK {
                let mut full = laid_out(&entries, used);
                full.resize(BLOCK, 0);
                block(full)?;
                entries.clear();
                used = 0;
            }
            used += needed;
            entries.push(entry);
        }
        block(laid_out(&entries, used))
    }
}

/// A block of a directory: entries of a fixed size, which say where in the block their names begin, and these.
fn laid_out(entries: &[(&[u8], u64, u8)], used: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK.max(used));
    let mut begin = entries.len() * ENTRY;
    for (name, inode, kind) in entries {
        bytes.extend(inode.to_le_bytes());
        bytes.extend((begin as u16).to_le_bytes());
        bytes.extend([*kind, 0]);
        begin += name.len();
    }
    entries.iter().for_each(|(name, ..)| bytes.extend_from_slice(name));
    bytes
}

fn name<'b>(bytes: &'b [u8], named: &Named) -> &'b [u8] {
    let start = named.start as usize;
    bytes.get(start..start + usize::from(named.length)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[&[u8]]) -> Names {
        let mut names = Names::default();
        list.iter().for_each(|name| names.add(name, FileType::RegularFile, 0).unwrap());
        names.sort();
        names
    }

    fn blocks(names: &Names) -> Vec<Vec<u8>> {
        let mut blocks = Vec::new();
        let mut keep = |block| {
            blocks.push(block);
            Ok::<(), ()>(())
        };
        names.write(1, 2, &mut keep).unwrap();
        blocks
    }

    #[test]
    fn entries_stand_in_the_order_of_their_bytes() {
        let names = of(&[b"b", b"+", b".a", b"\xff", b"-", b"a", b".-"]);
        let order: Vec<&[u8]> = names.entries(0, 0).map(|entry| entry.0).collect();
        let expected: [&[u8]; 9] = [b"+", b"-", b".", b".-", b"..", b".a", b"a", b"b", b"\xff"];
        assert_eq!(order, expected);
        assert!(order.is_sorted());
    }

    #[test]
    fn blocks_have_the_bytes_that_were_reckoned() {
        for count in [0usize, 1, 5, 200, 5000] {
            let list: Vec<String> = (0..count).map(|n| format!("{n:0width$}", width = 1 + n * 31 % 255)).collect();
            let names = of(&list.iter().map(String::as_bytes).collect::<Vec<_>>());
            let blocks = blocks(&names);
            let (whole, last) = names.bytes();
            let all: usize = blocks.iter().map(Vec::len).sum();
            assert_eq!((whole + last as u64, blocks[blocks.len() - 1].len()), (all as u64, last), "{count}");
        }
    }

    #[test]
    fn the_topmost_part_that_has_a_name_counts() {
        let mut names = Names::default();
        for (name, part) in [(b"a", 1), (b"b", 0), (b"a", 0), (b"c", 1)] {
            names.add(name, FileType::RegularFile, part).unwrap();
        }
        names.sort();
        let parts: Vec<u16> = names.named.iter().map(|named| named.part).collect();
        assert_eq!(parts, [0, 0, 1]);
    }
}

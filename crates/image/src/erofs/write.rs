//! One walk over a layer, which writes its EROFS file.

use super::attributes::{self, Attribute, Of, Shared};
use super::contents::{self, Chunks};
use super::directory::{self, Names, Parts};
use super::format::{self, BLOCK, HOLE, INODE, INODE_LINKS, Inode, Layout, SLOT, Super};
use super::space::Space;
use crate::{Digest, Error, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io;

/// Directories above one another. Each is held open, in every part of the layer that has it.
const DEPTH: usize = 512;
/// Bytes of a file's end that are put behind its inode. More would save less, and fill the blocks of inodes, which a guest reads one by one,
/// with what it did not ask for.
const TAIL: usize = 1024;
/// Bytes in holes for which a file is one of chunks. Programs have smaller ones, and are better read as a whole.
const HOLES: u64 = 64 << 10;

/// Writes a layer, whose parts lie upon one another, the topmost first, into an empty file. The bytes that it has.
pub(super) fn write(parts: Vec<OwnedFd>, file: File, identity: &Digest) -> Result<(File, u64)> {
    let mut writer = Writer {
        space: Space::new(file),
        shared: Shared::default(),
        linked: HashMap::new(),
        several: parts.len() > 1,
        has_chunks: false,
        inodes: 0,
        path: Vec::new(),
    };
    let root = writer.enter_root(Parts::roots(parts))?;
    let root_inode = root.inode();
    writer.walk(root)?;
    writer.finish(root_inode, identity)
}

struct Writer {
    space: Space,
    shared: Shared,
    /// Files that have several names, of which some did not come yet.
    linked: HashMap<(u64, u64), Linked>,
    /// The layer has several parts.
    several: bool,
    has_chunks: bool,
    inodes: u32,
    /// Where the walk is.
    path: Vec<u8>,
}

/// A file of which a name came.
struct Linked {
    inode: u64,
    /// Names that it has, says its file system: some may be of no layer.
    said: u32,
    came: u32,
}

/// A directory that the walk is in.
struct Frame {
    parts: Parts,
    names: Names,
    /// The next name.
    next: usize,
    /// Where its inode will be, in bytes: it is written once all that is in it has its own.
    at: u64,
    inode: Inode,
    attributes: Vec<u8>,
    /// The inode of the directory above.
    above: u64,
    /// How long its path is.
    path: usize,
}

impl Frame {
    fn inode(&self) -> u64 {
        self.at / SLOT
    }
}

impl Writer {
    fn failed(&self, error: impl Into<io::Error>) -> Error {
        Error::io(format!("making an EROFS file of {}", String::from_utf8_lossy(&self.path)), error)
    }

    fn walk(&mut self, root: Frame) -> Result<()> {
        let mut stack = vec![root];
        while let Some(frame) = stack.last_mut() {
            self.path.truncate(frame.path);
            let Some((name, named)) = frame.names.get(frame.next) else {
                if let Some(done) = stack.pop() {
                    self.leave(done)?;
                }
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let stat = match named.kind {
                // They are opened anyway.
                FileType::Directory | FileType::RegularFile => None,
                _ => {
                    let parent = frame.parts.get(named.part).map_err(|errno| self.failed(errno))?;
                    Some(directory::stat(parent, name).map_err(|errno| self.failed(errno))?)
                }
            };
            let kind = stat.map_or(named.kind, |stat| FileType::from_raw_mode(stat.st_mode));
            let index = frame.next;
            if kind == FileType::Directory {
                let below = self.enter(frame, named.part, name)?;
                frame.next += 1;
                frame.names.made(index, below.inode(), kind);
                frame.inode.links += 1;
                if stack.len() >= DEPTH {
                    let reason = format!("more than {DEPTH} directories above one another");
                    let entry = String::from_utf8_lossy(&self.path).into_owned();
                    return Err(Error::HostileEntry { entry, reason });
                }
                stack.push(below);
                continue;
            }
            let parent = frame.parts.get(named.part).map_err(|errno| self.failed(errno))?;
            let inode = match stat {
                Some(stat) if kind != FileType::RegularFile => self.node(parent, name, kind, &stat)?,
                _ => self.file(parent, name)?,
            };
            frame.next += 1;
            frame.names.made(index, inode, kind);
        }
        Ok(())
    }

    /// The layer's root directory. Its time is that of whoever made the directory last, and not of anything in the layer.
    fn enter_root(&mut self, parts: Parts) -> Result<Frame> {
        let mut root = self.frame(parts, None)?;
        (root.inode.modified, root.inode.nanoseconds) = (0, 0);
        root.above = root.inode();
        Ok(root)
    }

    fn enter(&mut self, above: &Frame, part: u16, name: &[u8]) -> Result<Frame> {
        let parts = above.parts.enter(part, name).map_err(|errno| self.failed(errno))?;
        self.frame(parts, Some(above))
    }

    /// Takes room for a directory's inode.
    fn frame(&mut self, parts: Parts, above: Option<&Frame>) -> Result<Frame> {
        let top = parts.top().ok_or_else(|| self.failed(Errno::NOENT))?;
        let stat = rustix::fs::fstat(top).map_err(|errno| self.failed(errno))?;
        let mut list = attributes::read(Of::Open(top)).map_err(|errno| self.failed(errno))?;
        let is_closed_above = above.is_some_and(|above| above.parts.is_closed());
        if parts.is_closed() && !is_closed_above && !list.contains(&Attribute::opaque()) {
            list.push(Attribute::opaque());
            list.sort_unstable();
        }
        let attributes = self.encode(&list)?;
        let names = parts.names(self.several).map_err(|errno| self.failed(errno))?;
        let (whole, last) = names.bytes();
        // A name is read to a zero, where its block has more room, so one has to follow the last.
        let behind = INODE + attributes.len() + last + 1;
        let is_inline = last < BLOCK && behind <= BLOCK;
        let taken = if is_inline { behind } else { INODE + attributes.len() };
        let at = self.space.take_inode(taken).map_err(|e| self.failed(e))?;
        let blocks = if is_inline { whole } else { whole + BLOCK as u64 };
        let first = if blocks > 0 { self.space.take_blocks(blocks).map_err(|e| self.failed(e))? } else { 0 };
        let layout = if is_inline { Layout::Inline(first) } else { Layout::Plain(first) };
        let mut inode = self.inode(&stat, layout, attributes.len());
        (inode.size, inode.links) = (whole + last as u64, 2);
        let above = above.map_or(0, Frame::inode);
        Ok(Frame { parts, names, next: 0, at, inode, attributes, above, path: self.path.len() })
    }

    /// Writes a directory, now that all that is in it has an inode.
    fn leave(&mut self, frame: Frame) -> Result<()> {
        let (own, above) = (frame.inode(), frame.above);
        let (first, tail) = match frame.inode.layout {
            Layout::Inline(first) => (first, true),
            Layout::Plain(first) => (first, false),
            Layout::Chunks(_) | Layout::Device(_) => return Err(self.failed(Errno::INVAL)),
        };
        let mut head = [&frame.inode.encode()[..], &frame.attributes].concat();
        let mut at = u64::from(first) * BLOCK as u64;
        let mut left = frame.inode.size;
        let mut write = |block: Vec<u8>| -> io::Result<()> {
            left = left.saturating_sub(BLOCK as u64);
            if left == 0 && tail {
                head.extend(block);
                return Ok(());
            }
            self.space.write(at, &block)?;
            at += BLOCK as u64;
            Ok(())
        };
        let written = frame.names.write(own, above, &mut write).and_then(|()| self.space.write(frame.at, &head));
        written.map_err(|e| self.failed(e))
    }

    /// A link, a device, a pipe or a socket. The number of its inode.
    fn node(&mut self, parent: BorrowedFd<'_>, name: &[u8], kind: FileType, stat: &Stat) -> Result<u64> {
        if let Some(inode) = self.known(stat) {
            return Ok(inode);
        }
        let list = attributes::read(Of::Named(parent, name)).map_err(|errno| self.failed(errno))?;
        let attributes = self.encode(&list)?;
        if kind != FileType::Symlink {
            let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
            let number = if is_device { format::device(stat.st_rdev) } else { 0 };
            return self.put(stat, Layout::Device(number), 0, &attributes, &[]);
        }
        let target = rustix::fs::readlinkat(parent, name, Vec::new()).map_err(|errno| self.failed(errno))?;
        let target = target.as_bytes();
        if INODE + attributes.len() + target.len() <= BLOCK {
            return self.put(stat, Layout::Inline(0), target.len() as u64, &attributes, target);
        }
        let block = self.space.take_blocks(target.len() as u64).map_err(|e| self.failed(e))?;
        self.space.write(u64::from(block) * BLOCK as u64, target).map_err(|e| self.failed(e))?;
        self.put(stat, Layout::Plain(block), target.len() as u64, &attributes, &[])
    }

    /// A file. The number of its inode.
    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<u64> {
        let file = directory::open(parent, name, OFlags::empty()).map_err(|errno| self.failed(errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.failed(errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.failed(io::Error::other("it became something else meanwhile")));
        }
        if let Some(inode) = self.known(&stat) {
            return Ok(inode);
        }
        let list = attributes::read(Of::Open(&file)).map_err(|errno| self.failed(errno))?;
        let attributes = self.encode(&list)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let has_holes = size > BLOCK as u64 && contents::has_holes(&file, size).map_err(|errno| self.failed(errno))?;
        if has_holes && let Some(inode) = self.sparse(&file, &stat, size, &attributes)? {
            return Ok(inode);
        }
        let tail = (size % BLOCK as u64) as usize;
        let is_inline = (1..=TAIL).contains(&tail) && INODE + attributes.len() + tail <= BLOCK;
        let whole = if is_inline { size - tail as u64 } else { size };
        let first = self.contents(&file, whole, has_holes).map_err(|e| self.failed(e))?;
        if !is_inline {
            return self.put(&stat, Layout::Plain(first), size, &attributes, &[]);
        }
        let mut end = vec![0; tail];
        let got = rustix::io::pread(&file, &mut end, whole).map_err(|errno| self.failed(errno))?;
        if got < tail {
            return Err(self.failed(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile")));
        }
        self.put(&stat, Layout::Inline(first), size, &attributes, &end)
    }

    /// Copies a file's first bytes into blocks: the first of these. Small holes are none of a guest's, but stay holes on the disk.
    fn contents(&mut self, file: &OwnedFd, bytes: u64, has_holes: bool) -> io::Result<u32> {
        if bytes == 0 {
            return Ok(0);
        }
        let first = self.space.take_blocks(bytes)?;
        let (to, at) = (self.space.file(), u64::from(first) * BLOCK as u64);
        if has_holes {
            contents::data(file, bytes, &mut |part| contents::copy(file, part.clone(), to, at + part.start))?;
        } else {
            contents::copy(file, 0..bytes, to, at)?;
        }
        Ok(first)
    }

    /// A file with holes, if there is much of them.
    fn sparse(&mut self, file: &OwnedFd, stat: &Stat, size: u64, attributes: &[u8]) -> Result<Option<u64>> {
        let mut chunks = Chunks::of(size);
        let mut note = |part| {
            chunks.note(&part);
            Ok(())
        };
        contents::data(file, size, &mut note).map_err(|e| self.failed(e))?;
        if chunks.holes(size) < HOLES {
            return Ok(None);
        }
        let space = &mut self.space;
        chunks.place(size, &mut |bytes| space.take_blocks(bytes)).map_err(|e| self.failed(e))?;
        let to = self.space.file();
        let mut copy = |part: std::ops::Range<u64>| match chunks.at(part.start) {
            Some(at) => contents::copy(file, part, to, at),
            None => Err(io::Error::other("it changes meanwhile")),
        };
        contents::data(file, size, &mut copy).map_err(|e| self.failed(e))?;
        self.has_chunks = true;
        let places: Vec<u8> = chunks.blocks.iter().flat_map(|block| block.unwrap_or(HOLE).to_le_bytes()).collect();
        self.put(stat, Layout::Chunks(chunks.block_bits()), size, attributes, &places).map(Some)
    }

    /// The inode of a file of which a name came.
    fn known(&mut self, stat: &Stat) -> Option<u64> {
        let key = (stat.st_dev, stat.st_ino);
        let linked = self.linked.get_mut(&key)?;
        linked.came += 1;
        let inode = linked.inode;
        if linked.came == linked.said {
            self.linked.remove(&key);
        }
        Some(inode)
    }

    /// Writes an inode, and what follows it. Its number.
    fn put(&mut self, stat: &Stat, layout: Layout, size: u64, attributes: &[u8], behind: &[u8]) -> Result<u64> {
        let mut inode = self.inode(stat, layout, attributes.len());
        inode.size = size;
        let bytes = [&inode.encode()[..], attributes, behind].concat();
        let at = self.space.take_inode(bytes.len()).map_err(|e| self.failed(e))?;
        self.space.write(at, &bytes).map_err(|e| self.failed(e))?;
        let number = at / SLOT;
        if inode.links > 1 {
            self.linked.insert((stat.st_dev, stat.st_ino), Linked { inode: number, said: inode.links, came: 1 });
        }
        Ok(number)
    }

    /// What an inode says of something, without its size.
    fn inode(&mut self, stat: &Stat, layout: Layout, attributes: usize) -> Inode {
        self.inodes += 1;
        Inode {
            layout,
            attributes,
            mode: stat.st_mode,
            size: 0,
            number: self.inodes,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: stat.st_mtime,
            nanoseconds: stat.st_mtime_nsec.try_into().unwrap_or(0),
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        }
    }

    fn encode(&mut self, list: &[Attribute]) -> Result<Vec<u8>> {
        self.shared.encode(list).ok_or_else(|| {
            let reason = "it has more bytes of extended attributes than an EROFS file can hold".into();
            Error::HostileEntry { entry: String::from_utf8_lossy(&self.path).into_owned(), reason }
        })
    }

    /// Writes what could not be written before all was seen.
    fn finish(mut self, root: u64, identity: &Digest) -> Result<(File, u64)> {
        self.path.clear();
        let mut linked: Vec<Linked> = std::mem::take(&mut self.linked).into_values().collect();
        linked.sort_unstable_by_key(|linked| linked.inode);
        for linked in linked {
            let at = linked.inode * SLOT + INODE_LINKS;
            self.space.write(at, &linked.came.to_le_bytes()).map_err(|e| self.failed(e))?;
        }
        let mut shared = 0;
        if !self.shared.area().is_empty() {
            let area = self.shared.area();
            let written = self.space.take_blocks(area.len() as u64).and_then(|first| {
                shared = first;
                self.space.write(u64::from(first) * BLOCK as u64, area)
            });
            written.map_err(|e| self.failed(e))?;
        }
        let root = u16::try_from(root).map_err(|_| self.failed(Errno::OVERFLOW))?;
        let (inodes, has_chunks, identity) = (u64::from(self.inodes), self.has_chunks, *identity);
        let superblock = Super { root, inodes, blocks: 0, shared, has_chunks, identity };
        let failed = |error| Error::io("making an EROFS file", error);
        self.space.finish(superblock).map_err(failed)
    }
}

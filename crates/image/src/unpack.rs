//! Unpacking an archive that a stranger made into a directory that stays whole.
//!
//! A small file of root's costs four system calls: `openat`, `write`, `utimensat`, `close`. Parents are looked up once
//! and held; modes need no call, as the thread has a umask of its own; nothing is synced here (who makes the result
//! visible does that, once for all).

mod below;
mod metadata;

pub(crate) use metadata::set_attribute;

#[cfg(test)]
mod tests;

use crate::images::UnpackLimits;
use crate::tar::{Entry, Kind, TarReader, Time};
use crate::tree::{self, Tree};
use crate::{Error, IdRange, PathReason, Result};
use below::Merged;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io::BufRead;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// From here on the ratio of unpacked to packed bytes is watched.
const RATIO_FREE: u64 = 1 << 30;

/// What it takes to remember a directory, beside its name.
const REMEMBERED: u64 = 64;

/// Bytes from which on a file is large.
const WRITE_BEHIND: u64 = 256 << 10;

/// What `.wh.` names mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    /// A layer's: they delete things of layers below, and become overlayfs' own form of that.
    Overlay,
    /// Nothing: they are files like others.
    Verbatim,
}

/// How an archive is unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Options<'a> {
    pub(crate) whiteouts: Whiteouts,
    pub(crate) limits: &'a UnpackLimits,
    /// Where below the root; symbolic links still mean the root.
    pub(crate) base: &'a [u8],
    /// What lies below the root, and shows where that has nothing.
    pub(crate) below: Option<BorrowedFd<'a>>,
    /// Whose everything becomes, whatever the archive says.
    pub(crate) owner: Option<(u32, u32)>,
    /// The user namespace that all of these are of.
    pub(crate) ids: Option<IdRange>,
    /// Refuses to replace a directory by something else, and something else by a directory.
    pub(crate) keep_kinds: bool,
    /// Leaves the directory itself as it is when the archive has an entry for it.
    pub(crate) keep_top: bool,
    /// Bytes that came in so far, before decompression: for the ratio.
    pub(crate) packed: Option<&'a AtomicU64>,
}

impl<'a> Options<'a> {
    /// As the layer of an image is unpacked.
    pub(crate) fn of_layer(limits: &'a UnpackLimits, packed: Option<&'a AtomicU64>) -> Options<'a> {
        Options {
            whiteouts: Whiteouts::Overlay,
            limits,
            base: b"",
            below: None,
            owner: None,
            ids: None,
            keep_kinds: false,
            keep_top: false,
            packed,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes in files.
    pub(crate) file_bytes: u64,
    /// Entries.
    pub(crate) entries: u64,
    /// One of them is for the directory that everything is unpacked into.
    pub(crate) says_top: bool,
}

/// Unpacks `input` below `root`, and reads it to its end. Pure but for the tree: suits a fuzzer.
///
/// On a thread of its own: the thread's umask becomes 0, which must not reach others.
pub(crate) fn unpack<R: BufRead + Send>(root: BorrowedFd<'_>, input: R, options: &Options<'_>) -> Result<Unpacked> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("unpack".into());
        let worker = worker.spawn_scoped(scope, || unpack_here(root, input, options));
        let worker = worker.map_err(|e| Error::io("starting a thread to unpack", e))?;
        worker.join().unwrap_or_else(|_| Err(Error::Interrupted("unpacking an archive".into())))
    })
}

/// As [`unpack`], on the present thread, whose umask stays 0.
pub(crate) fn unpack_here<R: BufRead>(root: BorrowedFd<'_>, input: R, options: &Options<'_>) -> Result<Unpacked> {
    // The umask belongs to what clone(2) calls CLONE_FS, which threads share unless told otherwise.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
        .map_err(|e| Error::io("giving a thread its own umask", std::io::Error::from(e)))?;
    rustix::process::umask(Mode::empty());
    if let Some(ids) = options.ids {
        ids.make_as_its_root()?;
    }
    let mut unpacker = Unpacker {
        tree: Tree::new(root),
        merged: options.below.map(|below| Merged { upper: root, below }),
        led: None,
        reader: TarReader::new(input),
        options,
        done: Unpacked::default(),
        directories: HashMap::new(),
        held: 0,
        raised: 0,
    };
    while let Some(entry) = unpacker.reader.next_entry()? {
        unpacker.entry(&entry)?;
    }
    unpacker.finish_directories()?;
    unpacker.drain()
}

struct Unpacker<'a, R> {
    tree: Tree<'a>,
    /// The same with what lies below it.
    merged: Option<Merged<'a>>,
    /// A directory's path as an entry had it, and where that led: the next entry's is often the same.
    led: Option<(Vec<u8>, Vec<u8>)>,
    reader: TarReader<R>,
    options: &'a Options<'a>,
    done: Unpacked,
    /// Times of directories, set at the end: what is put into a directory changes its time.
    directories: HashMap<Vec<u8>, Time>,
    /// Bytes of memory that these take.
    held: u64,
    /// Bytes in files that were brought up from below.
    raised: u64,
}

/// Where an entry goes.
struct Place<'n> {
    parent: Rc<OwnedFd>,
    name: &'n [u8],
    /// The whole path below the root, clean.
    path: &'n [u8],
}

impl<R: BufRead> Unpacker<'_, R> {
    fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.done.entries += 1;
        self.check_limits(entry)?;
        let path = self.clean(&entry.path, entry)?;
        if path.len() == self.options.base.len() {
            return self.top(entry);
        }
        let path = self.through(path, entry)?;
        let (parent, name) = tree::split(&path);
        let place = Place { parent: self.parent(parent, entry)?, name, path: &path };
        if self.options.whiteouts == Whiteouts::Overlay
            && let Some(hidden) = name.strip_prefix(b".wh.")
        {
            return self.whiteout(&place, hidden, entry);
        }
        match &entry.kind {
            Kind::File => self.file(&place, entry),
            Kind::Directory => self.directory(&place, entry),
            Kind::HardLink => self.hard_link(&place, entry),
            Kind::Symlink => {
                self.node(&place, entry, &|place| rustix::fs::symlinkat(&entry.link[..], &*place.parent, place.name))?;
                // As stat(2) tells it, and as Docker counts it.
                self.done.file_bytes += entry.link.len() as u64;
                Ok(())
            }
            Kind::Fifo => self.mknod(&place, entry, FileType::Fifo, 0),
            Kind::CharDevice { major, minor } => {
                self.mknod(&place, entry, FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::BlockDevice { major, minor } => {
                self.mknod(&place, entry, FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
        }
    }

    fn check_limits(&self, entry: &Entry) -> Result<()> {
        let limits = self.options.limits;
        let exceeded = |what, limit| Err(Error::LimitExceeded { entry: entry.name(), what, limit });
        if self.done.entries > limits.entries {
            return exceeded("the number of entries", limits.entries);
        }
        if entry.path.len() as u64 > limits.path || entry.link.len() as u64 > limits.path {
            return exceeded("the length of a name", limits.path);
        }
        if entry.size > limits.bytes {
            return exceeded("the size of a file", limits.bytes);
        }
        self.check_bytes(&|| entry.name())
    }

    /// Checks what was unpacked so far against the limits.
    fn check_bytes(&self, entry: &dyn Fn() -> String) -> Result<()> {
        let (limits, unpacked) = (self.options.limits, self.reader.offset());
        if unpacked > limits.bytes {
            let what = "the number of uncompressed bytes";
            return Err(Error::LimitExceeded { entry: entry(), what, limit: limits.bytes });
        }
        if unpacked > RATIO_FREE
            && let Some(packed) = self.options.packed
            && unpacked / limits.ratio > packed.load(Ordering::Relaxed)
        {
            let what = "the ratio of uncompressed to compressed bytes";
            return Err(Error::LimitExceeded { entry: entry(), what, limit: limits.ratio });
        }
        Ok(())
    }

    /// A path of the archive as one below the root.
    fn clean(&self, path: &[u8], entry: &Entry) -> Result<Vec<u8>> {
        let refused = |reason: &str| Error::HostileEntry { entry: entry.name(), reason: reason.into() };
        let names = tree::components(path).map_err(|tree::Escape| refused("it leads out of the root directory"))?;
        let limits = self.options.limits;
        if names.len() as u64 > limits.depth {
            let what = "the number of directories above one another";
            return Err(Error::LimitExceeded { entry: entry.name(), what, limit: limits.depth });
        }
        let base = self.options.base;
        let below = names.join(&b'/');
        Ok(match (base.is_empty(), below.is_empty()) {
            (true, _) => below,
            (_, true) => base.to_vec(),
            (false, false) => [base, b"/", &below].concat(),
        })
    }

    /// Where an entry's path leads, with the links above its name followed that are in what lies below.
    fn through(&mut self, path: Vec<u8>, entry: &Entry) -> Result<Vec<u8>> {
        let Some(merged) = &self.merged else { return Ok(path) };
        let (parent, name) = tree::split(&path);
        let led = match self.led.take().filter(|(from, _)| from == parent) {
            Some(led) => led,
            None => (parent.to_vec(), merged.resolve(parent).map_err(|errno| no_directory(entry, errno))?),
        };
        let path = joined(&led.1, name);
        self.led = Some(led);
        Ok(path)
    }

    fn parent(&mut self, path: &[u8], entry: &Entry) -> Result<Rc<OwnedFd>> {
        let found = self.tree.directory(path, true).map_err(|errno| no_directory(entry, errno))?;
        for made in std::mem::take(&mut self.tree.made) {
            let below = self.merged.as_ref().map_or(Ok(None), |merged| merged.dress(&made));
            // What neither has is as old as what it was made for: the same on another day.
            let time = below.map_err(|errno| failed(entry, errno))?.unwrap_or(entry.mtime);
            self.remember(&made, time, entry)?;
        }
        Ok(found)
    }

    /// An entry for the directory that everything is unpacked into.
    fn top(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            let reason = "it would replace the root directory".into();
            return Err(Error::HostileEntry { entry: entry.name(), reason });
        }
        if self.options.keep_top {
            return Ok(());
        }
        self.done.says_top = true;
        let base = self.options.base;
        let fd = self.parent(base, entry)?;
        self.remember(base, entry.mtime, entry)?;
        metadata::of_directory(&fd, entry, self.owner(entry)?, true).map_err(|e| failed(entry, e))
    }

    /// Whose something becomes on the host.
    fn owner(&self, entry: &Entry) -> Result<(u32, u32)> {
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        match self.options.ids {
            Some(ids) => Ok((ids.on_the_host(uid)?, ids.on_the_host(gid)?)),
            None => Ok((uid, gid)),
        }
    }

    fn whiteout(&mut self, place: &Place<'_>, hidden: &[u8], entry: &Entry) -> Result<()> {
        match hidden {
            b".wh..opq" => return metadata::make_opaque(&place.parent).map_err(|e| failed(entry, e)),
            // Other names that begin so were AUFS' own and describe nothing.
            hidden if hidden.starts_with(b".wh.") => return Ok(()),
            b"" | b"." | b".." => {
                let reason = "it is a whiteout of nothing that can be".into();
                return Err(Error::HostileEntry { entry: entry.name(), reason });
            }
            _ => {}
        }
        let whiteout = || rustix::fs::mknodat(&*place.parent, hidden, FileType::CharacterDevice, Mode::empty(), 0);
        match whiteout() {
            // A whiteout hides what lower layers have, and nothing of its own layer (image-spec, layer.md). What is there
            // hides a lower file by itself; a directory must be told not to merge.
            Err(Errno::EXIST) => match tree::open(place.parent.as_fd(), hidden, OPEN_DIRECTORY) {
                Ok(directory) => metadata::make_opaque(&directory).map_err(|e| failed(entry, e)),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(other) => Err(failed(entry, other)),
            },
            other => other.map_err(|e| failed(entry, e)),
        }
    }

    fn directory(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let make = || rustix::fs::mkdirat(&*place.parent, place.name, Mode::from_raw_mode(entry.mode & 0o1777));
        let open = || rustix::fs::openat(&*place.parent, place.name, OPEN_DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let owner = self.owner(entry)?;
        let plain = owner == (0, 0) && entry.mode & 0o6000 == 0 && entry.xattrs.is_empty();
        let mut existed = false;
        let mut hid = false;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => match open() {
                Ok(_) => existed = true,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    if self.options.keep_kinds {
                        return Err(Error::Path { path: for_people(place.path), reason: PathReason::FileInTheWay });
                    }
                    hid = match &self.merged {
                        Some(merged) => merged.is_hidden_directory(place.path).map_err(|e| failed(entry, e))?,
                        None => self.options.whiteouts == Whiteouts::Overlay && is_whiteout(place),
                    };
                    self.make_room(place, entry)?;
                    make().map_err(|e| failed(entry, e))?;
                }
                Err(other) => return Err(failed(entry, other)),
            },
            Err(other) => return Err(failed(entry, other)),
        }
        self.remember(place.path, entry.mtime, entry)?;
        if existed || hid || !plain {
            let fd = open().map_err(|e| failed(entry, e))?;
            if hid {
                metadata::make_opaque(&fd).map_err(|e| failed(entry, e))?;
            }
            metadata::of_directory(&fd, entry, owner, existed).map_err(|e| failed(entry, e))?;
        }
        Ok(())
    }

    fn file(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let owner = self.owner(entry)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody runs a set-uid file before it is whole.
        let create = || rustix::fs::openat(&*place.parent, place.name, flags, Mode::from_raw_mode(entry.mode & 0o777));
        let fd = match create() {
            Err(Errno::EXIST) => {
                self.make_room(place, entry)?;
                create()
            }
            other => other,
        };
        let fd = fd.map_err(|e| failed(entry, e))?;
        match &entry.extents {
            None => self.contents(&fd, entry, 0, entry.size)?,
            Some(extents) => {
                rustix::fs::ftruncate(&fd, entry.size).map_err(|e| failed(entry, e))?;
                for extent in extents {
                    self.contents(&fd, entry, extent.offset, extent.length)?;
                }
            }
        }
        if entry.size >= WRITE_BEHIND {
            // The disk begins with a large file now, not when everything is there. It stays in the page cache: this
            // advice drops only what is clean, and nothing is yet.
            let _ = rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::DontNeed);
        }
        metadata::of_file(&fd, entry, owner).map_err(|e| failed(entry, e))
    }

    /// Writes the next `length` stored bytes at `offset`.
    fn contents(&mut self, fd: &OwnedFd, entry: &Entry, mut offset: u64, mut length: u64) -> Result<()> {
        let sparse = entry.extents.is_some();
        while length > 0 {
            let bytes = self.reader.fill()?;
            let piece = &bytes[..bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
            let written = match sparse {
                true => rustix::io::pwrite(fd, piece, offset),
                false => rustix::io::write(fd, piece),
            };
            let written = match written {
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(other) => return Err(failed(entry, other)),
            };
            self.reader.consume(written);
            offset += written as u64;
            length -= written as u64;
            self.done.file_bytes += written as u64;
            self.check_bytes(&|| entry.name())?;
        }
        Ok(())
    }

    fn hard_link(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let target = self.clean(&entry.link, entry)?;
        let (parent, name) = tree::split(&target);
        let parent = match &self.merged {
            Some(merged) => merged.resolve(parent).map_err(|errno| no_directory(entry, errno))?,
            None => parent.to_vec(),
        };
        let missing = || Error::HostileEntry {
            entry: entry.name(),
            reason: format!(
                "it links to {:?}, which the archive does not have before it",
                String::from_utf8_lossy(&entry.link)
            ),
        };
        let from = match self.tree.directory(&parent, false).ok().filter(|from| is_there(from, name)) {
            None => self.raise(&joined(&parent, name), entry)?,
            there => there,
        };
        let from = from.ok_or_else(missing)?;
        let link = || rustix::fs::linkat(&*from, name, &*place.parent, place.name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => {
                let identity = |dir: &OwnedFd, name: &[u8]| {
                    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|s| (s.st_dev, s.st_ino))
                };
                let there = identity(&from, name).ok_or_else(missing)?;
                if identity(&place.parent, place.name) == Some(there) {
                    return Ok(());
                }
                self.make_room(place, entry)?;
                link()
            }
            other => other,
        };
        linked.map_err(|errno| match errno {
            Errno::NOENT => missing(),
            other => failed(entry, other),
        })
    }

    /// Brings a file up that only what lies below has, as overlayfs does before it gives one a further name. It looks as the entry of that name
    /// says, which from then on is one of its own. The directory that it is in; `None`: there is no such file.
    fn raise(&mut self, path: &[u8], entry: &Entry) -> Result<Option<Rc<OwnedFd>>> {
        let found = self.merged.as_ref().map_or(Ok(None), |merged| merged.file(path));
        let Some((below, size)) = found.map_err(|e| failed(entry, e))? else { return Ok(None) };
        self.raised += size;
        if self.raised > self.options.limits.bytes {
            let what = "the number of bytes in files that are linked to";
            return Err(Error::LimitExceeded { entry: entry.name(), what, limit: self.options.limits.bytes });
        }
        let (parent, name) = tree::split(path);
        let directory = self.parent(parent, entry)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*directory, name, flags, Mode::from_raw_mode(entry.mode & 0o777));
        let file = file.map_err(|e| failed(entry, e))?;
        let attributes = crate::archive::attributes(&below).map_err(|e| failed(entry, e))?;
        let (mut from, mut to) = (std::fs::File::from(below), std::fs::File::from(file));
        std::io::copy(&mut from, &mut to).map_err(|e| Error::io(format!("unpacking {}", entry.name()), e))?;
        let file = OwnedFd::from(to);
        let dress = || {
            let all = attributes.iter().try_for_each(|(name, value)| set_attribute(&file, name, value));
            all.map_err(|e| failed(entry, e))?;
            metadata::of_file(&file, entry, self.owner(entry)?).map_err(|e| failed(entry, e))
        };
        dress()?;
        self.done.file_bytes += size;
        Ok(Some(directory))
    }

    fn mknod(&mut self, place: &Place<'_>, entry: &Entry, kind: FileType, device: u64) -> Result<()> {
        if (kind, device) == (FileType::CharacterDevice, 0) && self.options.whiteouts == Whiteouts::Verbatim {
            let reason = "a character device 0:0 would delete what a layer below has".into();
            return Err(Error::HostileEntry { entry: entry.name(), reason });
        }
        let mode = Mode::from_raw_mode(entry.mode & 0o1777);
        self.node(place, entry, &|place| rustix::fs::mknodat(&*place.parent, place.name, kind, mode, device))
    }

    /// Something without contents.
    fn node(&mut self, place: &Place<'_>, entry: &Entry, make: &dyn Fn(&Place<'_>) -> Result<(), Errno>) -> Result<()> {
        let owner = self.owner(entry)?;
        match make(place) {
            Err(Errno::EXIST) => {
                self.make_room(place, entry)?;
                make(place)
            }
            other => other,
        }
        .and_then(|()| metadata::of_node(&place.parent, place.name, entry, owner))
        .map_err(|e| failed(entry, e))
    }

    /// Removes what is in the way: the later of two entries wins.
    fn make_room(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let found = rustix::fs::statat(&*place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW);
        let found = found.map_err(|e| failed(entry, e))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory && self.options.keep_kinds {
            return Err(Error::Path { path: for_people(place.path), reason: PathReason::DirectoryInTheWay });
        }
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            // Other paths may have led through it.
            self.tree.forget();
        }
        if self.directories.remove(place.path).is_some() {
            self.held -= place.path.len() as u64 + REMEMBERED;
        }
        tree::remove(place.parent.as_fd(), place.name).map_err(|e| failed(entry, e))
    }

    /// Notes the time of a directory for the end.
    fn remember(&mut self, path: &[u8], time: Time, entry: &Entry) -> Result<()> {
        if self.directories.insert(path.to_vec(), time).is_none() {
            self.held += path.len() as u64 + REMEMBERED;
        }
        let limit = self.options.limits.names;
        if self.held > limit {
            let what = "the memory for names of directories";
            return Err(Error::LimitExceeded { entry: entry.name(), what, limit });
        }
        Ok(())
    }

    /// Sets the times of directories, now that nothing is put into them any more.
    fn finish_directories(&mut self) -> Result<()> {
        let mut directories: Vec<_> = std::mem::take(&mut self.directories).into_iter().collect();
        // Siblings share the look-up of their parent.
        directories.sort_unstable_by(|(a, _), (b, _)| tree::split(a).cmp(&tree::split(b)));
        for (path, time) in directories {
            let (parent, name) = tree::split(&path);
            let name = if name.is_empty() { b"." } else { name };
            let set = self.tree.directory(parent, false).and_then(|parent| metadata::set_time(&parent, name, time));
            match set {
                // Something above it was replaced by a later entry.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(other) => return Err(Error::io(format!("unpacking {}", String::from_utf8_lossy(&path)), other)),
            }
        }
        Ok(())
    }

    /// Reads what follows the archive's end (tar fills up its last record): the layer's digest covers it, too.
    fn drain(self) -> Result<Unpacked> {
        let (limits, mut offset) = (self.options.limits, self.reader.offset());
        let mut input = self.reader.into_inner();
        loop {
            let at_hand = input.fill_buf().map_err(|e| Error::io("reading a tar archive", e))?.len();
            if at_hand == 0 {
                return Ok(self.done);
            }
            input.consume(at_hand);
            offset += at_hand as u64;
            if offset > limits.bytes {
                let (entry, what) = ("(after the last one)".into(), "the number of uncompressed bytes");
                return Err(Error::LimitExceeded { entry, what, limit: limits.bytes });
            }
        }
    }
}

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

fn is_there(directory: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn is_whiteout(place: &Place<'_>) -> bool {
    rustix::fs::statat(&*place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
}

fn for_people(path: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    std::path::Path::new("/").join(std::ffi::OsStr::from_bytes(path))
}

/// There is nowhere to put an entry.
fn no_directory(entry: &Entry, errno: Errno) -> Error {
    let reason = match errno {
        Errno::EXIST | Errno::NOENT => "a directory above it is a symbolic link to nowhere",
        Errno::NOTDIR => "something above it is no directory",
        Errno::LOOP => "symbolic links above it go round",
        other => return failed(entry, other),
    };
    Error::HostileEntry { entry: entry.name(), reason: reason.into() }
}

fn failed(entry: &Entry, errno: Errno) -> Error {
    Error::io(format!("unpacking {}", entry.name()), errno)
}

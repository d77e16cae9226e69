//! What an archive is unpacked over: layers whose directories and links count, and of which nothing is written to.
//!
//! A directory that only they have is made anew, looking as it does there: overlayfs shows the uppermost one's look. A link of theirs
//! is followed, as whoever unpacks into a root file system of them does: a directory in its place would hide where it leads.

use super::metadata;
use crate::archive::attributes;
use crate::tar::Time;
use crate::tree;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

/// How many links a path may lead through (`path_resolution(7)`).
const LINKS: u32 = 40;

/// A tree, and what lies below it.
pub(super) struct Merged<'a> {
    pub(super) upper: BorrowedFd<'a>,
    pub(super) below: BorrowedFd<'a>,
}

/// What a name stands for.
enum Found {
    Directory,
    Link(Vec<u8>),
    Other,
}

impl Merged<'_> {
    /// Where a directory's path leads, with all links followed. What is not there is as it was written, but not behind a link.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let names = |path: &[u8], of_link: bool| {
            let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".");
            names.rev().map(|name| (name.to_vec(), of_link)).collect::<Vec<_>>()
        };
        let mut left = names(path, false);
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some((name, of_link)) = left.pop() {
            if name == b".." {
                // As in a root directory, of which there is nothing above.
                at.pop();
                continue;
            }
            at.push(name);
            match self.found(&at.join(&b'/'))? {
                Some(Found::Directory) => {}
                Some(Found::Other) => return Err(Errno::NOTDIR),
                None if of_link => return Err(Errno::NOENT),
                None => {}
                Some(Found::Link(target)) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP);
                    }
                    match target.first() {
                        Some(b'/') => at.clear(),
                        _ => drop(at.pop()),
                    }
                    left.extend(names(&target, true));
                }
            }
        }
        Ok(at.join(&b'/'))
    }

    /// What a path without links above its last name stands for.
    fn found(&self, path: &[u8]) -> Result<Option<Found>, Errno> {
        let found = match look(self.upper, path)? {
            // A directory of the tree in place of a link hides what is behind that.
            None => self.look_below(path)?,
            found => found,
        };
        let Some((fd, stat)) = found else { return Ok(None) };
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::Symlink => Found::Link(rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes()),
            _ => Found::Other,
        }))
    }

    /// Makes a new directory look as the one below it. Its time, which is set when nothing is put into it any more; `None`: there is none below.
    pub(super) fn dress(&self, path: &[u8]) -> Result<Option<Time>, Errno> {
        let Some((below, stat)) = self.look_below(path)? else { return Ok(None) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = tree::open(self.upper, path, flags)?;
        rustix::fs::fchown(&directory, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        for (name, value) in attributes(&tree::open(below.as_fd(), b"", flags)?)? {
            metadata::set_attribute(&directory, &name, &value)?;
        }
        Ok(Some(Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }))
    }
}

impl Merged<'_> {
    /// What is at a path below, with no link followed, unless the tree hides it.
    fn look_below(&self, path: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Errno> {
        if self.hides(path)? { Ok(None) } else { look(self.below, path) }
    }

    /// Whether the tree hides what is at a path below: by something at the path or above it that is no directory, or by a directory that took
    /// such a thing's place.
    fn hides(&self, path: &[u8]) -> Result<bool, Errno> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes.chain([path.len()]) {
            let Some((fd, stat)) = look(self.upper, &path[..end])? else { return Ok(false) };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || metadata::is_opaque(&fd)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a directory at a path, in place of something that is none, is to hide one below: what that hid does not come back with it.
    pub(super) fn is_hidden_directory(&self, path: &[u8]) -> Result<bool, Errno> {
        let (parent, _) = tree::split(path);
        if !parent.is_empty() && self.hides(parent)? {
            return Ok(false);
        }
        let found = look(self.below, path)?;
        Ok(found.is_some_and(|(_, stat)| FileType::from_raw_mode(stat.st_mode) == FileType::Directory))
    }

    /// A file that only what lies below has, to be read, and its size; `None`: there is none, or it is no file.
    pub(super) fn file(&self, path: &[u8]) -> Result<Option<(OwnedFd, u64)>, Errno> {
        let Some((_, stat)) = self.look_below(path)? else { return Ok(None) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let opened = tree::open_without_links(self.below, path, OFlags::RDONLY | OFlags::NOFOLLOW)?;
        Ok(Some((opened, u64::try_from(stat.st_size).unwrap_or(0))))
    }
}

/// What is at a path, with no link followed.
fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    match tree::open_without_links(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd)?;
            Ok(Some((fd, stat)))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(other) => Err(other),
    }
}

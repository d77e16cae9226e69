//! What a container in a machine changed, brought to where an ordinary container's changes are: so that they are listed and committed by the same code.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use guest_protocol::files::{At, MAX_IO, Stat, Tree};
use guest_protocol::message::Blob;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::contents::Contents;
use super::{CHARACTERS, DEPTH, DIRECTORY, Guest, KIND, LINK, PIPE, REGULAR, SOCKET, below};
use crate::{Error, Result};

/// The attributes that overlayfs marks directories with, for itself (overlayfs.rst). Another one of it would be believed by the host's.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const OVERLAY: &[u8] = b"trusted.overlay.";
/// What goes from the guest into a file of the host beside: what an image may have as well.
const CAPABILITY: &[u8] = b"security.capability";
const USER: &[u8] = b"user.";

/// What an entry costs of the bytes that there may be, whatever is in it: an inode of the host's.
const ENTRY: u64 = 4096;

/// Copies a guest's changes into a directory, in overlayfs's own form, over what the container was given beforehand, which is there in that form, and nothing else; at most so many bytes of files, holes
/// included.
pub(crate) fn pull(guest: &mut Guest, into: BorrowedFd<'_>, most: u64) -> Result<()> {
    let at = At { tree: Tree::Changes, path: Blob(b"/".to_vec()) };
    let mut puller = Puller { guest, rest: most, names: HashMap::new(), root: into };
    let Some(stat) = puller.guest.stat(&at)? else { return Ok(()) };
    puller.entries(&at, into, "", 0)?;
    set(into, OsStr::new("."), &stat)
}

struct Puller<'g> {
    guest: &'g mut Guest,
    rest: u64,
    /// Files with several names: the first of those, below the root.
    names: HashMap<u64, PathBuf>,
    root: BorrowedFd<'g>,
}

impl Puller<'_> {
    fn entries(&mut self, at: &At, into: BorrowedFd<'_>, path: &str, depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::invalid(format!("{path}: more than {DEPTH} directories deep")));
        }
        let mut seen = HashSet::new();
        for (name, stat) in self.guest.list(at)? {
            // A second one would take the place of the first, by whose path other files may be found.
            if !seen.insert(name.0.clone()) {
                return Err(super::unfit());
            }
            self.entry(&below(at, &name.0), &stat, into, OsStr::from_bytes(&name.0), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, at: &At, stat: &Stat, into: BorrowedFd<'_>, name: &OsStr, depth: usize) -> Result<()> {
        let shown = guest_protocol::plain::name(&at.path.0);
        let path = Path::new(OsStr::from_bytes(at.path.0.strip_prefix(b"/").unwrap_or(&at.path.0)));
        let is_directory = stat.mode & KIND == DIRECTORY;
        let size = if stat.mode & KIND == REGULAR { stat.size } else { 0 };
        self.rest = self.rest.checked_sub(size.saturating_add(ENTRY)).ok_or_else(|| {
            Error::system(format!("{shown}: with that, the microVM has more files than it has memory for"))
        })?;
        if image::is_place(path, is_directory) && (is_directory || stat.size == 0) {
            return Ok(());
        }
        let failed = |errno: Errno| Error::step(format!("copy {shown} out of the microVM"), errno);
        let hides = stat.extended.iter().any(|(key, _)| key.0 == OPAQUE);
        let is_there = make_room(into, name, is_directory && !hides).map_err(failed)?;
        let first = (stat.mode & KIND != DIRECTORY && stat.links > 1).then(|| self.names.get(&stat.inode)).flatten();
        if let Some(first) = first {
            // Made here a moment ago, in directories that are ours.
            return rustix::fs::linkat(self.root, first, into, name, AtFlags::empty()).map_err(failed);
        }
        match stat.mode & KIND {
            DIRECTORY => {
                if !is_there {
                    rustix::fs::mkdirat(into, name, Mode::RWXU).map_err(failed)?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(into, name, flags, Mode::empty()).map_err(failed)?;
                self.entries(at, directory.as_fd(), &shown, depth + 1)?;
                // It was changed by no more than the start of the container.
                let is_made_here = path == Path::new("etc") && !hides && !is_there;
                if is_made_here && rustix::fs::unlinkat(into, name, AtFlags::REMOVEDIR).is_ok() {
                    return Ok(());
                }
            }
            REGULAR => self.file(at, stat.size, into, name).map_err(|error| error.context(format!("copy {shown}")))?,
            LINK => {
                let to = self.guest.read_link(at)?;
                rustix::fs::symlinkat(&to, into, name).map_err(failed)?;
            }
            // Only who made it could do anything with it.
            SOCKET => return Ok(()),
            // What was deleted is a device of that number.
            CHARACTERS if stat.device == 0 => {
                let none = rustix::fs::makedev(0, 0);
                rustix::fs::mknodat(into, name, FileType::CharacterDevice, Mode::empty(), none).map_err(failed)?;
                return Ok(());
            }
            PIPE => rustix::fs::mknodat(into, name, FileType::Fifo, Mode::empty(), 0).map_err(failed)?,
            // Devices of the guest's would be the host's here.
            _ => return Ok(()),
        }
        if stat.links > 1 && stat.mode & KIND != DIRECTORY {
            self.names.insert(stat.inode, path.to_owned());
        }
        set(into, name, stat)
    }

    /// As many bytes as it was said to have.
    fn file(&mut self, at: &At, size: u64, into: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let failed = |error: std::io::Error| Error::step("write a file of the microVM's", error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file: OwnedFd =
            rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
        let file = File::from(file);
        let mut contents = Contents::new(self.guest, at);
        let copied = copy(&mut (&mut contents).take(size), &file);
        contents.end()?;
        copied.and_then(|()| file.set_len(size)).map_err(failed)
    }
}

/// Takes away what is called so; `keeps_directory`: unless it is a directory, which is not one that hides what lies below it. Whether that is there.
fn make_room(into: BorrowedFd<'_>, name: &OsStr, keeps_directory: bool) -> rustix::io::Result<bool> {
    let kind = match rustix::fs::statat(into, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => FileType::from_raw_mode(found.st_mode),
        Err(Errno::NOENT) => return Ok(false),
        Err(other) => return Err(other),
    };
    if kind == FileType::Directory && keeps_directory {
        return Ok(true);
    }
    image::tree::remove(into, name.as_bytes()).map(|()| false)
}

/// Copies all bytes; what has nothing but zeros stays a hole.
fn copy(from: &mut impl Read, to: &File) -> std::io::Result<()> {
    let (mut bytes, mut offset) = (vec![0; MAX_IO as usize], 0);
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        if bytes[..count].iter().any(|byte| *byte != 0) {
            to.write_all_at(&bytes[..count], offset)?;
        }
        offset += count as u64;
    }
}

/// Gives what was copied its owner, permissions, attributes and time.
fn set(into: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<()> {
    let failed = |errno: Errno| Error::step(format!("set {} of the microVM's", name.display()), errno);
    let (uid, gid) = (Uid::from_raw(stat.owner.0), Gid::from_raw(stat.owner.1));
    rustix::fs::chownat(into, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    if stat.mode & KIND != LINK {
        // Nobody but this makes anything here, so that the name is what was just made.
        rustix::fs::chmodat(into, name, Mode::from_raw_mode(stat.mode & 0o7777), AtFlags::empty()).map_err(failed)?;
    }
    for (key, value) in &stat.extended {
        let wanted =
            key.0 == OPAQUE || (!key.0.starts_with(OVERLAY) && (key.0 == CAPABILITY || key.0.starts_with(USER)));
        let kept = wanted && matches!(stat.mode & KIND, REGULAR | DIRECTORY);
        if kept {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(into, name, flags, Mode::empty()).map_err(failed)?;
            rustix::fs::fsetxattr(&file, OsStr::from_bytes(&key.0), &value.0, XattrFlags::empty()).map_err(failed)?;
        }
    }
    let time = Timespec { tv_sec: stat.modified.0, tv_nsec: stat.modified.1.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(into, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
}

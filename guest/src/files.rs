//! A container's files, for a host that reads and writes them piece by piece.
//!
//! Every path is looked up from the root's descriptor, as the container itself would, and can't lead out of it
//! (`openat2(2)`, `RESOLVE_IN_ROOT`): what a container puts in the way leads to another of its own files at most. What is looked up is
//! held by a descriptor, and changed through that.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use guest_protocol::files::{
    At, Attributes, FileReply, FileRequest, Handle, MAX_ENTRIES, MAX_IO, MAX_OPEN, Make, Stat, Tree,
};
use guest_protocol::message::{Blob, Failure};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::{failed, refused};

/// The most bytes of the extended attributes of one file that are told.
const EXTENDED_MAX: usize = 64 << 10;
/// How deep a tree may be that is removed.
const DEPTH_MAX: usize = 1024;

/// A container's trees.
#[derive(Debug)]
pub(crate) struct Trees {
    pub(crate) root: OwnedFd,
    /// Where its changes are, if it can make any.
    pub(crate) changes: Option<OwnedFd>,
}

impl Trees {
    fn get(&self, tree: Tree) -> Result<BorrowedFd<'_>, Failure> {
        match tree {
            Tree::Root => Ok(self.root.as_fd()),
            Tree::Changes => {
                let changes = self.changes.as_ref().ok_or_else(|| refused("this container can't change anything"))?;
                Ok(changes.as_fd())
            }
        }
    }

    fn open(&self, at: &At, flags: OFlags) -> Result<OwnedFd, Failure> {
        open(self.get(at.tree)?, path(at), flags).map_err(failed("open", shown(at)))
    }

    /// Whatever is there, a link itself.
    fn hold(&self, at: &At) -> Result<OwnedFd, Failure> {
        self.open(at, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// The directory that something is in, and its name there.
    fn parent(&self, at: &At) -> Result<(OwnedFd, OsString), Failure> {
        let path = path(at);
        let name = path.file_name().ok_or_else(|| refused(format!("{}: it has no name of its own", shown(at))))?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = open(self.get(at.tree)?, above, flags).map_err(failed("open", above.display().to_string()))?;
        Ok((parent, name.to_owned()))
    }
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    loop {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Somebody renames what the path goes by.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn path(at: &At) -> &Path {
    match &at.path.0[..] {
        b"" => Path::new("/"),
        path => Path::new(OsStr::from_bytes(path)),
    }
}

fn shown(at: &At) -> String {
    path(at).display().to_string()
}

/// A name for what a descriptor holds, for the calls that take none that was opened by `O_PATH`.
fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Files that the host has open. They belong to a conversation.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    open: BTreeMap<Handle, OwnedFd>,
    next: u32,
}

impl OpenFiles {
    pub(crate) fn answer(&mut self, trees: &Trees, request: FileRequest) -> Result<FileReply, Failure> {
        match request {
            FileRequest::Stat(at) => stat(trees.hold(&at)?.as_fd(), &shown(&at)).map(FileReply::Stat),
            FileRequest::ReadLink(at) => {
                let link = trees.hold(&at)?;
                let target =
                    rustix::fs::readlinkat(link, "", Vec::new()).map_err(failed("read the link", shown(&at)))?;
                Ok(FileReply::Link(target.into_bytes().into()))
            }
            FileRequest::List { at, skip } => list(trees, &at, skip),
            FileRequest::Open(at) => {
                // One that would wait for another end, or do something by being opened, is no regular file.
                let file = trees.open(&at, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                self.keep(file, &at)
            }
            FileRequest::Create { at, attributes } => {
                let (parent, name) = trees.parent(&at)?;
                let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
                let flags = flags | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o644));
                let file = file.map_err(failed("create", shown(&at)))?;
                let reply = self.keep(file, &at)?;
                if let FileReply::Opened(handle, _) = &reply
                    && let Some(file) = self.open.get(handle)
                {
                    rustix::fs::ftruncate(file, 0).map_err(failed("empty", shown(&at)))?;
                    set(file.as_fd(), &attributes, &shown(&at))?;
                }
                Ok(reply)
            }
            FileRequest::Read { handle, offset, length } => {
                let mut bytes = vec![0; length.min(MAX_IO) as usize];
                let count = rustix::io::pread(self.get(handle)?, &mut bytes[..], offset);
                bytes.truncate(count.map_err(failed("read", "an open file"))?);
                Ok(FileReply::Bytes(bytes.into()))
            }
            FileRequest::Write { handle, offset, bytes } => {
                let file = self.get(handle)?;
                let mut at = 0;
                while at < bytes.0.len() {
                    let written = rustix::io::pwrite(file, &bytes.0[at..], offset + at as u64);
                    at += written.map_err(failed("write to", "an open file"))?;
                }
                Ok(FileReply::Done)
            }
            FileRequest::Close(handle) => {
                self.open.remove(&handle);
                Ok(FileReply::Done)
            }
            FileRequest::Make { at, what, attributes } => make(trees, &at, &what, &attributes),
            FileRequest::Remove(at) => {
                let (parent, name) = trees.parent(&at)?;
                remove(parent.as_fd(), &name, 0).map_err(failed("remove", shown(&at)))?;
                Ok(FileReply::Done)
            }
            FileRequest::Set { at, attributes } => {
                set(trees.hold(&at)?.as_fd(), &attributes, &shown(&at))?;
                Ok(FileReply::Done)
            }
            FileRequest::Sync(tree) => {
                let at = At { tree, path: Blob::default() };
                let directory = trees.open(&at, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::syncfs(directory).map_err(failed("sync", "a container's files"))?;
                Ok(FileReply::Done)
            }
        }
    }

    fn get(&self, handle: Handle) -> Result<&OwnedFd, Failure> {
        self.open.get(&handle).ok_or_else(|| Failure::Unknown { what: format!("open file {}", handle.0) })
    }

    fn keep(&mut self, file: OwnedFd, at: &At) -> Result<FileReply, Failure> {
        let stat = stat(file.as_fd(), &shown(at))?;
        if FileType::from_raw_mode(stat.mode as RawMode) != FileType::RegularFile {
            return Err(refused(format!("{} is no regular file", shown(at))));
        }
        if self.open.len() >= MAX_OPEN {
            return Err(refused(format!("{MAX_OPEN} files are open already")));
        }
        self.next = self.next.wrapping_add(1);
        self.open.insert(Handle(self.next), file);
        Ok(FileReply::Opened(Handle(self.next), stat))
    }
}

fn stat(fd: BorrowedFd<'_>, name: &str) -> Result<Stat, Failure> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW);
    let stat = stat.map_err(failed("look at", name))?;
    Ok(Stat {
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        size: stat.st_size.cast_unsigned(),
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
        links: stat.st_nlink as u64,
        inode: stat.st_ino,
        filesystem: stat.st_dev,
        device: stat.st_rdev,
        extended: extended(fd, FileType::from_raw_mode(stat.st_mode)),
    })
}

/// The extended attributes of what can have any. By way of `/proc`, as it is held by a descriptor that can't be read; a link's can't
/// be had so, and has none but the system's own.
fn extended(fd: BorrowedFd<'_>, kind: FileType) -> Vec<(Blob, Blob)> {
    if kind == FileType::Symlink {
        return Vec::new();
    }
    let path = by_descriptor(fd);
    let mut names = vec![0; EXTENDED_MAX];
    // A file system without any is no error.
    let length = rustix::fs::listxattr(&path, &mut names[..]).unwrap_or(0);
    let mut room = EXTENDED_MAX;
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; room];
        let Ok(length) = rustix::fs::getxattr(&path, OsStr::from_bytes(name), &mut value[..]) else { continue };
        value.truncate(length);
        room = room.saturating_sub(length + name.len());
        found.push((name.to_vec().into(), value.into()));
    }
    found
}

fn list(trees: &Trees, at: &At, skip: u64) -> Result<FileReply, Failure> {
    let directory = trees.open(at, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let failed = || failed("list", shown(at));
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    let rest = names.get(usize::try_from(skip).unwrap_or(usize::MAX)..).unwrap_or_default();
    let mut entries = Vec::new();
    // What is said has to fit into a message.
    let (mut seen, mut room) = (0, guest_protocol::frame::MAX_MESSAGE / 2);
    for name in rest.iter().take(MAX_ENTRIES) {
        let held = rustix::fs::openat(
            &directory,
            OsStr::from_bytes(name),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        // What is gone meanwhile is left out.
        if let Ok(Ok(stat)) = held.map(|held| stat(held.as_fd(), "")) {
            let size: usize = stat.extended.iter().map(|(name, value)| name.0.len() + value.0.len() + 16).sum();
            let size = size + name.len() + 128;
            if size > room && !entries.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            entries.push((Blob(name.clone()), stat));
        }
        seen += 1;
    }
    // Who gets nothing is not to ask for more.
    let more = rest.len() > seen && !entries.is_empty();
    Ok(FileReply::Entries { entries, more })
}

fn make(trees: &Trees, at: &At, what: &Make, attributes: &Attributes) -> Result<FileReply, Failure> {
    let (parent, name) = trees.parent(at)?;
    let failed = || failed("make", shown(at));
    match what {
        Make::Directory => match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {
                // A link to a directory is none.
                open(parent.as_fd(), Path::new(&name), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW).map(drop)
            }
            other => other,
        }
        .map_err(failed())?,
        Make::Link { to } => {
            let to = PathBuf::from(OsString::from_vec(to.0.clone()));
            rustix::fs::symlinkat(&to, &parent, &name).map_err(failed())?;
        }
        Make::HardLink { to } => {
            let file = trees.hold(to)?;
            let by_descriptor = by_descriptor(file.as_fd());
            return rustix::fs::linkat(rustix::fs::CWD, by_descriptor, &parent, &name, AtFlags::SYMLINK_FOLLOW)
                .map(|()| FileReply::Done)
                .map_err(failed());
        }
        Make::Node { kind, device } => {
            let kind = FileType::from_raw_mode(*kind as RawMode);
            if !matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice) {
                return Err(refused(format!("{}: it is no pipe, socket or device", shown(at))));
            }
            rustix::fs::mknodat(&parent, &name, kind, Mode::from_raw_mode(0o644), *device).map_err(failed())?;
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&parent, &name, flags, Mode::empty()).map_err(failed())?;
    set(made.as_fd(), attributes, &shown(at))?;
    Ok(FileReply::Done)
}

/// Owner first, as giving away takes set-user-ID; times last, as all else changes them.
fn set(fd: BorrowedFd<'_>, attributes: &Attributes, name: &str) -> Result<(), Failure> {
    let failed = |tried| failed(tried, name);
    let path = by_descriptor(fd);
    let kind = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH).map_err(failed("look at"))?;
    let is_link = FileType::from_raw_mode(kind.st_mode) == FileType::Symlink;
    if let Some((uid, gid)) = attributes.owner {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH).map_err(failed("set the owner of"))?;
    }
    if let Some(mode) = attributes.mode.filter(|_| !is_link) {
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode as RawMode & 0o7777)).map_err(failed("set the mode of"))?;
    }
    for (key, value) in attributes.extended.iter().filter(|_| !is_link) {
        rustix::fs::setxattr(&path, OsStr::from_bytes(&key.0), &value.0, XattrFlags::empty())
            .map_err(failed("set an extended attribute of"))?;
    }
    if let Some((seconds, nanoseconds)) = attributes.modified {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH)
            .or_else(|errno| match is_link {
                // Kernels before 5.8 take no descriptor here, and a link can't be named by one.
                true => Ok(()),
                false if errno == Errno::INVAL => {
                    rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())
                }
                false => Err(errno),
            })
            .map_err(failed("set the times of"))?;
    }
    Ok(())
}

fn remove(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    if depth > DEPTH_MAX {
        return Err(Errno::LOOP);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let below = entry.file_name().to_bytes();
        if !matches!(below, b"." | b"..") {
            remove(directory.as_fd(), OsStr::from_bytes(below), depth + 1)?;
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

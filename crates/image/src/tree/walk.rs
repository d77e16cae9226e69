//! Walking a tree that somebody may change meanwhile.

use crate::{Error, Result};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::cmp::Ordering;

/// Directories above one another that are walked. Each is held open.
const DEPTH: usize = 512;

/// Something in the tree.
pub struct Found<'a> {
    /// The directory that it is in.
    pub parent: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a [u8],
    /// The path below the root of the walk.
    pub path: &'a [u8],
    /// What it is.
    pub stat: Stat,
}

impl Found<'_> {
    /// Its kind.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it for reading, if it is still what it was: without following a link, without waiting for a pipe's writer.
    ///
    /// # Errors
    /// `ENOENT` where it is something else by now.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        self.open_with_stat().map(|(fd, _)| fd)
    }

    /// The same, with what it is by now.
    ///
    /// # Errors
    /// As [`Found::open`].
    pub(crate) fn open_with_stat(&self) -> Result<(OwnedFd, Stat), Errno> {
        let kind = if self.kind() == FileType::Directory { OFlags::DIRECTORY } else { OFlags::empty() };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | kind;
        let fd = rustix::fs::openat(self.parent, self.name, flags, Mode::empty())?;
        let now = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(now.st_mode) != self.kind() {
            return Err(Errno::NOENT);
        }
        Ok((fd, now))
    }

    /// What is said where it can't be read.
    pub fn failed(&self, errno: Errno) -> Error {
        Error::io(format!("reading {}", String::from_utf8_lossy(self.path)), errno)
    }
}

struct Frame {
    fd: OwnedFd,
    /// Names that were not visited yet, the next one last.
    names: Vec<Vec<u8>>,
    /// How long the path of the directory is.
    path: usize,
}

/// Visits everything below `root`, parents before what they hold, names in the order of their bytes. `visit` says of a
/// directory whether to go into it. What vanishes meanwhile is left out.
///
/// # Errors
/// What `visit` says, and where a directory can't be read or is too deep.
pub fn walk(root: OwnedFd, visit: &mut dyn FnMut(&Found<'_>) -> Result<bool>) -> Result<()> {
    let mut path = Vec::new();
    let failed = |path: &[u8], errno| Error::io(format!("reading {}", String::from_utf8_lossy(path)), errno);
    let mut stack = vec![Frame { names: names(&root).map_err(|e| failed(b"/", e))?, fd: root, path: 0 }];
    while let Some(frame) = stack.last_mut() {
        path.truncate(frame.path);
        let Some(name) = frame.names.pop() else {
            stack.pop();
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let parent = frame.fd.as_fd();
        let stat = match rustix::fs::statat(parent, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(other) => return Err(failed(&path, other)),
        };
        let found = Found { parent, name: &name, path: &path, stat };
        if !visit(&found)? || found.kind() != FileType::Directory {
            continue;
        }
        let below = match found.open() {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(other) => return Err(failed(&path, other)),
        };
        if stack.len() >= DEPTH {
            let reason = format!("more than {DEPTH} directories above one another");
            return Err(Error::HostileEntry { entry: String::from_utf8_lossy(&path).into_owned(), reason });
        }
        let names = names(&below).map_err(|e| failed(&path, e))?;
        stack.push(Frame { fd: below, names, path: path.len() });
    }
    Ok(())
}

/// The order in which a walk comes to paths. A name has no zero, and a directory comes directly before what it holds.
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// The names in a directory, the last first.
pub(crate) fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut all = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            all.push(name.to_vec());
        }
    }
    all.sort_unstable_by(|a, b| b.cmp(a));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_the_order_of_a_walk() {
        let walked: [&[u8]; 6] = [b"a", b"a/b", b"a/b/c", b"a/b.c", b"a.b", b"b"];
        assert!(walked.is_sorted_by(|a, b| order(a, b) == Ordering::Less));
    }
}

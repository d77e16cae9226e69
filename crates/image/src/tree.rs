//! A directory tree that somebody else may control, worked on through held descriptors only.
//!
//! Every look-up starts at the root's descriptor, with `openat2(2)` and `RESOLVE_IN_ROOT`: absolute symbolic links and
//! `..` mean what they mean to a process whose root it is, whatever is renamed or replaced meanwhile. What is found is
//! held by its descriptor, and changed by its name in a held parent, never following a last symbolic link.

mod measure;
mod remove;
pub mod walk;

pub use measure::TreeSize;
pub(crate) use measure::size;
pub use remove::remove;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::rc::Rc;

/// How many directories are held open.
const HELD: usize = 48;

/// How often a look-up is tried again that lost a race against a rename (`openat2(2)`, EAGAIN).
const RACES: u32 = 256;

/// A name that leads out of the tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Escape;

/// The names that a path is made of: without empty ones and `.`, and with `..` taken away together with what it
/// follows. A path that goes above its root is an [`Escape`]; an absolute one begins at the root.
///
/// # Errors
/// [`Escape`].
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, Escape> {
    let mut names = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop().ok_or(Escape)?),
            name => names.push(name),
        }
    }
    Ok(names)
}

/// Opens a path below `root` as a process would see it whose root that is.
///
/// # Errors
/// What `openat2(2)` says.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    // An empty path is the root itself.
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    retried(|| rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

/// As [`open`], with no link on the way: `ELOOP` says that there is one.
pub(crate) fn open_without_links(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    retried(|| rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

/// Tries a look-up again that lost a race.
fn retried(look_up: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 0..RACES {
        match look_up() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Removes a file or a whole tree of any depth. What is not there is removed already.
///
/// # Errors
/// Something is mounted in the tree: that is no part of it, and stays with all that it holds.
pub fn remove_tree(path: &std::path::Path) -> crate::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let failed = |errno: Errno| match errno {
        Errno::XDEV | Errno::BUSY => {
            let what = "something is mounted in it: unmount that first";
            crate::Error::io(format!("removing {}", path.display()), std::io::Error::other(what))
        }
        other => crate::Error::io(format!("removing {}", path.display()), other),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(failed(Errno::INVAL)) };
    // A name alone is in the working directory.
    let parent = if parent.as_os_str().is_empty() { std::path::Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => remove(parent.as_fd(), name.as_bytes()).map_err(failed),
        Err(Errno::NOENT) => Ok(()),
        Err(other) => Err(failed(other)),
    }
}

/// Directories below a root, found by path and kept open for the next to ask.
pub(crate) struct Tree<'r> {
    root: BorrowedFd<'r>,
    held: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Directories that were made, until somebody takes note of them.
    pub(crate) made: Vec<Vec<u8>>,
}

impl<'r> Tree<'r> {
    pub(crate) fn new(root: BorrowedFd<'r>) -> Tree<'r> {
        Tree { root, held: HashMap::new(), made: Vec::new() }
    }

    /// The directory at `path` (clean, relative). Parents that are missing are made, if `make`, with mode 0755.
    pub(crate) fn directory(&mut self, path: &[u8], make: bool) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(fd) = self.held.get(path) {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = match open(self.root, path, flags) {
            Err(Errno::NOENT) if make => {
                let (parent, name) = split(path);
                let parent = self.directory(parent, true)?;
                match rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        self.made.push(path.to_vec());
                        open(self.root, path, flags)?
                    }
                    Err(Errno::EXIST) => open(self.root, path, flags)?,
                    Err(other) => return Err(other),
                }
            }
            other => other?,
        };
        if self.held.len() >= HELD {
            self.held.clear();
        }
        let fd = Rc::new(fd);
        self.held.insert(path.to_vec(), Rc::clone(&fd));
        Ok(fd)
    }

    /// Lets go of everything held: directories have moved or gone.
    pub(crate) fn forget(&mut self) {
        self.held.clear();
    }
}

/// The directory that was opened last, for whoever goes through a tree in order: thousands of files follow one another in one.
#[derive(Debug, Default)]
pub struct LastDirectory(Option<(Vec<u8>, OwnedFd)>);

impl LastDirectory {
    /// The directory at `path` (clean, relative) below `root`, which has to be the same as ever.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&mut self, root: BorrowedFd<'_>, path: &[u8]) -> Result<&OwnedFd, Errno> {
        let held = match self.0.take().filter(|(held, _)| held == path) {
            Some(held) => held,
            None => (path.to_vec(), open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?),
        };
        Ok(&self.0.insert(held).1)
    }

    /// Lets go of it: it has moved, or is gone.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// A path's parent and its last name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A path to an object for the calls that take only paths: of a name in a held directory. The kernel follows the first
/// part to exactly that directory; the name itself is a last component, which `l…` calls do not follow.
pub(crate) fn proc_path(parent: impl AsFd, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd as _;
    let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_but_never_above_their_root() {
        let clean = |path: &'static str| components(path.as_bytes()).map(|names| names.join(&b'/'));
        assert_eq!(clean("./a//b/./c/"), Ok(b"a/b/c".to_vec()));
        assert_eq!(clean("/etc/passwd"), Ok(b"etc/passwd".to_vec()));
        assert_eq!(clean("a/../b"), Ok(b"b".to_vec()));
        assert_eq!(clean("./"), Ok(Vec::new()));
        assert_eq!(clean("a/../../b"), Err(Escape));
        assert_eq!(clean("/.."), Err(Escape));
    }
}

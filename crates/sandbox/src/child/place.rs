//! Places inside the root: where something is mounted, hidden or made.
//!
//! A root file system is not trusted, and every path in it is searched for component by component, without leaving it
//! ([`target`](super::target)). What lies directly in a new file system that was mounted here (a tmpfs, proc, sysfs) was
//! put there by the kernel or by this process: it is named by that mount's descriptor and one name, and needs no search.
//! Which file system a path leads into is known by its text alone, which holds as long as no link was on the way to
//! any place that was mounted on: where one was, all that was known is forgotten, and everything is searched for again.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{MoveMountFlags, move_mount};

use super::target::{self, Make};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// How many mounts are remembered: nothing can be allocated, and more than this takes the long way again.
const MOST: usize = 40;

/// The root, and what was mounted in it so far.
pub(super) struct Places<'r, 'p> {
    root: BorrowedFd<'r>,
    mounts: [Option<Mount<'p>>; MOST],
}

struct Mount<'p> {
    /// Relative to the root, with nothing in it to be cleaned up.
    target: &'p [u8],
    content: Content,
}

pub(super) enum Content {
    /// A new file system: tmpfs, proc or sysfs.
    Own { tree: OwnedFd, proc: bool },
    /// What others can have changed: of it, only the place is known.
    Foreign,
}

/// A place to mount on.
pub(super) struct Place<'a> {
    spot: Spot<'a>,
    /// No link led here.
    literal: bool,
    proc: bool,
}

enum Spot<'a> {
    Open(OwnedFd),
    Named(BorrowedFd<'a>, &'a CStr),
}

impl<'r, 'p> Places<'r, 'p> {
    pub(super) fn new(root: BorrowedFd<'r>) -> Self {
        Self { root, mounts: [const { None }; MOST] }
    }

    pub(super) fn root(&self) -> BorrowedFd<'r> {
        self.root
    }

    /// The directory and the name in it, where `path` lies directly in a new file system of ours.
    pub(super) fn in_own(&self, path: &'p CStr) -> Option<(BorrowedFd<'_>, &'p CStr)> {
        self.find(path).and_then(|(tree, _, rest)| {
            let name = rest.to_bytes();
            (!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')).then_some((tree, rest))
        })
    }

    /// The new file system of ours that is mounted at `path` itself.
    pub(super) fn own_at(&self, path: &'p CStr) -> Option<BorrowedFd<'_>> {
        self.find(path).and_then(|(tree, _, rest)| rest.is_empty().then_some(tree))
    }

    /// The innermost mount that `path` leads into, if it is ours, and what of `path` comes after its target.
    fn find(&self, path: &'p CStr) -> Option<(BorrowedFd<'_>, bool, &'p CStr)> {
        let mounts = self.mounts.iter().flatten().filter(|mount| is_beneath(path.to_bytes(), mount.target));
        let innermost = mounts.max_by_key(|mount| mount.target.len())?;
        let Content::Own { tree, proc } = &innermost.content else { return None };
        let rest = &path.to_bytes_with_nul()[innermost.target.len()..];
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        Some((tree.as_fd(), *proc, CStr::from_bytes_with_nul(rest).ok()?))
    }

    /// The place at `path`; it is made, and what leads to it, where it does not exist.
    pub(super) fn make(&self, path: &'p CStr, kind: impl Fn() -> Result<Make>) -> Result<Place<'_>> {
        if self.in_own(path).is_some() {
            return self.make_in_own(path, kind()?);
        }
        let (open, literal) = match target::open_without_links(self.root, path, OFlags::PATH) {
            Ok(open) => (open, true),
            Err(Errno::NOENT) => (target::make(self.root, path, kind()?)?, true),
            Err(Errno::LOOP) => (target::make(self.root, path, kind()?)?, false),
            Err(errno) => return Err(errno),
        };
        let proc = rustix::fs::fstatfs(&open)?.f_type as u64 == PROC_SUPER_MAGIC;
        Ok(Place { spot: Spot::Open(open), literal, proc })
    }

    fn make_in_own(&self, path: &'p CStr, kind: Make) -> Result<Place<'_>> {
        let (tree, proc, name) = self.find(path).ok_or(Errno::NOENT)?;
        let made = match kind {
            Make::Directory => rustix::fs::mkdirat(tree, name, Mode::from_raw_mode(0o755)),
            Make::File => rustix::fs::mknodat(tree, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => Ok(Place { spot: Spot::Named(tree, name), literal: true, proc }),
            Err(errno) => Err(errno),
        }
    }

    /// The place at `path`, made where it does not exist, to which no link may lead.
    pub(super) fn make_without_links(&self, path: &'p CStr) -> Result<Place<'_>> {
        let open = || target::open_without_links(self.root, path, OFlags::PATH);
        let open = match open() {
            Err(Errno::NOENT) => target::make(self.root, path, Make::Directory).and_then(|_| open()),
            other => other,
        };
        Ok(Place::open(open?, true))
    }

    /// The place at `path`, which exists.
    pub(super) fn open(&self, path: &CStr) -> Result<Place<'_>> {
        let path = if path.is_empty() { c"." } else { path };
        let (open, literal) = match target::open_without_links(self.root, path, OFlags::PATH) {
            Err(Errno::LOOP) => (target::open(self.root, path)?, false),
            other => (other?, true),
        };
        Ok(Place::open(open, literal))
    }

    /// Remembers what was mounted at `path`; `literal` is what its place said.
    pub(super) fn mounted(&mut self, path: &'p CStr, literal: bool, content: Content) {
        let target = path.to_bytes();
        if !literal || !is_clean(target) {
            return self.forget();
        }
        for mount in &mut self.mounts {
            // It is covered.
            if mount.as_ref().is_some_and(|mount| is_beneath(mount.target, target)) {
                *mount = None;
            }
        }
        let above = self.mounts.iter().flatten().any(|mount| is_beneath(target, mount.target));
        if matches!(content, Content::Foreign) && !above {
            return;
        }
        match self.mounts.iter_mut().find(|mount| mount.is_none()) {
            Some(free) => *free = Some(Mount { target, content }),
            None => self.forget(),
        }
    }

    fn forget(&mut self) {
        self.mounts.iter_mut().for_each(|mount| *mount = None);
    }
}

impl<'a> Place<'a> {
    /// A name in a new file system of ours.
    pub(super) fn named(tree: BorrowedFd<'a>, name: &'a CStr) -> Self {
        Self { spot: Spot::Named(tree, name), literal: true, proc: false }
    }

    /// A place that was opened; `literal` is what it said before.
    pub(super) fn open(place: OwnedFd, literal: bool) -> Self {
        Self { spot: Spot::Open(place), literal, proc: false }
    }

    /// Whether no link led here.
    pub(super) fn is_literal(&self) -> bool {
        self.literal
    }

    /// Whether it lies in /proc.
    pub(super) fn is_in_proc(&self) -> bool {
        self.proc
    }

    /// Puts a detached tree onto it.
    pub(super) fn attach(&self, tree: BorrowedFd<'_>) -> Result<()> {
        let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        match &self.spot {
            Spot::Open(place) => {
                let attached = move_mount(tree, c"", place, c"", from_here | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);
                attached.map_err(|errno| as_mount_says(errno, tree, place.as_fd()))
            }
            Spot::Named(directory, name) => move_mount(tree, c"", directory, *name, from_here),
        }
    }

    /// Its own descriptor.
    pub(super) fn into_fd(self) -> Result<OwnedFd> {
        match self.spot {
            Spot::Open(place) => Ok(place),
            Spot::Named(directory, name) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(directory, name, flags, Mode::empty())
            }
        }
    }
}

/// Whether `path` is `target`, or leads into it.
fn is_beneath(path: &[u8], target: &[u8]) -> bool {
    path.strip_prefix(target).is_some_and(|rest| target.is_empty() || rest.is_empty() || rest[0] == b'/')
}

fn is_clean(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// A directory that is put onto a file, or a file onto a directory, is an invalid argument to move_mount(2), and
/// `ENOTDIR` to mount(2), which says what is wrong.
fn as_mount_says(errno: Errno, tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Errno {
    let is_directory = |at| rustix::fs::fstat(at).is_ok_and(|status| FileType::from_raw_mode(status.st_mode).is_dir());
    if errno == Errno::INVAL && is_directory(tree) != is_directory(place) { Errno::NOTDIR } else { errno }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn own(tree: &OwnedFd) -> Content {
        Content::Own { tree: tree.try_clone().unwrap(), proc: false }
    }

    fn directory(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn only_what_lies_directly_in_the_innermost_mount_is_named() {
        let root = directory(Path::new("/"));
        let mut places = Places::new(root.as_fd());
        places.mounted(c"dev", true, own(&root));
        places.mounted(c"dev/shm", true, Content::Foreign);
        let name = |path: &'static CStr| places.in_own(path).map(|(_, name)| name);
        assert_eq!(name(c"dev/null"), Some(c"null"));
        for path in
            [c"dev", c"dev/", c"dev/..", c"dev//null", c"dev/a/b", c"dev/shm", c"dev/shm/a", c"device", c"/dev/null"]
        {
            assert_eq!(name(path), None, "{path:?}");
        }
        assert!(places.own_at(c"dev").is_some() && places.own_at(c"dev/shm").is_none());
    }

    #[test]
    fn what_is_covered_is_forgotten() {
        let root = directory(Path::new("/"));
        let covers: [(&CStr, bool); 6] = [
            (c"dev", true),
            (c"", true),
            (c"elsewhere", false),
            (c"./dev", true),
            (c"dev/", true),
            (c"dev/../dev", true),
        ];
        for (path, literal) in covers {
            let mut places = Places::new(root.as_fd());
            places.mounted(c"dev", true, own(&root));
            places.mounted(path, literal, Content::Foreign);
            assert!(places.in_own(c"dev/null").is_none(), "{path:?}");
        }
    }

    #[test]
    fn more_mounts_than_are_remembered_take_the_long_way() {
        let root = directory(Path::new("/"));
        let mut places = Places::new(root.as_fd());
        places.mounted(c"dev", true, own(&root));
        let paths: Vec<std::ffi::CString> =
            (0..MOST).map(|n| std::ffi::CString::new(format!("dev/{n}")).unwrap()).collect();
        let paths: &'static [std::ffi::CString] = paths.leak();
        for path in paths {
            places.mounted(path, true, Content::Foreign);
        }
        assert!(places.in_own(c"dev/null").is_none());
    }

    #[test]
    fn a_link_on_the_way_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/a")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let root = directory(dir.path());
        let places = Places::new(root.as_fd());
        let kind = || Ok(Make::Directory);
        assert!(places.make(c"real/a", kind).unwrap().is_literal());
        assert!(places.make(c"real/b", kind).unwrap().is_literal());
        assert!(!places.make(c"link/a", kind).unwrap().is_literal());
        assert!(!places.make(c"link/c", kind).unwrap().is_literal());
        assert!(!places.open(c"link/b").unwrap().is_literal());
        assert!(dir.path().join("real/c").is_dir());
    }
}

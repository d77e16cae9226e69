//! What a container changed.

use super::mount;
use crate::tree::walk::{Found, names, walk};
use crate::tree::{proc_path, split};
use crate::{Error, Result};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// A path that differs from the image's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The absolute path.
    pub path: PathBuf,
    /// How it differs.
    pub kind: ChangeKind,
}

/// How a path differs from the image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The image does not have it.
    Added,
    /// The image has it otherwise, or it is a directory with changes in it.
    Modified,
    /// Only the image has it.
    Deleted,
}

/// Compares a container's own directories, as overlayfs has them, bottom first, with what is below all of them. Only what is in its own is looked at.
pub(super) fn diff(root: &Path, below: &[String], own: &[PathBuf]) -> Result<Vec<Change>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut diff = Diff { below: Below { root: mount::layers(root, below)?, held: None }, changes: BTreeMap::new() };
    for directory in own {
        let opened = rustix::fs::open(directory, flags, Mode::empty());
        let opened = opened.map_err(|e| Error::io(format!("opening {}", directory.display()), e))?;
        walk(opened, &mut |found| diff.visit(found))?;
    }
    Ok(diff.with_parents())
}

struct Diff {
    below: Below,
    changes: BTreeMap<Vec<u8>, ChangeKind>,
}

impl Diff {
    fn visit(&mut self, found: &Found<'_>) -> Result<bool> {
        let failed = |errno| found.failed(errno);
        let before = self.below.stat(found.path).map_err(failed)?;
        let is_directory = found.kind() == FileType::Directory;
        // What counts is this, and not what a directory below says of it. Where that has it no more, overlayfs does not say again that it hides all.
        let is_anew =
            self.changes.remove(found.path) == Some(ChangeKind::Deleted) || is_opaque(found).map_err(failed)?;
        if !is_directory || is_anew {
            self.forget_below(found.path);
        }
        if found.kind() == FileType::CharacterDevice && found.stat.st_rdev == 0 {
            if before.is_some() {
                self.changes.insert(found.path.to_vec(), ChangeKind::Deleted);
            }
            return Ok(false);
        }
        match &before {
            None => drop(self.changes.insert(found.path.to_vec(), ChangeKind::Added)),
            Some(before) => {
                if differs(before, &found.stat) || self.capability_differs(found).map_err(failed)? {
                    self.changes.insert(found.path.to_vec(), ChangeKind::Modified);
                }
                let was_directory = FileType::from_raw_mode(before.st_mode) == FileType::Directory;
                if is_directory && was_directory && is_anew {
                    self.deleted_below(found).map_err(failed)?;
                }
            }
        }
        Ok(is_directory)
    }

    /// What directories below have in one that is hidden from here on.
    fn forget_below(&mut self, path: &[u8]) {
        let first = [path, b"/"].concat();
        let hidden =
            self.changes.range(first.clone()..).map(|(path, _)| path).take_while(|path| path.starts_with(&first));
        let hidden: Vec<Vec<u8>> = hidden.cloned().collect();
        for path in hidden {
            self.changes.remove(&path);
        }
    }

    /// What the image has in a directory that hides it all, and that was not made anew.
    fn deleted_below(&mut self, found: &Found<'_>) -> Result<(), Errno> {
        let now = names(&found.open()?)?;
        let Some(before) = self.below.open(found.path, OFlags::RDONLY | OFlags::DIRECTORY)? else { return Ok(()) };
        for name in names(&before)? {
            if now.binary_search_by(|other| name.cmp(other)).is_err() {
                self.changes.insert([found.path, b"/", &name].concat(), ChangeKind::Deleted);
            }
        }
        Ok(())
    }

    fn capability_differs(&self, found: &Found<'_>) -> Result<bool, Errno> {
        if found.kind() != FileType::RegularFile {
            return Ok(false);
        }
        let now = attribute(&proc_path(found.parent, found.name), "security.capability")?;
        let before = match &self.below.held {
            Some((_, Some(parent))) => attribute(&proc_path(parent, found.name), "security.capability")?,
            _ => None,
        };
        Ok(now != before)
    }

    /// Directories that changes are in are changed themselves.
    fn with_parents(mut self) -> Vec<Change> {
        let paths: Vec<Vec<u8>> = self.changes.keys().cloned().collect();
        for path in paths {
            let mut at = split(&path).0;
            while !at.is_empty() && !self.changes.contains_key(at) {
                self.changes.insert(at.to_vec(), ChangeKind::Modified);
                at = split(at).0;
            }
        }
        let change = |(path, kind): (Vec<u8>, _)| Change { path: Path::new("/").join(OsStr::from_bytes(&path)), kind };
        self.changes.into_iter().map(change).collect()
    }
}

/// Looks at what is below the upper directory, at the very same path: never through a link.
struct Below {
    root: mount::MountedRootfs,
    /// The last parent, which the next path probably has, too; `None` in it where there is no such directory.
    held: Option<(Vec<u8>, Option<OwnedFd>)>,
}

impl Below {
    fn open(&self, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn stat(&mut self, path: &[u8]) -> Result<Option<Stat>, Errno> {
        let (parent, name) = split(path);
        if self.held.as_ref().is_none_or(|(held, _)| held != parent) {
            self.held = Some((parent.to_vec(), self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?));
        }
        let Some((_, Some(directory))) = &self.held else { return Ok(None) };
        match rustix::fs::statat(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

/// Whether two things are different ones, by what Docker compares.
fn differs(before: &Stat, now: &Stat) -> bool {
    let same_time = before.st_mtime == now.st_mtime && before.st_mtime_nsec == now.st_mtime_nsec;
    let is_directory = FileType::from_raw_mode(now.st_mode) == FileType::Directory;
    before.st_mode != now.st_mode
        || before.st_uid != now.st_uid
        || before.st_gid != now.st_gid
        || before.st_rdev != now.st_rdev
        || !is_directory && (!same_time || before.st_size != now.st_size)
}

pub(crate) fn is_opaque(found: &Found<'_>) -> Result<bool, Errno> {
    Ok(attribute(&proc_path(found.parent, found.name), "trusted.overlay.opaque")?.is_some_and(|value| value == b"y"))
}

/// The value of a (short) extended attribute.
fn attribute(path: &[u8], name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = [0; 256];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => Ok(None),
        Err(other) => Err(other),
    }
}

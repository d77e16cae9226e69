//! How much is in a tree of any depth.

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::CString;

/// How many directories above one another are held open. One that lies deeper is come back to by the `..` of what it holds.
const HELD: usize = 64;

/// How a directory is opened to be looked at.
const LOOK: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What tells a file from all others.
type Identity = (u64, u64);

/// A directory that is looked at.
struct Level {
    /// `None` while those below it are looked at, if it is not held.
    fd: Option<OwnedFd>,
    identity: Identity,
    /// Directories in it that were not looked at yet.
    below: Vec<CString>,
}

/// How much there is in a tree, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeSize {
    /// Bytes in regular files and symbolic links.
    pub bytes: u64,
    /// Files, directories, and whatever else has a name.
    pub entries: u64,
}

impl TreeSize {
    /// More than any tree has.
    pub const ENDLESS: TreeSize = TreeSize { bytes: i64::MAX as u64, entries: u64::MAX };

    /// Whether this is no more than may be.
    pub fn is_within(&self, most: &TreeSize) -> bool {
        self.bytes <= most.bytes && self.entries <= most.entries
    }
}

/// The sum so far.
struct Sum {
    size: TreeSize,
    /// Files with several names that were counted.
    seen: HashSet<Identity>,
}

/// How much there is below a directory; files with several names are so many entries, and their bytes count once. What is moved or removed
/// meanwhile is counted as far as it is found. Where it is more than may be, that is not looked for how much.
pub(crate) fn size(root: OwnedFd, most: &TreeSize) -> Result<TreeSize, Errno> {
    let mut sum = Sum { size: TreeSize { bytes: 0, entries: 0 }, seen: HashSet::new() };
    let mut levels = vec![sum.enter(root)?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut().filter(|_| sum.size.is_within(most)) else { return Ok(sum.size) };
        // One that was moved away is not come back to.
        let next = level.fd.as_ref().and_then(|fd| level.below.pop().map(|name| (fd, name)));
        let Some((fd, name)) = next else {
            let done = levels.pop().and_then(|level| level.fd);
            if let (Some(done), Some(above)) = (done, levels.last_mut())
                && above.fd.is_none()
            {
                above.fd = parent(&done)?.filter(|(_, identity)| *identity == above.identity).map(|(fd, _)| fd);
            }
            continue;
        };
        let below = match rustix::fs::openat(fd, &name, LOOK, Mode::empty()) {
            Ok(below) => below,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(other) => return Err(other),
        };
        if depth > HELD {
            level.fd = None;
        }
        levels.push(sum.enter(below)?);
    }
}

impl Sum {
    /// Counts what is in a directory, and notes the directories in it.
    fn enter(&mut self, directory: OwnedFd) -> Result<Level, Errno> {
        let stat = rustix::fs::fstat(&directory)?;
        let mut below = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            self.size.entries = self.size.entries.saturating_add(1);
            if entry.file_type() == FileType::Directory {
                below.push(entry.file_name().to_owned());
                continue;
            }
            let stat = match rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(other) => return Err(other),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => below.push(entry.file_name().to_owned()),
                FileType::RegularFile | FileType::Symlink
                    if stat.st_nlink == 1 || self.seen.insert((stat.st_dev, stat.st_ino)) =>
                {
                    self.size.bytes = self.size.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
                }
                _ => {}
            }
        }
        Ok(Level { fd: Some(directory), identity: (stat.st_dev, stat.st_ino), below })
    }
}

/// The directory that one is in by now.
fn parent(directory: &OwnedFd) -> Result<Option<(OwnedFd, Identity)>, Errno> {
    match rustix::fs::openat(directory.as_fd(), c"..", LOOK, Mode::empty()) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd)?;
            Ok(Some((fd, (stat.st_dev, stat.st_ino))))
        }
        // It was removed.
        Err(Errno::NOENT) => Ok(None),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn a_tree_deeper_than_any_path_is_measured() {
        let temp = tempfile::tempdir().unwrap();
        let open = || rustix::fs::openat(CWD, temp.path(), LOOK, Mode::empty()).unwrap();
        let mut at = open();
        for depth in 0..1000 {
            // What is met before the way down, and after the way back.
            for name in ["a", "deep", "z"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            rustix::fs::symlinkat("four", &at, "link").unwrap();
            for side in ["a", "z"] {
                let side = rustix::fs::openat(&at, side, LOOK, Mode::empty()).unwrap();
                rustix::fs::symlinkat("three", &side, "link").unwrap();
            }
            if depth == 500 {
                rustix::fs::linkat(&at, "link", open(), "other", AtFlags::empty()).unwrap();
            }
            at = rustix::fs::openat(&at, "deep", LOOK, Mode::empty()).unwrap();
        }
        let all = size(open(), &TreeSize::ENDLESS).unwrap();
        // Three directories and three links at each level, and the other name of one.
        assert_eq!(all, TreeSize { bytes: 1000 * (4 + 5 + 5), entries: 1000 * 6 + 1 });
        assert!(all.is_within(&all));
        let most = TreeSize { entries: 100, ..all };
        let some = size(open(), &most).unwrap();
        assert!(!some.is_within(&most) && some.entries < 200, "{some:?}");
        crate::tree::remove(open().as_fd(), b"deep").unwrap();
    }
}

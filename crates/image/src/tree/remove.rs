//! Removing trees of any depth.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// How many directories above one another are held open. What lies deeper is moved up first.
const DEPTH: usize = 64;

/// Removes whatever `name` is in `parent`. What is not there is removed already.
///
/// # Errors
/// `EXDEV` or `EBUSY` where something is mounted in it, and what `unlinkat(2)` says.
pub fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EISDIR on Linux; EPERM elsewhere, and for what is immutable.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(other) => return Err(other),
    }
    match open(parent, name) {
        Ok(dir) => remove_contents(dir)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::PERM),
        Err(other) => return Err(other),
    }
    rmdir(parent, name)
}

/// Empties a directory.
///
/// Directories are walked with at most [`DEPTH`] of them open: one that lies deeper is renamed into the top directory,
/// to be met there later, so that neither the stack nor the descriptors run out on a tree that somebody made deep.
fn remove_contents(top: OwnedFd) -> Result<(), Errno> {
    let mut moved = 0u64;
    loop {
        let before = moved;
        let mut stack = vec![(Dir::read_from(&top)?, CString::default())];
        loop {
            let depth = stack.len();
            let Some((dir, _)) = stack.last_mut() else { break };
            let Some(entry) = dir.read() else {
                let (_, name) = stack.pop().unwrap_or_else(|| unreachable!("the loop holds a last one"));
                if let Some((above, _)) = stack.last() {
                    rmdir(above.fd()?, name.to_bytes())?;
                }
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => is_directory(dir.fd()?, name)?,
                _ => false,
            };
            if !is_dir {
                match rustix::fs::unlinkat(dir.fd()?, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(other) => return Err(other),
                }
            } else if depth < DEPTH {
                let name = name.to_owned();
                let below = open(dir.fd()?, name.to_bytes())?;
                stack.push((Dir::new(below)?, name));
            } else {
                moved += 1;
                let up = format!(".deep-{moved}");
                rustix::fs::renameat(dir.fd()?, name, &top, up.as_str())?;
            }
        }
        if moved == before {
            return Ok(());
        }
    }
}

/// What is mounted there is no part of the tree, and not to be emptied: EXDEV.
fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let within = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
    super::retried(|| rustix::fs::openat2(parent, name, flags, Mode::empty(), within))
}

fn is_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn rmdir(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let mut at = rustix::fs::openat(CWD, temp.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let name = "d".repeat(100);
        for _ in 0..1000 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/etc", &at, "link").unwrap();
            at = open(at.as_fd(), name.as_bytes()).unwrap();
        }
        let top = rustix::fs::openat(CWD, temp.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        remove(top.as_fd(), name.as_bytes()).unwrap();
        remove(top.as_fd(), b"link").unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let temp = tempfile::tempdir().unwrap();
        let top = rustix::fs::openat(CWD, temp.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        remove(top.as_fd(), b"nothing").unwrap();
    }
}

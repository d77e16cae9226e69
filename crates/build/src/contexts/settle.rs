//! A context that came as a whole becomes what steps may see of it.

use crate::ignore::Ignore;
use crate::state::FIXED_TIMES;
use crate::{Error, Result};
use image::tree;
use image::tree::walk::walk;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

/// Removes what is no part of it, and gives the rest one time: what a step mounts of it is all that its key knows, and no more. Blocks.
pub(super) fn settle(root: &OwnedFd, ignore: &Ignore) -> Result<()> {
    remove_ignored(root, ignore).and_then(|()| set_times(root)).map_err(|e| match e {
        e if e.is_no_space() => Error::failed("receiving the context", e),
        e => Error::Invalid(format!("reading the build context: {e}")),
    })
}

fn remove_ignored(root: &OwnedFd, ignore: &Ignore) -> image::Result<()> {
    if ignore.is_empty() {
        return Ok(());
    }
    // Directories that are there for something in them only.
    let mut entered: Vec<Vec<u8>> = Vec::new();
    walk(root.try_clone().map_err(|e| image::Error::io("opening the context", e))?, &mut |found| {
        let path = String::from_utf8_lossy(found.path);
        if !ignore.ignores(&path) {
            return Ok(ignore.enters(&path));
        }
        if found.kind() == FileType::Directory && ignore.enters(&path) {
            entered.push(found.path.to_vec());
            return Ok(true);
        }
        tree::remove(found.parent, found.name).map_err(|errno| failed(found.path, errno))?;
        Ok(false)
    })?;
    for path in entered.iter().rev() {
        let (parent, name) = tree::split(path);
        let removed = tree::open(root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|parent| rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR));
        match removed {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(failed(path, errno)),
        }
    }
    Ok(())
}

fn set_times(root: &OwnedFd) -> image::Result<()> {
    walk(root.try_clone().map_err(|e| image::Error::io("opening the context", e))?, &mut |found| {
        let set = rustix::fs::utimensat(found.parent, found.name, &FIXED_TIMES, AtFlags::SYMLINK_NOFOLLOW);
        set.map(|()| true).map_err(|errno| failed(found.path, errno))
    })?;
    rustix::fs::futimens(root, &FIXED_TIMES).map_err(|errno| failed(b"", errno))
}

fn failed(path: &[u8], errno: Errno) -> image::Error {
    image::Error::io(format!("changing /{}", String::from_utf8_lossy(path)), errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::Source;
    use crate::state::FIXED_TIME;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    fn settled(root: &Path, rules: &str) -> Vec<String> {
        let ignore = Ignore::parse(&Source::new(".dockerignore", rules)).unwrap();
        let opened = OwnedFd::from(File::open(root).unwrap());
        settle(&opened, &ignore).unwrap();
        assert_eq!(fs::metadata(root).unwrap().mtime(), FIXED_TIME);
        let mut left = Vec::new();
        walk(opened, &mut |found| {
            let path = String::from_utf8_lossy(found.path).into_owned();
            assert_eq!(found.stat.st_mtime, FIXED_TIME, "{path}");
            left.push(path);
            Ok(true)
        })
        .unwrap();
        left
    }

    #[test]
    fn what_is_excluded_goes_and_all_has_one_time() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for directory in ["secrets/deep", "dir/keep", "dir/gone", "empty", "node/a/b"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in ["a", "secrets/deep/key", "dir/keep/file", "dir/gone/file", "node/a/b/c"] {
            fs::write(root.join(file), "contents").unwrap();
        }
        // A link is removed, and not what it leads to.
        symlink("dir/keep", root.join("link")).unwrap();
        symlink("/", root.join("up")).unwrap();
        let left = settled(root, "secrets\nlink\ndir\n!dir/keep\nnode\n!node/*/b/d");
        assert_eq!(left, ["a", "dir", "dir/keep", "dir/keep/file", "empty", "up"]);
        assert_eq!(settled(root, ""), left);
        assert!(settled(root, "*").is_empty());
    }
}

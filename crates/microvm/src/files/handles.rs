//! Whether files of a volume can be told apart for good: by their handles (name_to_handle_at(2)), against which a server that goes on holds what it finds.

use std::fs;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use virtiofsd::passthrough::file_handle::FileHandle;

/// The types of those file systems among the volumes in a directory whose files have no handles, each once; by `mounts`, this process's `mountinfo` (proc(5)).
///
/// # Errors
/// The directory can't be read, or a volume in it not be opened.
pub(super) fn lacking(directory: &Path, mounts: &str) -> std::io::Result<Vec<String>> {
    let mut kinds = Vec::new();
    for volume in fs::read_dir(directory)? {
        let path = volume?.path();
        let held = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        // One that fails otherwise has none either that could be held against anything.
        if !matches!(FileHandle::from_fd(&held), Ok(Some(_))) {
            kinds.push(kind(&path, mounts).unwrap_or("unknown").to_owned());
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    Ok(kinds)
}

/// The type of the file system that is mounted at a path without special characters: what was mounted last is what is seen.
fn kind<'m>(path: &Path, mounts: &'m str) -> Option<&'m str> {
    let of = |line: &'m str| {
        let (mount, source) = line.split_once(" - ")?;
        (mount.split(' ').nth(4)? == path.to_str()?).then_some(source.split(' ').next()?)
    };
    mounts.lines().rev().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mounted_last_is_what_is_seen() {
        let mounts = "36 35 98:0 / /volumes rw shared:1 - tmpfs tmpfs rw\n\
            37 36 98:1 /mnt /volumes/1 rw,noatime master:1 - ext4 /dev/root rw\n\
            38 37 98:2 / /volumes/1 rw - 9p source rw\n39 36 98:3 / /volumes/10 rw - fuse.ssh - rw\n";
        let of = |path: &str| kind(Path::new(path), mounts);
        assert_eq!((of("/volumes/1"), of("/volumes/10"), of("/volumes/2")), (Some("9p"), Some("fuse.ssh"), None));
    }

    #[test]
    fn a_directory_of_an_ordinary_file_system_lacks_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("0")).unwrap();
        fs::write(directory.path().join("1"), "").unwrap();
        assert_eq!(lacking(directory.path(), "").unwrap(), Vec::<String>::new());
        // What is in `/proc` has none.
        assert_eq!(lacking(Path::new("/proc/sys/kernel/random"), "").unwrap(), ["unknown"]);
    }
}

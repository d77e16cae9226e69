//! Who has the forwarder's lock, without asking the forwarder.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Pid;

/// The process that has a file locked (flock(2)); `None`: nobody that can be seen from this PID namespace.
///
/// `/proc/locks` (proc_locks(5)) has the file's inode, and the device as its file system has it, which need not be what stat(2)
/// says. So the process is also to have the file open.
///
/// # Errors
/// Where the file, or that list, can't be read.
pub(super) fn of(lock: &Path) -> io::Result<Option<Pid>> {
    let wanted = match fs::metadata(lock) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let has_it_open = |pid: &Pid| {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).into_iter().flatten().flatten();
        let mut files = descriptors.filter_map(|entry| fs::metadata(entry.path()).ok());
        files.any(|file| (file.dev(), file.ino()) == (wanted.dev(), wanted.ino()))
    };
    let table = fs::read_to_string("/proc/locks")?;
    Ok(table.lines().filter_map(|line| locker(line, wanted.ino())).find(has_it_open))
}

/// The process of a line such as `1: FLOCK  ADVISORY  WRITE 1234 00:1f:5678 0 EOF`, where it has locked that inode. Who waits for a
/// lock has `->` before its kind.
fn locker(line: &str, inode: u64) -> Option<Pid> {
    let mut fields = line.split_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let (pid, file) = (fields.nth(2)?, fields.next()?);
    let of_file: u64 = file.rsplit(':').next()?.parse().ok()?;
    // 0 is a process that has no number here.
    (of_file == inode).then(|| pid.parse().ok().and_then(Pid::from_raw)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FlockOperation;

    #[test]
    fn who_locked_a_file_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(of(&path).unwrap(), None);
        let file = fs::File::create(&path).unwrap();
        assert_eq!(of(&path).unwrap(), None);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(of(&path).unwrap(), Some(rustix::process::getpid()));
    }

    #[test]
    fn lines_of_others_are_none() {
        for line in ["", "1: POSIX  ADVISORY  WRITE 7 00:1f:5 0 EOF", "1: -> FLOCK  ADVISORY  WRITE 7 00:1f:5 0 EOF"] {
            assert_eq!(locker(line, 5), None, "{line}");
        }
        assert_eq!(locker("1: FLOCK  ADVISORY  WRITE 7 00:1f:5 0 EOF", 5), Pid::from_raw(7));
        assert_eq!(locker("1: FLOCK  ADVISORY  WRITE 0 00:1f:5 0 EOF", 5), None);
        assert_eq!(locker("1: FLOCK  ADVISORY  WRITE 7 00:1f:6 0 EOF", 5), None);
    }
}

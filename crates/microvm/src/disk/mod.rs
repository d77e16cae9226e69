//! The disk that a container in a machine writes to: a sparse file with an empty ext4 file system, which grows up to its size as it is written to.
//!
//! Its file system is made here, by what is written into a file, and not by `mke2fs`: no start runs another program, and it takes a millisecond for any size.

mod ext4;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::container::USER;

/// The smallest disk, in bytes.
pub const SMALLEST: u64 = 32 << 20;
/// The largest, in bytes.
pub const LARGEST: u64 = 2 << 40;

/// Makes a disk of so many bytes, from [`SMALLEST`] to [`LARGEST`], with an empty file system, unless it is there. `uuid` is nobody else's.
///
/// # Errors
/// The disk of the host is full, or the file can't be made.
pub fn make(path: &Path, size: u64, uuid: [u8; 16]) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    whole(path, |file| {
        let size = size.clamp(SMALLEST, LARGEST);
        file.set_len(size)?;
        ext4::format(file, size, uuid)?;
        // A loss of power leaves it whole, or none, which is made anew: half of one no guest mounts any more.
        file.sync_all()
    })
}

/// Makes a disk as another one is, in place of what is there: with the same blocks where the file system can have them so, and else with a copy of what is no hole.
///
/// # Errors
/// As [`make`], or the other one can't be read.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    whole(to, |to| copy_file(&from, to))
}

/// Everything that was written to a disk is there after a loss of power.
///
/// # Errors
/// The host's disk refuses.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a file that has its name once it is whole.
fn whole(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let unfinished = beside(path);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let filled = fill(&file).and_then(|()| fchown(&file, Some(USER), Some(USER)));
    match filled.and_then(|()| std::fs::rename(&unfinished, path)) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = std::fs::remove_file(&unfinished);
            Err(error)
        }
    }
}

/// Where a file is until it is whole.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Copies all but holes (lseek(2), `SEEK_DATA`).
fn copy_file(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No more data.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        at = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        let (mut read, mut written) = (start, start);
        while read < at {
            let piece = usize::try_from(at - read).unwrap_or(usize::MAX);
            if rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), piece)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        make(&one, 1 << 30, [7; 16]).unwrap();
        File::options().write(true).open(&one).unwrap().write_all_at(&[9; 9000], 500 << 20).unwrap();
        std::fs::write(&other, "what was there before").unwrap();
        copy(&one, &other).unwrap();
        let [from, to] = [&one, &other].map(|path| File::open(path).unwrap());
        let (from_is, to_is) = (from.metadata().unwrap(), to.metadata().unwrap());
        assert_eq!((from_is.len(), from_is.uid(), from_is.mode()), (to_is.len(), to_is.uid(), to_is.mode()));
        assert!(to_is.blocks() * 512 < 2 << 20, "{} bytes", to_is.blocks() * 512);
        for at in [0, 4096, 128 << 20, 500 << 20, (1 << 30) - 4096] {
            let (mut a, mut b) = ([0; 4096], [0; 4096]);
            from.read_exact_at(&mut a, at).unwrap();
            to.read_exact_at(&mut b, at).unwrap();
            assert!(a == b, "at {at}");
        }
        // What is there is left as it is.
        make(&other, 64 << 20, [8; 16]).unwrap();
        assert_eq!(to_is.ino(), std::fs::metadata(&other).unwrap().ino());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}

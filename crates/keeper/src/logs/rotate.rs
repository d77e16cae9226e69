//! A file that is appended to in whole entries and rotated by size.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::descriptors::lasting;
use crate::protocol::{Failure, Rotation};

/// What a file that can't be rotated takes before the next attempt, in bytes: not one for each line.
pub const RETRY: u64 = 64 << 10;

/// The current file of a log, open for appending.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: OwnedFd,
    size: u64,
    rotation: Option<Rotation>,
    /// It could not be rotated, and is tried again when it has this size.
    retry_at: u64,
    /// A write was cut short and what it left could not be removed yet: what is behind this length does not count.
    torn: bool,
}

/// A write that did not take everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// How many entries were written.
    pub entries: usize,
    /// Why not more.
    pub errno: Errno,
}

/// A file that is the current one no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Its name now.
    pub path: PathBuf,
    /// Its inode.
    pub inode: u64,
}

impl RotatingFile {
    /// Opens a log's file, which is made if it is not there (mode 0640).
    pub fn open(path: &Path, rotation: Option<Rotation>) -> Result<RotatingFile, Failure> {
        if rotation.is_some_and(|rotation| rotation.max_size == 0 || rotation.max_files == 0) {
            return Err(Failure::Invalid { what: "the log's rotation".into(), why: "a limit is zero".to_owned() });
        }
        if !path.is_absolute() {
            let why = format!("{} is not absolute", path.display());
            return Err(Failure::Invalid { what: "the log's path".into(), why });
        }
        let (file, size) = open(path, OFlags::empty()).map_err(failed("open the log", path))?;
        Ok(RotatingFile { path: path.to_owned(), file, size, rotation, retry_at: 0, torn: false })
    }

    /// The current file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the next entry belongs into a new file, if `pending` bytes are written before.
    pub fn is_full(&self, pending: usize) -> bool {
        self.rotation.is_some_and(|rotation| self.size + pending as u64 >= rotation.max_size.max(self.retry_at))
    }

    /// Appends entries, which end at `ends` in `bytes`. Never leaves a part of an entry in the file.
    pub fn append(&mut self, bytes: &[u8], ends: &[usize]) -> Result<(), Shortfall> {
        if self.torn {
            rustix::fs::ftruncate(&self.file, self.size).map_err(|errno| Shortfall { entries: 0, errno })?;
            self.torn = false;
        }
        let mut written = 0;
        let errno = loop {
            match rustix::io::write(&self.file, &bytes[written..]) {
                // A regular file takes at least a byte or says why not.
                Ok(0) => break Errno::IO,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(errno) => break errno,
            }
            if written == bytes.len() {
                self.size += written as u64;
                return Ok(());
            }
        };
        let entries = ends.partition_point(|end| *end <= written);
        let whole = if entries == 0 { 0 } else { ends[entries - 1] };
        self.size += whole as u64;
        if whole < written {
            self.torn = rustix::fs::ftruncate(&self.file, self.size).is_err();
        }
        Err(Shortfall { entries, errno })
    }

    /// Makes the current file the first of the rotated ones, and starts a new one. If that fails, the current one stays, and
    /// is not full before it has grown by [`RETRY`] more.
    pub fn rotate(&mut self) -> Result<Option<Rotated>, Errno> {
        let rotated = self.try_to_rotate();
        self.retry_at = if rotated.is_err() { self.size + RETRY } else { 0 };
        rotated
    }

    fn try_to_rotate(&mut self) -> Result<Option<Rotated>, Errno> {
        let Some(rotation) = self.rotation else { return Ok(None) };
        if rotation.max_files == 1 {
            rustix::fs::ftruncate(&self.file, 0)?;
            self.size = 0;
            self.torn = false;
            return Ok(None);
        }
        let oldest = rotation.max_files - 1;
        for compressed in [false, true] {
            ignore_missing(rustix::fs::unlink(rotated_path(&self.path, oldest, compressed)))?;
        }
        for number in (1..oldest).rev() {
            for compressed in [false, true] {
                let to = rotated_path(&self.path, number + 1, compressed);
                ignore_missing(rustix::fs::rename(rotated_path(&self.path, number, compressed), to))?;
            }
        }
        let first = rotated_path(&self.path, 1, false);
        rustix::fs::rename(&self.path, &first)?;
        match open(&self.path, OFlags::EXCL) {
            Ok((file, size)) => {
                let old = std::mem::replace(&mut self.file, file);
                self.size = size;
                self.torn = false;
                if !rotation.compress {
                    return Ok(None);
                }
                Ok(Some(Rotated { path: first, inode: rustix::fs::fstat(&old)?.st_ino }))
            }
            Err(errno) => {
                // The descriptor still leads to the old file: give that its name back.
                _ = rustix::fs::renameat_with(CWD, &first, CWD, &self.path, RenameFlags::NOREPLACE);
                Err(errno)
            }
        }
    }

    /// Opens the file again by its name.
    pub fn reopen(&mut self) -> Result<(), Failure> {
        (self.file, self.size) = open(&self.path, OFlags::empty()).map_err(failed("open the log", &self.path))?;
        self.torn = false;
        Ok(())
    }

    /// Puts a compressed copy in the place of the rotated file with this inode, or removes the copy if that file is gone.
    pub fn adopt_compressed(&self, inode: u64, copy: &Path) -> Result<(), Failure> {
        if copy.parent() != self.path.parent() {
            let why = format!("{} is not beside {}", copy.display(), self.path.display());
            return Err(Failure::Invalid { what: "the compressed copy".into(), why });
        }
        let rotated = self.rotation.map_or(0, |rotation| rotation.max_files);
        let original = (1..rotated)
            .map(|number| (number, rotated_path(&self.path, number, false)))
            .find(|(_, path)| rustix::fs::lstat(path).is_ok_and(|found| found.st_ino == inode));
        match original {
            Some((number, path)) => {
                let to = rotated_path(&self.path, number, true);
                rustix::fs::rename(copy, &to).map_err(failed("rename a log to", &to))?;
                ignore_missing(rustix::fs::unlink(&path)).map_err(failed("remove the log", &path))
            }
            None => ignore_missing(rustix::fs::unlink(copy)).map_err(failed("remove the log", copy)),
        }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Takes up a file whose descriptor was kept over an exec.
    pub(crate) fn resume(
        path: PathBuf,
        file: OwnedFd,
        rotation: Option<Rotation>,
        size: u64,
        torn: bool,
    ) -> RotatingFile {
        RotatingFile { path, file, size, rotation, retry_at: 0, torn }
    }

    /// What [`RotatingFile::resume`] needs beyond the configuration: the size, and whether it is torn.
    pub(crate) fn progress(&self) -> (u64, bool) {
        (self.size, self.torn)
    }
}

/// The name of a rotated file: `container.log.1`, `container.log.2.gz`.
pub fn rotated_path(path: &Path, number: u32, compressed: bool) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}{}", if compressed { ".gz" } else { "" }));
    PathBuf::from(name)
}

fn open(path: &Path, more: OFlags) -> Result<(OwnedFd, u64), Errno> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags | more, Mode::from_raw_mode(0o640)))?;
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
    Ok((lasting(file), size))
}

fn ignore_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn failed(tried: &'static str, on: &Path) -> impl FnOnce(Errno) -> Failure {
    let on = on.display().to_string();
    move |errno| Failure::System { tried: Cow::Borrowed(tried), on, errno: errno.raw_os_error() }
}

//! `tmpcopyup`: a tmpfs that starts with what the directory beneath it holds.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Uid};
use rustix::io::{Errno, Result};

/// Deeper trees are refused: the stack is all the memory there is.
const DEPTH_MAX: u32 = 64;

/// Copies the content of one directory into another: files, directories, links and devices, with owners and modes.
pub(super) fn copy(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> Result<()> {
    // The places are O_PATH descriptors; reading takes real ones.
    let from = rustix::fs::openat(from, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let status = rustix::fs::fstat(&from)?;
    directory(from.as_fd(), into, 0)?;
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    rustix::fs::chownat(into, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

fn directory(from: BorrowedFd<'_>, into: BorrowedFd<'_>, depth: u32) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(from, into, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<()> {
    let status = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(into, name, mode)?;
            let open = |at: BorrowedFd<'_>| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(at, name, flags, Mode::empty())
            };
            let (from, into) = (open(from)?, open(into)?);
            directory(from.as_fd(), into.as_fd(), depth + 1)?;
        }
        FileType::Symlink => {
            let mut content = [MaybeUninit::<u8>::uninit(); 4096];
            let (read, rest) = rustix::fs::readlinkat_raw(from, name, &mut content)?;
            let length = read.len();
            let Some(end) = rest.first_mut() else { return Err(Errno::NAMETOOLONG) };
            end.write(0);
            // SAFETY: `length` bytes were initialised by the call and the one after them just now.
            let text = unsafe { std::slice::from_raw_parts(content.as_ptr().cast::<u8>(), length + 1) };
            let text = CStr::from_bytes_with_nul(text).map_err(|_| Errno::INVAL)?;
            rustix::fs::symlinkat(text, into, name)?;
        }
        FileType::RegularFile => file(from, into, name, mode)?,
        kind => rustix::fs::mknodat(into, name, kind, mode, status.st_rdev)?,
    }
    own(into, name, &status)
}

fn own(into: BorrowedFd<'_>, name: &CStr, status: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    rustix::fs::chownat(into, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Symlink && status.st_mode & 0o6000 != 0 {
        // A change of owner takes these bits away.
        rustix::fs::chmodat(into, name, Mode::from_raw_mode(status.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(())
}

fn file(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let sink: OwnedFd = rustix::fs::openat(into, name, flags, mode)?;
    loop {
        let copied = rustix::fs::sendfile(&sink, &source, None, 1 << 20)?;
        if copied == 0 {
            return Ok(());
        }
    }
}

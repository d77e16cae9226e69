//! Owners, modes, times and extended attributes of what was unpacked.

use crate::tar::{Entry, Time};
use crate::tree::proc_path;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// What tells overlayfs that a directory hides those below it (kernel, filesystems/overlayfs.rst).
const OPAQUE: &str = "trusted.overlay.opaque";

pub(super) fn make_opaque(directory: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether a directory hides those below it.
pub(super) fn is_opaque(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 8];
    match rustix::fs::lgetxattr(proc_path(directory, b"."), OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Of a file whose contents are written. Owner first: a change of owner takes set-uid and capabilities away.
pub(super) fn of_file(fd: &OwnedFd, entry: &Entry, owner: (u32, u32)) -> Result<(), Errno> {
    if owner != (0, 0) {
        rustix::fs::fchown(fd, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
    }
    if entry.mode & 0o7000 != 0 {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    }
    for (name, value) in wanted(entry) {
        set_attribute(fd, name, value)?;
    }
    rustix::fs::futimens(fd, &times(entry.mtime))
}

/// Of a directory, but for its time. One that existed has an owner and a mode already.
pub(super) fn of_directory(fd: &OwnedFd, entry: &Entry, owner: (u32, u32), existed: bool) -> Result<(), Errno> {
    if owner != (0, 0) || existed {
        rustix::fs::fchown(fd, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
    }
    if entry.mode & 0o6000 != 0 || existed {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    }
    for (name, value) in wanted(entry) {
        set_attribute(fd, name, value)?;
    }
    Ok(())
}

/// Of a link, a device or a pipe, which cannot be opened to be changed.
pub(super) fn of_node(parent: &OwnedFd, name: &[u8], entry: &Entry, owner: (u32, u32)) -> Result<(), Errno> {
    if owner != (0, 0) {
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for (attribute, value) in wanted(entry) {
        let path = proc_path(parent, name);
        tolerate(attribute, rustix::fs::lsetxattr(path, attribute, value, XattrFlags::empty()))?;
    }
    set_time(parent, name, entry.mtime)
}

pub(super) fn set_time(parent: &OwnedFd, name: &[u8], time: Time) -> Result<(), Errno> {
    rustix::fs::utimensat(parent, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// An extended attribute of something that is open.
pub(crate) fn set_attribute(fd: &OwnedFd, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    tolerate(name, rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))
}

/// The extended attributes that are an image's to say. Overlayfs' own would let an archive redirect directories;
/// labels and signatures of security modules are the host's.
fn wanted(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    entry.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).filter(|(name, _)| {
        let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        !overlay && (!name.starts_with(b"security.") || *name == b"security.capability")
    })
}

/// Not every file system has every attribute, nor every kind of file. Capabilities alone are worth an error.
fn tolerate(name: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(errno @ (Errno::NOTSUP | Errno::PERM | Errno::INVAL)) if name != b"security.capability" => {
            tracing::debug!(attribute = %String::from_utf8_lossy(name), %errno, "extended attribute left out");
            Ok(())
        }
        other => other,
    }
}

//! A container's own changes as they lie on the disk, in overlayfs' form: copied, or written as a file for a machine with a kernel of its own.

use crate::erofs::{self, contents};
use crate::tree::walk::{Found, walk};
use crate::tree::{LastDirectory, proc_path, split};
use crate::{Digest, Error, Images, Result, pack};
use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

/// The largest list of extended attributes, and the largest value of one (xattr(7)).
const LARGEST: usize = 64 << 10;

impl Images {
    /// Whether a container changed anything in its root file system, but for the look of its root directory. Blocks.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`].
    pub fn has_changes(&self, container: &str) -> Result<bool> {
        let upper = self.rootfs(container)?.upper;
        let listed = fs::read_dir(&upper).and_then(|mut entries| entries.next().transpose());
        Ok(listed.map_err(|e| Error::io(format!("reading {}", upper.display()), e))?.is_some())
    }

    /// Writes what a container changed as an EROFS file, as [`erofs`](Self::erofs) does with a layer: above those of its image it shows what the container's root file system does. The file has its
    /// name once it is whole and on the disk. Nothing writes to the changes meanwhile. Blocks.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`], and as [`erofs`](Self::erofs).
    pub fn changes_as_erofs(&self, container: &str, path: &Path) -> Result<()> {
        let upper = self.rootfs(container)?.upper;
        erofs::write_directory(&upper, path, &Digest::of(container.as_bytes()))
    }

    /// Makes a directory at a path that can take the place of a container's changes: a copy of those in another one; `None`: as if it had changed nothing. What is not wanted any more is
    /// [thrown away](Self::throw_away), as is what is left of it on an error. Nothing writes to the changes meanwhile. Blocks.
    ///
    /// # Errors
    /// [`Error::NoSuchRootfs`], where there is something at that path, and where the disk is full.
    pub fn make_changes(&self, container: &str, of: Option<&Path>, at: &Path) -> Result<()> {
        let rootfs = self.rootfs(container)?;
        let failed = |e: std::io::Error| Error::io(format!("making {}", at.display()), e);
        fs::create_dir(at).map_err(failed)?;
        match of {
            Some(from) => copy_changes(from, at),
            None => rootfs.root_below().and_then(|look| look.give(at)).map_err(failed),
        }
    }

    /// Throws away whatever is at a path on the file system of the containers' root file systems: gone when this returns, off the disk a while later. What is not there is gone already.
    ///
    /// # Errors
    /// Where it can't be renamed.
    pub fn throw_away(&self, path: &Path) -> Result<()> {
        self.0.reaper.discard(path)
    }
}

/// Copies changes, in overlayfs' form, into an empty directory: with owners, times, holes and further names. Nothing writes to them meanwhile. Blocks.
///
/// # Errors
/// Where one of them can't be read, or the disk is full.
pub fn copy_changes(from: &Path, into: &Path) -> Result<()> {
    let (from, into) = (pack::open(from)?, pack::open(into)?);
    let stat = rustix::fs::fstat(&from).map_err(|e| Error::io("reading a container's changes", e))?;
    let root = Found { parent: from.as_fd(), name: b".", path: b"", stat };
    let root = Look::of(&root).map_err(|errno| root.failed(errno))?;
    let mut copier =
        Copier { into: into.as_fd(), parent: LastDirectory::default(), named: HashMap::new(), directories: Vec::new() };
    copier.directories.push((Vec::new(), root));
    let walked = from.try_clone().map_err(|e| Error::io("reading a container's changes", e))?;
    walk(walked, &mut |found| copier.copy(found).map_err(|errno| copied(found.path, errno)))?;
    copier.finish()
}

fn copied(path: &[u8], errno: Errno) -> Error {
    Error::io(format!("copying {}", String::from_utf8_lossy(path)), errno)
}

struct Copier<'i> {
    into: BorrowedFd<'i>,
    /// Where the walk is, in the copy.
    parent: LastDirectory,
    /// The first names of what has several.
    named: HashMap<(u64, u64), Vec<u8>>,
    /// What directories look like: whatever is put into one changes its time.
    directories: Vec<(Vec<u8>, Look)>,
}

impl Copier<'_> {
    /// Copies one thing. Says of a directory to go into it.
    fn copy(&mut self, found: &Found<'_>) -> Result<bool, Errno> {
        let (parent, name) = split(found.path);
        let identity = (found.stat.st_dev, found.stat.st_ino);
        let is_directory = found.kind() == FileType::Directory;
        let into = self.parent.open(self.into, parent)?;
        if !is_directory && let Some(first) = self.named.get(&identity) {
            // All directories here were made here.
            rustix::fs::linkat(self.into, &first[..], into, name, AtFlags::empty())?;
            return Ok(false);
        }
        match found.kind() {
            FileType::Directory => rustix::fs::mkdirat(into, name, Mode::RWXU)?,
            FileType::RegularFile => copy_file(found, into, name)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(found.parent, found.name, Vec::new())?;
                rustix::fs::symlinkat(&target, into, name)?;
            }
            kind => rustix::fs::mknodat(into, name, kind, Mode::empty(), found.stat.st_rdev)?,
        }
        let look = Look::of(found)?;
        if is_directory {
            self.directories.push((found.path.to_vec(), look));
            return Ok(true);
        }
        look.give(into.as_fd(), name)?;
        if found.stat.st_nlink > 1 {
            self.named.insert(identity, found.path.to_vec());
        }
        Ok(false)
    }

    fn finish(mut self) -> Result<()> {
        for (path, look) in std::mem::take(&mut self.directories).into_iter().rev() {
            let given = self.parent.open(self.into, &path).and_then(|directory| look.give(directory.as_fd(), b"."));
            given.map_err(|errno| copied(&path, errno))?;
        }
        Ok(())
    }
}

/// Blocks are shared where the file system can, and holes stay.
fn copy_file(found: &Found<'_>, into: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let from = found.open()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = File::from(rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)?);
    let size = u64::try_from(found.stat.st_size).unwrap_or(0);
    let copied = to
        .set_len(size)
        .and_then(|()| contents::data(&from, size, &mut |part| contents::copy(&from, part.clone(), &to, part.start)));
    copied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Extended attributes: their names and values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Whose something is, who may do what with it, its time and its extended attributes.
struct Look {
    stat: Stat,
    attributes: Attributes,
}

impl Look {
    fn of(found: &Found<'_>) -> Result<Self, Errno> {
        Ok(Self { stat: found.stat, attributes: attributes(&proc_path(found.parent, found.name))? })
    }

    /// Makes something look so that is called `name` in a directory, and was just made there.
    fn give(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(self.stat.st_uid), Gid::from_raw(self.stat.st_gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(self.stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(self.stat.st_mode & 0o7777);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        for (attribute, value) in &self.attributes {
            rustix::fs::lsetxattr(proc_path(parent, name), &attribute[..], value, XattrFlags::empty())?;
        }
        let time = Timespec { tv_sec: self.stat.st_mtime, tv_nsec: self.stat.st_mtime_nsec as _ };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// All extended attributes that are the changes' own. What overlayfs notes beside the opacity of directories is of the place where they lie, and what security modules do is, too.
fn attributes(path: &[u8]) -> Result<Attributes, Errno> {
    let mut names: Vec<u8> = Vec::with_capacity(LARGEST);
    match rustix::fs::llistxattr(path, spare_capacity(&mut names)) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        listed => listed?,
    };
    let is_own = |name: &&[u8]| match *name {
        b"" => false,
        b"trusted.overlay.opaque" | b"security.capability" => true,
        name => ![&b"trusted.overlay."[..], b"user.overlay.", b"security."].iter().any(|of| name.starts_with(of)),
    };
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(is_own) {
        let mut value: Vec<u8> = Vec::with_capacity(LARGEST);
        rustix::fs::lgetxattr(path, name, spare_capacity(&mut value))?;
        all.push((name.to_vec(), value));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::RootLook;
    use rustix::fs::CWD;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    #[test]
    fn a_copy_of_changes_is_as_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let [from, into] = ["from", "into"].map(|name| temp.path().join(name));
        fs::create_dir_all(from.join("hidden/below")).unwrap();
        fs::create_dir(&into).unwrap();
        fs::write(from.join("hidden/file"), "contents").unwrap();
        fs::hard_link(from.join("hidden/file"), from.join("second")).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        let whiteout = |name: &str| {
            rustix::fs::mknodat(CWD, from.join(name), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        };
        whiteout("gone");
        let opaque = "trusted.overlay.opaque";
        rustix::fs::setxattr(from.join("hidden"), opaque, b"y", XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(from.join("hidden"), "trusted.overlay.impure", b"y", XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(from.join("second"), "user.mark", b"one", XattrFlags::empty()).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        std::os::unix::fs::chown(from.join("hidden"), Some(7), Some(8)).unwrap();
        RootLook::PLAIN.give(&from).unwrap();
        copy_changes(&from, &into).unwrap();
        let look = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec(), meta.nlink(), meta.rdev())
        };
        for name in ["", "hidden", "hidden/below", "hidden/file", "second", "link", "gone", "sparse"] {
            assert_eq!(look(&into.join(name)), look(&from.join(name)), "{name}");
        }
        assert_eq!(fs::read_to_string(into.join("second")).unwrap(), "contents");
        assert_eq!(fs::read_link(into.join("link")).unwrap(), Path::new("/nowhere"));
        let attributes = |name: &str| {
            let path = into.join(name).into_os_string().into_encoded_bytes();
            attributes(&path).unwrap().into_iter().map(|(name, _)| String::from_utf8(name).unwrap())
        };
        assert_eq!(attributes("hidden").collect::<Vec<_>>(), [opaque]);
        assert_eq!(attributes("hidden/file").collect::<Vec<_>>(), ["user.mark"]);
        let copied = fs::metadata(into.join("sparse")).unwrap();
        assert_eq!((copied.len(), copied.blocks()), (8 << 20, 0));
    }
}

//! Out of a root file system.

use super::entries::Packer;
use super::{at, explain};
use crate::tar::TarWriter;
use crate::{Error, IdRange, PathReason, Result, tree};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Symbolic links on the way to where one leads in the end; as many as Linux follows, and some.
const LINKS: usize = 255;

/// How a subtree is read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// The first name of every path in the archive; `None` for the last one of the path read.
    pub name: Option<OsString>,
    /// Of file systems below the path that the kernel makes up (proc, sysfs and the like), only the directory is read where
    /// they are mounted: what is in them are no files to be copied.
    pub skip_kernel: bool,
    /// The user namespace that the root file system is of, where that has identifiers of its own: the archive's are of it.
    pub ids: Option<IdRange>,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub struct PathStat {
    /// The last name of the path; `/` for the root.
    pub name: OsString,
    /// Bytes.
    pub size: u64,
    /// Kind and permissions, as in `st_mode` (inode(7)).
    pub mode: u32,
    /// When it was last changed: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Where a symbolic link leads in the end, as an absolute path in the root file system.
    pub link_target: Option<PathBuf>,
}

/// What is at a path. A last symbolic link is not followed, unless the path ends in a slash.
pub fn stat_path(root: BorrowedFd<'_>, path: &Path) -> Result<PathStat> {
    let place = Place::find(root, path)?;
    let link_target = match FileType::from_raw_mode(place.stat.st_mode) {
        FileType::Symlink => Some(target(root, path)?),
        _ => None,
    };
    Ok(PathStat {
        name: if place.name.is_empty() { "/".into() } else { OsString::from_vec(place.name) },
        size: u64::try_from(place.stat.st_size).unwrap_or(0),
        mode: place.stat.st_mode,
        mtime: (place.stat.st_mtime, u32::try_from(place.stat.st_mtime_nsec).unwrap_or(0)),
        link_target,
    })
}

/// Writes what is at a path, with all below it, as an archive. A last symbolic link is not followed, unless the path
/// ends in a slash. Of the root directory itself, what is in it is written, without a name before it.
pub fn read_path(root: BorrowedFd<'_>, path: &Path, output: impl Write, options: &ReadOptions) -> Result<()> {
    let place = Place::find(root, path)?;
    let mut output = std::io::BufWriter::with_capacity(crate::pipeline::BUFFER, output);
    let mut packer = Packer::new(TarWriter::new(&mut output)).of_namespace(options.ids);
    let prefix = options.name.as_ref().map_or(&place.name[..], |name| name.as_bytes());
    place.pack(path, prefix, options.skip_kernel, &mut packer)?;
    packer.finish()?.flush().map_err(|e| Error::io("writing an archive", e))
}

/// Writes all that is in several roots as one archive, each below a name of its own.
pub fn read_roots(roots: &[(OsString, BorrowedFd<'_>)], output: impl Write) -> Result<()> {
    let mut output = std::io::BufWriter::with_capacity(crate::pipeline::BUFFER, output);
    let mut packer = Packer::new(TarWriter::new(&mut output));
    for (name, root) in roots {
        Place::find(*root, Path::new("/"))?.pack(Path::new("/"), name.as_bytes(), false, &mut packer)?;
        // Files of one root are no further names of files of another.
        packer.forget_names();
    }
    packer.finish()?.flush().map_err(|e| Error::io("writing an archive", e))
}

/// A directory of a file system that the kernel makes up.
fn is_made_up(found: &tree::walk::Found<'_>) -> bool {
    // cgroup and cgroup2, sysfs, proc, devpts, mqueue, bpf, debugfs, tracefs, securityfs: linux/magic.h.
    const MADE_UP: [i64; 10] = [
        0x0027_e0eb,
        0x6367_7270,
        0x6265_6572,
        0x9fa0,
        0x1cd1,
        0x1980_0202,
        0xcafe_4a11,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
    ];
    found.kind() == FileType::Directory
        && found.open().and_then(rustix::fs::fstatfs).is_ok_and(|fs| MADE_UP.contains(&fs.f_type))
}

/// A name in a directory that is held.
struct Place {
    parent: rustix::fd::OwnedFd,
    /// The last name; empty for the root.
    name: Vec<u8>,
    /// The directory itself was opened, as a path that ends in a slash asks for.
    followed: bool,
    stat: Stat,
}

impl Place {
    fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Place> {
        let bytes = path.as_os_str().as_bytes();
        let names = tree::components(bytes).map_err(|tree::Escape| at(path, PathReason::NotFound))?;
        let followed = names.is_empty() || bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        let name = names.last().map_or_else(Vec::new, |name| name.to_vec());
        let parent = if followed { &names[..] } else { &names[..names.len() - 1] };
        let parent = tree::open(root, &parent.join(&b'/'), OFlags::RDONLY | OFlags::DIRECTORY);
        let parent = parent.map_err(|errno| explain(path, errno))?;
        let lookup = if followed { b"." } else { &name[..] };
        let stat = rustix::fs::statat(&parent, lookup, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| explain(path, e))?;
        Ok(Place { parent, name, followed, stat })
    }

    /// Adds what is here, with all below it, to an archive under another name; without one, what is in it.
    fn pack(&self, path: &Path, prefix: &[u8], skip_kernel: bool, packer: &mut Packer<impl Write>) -> Result<()> {
        let found =
            tree::walk::Found { parent: self.parent.as_fd(), name: self.lookup(), path: prefix, stat: self.stat };
        if !prefix.is_empty() {
            packer.add(&found, prefix)?;
        }
        if found.kind() == FileType::Directory {
            let directory = found.open().map_err(|errno| explain(path, errno))?;
            tree::walk::walk(directory, &mut |found| {
                let name = if prefix.is_empty() { found.path.to_vec() } else { [prefix, b"/", found.path].concat() };
                packer.add(found, &name)?;
                let skipped = skip_kernel && found.stat.st_dev != self.stat.st_dev && is_made_up(found);
                Ok(!skipped)
            })?;
        }
        Ok(())
    }

    fn lookup(&self) -> &[u8] {
        if self.followed { b"." } else { &self.name }
    }
}

/// Where a path leads when all links are followed, whether anything is there or not.
///
/// # Errors
/// [`PathReason::SymlinkLoop`].
pub fn target(root: BorrowedFd<'_>, path: &Path) -> Result<PathBuf> {
    let mut todo: Vec<Vec<u8>> = path.as_os_str().as_bytes().split(|b| *b == b'/').rev().map(Into::into).collect();
    let (mut done, mut links): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
    while let Some(name) = todo.pop() {
        match &name[..] {
            b"" | b"." => continue,
            b".." => drop(done.pop()),
            _ => done.push(name),
        }
        let here = done.join(&b'/');
        let (parent, last) = tree::split(&here);
        let Ok(parent) = tree::open(root, parent, OFlags::PATH | OFlags::DIRECTORY) else { continue };
        match rustix::fs::readlinkat(&parent, last, Vec::new()) {
            Ok(link) => {
                links += 1;
                if links > LINKS {
                    return Err(at(path, PathReason::SymlinkLoop));
                }
                done.pop();
                if link.to_bytes().starts_with(b"/") {
                    done.clear();
                }
                todo.extend(link.to_bytes().split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
            }
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
            Err(other) => return Err(explain(path, other)),
        }
    }
    Ok(Path::new("/").join(OsString::from_vec(done.join(&b'/'))))
}

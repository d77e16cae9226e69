//! Things of a tree as entries of an archive.

use crate::tar::{Attributes, Entry, Kind, TarWriter, Time};
use crate::tree::walk::Found;
use crate::{Error, IdRange, Result};
use rustix::fd::OwnedFd;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;

/// Writes what is found in a tree. Further names of a file become hard links to its first.
pub(crate) struct Packer<W> {
    tar: TarWriter<W>,
    /// Names of files that have several.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// The user namespace whose identifiers entries have.
    ids: Option<IdRange>,
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(tar: TarWriter<W>) -> Packer<W> {
        Packer { tar, linked: HashMap::new(), ids: None }
    }

    /// Has entries say who owns them in a user namespace.
    pub(crate) fn of_namespace(self, ids: Option<IdRange>) -> Packer<W> {
        Packer { ids, ..self }
    }

    /// Where it writes to.
    pub(crate) fn output(&mut self) -> &mut W {
        self.tar.output()
    }

    /// What comes next has other files.
    pub(crate) fn forget_names(&mut self) {
        self.linked.clear();
    }

    pub(crate) fn finish(self) -> Result<W> {
        self.tar.finish().map_err(|e| Error::io("writing an archive", e))
    }

    /// An entry that is no thing of the tree.
    pub(crate) fn add_entry(&mut self, entry: &Entry) -> Result<()> {
        self.tar.append(entry).map_err(|e| Error::io("writing an archive", e))
    }

    /// Writes a thing under a name. One that vanished, and sockets, which an archive cannot hold, are left out.
    pub(crate) fn add(&mut self, found: &Found<'_>, name: &[u8]) -> Result<()> {
        let Some(kind) = self.kind(found)? else { return Ok(()) };
        let mut entry = Entry::new(name, kind, found.stat.st_mode & 0o7777);
        let shown = |id| self.ids.map_or(id, |ids| ids.inside(id));
        (entry.uid, entry.gid) = (shown(found.stat.st_uid), shown(found.stat.st_gid));
        entry.mtime = Time { seconds: found.stat.st_mtime, nanoseconds: 0 };
        let mut contents = None;
        match entry.kind {
            Kind::Directory => entry.path.push(b'/'),
            Kind::Symlink => match rustix::fs::readlinkat(found.parent, found.name, Vec::new()) {
                Ok(link) => entry.link = link.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                Err(other) => return Err(found.failed(other)),
            },
            Kind::HardLink => entry.link = self.linked.get(&identity(found)).cloned().unwrap_or_default(),
            _ => {}
        }
        if matches!(entry.kind, Kind::File | Kind::Directory) {
            let (fd, now) = match found.open_with_stat() {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Ok(()),
                Err(other) => return Err(found.failed(other)),
            };
            entry.xattrs = attributes(&fd).map_err(|errno| found.failed(errno))?;
            if entry.kind == Kind::File {
                entry.size = u64::try_from(now.st_size).unwrap_or(0);
                if found.stat.st_nlink > 1 {
                    self.linked.insert(identity(found), name.to_vec());
                }
                contents = Some(File::from(fd));
            }
        }
        match contents {
            Some(mut file) => self.tar.append_file(&entry, &mut file),
            None => self.tar.append(&entry),
        }
        .map_err(|e| Error::io(format!("writing {} into an archive", entry.name()), e))
    }

    fn kind(&self, found: &Found<'_>) -> Result<Option<Kind>> {
        let (major, minor) = (rustix::fs::major(found.stat.st_rdev), rustix::fs::minor(found.stat.st_rdev));
        Ok(Some(match found.kind() {
            FileType::RegularFile if found.stat.st_nlink > 1 && self.linked.contains_key(&identity(found)) => {
                Kind::HardLink
            }
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            _ => return Ok(None),
        }))
    }
}

fn identity(found: &Found<'_>) -> (u64, u64) {
    (found.stat.st_dev, found.stat.st_ino)
}

/// The extended attributes that belong to a file's contents: its owner's, and capabilities. Those of overlayfs and of
/// security modules describe the place where it lies.
///
/// # Errors
/// What `flistxattr(2)` and `fgetxattr(2)` say.
pub fn attributes(fd: &OwnedFd) -> Result<Attributes, Errno> {
    let mut list = Vec::new();
    let mut names: Vec<u8> = Vec::with_capacity(1024);
    loop {
        names.clear();
        match rustix::fs::flistxattr(fd, rustix::buffer::spare_capacity(&mut names)) {
            Ok(_) => break,
            Err(Errno::RANGE) => names.reserve(65536),
            Err(Errno::NOTSUP) => return Ok(list),
            Err(other) => return Err(other),
        }
    }
    for name in names.split(|b| *b == 0) {
        let overlay = name.starts_with(b"user.overlay.");
        if overlay || !(name.starts_with(b"user.") || name == b"security.capability") {
            continue;
        }
        let mut value: Vec<u8> = Vec::with_capacity(65536);
        match rustix::fs::fgetxattr(fd, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => list.push((name.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(other) => return Err(other),
        }
    }
    list.sort_unstable();
    Ok(list)
}

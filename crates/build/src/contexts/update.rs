//! A copy of a client's directory becomes what the client's is.

use super::list::{List, Listed, What};
use crate::files::Files;
use crate::ignore::Ignore;
use crate::solve::Builder;
use crate::{Error, Result};
use image::tree;
use image::{Digest, Hasher};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};

/// The one attribute of a file that is the file's own, and not its file system's.
const CAPABILITY: &str = "security.capability";

/// A context on its way here.
pub struct Update {
    directory: tempfile::TempDir,
    root: OwnedFd,
    list: List,
    /// Files that are to be sent, by their places in the list.
    lacks: Vec<u32>,
    /// Digests of contents, by place.
    digests: Vec<(u32, Digest)>,
    /// The directory that was last written to: what comes next is mostly in there, too.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

/// What became of a file while it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it was listed, with these capabilities.
    Same {
        /// As the kernel keeps them; empty: none.
        capabilities: Vec<u8>,
    },
    /// It was changed meanwhile: what was sent may be neither what it was nor what it is.
    Changed,
    /// It is no longer there, or no file any more.
    Gone,
}

/// A file on its way here.
pub struct Taking<'u> {
    update: &'u mut Update,
    index: u32,
    file: File,
    hasher: Hasher,
}

impl Builder {
    /// Begins to take a context, of which `list` is all. Blocks.
    ///
    /// # Errors
    /// Where it can't be made here.
    pub fn update(&self, list: List) -> Result<Update> {
        let failed = |e: io::Error| Error::failed("making a directory for the context", e);
        let directory = self.directory().map_err(failed)?;
        let root = OwnedFd::from(File::open(directory.path()).map_err(failed)?);
        let mut update =
            Update { directory, root, list: List::default(), lacks: Vec::new(), digests: Vec::new(), parent: None };
        for (index, entry) in (0..).zip(list.entries()) {
            match entry.what {
                What::File(_) => update.lacks.push(index),
                _ => update.make(entry).map_err(|errno| failed_at(entry, errno))?,
            }
        }
        update.list = list;
        Ok(update)
    }
}

impl Update {
    /// Files that are to be sent, by their places in the list.
    pub fn lacks(&self) -> &[u32] {
        &self.lacks
    }

    /// The name of a file, for people.
    pub fn name(&self, index: u32) -> String {
        let entry = self.list.entries().get(index as usize);
        entry.map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).unwrap_or_default()
    }

    /// Begins to take a file that is lacking. Blocks.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn take(&mut self, index: u32) -> Result<Taking<'_>> {
        let Some(entry) = self.list.entries().get(index as usize).cloned() else {
            return Err(Error::Invalid(format!("the build context has no file {index}")));
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, name) = tree::split(&entry.path);
        let opened =
            self.parent(parent).and_then(|parent| rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)));
        let file = File::from(opened.map_err(|errno| failed_at(&entry, errno))?);
        Ok(Taking { update: self, index, file, hasher: Hasher::new() })
    }

    /// The context, of which `ignore` is no part.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub fn finish(self, ignore: Ignore) -> Result<Files> {
        let files = Files::of_context(self.directory, ignore);
        let files = files.map_err(|e| Error::failed("opening the context", e))?;
        let path = |index: u32| self.list.entries()[index as usize].path.clone();
        files.know(self.digests.into_iter().map(|(index, digest)| (path(index), digest)));
        Ok(files)
    }

    /// Makes what is no file.
    fn make(&mut self, entry: &Listed) -> Result<(), Errno> {
        let (parent, name) = tree::split(&entry.path);
        let parent = self.parent(parent)?;
        let mode = Mode::from_raw_mode(entry.mode);
        match &entry.what {
            What::Directory => rustix::fs::mkdirat(parent, name, mode)?,
            What::Link(link) => return rustix::fs::symlinkat(&link[..], parent, name),
            What::Pipe => rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)?,
            What::Device { block, device } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                rustix::fs::mknodat(parent, name, kind, mode, *device)?;
            }
            What::File(_) => return Ok(()),
        }
        // Less what this process takes away from what it makes.
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
    }

    fn parent(&mut self, path: &[u8]) -> Result<&OwnedFd, Errno> {
        if self.parent.as_ref().is_none_or(|(held, _)| held != path) {
            let opened = tree::open(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.parent = Some((path.to_vec(), opened));
        }
        match &self.parent {
            Some((_, opened)) => Ok(opened),
            None => Err(Errno::NOENT),
        }
    }
}

impl Taking<'_> {
    /// That was all of the file. Whether it is as it was listed.
    ///
    /// # Errors
    /// Where it can't be kept.
    pub fn end(self, verdict: &Verdict) -> Result<()> {
        let Taking { update, index, file, hasher } = self;
        let entry = &update.list.entries()[index as usize];
        let failed = |errno| failed_at(entry, errno);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(failed)?;
        match verdict {
            Verdict::Same { capabilities } => {
                if !capabilities.is_empty() {
                    rustix::fs::fsetxattr(&file, CAPABILITY, capabilities, XattrFlags::empty()).map_err(failed)?;
                }
            }
            Verdict::Changed => {}
            Verdict::Gone => {
                let (parent, name) = tree::split(&entry.path);
                let (parent, name) = (parent.to_vec(), name.to_vec());
                let removed =
                    update.parent(&parent).and_then(|parent| rustix::fs::unlinkat(parent, &name[..], AtFlags::empty()));
                return removed.map_err(|errno| failed_at(&update.list.entries()[index as usize], errno));
            }
        }
        update.digests.push((index, hasher.finish()));
        Ok(())
    }
}

impl Write for Taking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed_at(entry: &Listed, errno: Errno) -> Error {
    Error::failed(format!("keeping {} of the context", String::from_utf8_lossy(&entry.path)), errno)
}

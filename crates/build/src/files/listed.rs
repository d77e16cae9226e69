//! Files that were listed before they came: all that a choice asks of them is known, so none of them is looked at again.

use crate::contexts::{Known, Listed, What};
use image::tree::walk::{Found, order};
use image::tree::{self, LastDirectory};
use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, Stat};
use std::cmp::Ordering;
use std::sync::Arc;

/// Something in a tree.
#[derive(Debug)]
pub(crate) struct ListedFile {
    pub(crate) listed: Listed,
    /// What is known of a file's contents.
    pub(crate) known: Option<Known>,
    /// Whoever lists it the same way the next time has not changed it since.
    pub(crate) settled: bool,
    /// It is a file that may have further names, and those stand in the tree alone.
    pub(crate) several: bool,
}

/// All of a tree that nobody changes, in the order of a walk.
#[derive(Debug)]
pub(crate) struct ListedTree {
    files: Arc<Vec<ListedFile>>,
    /// How anything of its file system looks: nobody can make up all fields of that.
    like: Stat,
}

/// What a walk comes to.
pub(crate) enum Met<'m> {
    /// Something that was looked at.
    Found(&'m Found<'m>),
    /// Something of which all is known.
    Listed { path: &'m [u8], stat: Stat, file: &'m ListedFile },
}

impl Met<'_> {
    /// The path below where the walk began.
    pub(crate) fn path(&self) -> &[u8] {
        match self {
            Met::Found(found) => found.path,
            Met::Listed { path, .. } => path,
        }
    }
}

impl ListedTree {
    /// A tree whose root directory looks like that. All that it has is listed, in the order of a walk.
    pub(crate) fn new(files: Arc<Vec<ListedFile>>, like: Stat) -> ListedTree {
        ListedTree { files, like }
    }

    /// What is known of a file's contents.
    pub(crate) fn known(&self, path: &[u8]) -> Option<&Known> {
        self.files[self.place(path)?].known.as_ref()
    }

    fn place(&self, path: &[u8]) -> Option<usize> {
        self.files.binary_search_by(|file| order(&file.listed.path, path)).ok()
    }

    /// Visits all below a directory of the tree that lies at `root`, as [`image::tree::walk::walk`] does.
    ///
    /// # Errors
    /// What `visit` says.
    pub(crate) fn walk(
        &self,
        root: BorrowedFd<'_>,
        directory: &[u8],
        visit: &mut dyn FnMut(&Met<'_>) -> image::Result<bool>,
    ) -> image::Result<()> {
        let after = |file: &ListedFile| order(&file.listed.path, directory) != Ordering::Greater;
        let mut place = if directory.is_empty() { 0 } else { self.files.partition_point(after) };
        let mut parents = LastDirectory::default();
        while let Some(file) = self.files.get(place)
            && let Some(path) = below(&file.listed.path, directory)
        {
            let enters = match file.several {
                true => look(root, &mut parents, &file.listed.path, path, visit)?,
                false => visit(&Met::Listed { path, stat: self.stat(file), file })?,
            };
            place += 1;
            if file.listed.what == What::Directory && !enters {
                let within = |file: &ListedFile| below(&file.listed.path, &self.files[place - 1].listed.path).is_some();
                place += self.files[place..].partition_point(within);
            }
        }
        Ok(())
    }

    /// What a look at it would say, as far as anything depends on that.
    fn stat(&self, file: &ListedFile) -> Stat {
        let mut stat = self.like;
        let (kind, mode, device, size) = match &file.listed.what {
            What::Directory => (FileType::Directory, file.listed.mode, 0, 0),
            What::File(_) => {
                (FileType::RegularFile, file.listed.mode, 0, file.known.as_ref().map_or(0, |known| known.size))
            }
            // All links have these permissions, whatever a client says.
            What::Link(link) => (FileType::Symlink, 0o777, 0, link.len() as u64),
            What::Pipe => (FileType::Fifo, file.listed.mode, 0, 0),
            What::Device { block: true, device } => (FileType::BlockDevice, file.listed.mode, *device, 0),
            What::Device { block: false, device } => (FileType::CharacterDevice, file.listed.mode, *device, 0),
        };
        stat.st_mode = kind.as_raw_mode() | mode;
        (stat.st_rdev, stat.st_nlink, stat.st_ino) = (device, 1, 0);
        stat.st_size = i64::try_from(size).unwrap_or(i64::MAX);
        stat
    }
}

/// Looks at a file in the tree. `path` is that of the walk.
fn look(
    root: BorrowedFd<'_>,
    parents: &mut LastDirectory,
    whole: &[u8],
    path: &[u8],
    visit: &mut dyn FnMut(&Met<'_>) -> image::Result<bool>,
) -> image::Result<bool> {
    let failed = |errno| image::Error::io(format!("reading {}", String::from_utf8_lossy(whole)), errno);
    let (parent, name) = tree::split(whole);
    let parent = rustix::fd::AsFd::as_fd(parents.open(root, parent).map_err(failed)?);
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    visit(&Met::Found(&Found { parent, name, path, stat }))
}

/// A path as it is below a directory, if it is.
fn below<'p>(path: &'p [u8], directory: &[u8]) -> Option<&'p [u8]> {
    match directory.is_empty() {
        true => Some(path),
        false => path.strip_prefix(directory)?.strip_prefix(b"/"),
    }
}

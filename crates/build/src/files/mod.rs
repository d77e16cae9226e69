//! Files that a build copies from: its context, a stage, an image. They do not change while it goes on.

mod select;

pub(crate) use select::{Choice, Picked, Selection};

use crate::ignore::Ignore;
use image::{Digest, Hasher, MountedRootfs};
use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;

/// A tree of files.
pub struct Files {
    root: Root,
    /// What of it does not count as being there.
    ignore: Ignore,
    /// Digests of files that were read, by path.
    digests: Mutex<HashMap<Vec<u8>, Digest>>,
}

/// What keeps the tree where it is.
enum Root {
    /// A build's own copy of its context, which is removed with it.
    Context { directory: OwnedFd, _removed: tempfile::TempDir },
    /// Layers.
    Layers(MountedRootfs),
    /// Nothing at all.
    Nothing,
}

impl Files {
    /// A context in a directory of its own, which goes with this. Whose a file was counts for nothing.
    ///
    /// # Errors
    /// Where the directory can't be opened.
    pub fn of_context(directory: tempfile::TempDir, ignore: Ignore) -> std::io::Result<Files> {
        let opened = OwnedFd::from(File::open(directory.path())?);
        Ok(Files::new(Root::Context { directory: opened, _removed: directory }, ignore))
    }

    /// No files.
    pub fn nothing() -> Files {
        Files::new(Root::Nothing, Ignore::default())
    }

    /// The files of layers.
    pub(crate) fn of_layers(layers: MountedRootfs) -> Files {
        Files::new(Root::Layers(layers), Ignore::default())
    }

    fn new(root: Root, ignore: Ignore) -> Files {
        Files { root, ignore, digests: Mutex::default() }
    }

    /// The directory of all of it.
    pub(crate) fn root(&self) -> Option<BorrowedFd<'_>> {
        match &self.root {
            Root::Context { directory, .. } => Some(directory.as_fd()),
            Root::Layers(layers) => Some(layers.as_fd()),
            Root::Nothing => None,
        }
    }

    /// Whether it is the build's own copy: nobody else needs the files' looks, and nobody wrote them down.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.root, Root::Context { .. })
    }

    /// The digest of a file's contents.
    pub(crate) fn digest(&self, path: &[u8], file: OwnedFd) -> std::io::Result<Digest> {
        if let Some(known) = self.digests.lock().get(path) {
            return Ok(*known);
        }
        let (mut file, mut hasher) = (File::from(file), Hasher::new());
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                got => hasher.update(&buffer[..got]),
            }
        }
        let digest = hasher.finish();
        self.digests.lock().insert(path.to_vec(), digest);
        Ok(digest)
    }
}

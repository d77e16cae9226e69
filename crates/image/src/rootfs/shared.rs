//! Files of layers that can be copied without a copy: where the data directory's file system shares blocks (XFS, Btrfs, bcachefs), from
//! the layer's own directory. Through an overlay of them the kernel would copy, as that is another file system.

use crate::{Digest, Error, Images, Result, tree};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::path::Path;

/// The directories of layers that lie upon each other, top first.
#[derive(Debug)]
pub struct LayerDirs(Vec<OwnedFd>);

impl Images {
    /// The directories of layers, where what a file of them has can be shared; `None`: whoever wants it copies it. The caller sees to it
    /// that the layers stay. Blocks.
    ///
    /// # Errors
    /// Where they are not here, or can't be opened.
    pub fn shared_layers(&self, diff_ids: &[Digest]) -> Result<Option<LayerDirs>> {
        let inner = &self.0;
        let layers = inner.root.join("layers");
        if !*inner.shares_blocks.get_or_init(|| shares_blocks(&layers)) {
            return Ok(None);
        }
        let lower = super::lower(inner, &inner.state.lock(), diff_ids)?;
        let open = |dir: String| {
            let path = layers.join(dir);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::empty());
            opened.map_err(|errno| Error::io(format!("opening {}", path.display()), errno))
        };
        lower.into_iter().map(open).collect::<Result<_>>().map(|dirs| Some(LayerDirs(dirs)))
    }
}

impl LayerDirs {
    /// The directory in one of the layers that has the file which all of them together show at a path: `like` that. Whatever is above
    /// in the same place would be shown, so the first one that has anything there is it.
    pub fn parent_of(&self, path: &[u8], like: &Stat) -> Option<OwnedFd> {
        let (parent, name) = tree::split(path);
        for layer in &self.0 {
            let Ok(parent) = tree::open_without_links(layer.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY) else {
                continue;
            };
            let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let look =
                |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
            return (is_file && look(&stat) == look(like)).then_some(parent);
        }
        None
    }
}

/// Whether a file in a directory can have the blocks of another.
fn shares_blocks(directory: &Path) -> bool {
    let try_it = || -> Result<(), Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (one, other) = (
            rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?,
            rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?,
        );
        rustix::io::write(&one, &[1; 4096])?;
        rustix::fs::ioctl_ficlone(&other, &one)
    };
    try_it().is_ok()
}

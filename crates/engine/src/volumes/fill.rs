//! Filling an empty volume with what an image has at its target: all of it, or nothing.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::driver::Options;
use super::{Volume, Volumes, names};
use crate::{Error, Result};

/// How the names begin of directories that are being filled; no volume's name does. What a killed daemon leaves of them
/// is swept as any directory without a record.
const FILLING: &str = ".filling-";

impl Volumes {
    /// Has `copy` fill a volume that is empty.
    pub(crate) fn fill(&self, volume: &Volume, copy: impl Fn(&OwnedFd) -> Result<()>) -> Result<()> {
        if !Options::parse(&volume.name, &volume.options)?.is_plain() {
            // It is another file system's, which has no second place for it.
            let source = self.hold(volume)?;
            let filled = fill_in_place(&source.path, copy);
            self.let_go(volume);
            return filled;
        }
        if !is_empty(&volume.mountpoint)? {
            return Ok(());
        }
        if self.mounted.lock().contains_key(&volume.name) {
            // Somebody has the directory itself in his mounts.
            return fill_in_place(&volume.mountpoint, copy);
        }
        let aside = self.directory.join(format!("{FILLING}{}", names::random()));
        let filled = self.fill_aside(volume, &aside, &copy);
        if let Err(error) = image::remove_tree(&aside) {
            tracing::warn!(volume = volume.name, %error, "could not remove what was put aside to fill it");
        }
        match filled? {
            true => Ok(()),
            false => fill_in_place(&volume.mountpoint, copy),
        }
    }

    /// Fills a directory beside the volume's, and puts it in the place of that. `false`: somebody began to use the volume.
    fn fill_aside(&self, volume: &Volume, aside: &Path, copy: impl Fn(&OwnedFd) -> Result<()>) -> Result<bool> {
        let step = |error: std::io::Error| Error::step(format!("fill the volume {}", volume.name), error);
        let files = aside.join("_data");
        std::fs::create_dir_all(&files).map_err(step)?;
        super::restrict(aside)?;
        copy(&open(&files)?)?;
        let mounted = self.mounted.lock();
        if mounted.contains_key(&volume.name) {
            return Ok(false);
        }
        match rustix::fs::rename(&files, &volume.mountpoint) {
            // Somebody else has filled it.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(true),
            Err(error) => Err(step(error.into())),
        }
    }
}

fn fill_in_place(path: &Path, copy: impl Fn(&OwnedFd) -> Result<()>) -> Result<()> {
    if is_empty(path)? { copy(&open(path)?) } else { Ok(()) }
}

fn is_empty(path: &Path) -> Result<bool> {
    let mut entries =
        std::fs::read_dir(path).map_err(|error| Error::step(format!("read {}", path.display()), error))?;
    Ok(entries.next().is_none())
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::step(format!("open {}", path.display()), error))
}

//! What was copied into the container of a snapshot while it did not run: a layer that its machine has, and must find again as it was.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where a snapshot has what was copied into its container.
pub(crate) struct SavedCopies {
    /// The layer, as the machine had it.
    pub(crate) layer: PathBuf,
    /// A copy of the directory that the layer was made of.
    pub(crate) upper: PathBuf,
}

impl SavedCopies {
    /// In the directory of a snapshot.
    pub(super) fn below(snapshot: &Path) -> Self {
        Self { layer: snapshot.join("copied"), upper: snapshot.join("copies/upper") }
    }

    /// Takes it of a container that runs. Blocks.
    pub(crate) fn take(&self, layer: &Path, upper: &Path) -> Result<()> {
        // A machine's process sees the snapshot, and is nobody.
        let closed = self.upper.parent().unwrap_or(&self.upper);
        let made = fs::DirBuilder::new().mode(0o700).create(closed).and_then(|()| fs::create_dir(&self.upper));
        made.map_err(|error| Error::step(format!("make {}", self.upper.display()), error))?;
        image::copy_changes(upper, &self.upper).map_err(crate::images::error)?;
        name_also(layer, &self.layer)
    }

    /// Everything of it is there after a loss of power.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        File::open(&self.layer)?.sync_all()?;
        // There may be a great many files.
        Ok(rustix::fs::syncfs(File::open(&self.upper)?)?)
    }
}

/// Gives a file a further name; where the other one is on another file system, that gets a copy.
pub(crate) fn name_also(file: &Path, name: &Path) -> Result<()> {
    let named = match fs::hard_link(file, name) {
        // rename(2), link(2): EXDEV; EMLINK: it has as many names as a file can have.
        Err(error) if matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::TooManyLinks) => {
            let part = name.with_extension("new");
            fs::copy(file, &part).and_then(|_| File::open(&part)?.sync_all()).and_then(|()| fs::rename(&part, name))
        }
        named => named,
    };
    named.map_err(|error| Error::step(format!("give {} the name {}", file.display(), name.display()), error))
}

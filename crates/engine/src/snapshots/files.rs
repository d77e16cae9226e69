//! The files of a machine that is being saved: of a snapshot, or of a template.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;

use microvm::{SnapshotFiles, Writers};

use crate::{Error, Result};

/// Told once, as nothing changes that while the daemon runs.
static UNTOLD: Once = Once::new();

/// A directory with two files, empty at first: dropped, it was never there, unless it is [kept](Self::keep).
pub(crate) struct NewFiles {
    directory: PathBuf,
    pub(crate) files: SnapshotFiles,
    is_kept: bool,
}

impl NewFiles {
    /// Makes them in a directory of that name, which nobody but root sees: they have what was in a machine's memory. A machine's process has it mounted.
    pub(crate) fn make(root: &Path, name: &str) -> Result<Self> {
        let directory = root.join(name);
        let failed = |error: std::io::Error| Error::system(format!("make {}: {error}", directory.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        fs::create_dir(&directory).map_err(failed)?;
        let files = SnapshotFiles::create(&directory).map_err(|error| {
            super::remove(&directory);
            Error::system(error.to_string())
        })?;
        Ok(Self { directory, files, is_kept: false })
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// They are whole: nobody writes to them any more, and whoever goes on from them, who is nobody, reads them.
    ///
    /// # Errors
    /// The machine's process, or somebody else, has them open for writing still, and could change what others have in their memory. Where the file system does not tell whether anybody has, that is told, and they are taken for whole.
    pub(crate) fn seal(&mut self) -> Result<()> {
        for file in [&self.files.state, &self.files.memory] {
            let sealed = file.set_permissions(fs::Permissions::from_mode(0o444));
            sealed.map_err(|error| Error::system(format!("write {}: {error}", self.directory.display())))?;
        }
        self.files = SnapshotFiles::open(&self.directory).map_err(|error| Error::system(error.to_string()))?;
        match self.files.writers().map_err(|error| Error::system(error.to_string()))? {
            Writers::Nobody => Ok(()),
            Writers::Untold => {
                UNTOLD.call_once(|| {
                    tracing::warn!(directory = %self.directory.display(), "the file system does not tell who has a file open (it knows no leases, fcntl(2)): what is saved of microVMs is kept though a process that a guest has taken over could change it afterwards; have the data directory on another one where that matters");
                });
                Ok(())
            }
            Writers::Somebody => Err(Error::system(format!(
                "somebody has what was saved in {} open for writing still, and could change it: it is not kept. If it is so again, the machine's process does what it should not: stop its container",
                self.directory.display()
            ))),
        }
    }

    /// They stay.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        if !self.is_kept {
            super::remove(&self.directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_may_still_write_to_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let mut new = NewFiles::make(root.path(), "one").unwrap();
        let kept = new.files.memory.try_clone().unwrap();
        assert!(new.seal().unwrap_err().to_string().contains("open for writing still"));
        drop(kept);
        new.seal().unwrap();
    }
}

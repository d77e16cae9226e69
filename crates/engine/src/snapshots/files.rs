//! The files of a machine that is being saved: of a snapshot, or of a template.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use microvm::SnapshotFiles;

use crate::{Error, Result};

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
    /// The machine's process has kept what it was given to write them, and could change what others have in their memory.
    pub(crate) fn seal(&mut self) -> Result<()> {
        for file in [&self.files.state, &self.files.memory] {
            let sealed = file.set_permissions(fs::Permissions::from_mode(0o444));
            sealed.map_err(|error| Error::system(format!("write {}: {error}", self.directory.display())))?;
        }
        self.files = SnapshotFiles::open(&self.directory).map_err(|error| Error::system(error.to_string()))?;
        match self.files.are_written().map_err(|error| Error::system(error.to_string()))? {
            false => Ok(()),
            true => Err(Error::system(
                "the machine's process has what was saved of it open still, and could change it: it is not kept, and that process does what it should not (stop its container)",
            )),
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
        assert!(new.seal().unwrap_err().to_string().contains("has what was saved of it open still"));
        drop(kept);
        new.seal().unwrap();
    }
}

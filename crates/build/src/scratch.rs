//! Directories that builds need while they go on.

use crate::{Error, Result};
use image::tree::TreeSize;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The most that one context or one repository takes: what is packed small may be endless.
pub(crate) const LARGEST: TreeSize = TreeSize { bytes: 32 << 30, entries: 4_000_000 };

/// What directories of builds that ended with a former daemon begin with.
const FORMER: &str = "former-";

/// Where they are.
pub(crate) struct Scratch {
    /// Beside other things of builds.
    parent: PathBuf,
    present: PathBuf,
}

impl Scratch {
    /// Begins with none. Those that are left of a former daemon's builds are only set aside, as removing a large context takes its time.
    pub(crate) fn open(parent: &Path) -> Result<Scratch> {
        let present = parent.join("present");
        let make = || {
            fs::create_dir_all(parent)?;
            let aside = tempfile::Builder::new().prefix(FORMER).tempdir_in(parent)?;
            match fs::rename(&present, aside.path().join("present")) {
                Ok(()) => drop(aside.keep()),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            fs::create_dir(&present)
        };
        make().map_err(|e| Error::failed(format!("making {}", present.display()), e))?;
        Ok(Scratch { parent: parent.to_owned(), present })
    }

    /// Removes what was set aside. Blocks.
    pub(crate) fn remove_former(&self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed(format!("reading {}", self.parent.display()), e);
        for entry in fs::read_dir(&self.parent).map_err(|e| failed(&e))? {
            let entry = entry.map_err(|e| failed(&e))?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(FORMER)) {
                image::remove_tree(&entry.path()).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }

    /// A new one, which goes with what it becomes.
    pub(crate) fn directory(&self) -> io::Result<Directory> {
        Directory::within(&self.present)
    }
}

/// A directory that is removed with this, with all that whoever wrote to it left there. Nobody waits for that: it may be much, and
/// a build that is given up is dropped on a thread that others need.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// A new one.
    pub(crate) fn within(parent: &Path) -> io::Result<Directory> {
        tempfile::tempdir_in(parent).map(Directory::from)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves it where it is.
    #[cfg(test)]
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl From<TempDir> for Directory {
    fn from(directory: TempDir) -> Directory {
        Directory(directory.keep())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        if path.as_os_str().is_empty() {
            return;
        }
        let remove = move || match image::remove_tree(&path) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a build's directory stays until the next start")
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_former_daemon_left_goes_afterwards() {
        let temp = tempfile::tempdir().unwrap();
        let left = Scratch::open(temp.path()).unwrap().directory().unwrap().keep();
        fs::write(left.join("file"), "of a context").unwrap();
        let next = Scratch::open(temp.path()).unwrap();
        let mine = next.directory().unwrap();
        assert!(!left.exists());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
        next.remove_former().unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        assert!(mine.path().is_dir());
    }
}

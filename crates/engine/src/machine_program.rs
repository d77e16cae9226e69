//! The program of machines' processes: a file in the data directory, which is written when the first machine needs it, and which all of them execute. So its
//! pages are in the host's memory once, and who was started by an older one goes on with that when another one takes its name.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::{Error, Result};

/// Whoever executes it reads it, and nobody writes to it.
const MODE: u32 = 0o555;

/// See the [module](self).
pub(crate) struct MachineProgram {
    bytes: &'static [u8],
    path: PathBuf,
    /// The file that was found to be whole.
    known: Mutex<Option<Found>>,
}

/// What tells a file from another one, and from itself when it was changed.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    inode: u64,
    length: u64,
    mode: u32,
    changed: (i64, i64),
}

impl Found {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let changed = (found.ctime(), found.ctime_nsec());
        Ok(Self { inode: found.ino(), length: found.len(), mode: found.mode(), changed })
    }
}

impl MachineProgram {
    /// Of these bytes, in a directory that need not be there yet.
    pub(crate) fn new(bytes: &'static [u8], directory: &Path) -> Self {
        Self { bytes, path: directory.join("machine"), known: Mutex::new(None) }
    }

    /// Its file, which is there and whole. Blocks the first time, for some milliseconds.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn path(&self) -> Result<&Path> {
        let failed = |error| Error::step(format!("write the program of machines, {}", self.path.display()), error);
        let mut known = self.known.lock();
        let found = Found::of(&self.path).ok();
        if found.is_none() || *known != found {
            // Another release has left it, or a loss of power has taken a part of it.
            if !self.is_whole() {
                self.write().map_err(failed)?;
            }
            *known = Some(Found::of(&self.path).map_err(failed)?);
        }
        Ok(&self.path)
    }

    fn is_whole(&self) -> bool {
        let is_file = |found: fs::Metadata| found.is_file() && found.permissions().mode() & 0o7777 == MODE;
        fs::symlink_metadata(&self.path).is_ok_and(is_file) && fs::read(&self.path).is_ok_and(|read| read == self.bytes)
    }

    /// Never into a file that is there: a machine may execute it.
    fn write(&self) -> std::io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let new = self.path.with_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(self.bytes)?;
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        drop(file);
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_once_and_again_when_it_is_not_what_it_was() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("microvm");
        let program = MachineProgram::new(b"a program", &directory);
        let path = program.path().unwrap().to_owned();
        assert_eq!(fs::read(&path).unwrap(), b"a program");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o555);
        let inode = || fs::metadata(&path).unwrap().ino();
        let first = inode();
        program.path().unwrap();
        // A daemon that is started anew finds it.
        MachineProgram::new(b"a program", &directory).path().unwrap();
        assert_eq!(inode(), first);

        // What goes on by the former one has that file still.
        let held = fs::File::open(&path).unwrap();
        let other = MachineProgram::new(b"another one", &directory);
        assert_eq!(fs::read(other.path().unwrap()).unwrap(), b"another one");
        assert_eq!(std::io::read_to_string(held).unwrap(), "a program");

        for spoil in [
            |path: &Path| fs::write(path, b"anothe").unwrap(),
            |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap(),
            |path: &Path| fs::remove_file(path).unwrap(),
            // Of one that was being written.
            |path: &Path| fs::rename(path, path.with_extension("new")).unwrap(),
        ] {
            spoil(&path);
            assert_eq!(fs::read(other.path().unwrap()).unwrap(), b"another one");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o555);
        }
        let names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["machine"]);
    }
}

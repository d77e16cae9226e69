//! Where a base image is made: a directory for all that the programs leave there, which the next one finds and removes if this one is killed.
//!
//! The programs that make an image outlive whoever started them by a while. So they hold the lock of the directory, too, and it is nobody's only
//! once the last of them has ended.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::BootstrapError;

/// What the directories are called, before what tells them apart.
const PREFIX: &str = "stratus-bootstrap-";
/// The file in each that whoever needs it holds a lock of.
const LOCK: &str = "lock";
/// What it is called before that.
const UNHELD: &str = "lock.new";

/// A directory, while it is needed.
pub(super) struct Place {
    directory: tempfile::TempDir,
    lock: File,
}

impl Place {
    /// Makes one where temporary files go, and removes those of former runs that were killed.
    pub(super) fn new() -> Result<Place, BootstrapError> {
        Place::new_in(&std::env::temp_dir())
    }

    fn new_in(parent: &Path) -> Result<Place, BootstrapError> {
        sweep(parent);
        let make = || {
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            // Programs go on as other users in there, who see nothing of it but packages.
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
            // It has its name once it is held, so that nobody finds it free before.
            let unheld = directory.path().join(UNHELD);
            let lock = File::create_new(&unheld)?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            fs::rename(unheld, directory.path().join(LOCK))?;
            std::io::Result::Ok(Place { directory, lock })
        };
        make().map_err(BootstrapError::io(format!("making a directory in {}", parent.display())))
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Has a program put there what it makes for itself, and hold the lock: as its standard input, which has nothing to say.
    pub(super) fn lend(&self, command: &mut Command) -> Result<(), BootstrapError> {
        let lock = self.lock.try_clone().map_err(BootstrapError::io("handing on a lock"))?;
        command.stdin(lock).env("TMPDIR", self.path());
        Ok(())
    }
}

/// Removes what is of nobody any more. What can't be removed stays: it is in nobody's way.
fn sweep(parent: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = |meta: fs::Metadata| meta.is_dir() && meta.uid() == own;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) && entry.metadata().is_ok_and(is_ours) {
            remove_unheld(&entry.path());
        }
    }
}

/// Removes a directory unless somebody holds its lock. One without a lock is about to have one.
fn remove_unheld(directory: &Path) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(lock) = rustix::fs::open(directory.join(LOCK), flags, Mode::empty()) else { return };
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = crate::remove_tree(directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn what_was_killed_is_removed_by_the_next_once_its_programs_have_ended() {
        let parent = tempfile::tempdir().unwrap();
        let others = parent.path().join("stratus-bootstrap");
        fs::create_dir(&others).unwrap();
        let place = Place::new_in(parent.path()).unwrap();
        fs::create_dir_all(place.path().join("root/deep")).unwrap();
        // It goes on until its pipe is closed, also where this test fails.
        let mut command = Command::new("yes");
        place.lend(&mut command).unwrap();
        let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
        drop(command);
        // As if it were killed: its descriptors are closed, and nothing more is done.
        let Place { directory, lock } = place;
        let left = directory.keep();
        drop(lock);
        drop(Place::new_in(parent.path()).unwrap());
        assert!(left.join("root/deep").exists(), "somebody is still at work there");
        program.kill().unwrap();
        program.wait().unwrap();
        let next = Place::new_in(parent.path()).unwrap();
        assert!(!left.exists() && others.exists());
        let (path, again) = (next.path().to_owned(), Place::new_in(parent.path()).unwrap());
        assert!(path.exists() && again.path() != path);
        drop((next, again));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn several_that_begin_at_once_leave_each_other_alone() {
        let parent = tempfile::tempdir().unwrap();
        let begin = |_| {
            for _ in 0..200 {
                let place = Place::new_in(parent.path()).unwrap();
                assert!(place.path().join(LOCK).exists());
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|number| drop(scope.spawn(move || begin(number)))));
    }
}

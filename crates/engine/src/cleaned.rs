//! When everything was last ended at once, while no daemon ran: for the next one, which finds nothing of what ran.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::model::Timestamp;
use crate::{Error, Result};

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("cleaned")
}

/// Notes that everything which runs of a data directory is ended now.
pub fn note(data_dir: &Path) -> Result<()> {
    let path = file(data_dir);
    // What ran before that has ended then, whatever was ended since.
    if path.exists() {
        return Ok(());
    }
    match std::fs::write(&path, Timestamp::now().to_string()) {
        // Where there is no room, it is empty, and was made now.
        Err(error) if error.kind() == ErrorKind::StorageFull && path.exists() => Ok(()),
        written => written.map_err(|error| Error::step(format!("write {}", path.display()), error)),
    }
}

/// When that was; `None`: it was not, since a daemon last took up what ran.
pub(crate) fn moment(data_dir: &Path) -> Option<Timestamp> {
    let path = file(data_dir);
    match std::fs::read_to_string(&path).ok()?.as_str() {
        "" => Timestamp::try_from(std::fs::metadata(&path).and_then(|made| made.modified()).ok()?).ok(),
        text => text.parse().ok(),
    }
}

/// What ran is taken up.
pub(crate) fn forget(data_dir: &Path) -> Result<()> {
    match std::fs::remove_file(file(data_dir)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::step(format!("remove {}", file(data_dir).display()), error))
        }
        _ => Ok(()),
    }
}

/// Takes the addresses that bridges of others were given for networks of a data directory from them again. Nobody else may have the
/// directory. Returns how many there were.
pub fn take_back_addresses(data_dir: &Path, instance: &net::Instance) -> Result<usize> {
    let path = crate::open::store_file(data_dir);
    if !path.exists() {
        return Ok(0);
    }
    let store = store::Store::open(path).map_err(|error| Error::system(error.to_string()))?;
    net::take_back(instance, &store).map_err(|error| Error::system(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_moment_counts() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(moment(directory.path()), None);
        note(directory.path()).unwrap();
        let first = moment(directory.path()).unwrap();
        note(directory.path()).unwrap();
        assert_eq!(moment(directory.path()), Some(first));
        forget(directory.path()).unwrap();
        forget(directory.path()).unwrap();
        assert_eq!(moment(directory.path()), None);
        // As on a disk without room.
        std::fs::write(file(directory.path()), "").unwrap();
        let made = moment(directory.path()).unwrap();
        assert!((Timestamp::now() - made).as_secs().abs() < 3600);
    }
}

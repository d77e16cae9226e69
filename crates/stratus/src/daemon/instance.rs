//! Several daemons side by side: each has a name made of its data directory's path, and a lock on the directory.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::Error;
use super::config::Config;

/// Six letters and digits, the same for the same directory. They stand in the names of links, tables and cgroups.
pub(super) fn name(data_dir: &Path) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    hash.iter().take(6).map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect()
}

/// Makes the directories, and holds the data directory as long as the file lives.
pub(super) fn lock(config: &Config) -> Result<File, Error> {
    for (directory, mode) in [(&config.data_dir, 0o711), (&config.run_dir, 0o755)] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(directory)
            .map_err(Error::io("create", directory.display()))?;
    }
    let path = config.data_dir.join("lock");
    let file = File::create(&path).map_err(Error::io("create", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse(config.data_dir.display().to_string())),
        Err(error) => Err(Error::io("lock", path.display())(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_directory() {
        assert_eq!(name(Path::new("/a")), name(Path::new("/a")));
        assert_ne!(name(Path::new("/a")), name(Path::new("/b")));
        assert_eq!(name(Path::new("/a")).len(), 6);
    }
}

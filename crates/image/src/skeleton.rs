//! The layer below every image: the places that a container's own files are mounted on.
//!
//! Docker makes them in a layer of each container, above the image's, and only where the image has none. A layer below
//! the image's does the same once for all: whatever the image has hides it. So `diff` does not show what the start of
//! a container needs, nothing has to be made when a container starts, and an image without any layer has one, too,
//! without which overlayfs would not mount.

use crate::{Error, Result};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The name of its directory, which no layer of an image has.
pub(crate) const DIR: &str = "0";

/// Directories with nothing in them, for an overlay that has fewer layers than overlayfs takes.
pub(crate) const EMPTY: [&str; 2] = ["0/empty", "0/nothing"];

const DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"];
const FILES: [&str; 5] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Whether a path below a root is one of the places. In a root file system that is made without this layer, they are made when a container starts, and are no changes
/// of its own: files that nothing is in, and directories in which only what is mounted there can be.
pub fn is_place(path: &Path, is_directory: bool) -> bool {
    let among = |names: &[&str]| names.iter().any(|name| path == Path::new(name));
    match is_directory {
        true => path != Path::new("etc") && among(&DIRECTORIES),
        false => among(&FILES),
    }
}

/// Makes what is missing of it. Every start looks, so that nothing has to be on the disk before it is used: what a power
/// cut takes away is made again.
pub(crate) fn make(root: &Path) -> Result<()> {
    let layers = root.join("layers");
    let fs = layers.join(DIR).join("fs");
    let fill = || -> io::Result<()> {
        fs::create_dir_all(&fs)?;
        as_others_read_it(&fs)?;
        for name in DIRECTORIES {
            directory(&fs.join(name))?;
        }
        for name in FILES {
            empty_file(&fs.join(name))?;
        }
        for name in EMPTY {
            directory(&layers.join(name))?;
        }
        or_is_there(std::os::unix::fs::symlink("/proc/mounts", fs.join("etc/mtab")))
    };
    fill().map_err(|e| Error::io(format!("making {}", layers.join(DIR).display()), e))
}

fn directory(path: &Path) -> io::Result<()> {
    or_is_there(fs::create_dir(path))?;
    as_others_read_it(path)
}

fn empty_file(path: &Path) -> io::Result<()> {
    or_is_there(OpenOptions::new().write(true).create_new(true).open(path).map(drop))?;
    as_others_read_it(path)
}

/// Whatever the umask is.
fn as_others_read_it(path: &Path) -> io::Result<()> {
    const MODE: u32 = 0o755;
    if fs::symlink_metadata(path)?.permissions().mode() & 0o7777 == MODE {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))
}

fn or_is_there(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_power_cut_took_away_is_made_again() {
        let temp = tempfile::tempdir().unwrap();
        make(temp.path()).unwrap();
        let fs = temp.path().join("layers/0/fs");
        fs::remove_file(fs.join("etc/hosts")).unwrap();
        fs::remove_file(fs.join("etc/mtab")).unwrap();
        fs::remove_dir(temp.path().join("layers/0/nothing")).unwrap();
        fs::set_permissions(fs.join("dev"), Permissions::from_mode(0o700)).unwrap();
        make(temp.path()).unwrap();
        let mode = |name: &str| fs::symlink_metadata(fs.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("etc/hosts"), mode("dev")), (0o755, 0o755));
        assert_eq!(fs::read_link(fs.join("etc/mtab")).unwrap(), Path::new("/proc/mounts"));
        assert!(temp.path().join("layers/0/nothing").is_dir());
    }
}

//! The layer below every image: the places that a container's own files are mounted on.
//!
//! Docker makes them in a layer of each container, above the image's, and only where the image has none. A layer below
//! the image's does the same once for all: whatever the image has hides it. So `diff` does not show what the start of
//! a container needs, nothing has to be made when a container starts, and an image without any layer has one, too,
//! without which overlayfs would not mount.

use crate::sync::Syncer;
use crate::{Error, Result};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The name of its directory, which no layer of an image has.
pub(crate) const DIR: &str = "0";

/// Directories with nothing in them, for an overlay that has fewer layers than overlayfs takes.
pub(crate) const EMPTY: [&str; 2] = ["0/empty", "0/nothing"];

const DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"];
const FILES: [&str; 5] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Makes it where it is missing.
pub(crate) fn make(root: &Path, syncer: &Syncer) -> Result<()> {
    let layer = root.join("layers").join(DIR);
    if !layer.is_dir() {
        make_layer(root, &layer, syncer)?;
    }
    for name in EMPTY {
        let path = root.join("layers").join(name);
        let make = || {
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        };
        make().map_err(|e| Error::io(format!("making {}", path.display()), e))?;
    }
    Ok(())
}

fn make_layer(root: &Path, layer: &Path, syncer: &Syncer) -> Result<()> {
    let staged = root.join("staging").join(DIR);
    let fill = || -> std::io::Result<()> {
        let fs = staged.join("fs");
        fs::create_dir_all(&fs)?;
        // Whatever the umask is.
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&fs, mode.clone())?;
        for name in DIRECTORIES {
            fs::create_dir(fs.join(name))?;
            fs::set_permissions(fs.join(name), mode.clone())?;
        }
        for name in FILES {
            let file = OpenOptions::new().write(true).create_new(true).open(fs.join(name))?;
            file.set_permissions(mode.clone())?;
        }
        std::os::unix::fs::symlink("/proc/mounts", fs.join("etc/mtab"))
    };
    fill().map_err(|e| Error::io(format!("making {}", staged.display()), e))?;
    syncer.sync()?;
    fs::rename(&staged, layer).map_err(|e| Error::io(format!("making {}", layer.display()), e))
}

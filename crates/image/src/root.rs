//! What the root directory of a stack of layers looks like.
//!
//! Most layers say nothing of it, and their archives have no entry for it. Overlayfs shows that of the uppermost directory, though, whatever
//! that one says. So whoever stacks layers asks which of them has something to say, and where that is not the uppermost, an empty
//! directory that looks so lies [`above`] them.

use crate::record::LayerRecord;
use crate::skeleton;
use rustix::fs::Stat;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// Whose a root directory is, and who may do what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootLook {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl RootLook {
    /// As it is where nobody says anything.
    pub(crate) const PLAIN: RootLook = RootLook { mode: 0o755, uid: 0, gid: 0 };

    /// That of a directory.
    pub(crate) fn of(directory: &Path) -> io::Result<RootLook> {
        let meta = fs::metadata(directory)?;
        Ok(RootLook { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid() })
    }

    /// Makes a directory look so, if it does not.
    pub(crate) fn give(self, directory: &Path) -> io::Result<()> {
        if RootLook::of(directory)? == self {
            return Ok(());
        }
        std::os::unix::fs::chown(directory, Some(self.uid), Some(self.gid))?;
        fs::set_permissions(directory, Permissions::from_mode(self.mode))
    }
}

impl From<&Stat> for RootLook {
    fn from(stat: &Stat) -> RootLook {
        RootLook { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
    }
}

/// What has to lie above layers, bottom first, so that the root directory looks as they say: the name of a directory beside theirs.
/// `None`: the uppermost does.
pub(crate) fn above(layers_dir: &Path, layers: &[Arc<LayerRecord>]) -> io::Result<Option<String>> {
    for (depth, layer) in layers.iter().rev().enumerate() {
        let look = RootLook::of(&layers_dir.join(&layer.dir).join("fs"))?;
        if layer.says_root || look != RootLook::PLAIN {
            return if depth == 0 || look == RootLook::PLAIN {
                Ok(None)
            } else {
                directory(layers_dir, look).map(Some)
            };
        }
    }
    Ok(None)
}

/// An empty directory of a look. It is looked at each time: a power cut may have left half of it.
fn directory(layers_dir: &Path, look: RootLook) -> io::Result<String> {
    let name = format!("{}/root-{:o}-{}-{}", skeleton::DIR, look.mode, look.uid, look.gid);
    let path = layers_dir.join(&name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => look.give(&path)?,
    }
    Ok(name)
}

//! Several layers as one: what they come to together, on top of the layers below them.

use super::KeptLayers;
use crate::archive::Packer;
use crate::pipeline::{self, Blob};
use crate::root::RootLook;
use crate::rootfs::is_opaque;
use crate::tar::{Entry, Kind, TarWriter};
use crate::tree::walk::{Found, names};
use crate::{Digest, Error, Images, LayerRecord, Progress, Result, layers, pack};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

/// Directories above one another. Each is held open, in every layer that has it.
const DEPTH: usize = 256;

impl Images {
    /// Makes one layer of several that lie upon one another, bottom first. The caller keeps them.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], and where they can't be read or the layer can't be written.
    pub async fn merge_layers(&self, diff_ids: Vec<Digest>) -> Result<KeptLayers> {
        self.blocking(move |inner| {
            let lease = inner.lease();
            let records = inner.state.lock().layers_of(&diff_ids)?;
            let open = |layer: &Arc<LayerRecord>| pack::open(&inner.layer_dir(&layer.dir).join("fs"));
            // The topmost comes first, as it is the one that counts.
            let roots = records.iter().rev().map(open).collect::<Result<Vec<OwnedFd>>>()?;
            let looks = |(layer, root): &(&Arc<LayerRecord>, &OwnedFd)| {
                layer.says_root || rustix::fs::fstat(root).is_ok_and(|stat| RootLook::from(&stat) != RootLook::PLAIN)
            };
            let looks = records.iter().rev().zip(&roots).position(|one| looks(&one));
            let mut source = pack::written(move |output| merge(roots, looks, output))?;
            let stage = layers::Stage::new(inner)?;
            let blob = Blob::Make(inner.content.begin()?);
            let fs = stage.fs().as_fd();
            let passed = pipeline::run(&mut source, blob, fs, &inner.limits, &Progress::none(), "merge", 0)?;
            let layer = stage.commit(passed, None, &lease)?;
            Ok(KeptLayers { layers: vec![layer], _lease: lease })
        })
        .await
    }
}

/// Writes what directories in overlayfs' form, the topmost first, come to as a layer's archive. One of them `looks` as the root directory.
fn merge(roots: Vec<OwnedFd>, looks: Option<usize>, output: impl Write) -> Result<()> {
    let mut packer = Packer::new(TarWriter::new(output));
    if let Some(root) = looks.and_then(|index| roots.get(index)) {
        pack::add_root(&mut packer, root, true)?;
    }
    level(&mut packer, &Level { path: Vec::new(), directories: roots, closed: false, depth: 0 })?;
    packer.finish()?.flush().map_err(|e| Error::io("writing an archive", e))
}

/// A directory as several layers have it.
struct Level {
    path: Vec<u8>,
    directories: Vec<OwnedFd>,
    /// Nothing of it is seen that lies below these layers.
    closed: bool,
    depth: usize,
}

fn level<W: Write>(packer: &mut Packer<W>, directory: &Level) -> Result<()> {
    let failed = |errno| Error::io(format!("reading {}", String::from_utf8_lossy(&directory.path)), errno);
    let mut all = BTreeSet::new();
    for part in &directory.directories {
        all.extend(names(part).map_err(failed)?);
    }
    all.iter().try_for_each(|name| one(packer, directory, name))
}

/// What a name in a directory comes to.
fn one<W: Write>(packer: &mut Packer<W>, above: &Level, name: &[u8]) -> Result<()> {
    let beside = |name: &[u8]| {
        if above.path.is_empty() { name.to_vec() } else { [&above.path, &b"/"[..], name].concat() }
    };
    let path = beside(name);
    let mut below = Level { path: path.clone(), directories: Vec::new(), closed: false, depth: above.depth + 1 };
    for parent in &above.directories {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(other) => return Err(Error::io(format!("reading {}", String::from_utf8_lossy(&path)), other)),
        };
        let found = Found { parent: parent.as_fd(), name, path: &path, stat };
        let is_first = below.directories.is_empty();
        if found.kind() != FileType::Directory {
            if is_first {
                let is_whiteout = found.kind() == FileType::CharacterDevice && stat.st_rdev == 0;
                return match (is_whiteout, above.closed) {
                    (true, true) => Ok(()),
                    (true, false) => packer.add_entry(&Entry::new(beside(&[b".wh.", name].concat()), Kind::File, 0)),
                    (false, _) => packer.add(&found, &path),
                };
            }
            // A directory lies upon something that was none: nothing is seen of what lies below that.
            below.closed = true;
            break;
        }
        if is_first {
            packer.add(&found, &path)?;
        }
        below.closed = is_opaque(&found).map_err(|errno| found.failed(errno))?;
        below.directories.push(found.open().map_err(|errno| found.failed(errno))?);
        if below.closed {
            break;
        }
    }
    if below.closed && !above.closed {
        packer.add_entry(&Entry::new([&path[..], b"/.wh..wh..opq"].concat(), Kind::File, 0))?;
    }
    below.closed = below.closed || above.closed;
    if below.depth > DEPTH {
        let reason = format!("more than {DEPTH} directories above one another");
        return Err(Error::HostileEntry { entry: String::from_utf8_lossy(&path).into_owned(), reason });
    }
    level(packer, &below)
}

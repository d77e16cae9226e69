//! Several layers as one: what they come to together, on top of the layers below them.

use super::KeptLayers;
use crate::archive::Packer;
use crate::pack::{self, Packed};
use crate::pipeline::{self, Blob};
use crate::root::RootLook;
use crate::rootfs::is_opaque;
use crate::tar::{Entry, Kind, TarWriter};
use crate::tree::walk::{Found, names, order};
use crate::{Digest, Error, Images, Progress, Result, layers};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::io::Write;

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
            // The topmost comes first, as it is the one that counts.
            let (mut roots, mut looks) = (Vec::new(), None);
            for layer in records.iter().rev() {
                let index = roots.len();
                for dir in layer.dirs() {
                    roots.push(pack::open(&inner.layer_dir(dir).join("fs"))?);
                }
                if looks.is_none() && (layer.says_root || !is_plain(&roots[index])) {
                    looks = Some(index);
                }
            }
            let mut source = pack::written(move |output| merge(roots, looks, None, output))?;
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

/// The archive of a layer whose directories lie upon one another, the topmost first; `from` an entry on, if that is said.
pub(crate) fn stacked(roots: Vec<OwnedFd>, says_root: bool, from: Option<Vec<u8>>) -> Result<Packed> {
    let looks = roots.first().is_some_and(|top| says_root || !is_plain(top)).then_some(0);
    pack::written(move |output| merge(roots, looks, from, output))
}

/// Whether a layer's root directory says nothing.
fn is_plain(root: &OwnedFd) -> bool {
    rustix::fs::fstat(root).is_ok_and(|stat| RootLook::from(&stat) == RootLook::PLAIN)
}

/// Writes what directories in overlayfs' form, the topmost first, come to as a layer's archive. One of them `looks` as the root directory.
/// Without what comes before `from`.
fn merge(roots: Vec<OwnedFd>, looks: Option<usize>, from: Option<Vec<u8>>, output: impl Write) -> Result<()> {
    let mut packer = Packer::new(TarWriter::new(output));
    if let Some(root) = looks.and_then(|index| roots.get(index)).filter(|_| from.is_none()) {
        pack::add_root(&mut packer, root, true)?;
    }
    let mut merging = Merging { packer, from };
    merging.level(&Level { path: Vec::new(), directories: roots, closed: false, depth: 0 })?;
    merging.packer.finish()?.flush().map_err(|e| Error::io("writing an archive", e))
}

struct Merging<W> {
    packer: Packer<W>,
    from: Option<Vec<u8>>,
}

/// A directory as several layers have it.
struct Level {
    path: Vec<u8>,
    directories: Vec<OwnedFd>,
    /// Nothing of it is seen that lies below these layers.
    closed: bool,
    depth: usize,
}

impl<W: Write> Merging<W> {
    fn level(&mut self, directory: &Level) -> Result<()> {
        let failed = |errno| Error::io(format!("reading {}", String::from_utf8_lossy(&directory.path)), errno);
        // The next one of each stands last.
        let mut parts = directory.directories.iter().map(names).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        while let Some(name) = parts.iter().filter_map(|names| names.last()).min().cloned() {
            let has =
                (0..).zip(&mut parts).filter_map(|(part, names)| names.pop_if(|last| *last == name).map(|_| part));
            let has: Vec<usize> = has.collect();
            self.one(directory, &name, &has)?;
        }
        Ok(())
    }

    /// What a name comes to that some parts of a directory have.
    fn one(&mut self, above: &Level, name: &[u8], has: &[usize]) -> Result<()> {
        pack::refuse_deletion(name, &above.path)?;
        let beside = |name: &[u8]| {
            if above.path.is_empty() { name.to_vec() } else { [&above.path, &b"/"[..], name].concat() }
        };
        let path = beside(name);
        let skipped = self.from.as_ref().is_some_and(|from| order(&path, from).is_lt());
        if skipped && !self.from.as_ref().is_some_and(|from| is_below(from, &path)) {
            return Ok(());
        }
        let mut below = Level { path: path.clone(), directories: Vec::new(), closed: false, depth: above.depth + 1 };
        for parent in has.iter().filter_map(|part| above.directories.get(*part)) {
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
                        (true, false) => {
                            self.packer.add_entry(&Entry::new(beside(&[b".wh.", name].concat()), Kind::File, 0))
                        }
                        (false, _) => self.packer.add(&found, &path),
                    };
                }
                // A directory lies upon something that was none: nothing is seen of what lies below that.
                below.closed = true;
                break;
            }
            if is_first && !skipped {
                self.packer.add(&found, &path)?;
            }
            below.closed = is_opaque(&found).map_err(|errno| found.failed(errno))?;
            below.directories.push(found.open().map_err(|errno| found.failed(errno))?);
            if below.closed {
                break;
            }
        }
        if below.closed && !above.closed && !skipped {
            self.packer.add_entry(&Entry::new([&path[..], b"/.wh..wh..opq"].concat(), Kind::File, 0))?;
        }
        below.closed = below.closed || above.closed;
        if below.depth > DEPTH {
            let reason = format!("more than {DEPTH} directories above one another");
            return Err(Error::HostileEntry { entry: String::from_utf8_lossy(&path).into_owned(), reason });
        }
        self.level(&below)
    }
}

/// Whether a path is one of what a directory holds.
fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

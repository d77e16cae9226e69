//! Making images here: of an archive (`import`), and of what a container changed (`commit`).

use crate::archive::Packer;
use crate::changes;
use crate::images::Inner;
use crate::layers::Stage;
use crate::naming::NewImage;
use crate::pipeline::{self, BUFFER, Blob, ReadSource, Source};
use crate::record::LayerRecord;
use crate::rootfs::is_opaque;
use crate::state::Lease;
use crate::tar::{Entry, Kind, TarWriter};
use crate::tree::walk::{Found, walk};
use crate::{Error, HistoryEntry, ImageConfig, ImageId, Images, Platform, Progress, Reference, Result, RunConfig};
use bytes::Bytes;
use jiff::Timestamp;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The layer of an archive without entries: it is left out of images.
const EMPTY_LAYER: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// What an image made here is called and says of itself.
#[derive(Clone, Debug, Default)]
pub struct NewImageOptions {
    /// The name to give it.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// What is said about it.
    pub message: String,
    /// The command that made it, for its history.
    pub created_by: String,
    /// How its containers run, before changes.
    pub config: RunConfig,
    /// Dockerfile-like instructions that change the configuration, as [`changes::apply`] takes them.
    pub changes: Vec<String>,
    /// What it runs on; the configured platform where left out, or that of the image committed from.
    pub platform: Option<Platform>,
}

impl Images {
    /// Makes an image of one layer from an archive of a root file system, in any compression.
    pub async fn import(
        &self,
        archive: impl Read + Send + 'static,
        options: NewImageOptions,
        progress: Progress,
    ) -> Result<ImageId> {
        // Before anything is read, so that a mistyped instruction costs nothing.
        let config = changes::apply(options.config.clone(), &options.changes)?;
        let mut archive = archive;
        self.paced(move |inner| {
            let lease = inner.lease();
            let stage = Stage::new(inner)?;
            let blob = Blob::Keep(inner.content.begin()?);
            let mut source = ReadSource::new(&mut archive, "the archive");
            let fs = stage.fs().as_fd();
            let passed = pipeline::run(&mut source, blob, fs, &inner.limits, &progress, "import", 0)?;
            let layer = stage.commit(passed, None, &lease)?;
            let created = Timestamp::now().to_string();
            let platform = options.platform.clone().unwrap_or_else(|| inner.platform.clone());
            let mut document = document(&options, config, &platform, &created);
            document.history.push(HistoryEntry {
                created: Some(created),
                created_by: options.created_by.clone(),
                comment: options.message.clone(),
                ..HistoryEntry::default()
            });
            document.rootfs.diff_ids.push(layer.diff_id);
            add(inner, &document, None, options.name)
        })
        .await
    }

    /// Makes an image of a container's: its image's layers, and one of what the container changed. The caller sees to
    /// it that the container changes nothing meanwhile.
    ///
    /// The layer's directory is filled from the same stream that its blob is made of, not by renaming or linking the
    /// container's own: that one stays in use and goes on changing, and so what is run is by construction what is
    /// pushed.
    pub async fn commit(&self, container: &str, options: NewImageOptions) -> Result<ImageId> {
        let config = changes::apply(options.config.clone(), &options.changes)?;
        let (upper, parent) = (self.rootfs(container)?.upper, self.rootfs_image(container)?);
        let base = match parent.filter(|id| self.get(id).is_some()) {
            Some(id) => Some((id, self.config(&id)?)),
            None => None,
        };
        let layers = {
            let state = self.0.state.lock();
            state.rootfs.get(container).map_or_else(Vec::new, |record| record.layers.clone())
        };
        self.blocking(move |inner| {
            let lease = inner.lease();
            layers.iter().for_each(|diff_id| lease.pin(diff_id));
            let layer = commit_layer(inner, &upper, &lease)?;
            let created = Timestamp::now().to_string();
            let platform = options.platform.clone().or_else(|| base.as_ref().map(|(_, config)| config.platform()));
            let mut document =
                document(&options, config, &platform.unwrap_or_else(|| inner.platform.clone()), &created);
            document.history = base.as_ref().map_or_else(Vec::new, |(_, config)| config.history.clone());
            document.rootfs.diff_ids = layers;
            let empty_layer = layer.diff_id.to_string() == EMPTY_LAYER;
            if !empty_layer {
                document.rootfs.diff_ids.push(layer.diff_id);
            }
            document.history.push(HistoryEntry {
                created: Some(created),
                author: options.author.clone(),
                created_by: options.created_by.clone(),
                comment: options.message.clone(),
                empty_layer,
            });
            add(inner, &document, base.map(|(id, _)| id), options.name)
        })
        .await
    }
}

fn document(options: &NewImageOptions, config: RunConfig, platform: &Platform, created: &str) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        author: options.author.clone(),
        comment: options.message.clone(),
        config,
        created: Some(created.into()),
        ..ImageConfig::default()
    }
}

fn add(inner: &Inner, config: &ImageConfig, parent: Option<ImageId>, name: Option<Reference>) -> Result<ImageId> {
    let names: Vec<Reference> = name.map(Reference::with_default_tag).into_iter().collect();
    let json = config.to_json()?;
    let new = NewImage { config_json: &json, config, parent, manifest: None, names: &names, by_hand: true };
    inner.add_image(new).map(|image| image.id)
}

/// Makes a layer of an overlay's upper directory.
fn commit_layer(inner: &Arc<Inner>, upper: &Path, lease: &Lease) -> Result<Arc<LayerRecord>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|e| Error::io(format!("opening {}", upper.display()), e))?;
    let stage = Stage::new(inner)?;
    let blob = Blob::Make(inner.content.begin()?);
    let passed = std::thread::scope(|scope| {
        let (output, source) = packed();
        let packer = std::thread::Builder::new().name("layer-pack".into());
        let packer = packer.spawn_scoped(scope, move || pack(upper, output));
        let packer = packer.map_err(|e| Error::io("starting a thread to pack a layer", e))?;
        let mut source = source;
        let fs = stage.fs().as_fd();
        let passed = pipeline::run(&mut source, blob, fs, &inner.limits, &Progress::none(), "commit", 0);
        drop(source);
        let packed = packer.join().map_err(|_| Error::Interrupted("packing a layer".into()))?;
        // Where both failed, the pipeline's end is what the packer saw, unless the packer was first.
        match (packed, passed) {
            (Ok(()), passed) => passed,
            (Err(error), Ok(_) | Err(Error::Interrupted(_))) => Err(error),
            (Err(_), Err(error)) => Err(error),
        }
    })?;
    stage.commit(passed, None, lease)
}

/// Writes an upper directory as a layer's archive: overlayfs' whiteouts in OCI's form, names in order.
fn pack(upper: OwnedFd, output: PackOutput) -> Result<()> {
    let stat = rustix::fs::fstat(&upper).map_err(|e| Error::io("reading what a container changed", e))?;
    let mut packer = Packer::new(TarWriter::new(output));
    if (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) != (0o755, 0, 0) {
        let root = Found { parent: upper.as_fd(), name: b".", path: b".", stat };
        packer.add(&root, b".")?;
    }
    walk(upper, &mut |found| pack_one(&mut packer, found))?;
    let mut output = packer.finish()?;
    output.end().map_err(|e| Error::io("writing an archive", e))
}

fn pack_one<W: Write>(packer: &mut Packer<W>, found: &Found<'_>) -> Result<bool> {
    let (parent, name) = crate::tree::split(found.path);
    let beside = |name: &[u8]| if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() };
    if name.starts_with(b".wh.") {
        let reason = "a layer cannot hold a name that begins with .wh.: it would delete a file".into();
        return Err(Error::HostileEntry { entry: String::from_utf8_lossy(found.path).into_owned(), reason });
    }
    if found.kind() == FileType::CharacterDevice && found.stat.st_rdev == 0 {
        packer.add_entry(&Entry::new(beside(&[b".wh.", name].concat()), Kind::File, 0))?;
        return Ok(false);
    }
    packer.add(found, found.path)?;
    if found.kind() == FileType::Directory && is_opaque(found).map_err(|errno| found.failed(errno))? {
        packer.add_entry(&Entry::new([found.path, b"/.wh..wh..opq"].concat(), Kind::File, 0))?;
    }
    Ok(true)
}

/// An archive on its way from the thread that writes it.
fn packed() -> (PackOutput, PackSource) {
    let (to, from) = sync_channel(4);
    (PackOutput { to, buffer: Vec::with_capacity(BUFFER) }, PackSource { from, ended: false })
}

struct PackOutput {
    to: SyncSender<Option<Bytes>>,
    buffer: Vec<u8>,
}

impl PackOutput {
    fn send(&mut self, piece: Option<Bytes>) -> std::io::Result<()> {
        self.to.send(piece).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.flush()?;
        self.send(None)
    }
}

impl Write for PackOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER));
        self.send(Some(full.into()))
    }
}

struct PackSource {
    from: Receiver<Option<Bytes>>,
    ended: bool,
}

impl Source for PackSource {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let next = self.from.recv().map_err(|_| Error::Interrupted("packing a layer".into()))?;
        self.ended = next.is_none();
        Ok(next)
    }
}

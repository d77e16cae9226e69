//! Images out of an archive: Docker's (with `manifest.json`, or of before 2016 with `repositories` alone) or an OCI
//! layout, with several images, in any compression.
//!
//! The archive is read once and never kept: what looks like a layer is unpacked while it comes by, whatever its name,
//! what looks like a document is remembered, and at the end the documents tell what was what. Layers that no document
//! names are the next garbage collection's.

mod attestations;
mod documents;

use crate::compression::{Compression, MAGIC};
use crate::images::Inner;
use crate::layers::Stage;
use crate::pipeline::{self, BUFFER, Blob, Source};
use crate::state::Lease;
use crate::tar::{Entry, Kind, TarReader};
use crate::{Digest, Error, ImageId, Images, Phase, Platform, Progress, Reference, Result, tree};
use bytes::{Bytes, BytesMut};
use rustix::fd::AsFd as _;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

/// The most bytes of all documents, and of all names of layers and links, of an archive together.
const MAX_HELD: u64 = 64 << 20;
/// What it takes to remember a name, beside the name.
const REMEMBERED: u64 = 64;

/// An image that came out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// The image.
    pub id: ImageId,
    /// The names the archive gave it.
    pub names: Vec<Reference>,
}

impl Images {
    /// Takes in all images of an archive; those for `platform` only, where that is given.
    ///
    /// # Errors
    /// [`Error::BadArchive`] where it holds none, or not all of one; what the layers' unpacking refuses.
    pub async fn load(
        &self,
        archive: impl Read + Send + 'static,
        platform: Option<Platform>,
        progress: Progress,
    ) -> Result<Vec<LoadedImage>> {
        self.paced(move |inner| {
            let lease = inner.lease();
            let archive = crate::archive::decompressed(archive, "the archive")?;
            let mut reader = TarReader::new(BufReader::with_capacity(BUFFER, archive));
            let mut contents = Contents::default();
            while let Some(entry) = reader.next_entry()? {
                contents.take(inner, &mut reader, &entry, &lease, &progress)?;
            }
            let loaded = documents::images(inner, &contents, platform.as_ref(), &lease)?;
            attestations::take(inner, &contents, &loaded, &lease)?;
            for image in &loaded {
                let name = image.names.first().map_or_else(|| image.id.to_string(), Reference::familiar);
                progress.emit(&name, Phase::Loaded);
            }
            Ok(loaded)
        })
        .await
    }
}

/// A layer that came by.
#[derive(Clone, Debug)]
struct LoadedLayer {
    diff_id: Digest,
}

/// What an archive holds, by the (clean) path of it.
#[derive(Default)]
struct Contents {
    documents: HashMap<Vec<u8>, Vec<u8>>,
    /// Bytes of memory of all that is remembered here.
    held: u64,
    /// Layers, and why one could not be unpacked: that matters only if it belongs to an image.
    layers: HashMap<Vec<u8>, std::result::Result<LoadedLayer, Error>>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl Contents {
    /// The path, with links of the archive followed.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        let bad = || Error::BadArchive(format!("it refers to {:?}", String::from_utf8_lossy(path)));
        let clean = |path: &[u8]| tree::components(path).map(|names| names.join(&b'/')).map_err(|tree::Escape| bad());
        let mut at = clean(path)?;
        for _ in 0..8 {
            match self.links.get(&at) {
                Some(target) => at = clean(target)?,
                None => return Ok(at),
            }
        }
        Err(bad())
    }

    fn hold(&mut self, bytes: u64) -> Result<()> {
        self.held += bytes;
        match self.held > MAX_HELD {
            true => Err(Error::BadArchive(format!("its documents and names have more than {MAX_HELD} bytes"))),
            false => Ok(()),
        }
    }

    fn document(&self, path: &[u8]) -> Result<&[u8]> {
        let missing = || Error::BadArchive(format!("{} is missing", String::from_utf8_lossy(path)));
        self.documents.get(&self.resolve(path)?).map(Vec::as_slice).ok_or_else(missing)
    }

    fn layer(&self, path: &[u8]) -> Result<&LoadedLayer> {
        let name = String::from_utf8_lossy(path);
        match self.layers.get(&self.resolve(path)?) {
            Some(Ok(layer)) => Ok(layer),
            Some(Err(error)) => Err(Error::BadArchive(format!("layer {name}: {error}"))),
            None => Err(Error::BadArchive(format!("layer {name} is missing"))),
        }
    }

    fn take<R: BufRead>(
        &mut self,
        inner: &Arc<Inner>,
        reader: &mut TarReader<R>,
        entry: &Entry,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<()> {
        let Ok(path) = tree::components(&entry.path).map(|names| names.join(&b'/')) else { return Ok(()) };
        self.hold((path.len() + entry.link.len()) as u64 + REMEMBERED)?;
        match entry.kind {
            Kind::Symlink => {
                let target = [tree::split(&path).0, b"/", &entry.link].concat();
                let target = if entry.link.starts_with(b"/") { entry.link.clone() } else { target };
                self.links.insert(path, target);
                return Ok(());
            }
            Kind::HardLink => {
                self.links.insert(path, entry.link.clone());
                return Ok(());
            }
            Kind::File if entry.size > 0 && entry.extents.is_none() => {}
            _ => return Ok(()),
        }
        let named = blob_name(&path);
        if let Some(layer) = named.and_then(|digest| known_layer(inner, lease, &digest)) {
            progress.emit(&layer.diff_id.short(), Phase::AlreadyExists);
            self.layers.insert(path, Ok(layer));
            return Ok(());
        }
        if is_document(reader.fill()?, entry.size) {
            self.hold(entry.size)?;
            let document = reader.contents(MAX_HELD)?;
            if named.is_some_and(|digest| digest != Digest::of(&document)) {
                return Err(Error::BadArchive(format!("{} is not what its name says", entry.name())));
            }
            self.documents.insert(path, document);
            return Ok(());
        }
        let layer = unpack(inner, reader, entry, lease, progress);
        match layer {
            // Neither the archive nor the disk can be gone on with.
            Err(error @ (Error::NoSpace { .. } | Error::Io { .. } | Error::Commit(_))) => Err(error),
            layer => {
                self.layers.insert(path, layer);
                Ok(())
            }
        }
    }
}

/// The digest that names a blob of an OCI layout.
fn blob_name(path: &[u8]) -> Option<Digest> {
    let hex = path.strip_prefix(b"blobs/sha256/")?;
    Digest::from_hex(std::str::from_utf8(hex).ok()?).ok()
}

/// A layer that is here already, by its diff id or by a blob of it.
fn known_layer(inner: &Inner, lease: &Lease, digest: &Digest) -> Option<LoadedLayer> {
    let diff_id = inner.state.lock().layers.values().find_map(|layer| {
        let mine = layer.diff_id == *digest || layer.blobs.iter().any(|blob| blob.digest == *digest);
        mine.then_some(layer.diff_id)
    })?;
    lease.pin_if(&diff_id, |state| state.layers.get(&diff_id).map(|_| LoadedLayer { diff_id }))
}

/// Whether contents that begin so are a document: JSON, or too small for an archive.
fn is_document(first: &[u8], size: u64) -> bool {
    let compressed = Compression::of(&first[..first.len().min(MAGIC)]) != Compression::None;
    let json = first.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| matches!(b, b'{' | b'['));
    !compressed && size <= MAX_HELD && (json || size < 2 * crate::tar::BLOCK)
}

/// Unpacks the present entry as a layer.
fn unpack<R: BufRead>(
    inner: &Arc<Inner>,
    reader: &mut TarReader<R>,
    entry: &Entry,
    lease: &Lease,
    progress: &Progress,
) -> Result<LoadedLayer> {
    let id = match blob_name(&entry.path) {
        Some(digest) => digest.short(),
        None => String::from_utf8_lossy(&entry.path).chars().take(12).collect(),
    };
    let report = {
        let progress = progress.clone();
        Progress::new(move |event| match event.phase {
            Phase::Extracting { current, total } => progress.emit(&event.id, Phase::Loading { current, total }),
            phase => progress.emit(&event.id, phase),
        })
    };
    let stage = Stage::new(inner)?;
    let blob = Blob::Keep(inner.content.begin()?);
    let mut source = EntrySource { reader };
    let passed = pipeline::run(&mut source, blob, stage.fs().as_fd(), &inner.limits, &report, &id, entry.size)?;
    let came = passed.blob.as_ref().map(|blob| blob.digest);
    if let (Some(expected), Some(actual)) = (blob_name(&entry.path), came)
        && expected != actual
    {
        return Err(Error::DigestMismatch { what: entry.name(), expected, actual });
    }
    let layer = stage.commit(passed, None, lease)?;
    progress.emit(&id, Phase::PullComplete);
    Ok(LoadedLayer { diff_id: layer.diff_id })
}

/// The contents of an archive's entry, as a source.
struct EntrySource<'a, R> {
    reader: &'a mut TarReader<R>,
}

impl<R: BufRead> Source for EntrySource<'_, R> {
    fn next(&mut self) -> Result<Option<Bytes>> {
        let mut piece = BytesMut::with_capacity(BUFFER);
        while piece.len() < BUFFER {
            let taken = {
                let bytes = self.reader.fill()?;
                let taken = bytes.len().min(BUFFER - piece.len());
                piece.extend_from_slice(&bytes[..taken]);
                taken
            };
            if taken == 0 {
                break;
            }
            self.reader.consume(taken);
        }
        Ok((!piece.is_empty()).then(|| piece.freeze()))
    }
}

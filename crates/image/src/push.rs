//! What goes to a registry: manifests, and layers as gzip blobs.

use crate::compression::{Compression, read_full};
use crate::images::Inner;
use crate::record::{LayerBlob, LayerRecord};
use crate::state::Lease;
use crate::{Descriptor, Digest, Error, ImageId, Images, Manifest, Reference, Result, layers, media_type};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Uncompressed bytes of a gzip member.
const MEMBER: usize = 1 << 20;

/// zlib's level: a quarter larger than the default one makes it, in a third of the time.
const LEVEL: u32 = 3;

/// What a push sends.
#[derive(Clone, Debug)]
pub struct PushManifest {
    /// The manifest's bytes.
    pub manifest: Bytes,
    /// Its media type.
    pub media_type: String,
    /// The configuration; its bytes are a blob of the content store.
    pub config: Descriptor,
    /// The layers, bottom first; each is a blob of the content store.
    pub layers: Vec<PushLayer>,
}

/// A layer that a push sends.
#[derive(Clone, Debug)]
pub struct PushLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Its uncompressed digest.
    pub diff_id: Digest,
    /// Repositories (`domain/path`) known to have the blob.
    pub sources: Vec<String>,
}

impl Images {
    /// What to send to push the image: its manifest as it was pulled, where all its blobs are here, else one made of
    /// gzip blobs (compressed now, where only another form of a layer is here; kept for the next push).
    pub async fn manifest_for_push(&self, image: &ImageId) -> Result<PushManifest> {
        let id = *image;
        self.blocking(move |inner| {
            let lease = inner.lease();
            match pulled(inner, &id, &lease)? {
                Some(manifest) => Ok(manifest),
                None => made(inner, &id, &lease),
            }
        })
        .await
    }

    /// A layer as a gzip blob, compressed now, where it is not here yet; kept for the next time.
    pub async fn blob_for_push(&self, diff_id: &Digest) -> Result<Descriptor> {
        let diff_id = *diff_id;
        self.blocking(move |inner| {
            let lease = inner.lease();
            lease.pin(&diff_id);
            let layer = inner.state.lock().layers_of(&[diff_id])?.remove(0);
            let blob = gzip_blob(inner, &layer, &lease)?;
            Ok(Descriptor::new(media_type::DOCKER_LAYER_GZIP, blob.digest, blob.size))
        })
        .await
    }

    /// Notes, after a push, that the repository (`domain/path`) has the image's blobs, and gives the image the name
    /// with the digest of its manifest there.
    pub async fn note_pushed(&self, image: &ImageId, repository: &str, manifest: &Digest) -> Result<()> {
        let (id, digest) = (*image, *manifest);
        let name = Reference::parse(repository)?.with_digest(&digest.to_string())?;
        let repository = [repository.to_owned()];
        self.blocking(move |inner| {
            let lease = inner.lease();
            let as_it_came = pulled(inner, &id, &lease)?.filter(|pushed| Digest::of(&pushed.manifest) == digest);
            let pushed = as_it_came.map_or_else(|| made(inner, &id, &lease), Ok)?;
            for layer in &pushed.layers {
                layers::change(inner, &layer.diff_id, |record| {
                    record.note_sources(&layer.descriptor.digest, &repository)
                })?;
            }
            inner.add_name(&id, &name)
        })
        .await
    }
}

/// The manifest as it came, if everything it names is here.
fn pulled(inner: &Arc<Inner>, id: &ImageId, lease: &Lease) -> Result<Option<PushManifest>> {
    let image = inner.state.lock().image(id)?;
    let Some(descriptor) = &image.manifest else { return Ok(None) };
    if !inner.content.has(&descriptor.digest) {
        return Ok(None);
    }
    let bytes = inner.content.read(&descriptor.digest, crate::manifest::MAX_DOCUMENT)?;
    let manifest = Manifest::parse(&bytes)?;
    manifest.layers.iter().for_each(|layer| lease.pin(&layer.digest));
    if !manifest.layers.iter().all(|layer| inner.content.has(&layer.digest)) {
        return Ok(None);
    }
    let records = inner.state.lock().layers_of(&image.diff_ids)?;
    let layers = manifest.layers.into_iter().zip(records);
    Ok(Some(PushManifest {
        manifest: bytes.into(),
        media_type: descriptor.media_type.clone(),
        config: manifest.config,
        layers: layers.map(|(descriptor, record)| push_layer(descriptor, &record)).collect(),
    }))
}

/// A manifest of gzip blobs, in Docker's schema 2, which every registry takes.
fn made(inner: &Arc<Inner>, id: &ImageId, lease: &Lease) -> Result<PushManifest> {
    let records = {
        let state = inner.state.lock();
        state.layers_of(&state.image(id)?.diff_ids)?
    };
    let mut layers = Vec::new();
    for record in &records {
        let blob = gzip_blob(inner, record, lease)?;
        layers.push(push_layer(Descriptor::new(media_type::DOCKER_LAYER_GZIP, blob.digest, blob.size), record));
    }
    let size = inner.content.size(&id.0).ok_or(Error::BlobMissing(id.0))?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::DOCKER_MANIFEST.into()),
        config: Descriptor::new(media_type::DOCKER_CONFIG, id.0, size),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| Error::MalformedDocument { document: "manifest", reason: e.to_string() })?;
    Ok(PushManifest {
        manifest: bytes.into(),
        media_type: media_type::DOCKER_MANIFEST.into(),
        config: manifest.config,
        layers,
    })
}

pub(crate) fn push_layer(descriptor: Descriptor, record: &LayerRecord) -> PushLayer {
    let sources = record.sources.get(&descriptor.digest).cloned().unwrap_or_default();
    PushLayer { descriptor, diff_id: record.diff_id, sources }
}

/// A layer's gzip blob, made where it is missing.
pub(crate) fn gzip_blob(inner: &Arc<Inner>, layer: &LayerRecord, lease: &Lease) -> Result<LayerBlob> {
    layer.blobs.iter().for_each(|blob| lease.pin(&blob.digest));
    lease.pin(&layer.diff_id);
    let there = |blob: &&LayerBlob| blob.compression == Compression::Gzip && inner.content.has(&blob.digest);
    if let Some(blob) = layer.blobs.iter().find(there) {
        return Ok(*blob);
    }
    let mut tar = layers::open_tar(inner, layer)?;
    let mut file = inner.content.begin()?;
    compress(&mut tar, &mut |bytes| file.write(bytes))?;
    tar.verify()?;
    let sealed = file.seal()?;
    lease.pin(&sealed.digest);
    let blob = LayerBlob { digest: sealed.digest, size: sealed.size, compression: Compression::Gzip };
    sealed.file.sync_data().map_err(|e| Error::io(format!("writing blob {}", sealed.digest), e))?;
    sealed.publish()?;
    inner.content.sync_directory()?;
    layers::change(inner, &layer.diff_id, |record| {
        if record.blobs.iter().all(|known| known.digest != blob.digest) {
            record.blobs.push(blob);
        }
    })?;
    Ok(blob)
}

/// The way to a thread that compresses, and the way back.
type Lane = (SyncSender<Vec<u8>>, Receiver<std::io::Result<Vec<u8>>>);

/// Compresses a stream on all processors. The same bytes come out whatever their number: each mebibyte becomes a gzip
/// member of its own, and members in a row are one gzip file (RFC 1952, 2.2).
pub(crate) fn compress(input: &mut dyn std::io::Read, output: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = |e| Error::io("compressing a layer", e);
    std::thread::scope(|scope| {
        let mut lanes: Vec<Lane> = Vec::new();
        for _ in 0..workers {
            let (to_worker, from_us) = sync_channel::<Vec<u8>>(1);
            let (to_us, from_worker) = sync_channel(1);
            let thread = std::thread::Builder::new().name("layer-gzip".into());
            let work = move || {
                while let Ok(member) = from_us.recv() {
                    if to_us.send(gzip(&member)).is_err() {
                        break;
                    }
                }
            };
            thread.spawn_scoped(scope, work).map_err(failed)?;
            lanes.push((to_worker, from_worker));
        }
        let lost = || Error::Interrupted("compressing a layer".into());
        // Members go round the lanes, and come back in the same order.
        let (mut sent, mut taken, mut ended) = (0usize, 0usize, false);
        while !ended || taken < sent {
            if !ended && sent - taken < 2 * workers {
                let mut member = vec![0; MEMBER];
                let got = read_full(input, &mut member).map_err(failed)?;
                member.truncate(got);
                // An empty stream is one empty member.
                ended = got < MEMBER;
                if got > 0 || sent == 0 {
                    lanes[sent % workers].0.send(member).map_err(|_| lost())?;
                    sent += 1;
                }
            } else {
                let member = lanes[taken % workers].1.recv().map_err(|_| lost())?.map_err(failed)?;
                output(&member)?;
                taken += 1;
            }
        }
        Ok(())
    })
}

fn gzip(member: &[u8]) -> std::io::Result<Vec<u8>> {
    let output = Vec::with_capacity(member.len() / 2);
    // No name and no time in the header: they would be different bytes each time.
    let mut encoder = flate2::GzBuilder::new().write(output, flate2::Compression::new(LEVEL));
    encoder.write_all(member)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_was_compressed_is_read_and_is_the_same_each_time() {
        for size in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, 7 * MEMBER + 5] {
            let text: Vec<u8> = (0..size).map(|i| (i / 7 % 251) as u8).collect();
            let packed = || {
                let mut packed = Vec::new();
                compress(&mut &text[..], &mut |bytes| {
                    packed.extend_from_slice(bytes);
                    Ok(())
                })
                .unwrap();
                packed
            };
            let mut unpacked = Vec::new();
            flate2::read::MultiGzDecoder::new(&packed()[..]).read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == text && packed() == packed(), "{size}");
        }
    }
}

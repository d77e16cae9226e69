//! How an image comes in from a registry.

use crate::content::{BlobFile, Content};
use crate::images::Inner;
use crate::layers::{self, Stage};
use crate::manifest::MAX_DOCUMENT;
use crate::naming::NewImage;
use crate::pipeline::{self, Blob, Passed, ReadSource, Source};
use crate::record::{ImageRecord, LayerBlob};
use crate::state::Lease;
use crate::{
    Compression, Descriptor, Digest, Error, ImageConfig, ImageId, Images, Manifest, Progress, Reference, Result,
};
use bytes::Bytes;
use rustix::fd::AsFd as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Pieces that wait to be unpacked. A registry's are 8 to 64 KiB each.
const QUEUE: usize = 32;

/// An image on its way in. What it brought in, and what it found there already, is not collected as garbage while it
/// lives; a drop before [`ImageIngest::finish`] leaves complete layers to the next attempt or the next collection.
pub struct ImageIngest {
    images: Images,
    lease: Arc<Lease>,
    sources: parking_lot::Mutex<BTreeMap<Digest, Vec<String>>>,
}

/// What completes an image.
#[derive(Clone, Debug)]
pub struct FinishImage {
    /// The image's own manifest (not the index), as it came.
    pub manifest: Bytes,
    /// The manifest's media type.
    pub manifest_media_type: String,
    /// The configuration, as it came. Verified against the manifest.
    pub config: Bytes,
    /// The name and tag to give it; `None` where it was asked for by digest.
    pub tag: Option<Reference>,
    /// The name and digest it was found under (of the index, where it came through one).
    pub repo_digest: Option<Reference>,
}

impl ImageIngest {
    pub(crate) fn new(images: Images) -> ImageIngest {
        let lease = Arc::new(images.0.lease());
        ImageIngest { images, lease, sources: parking_lot::Mutex::default() }
    }

    /// Whether the layer is there, unpacked; it stays while this ingest lives.
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.lease.pin_if(diff_id, |state| state.layers.get(diff_id).map(drop)).is_some()
    }

    /// Whether the blob is there; it stays while this ingest lives.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        // Held first: what is there then is there to stay.
        self.lease.pin(digest);
        self.images.0.content.has(digest)
    }

    /// Notes that the repository (`domain/path`) has the blob, so that a push can ask its registry to mount it.
    pub fn note_source(&self, blob: &Digest, repository: &str) {
        self.sources.lock().entry(*blob).or_default().push(repository.to_owned());
    }

    /// Takes in a blob that is no layer. Begins where an earlier attempt ended: see [`BlobSink::resume_offset`].
    pub async fn ingest_blob(&self, descriptor: &Descriptor) -> Result<BlobSink> {
        self.lease.pin(&descriptor.digest);
        let (descriptor, lease) = (descriptor.clone(), Arc::clone(&self.lease));
        let open = self.images.blocking(move |inner| {
            let mut file = inner.content.resume(&descriptor)?;
            let mut buffer = vec![0; pipeline::BUFFER];
            while file.resumed() > 0 && file.replay(&mut buffer)? > 0 {}
            Ok(file)
        });
        let file = open.await?;
        Ok(BlobSink { images: self.images.clone(), resumed: file.resumed(), file: Some(file), _lease: lease })
    }

    /// Takes in a layer: its blob is hashed, decompressed, hashed and unpacked while it comes. Begins where an earlier
    /// attempt ended: see [`LayerSink::resume_offset`]. Events of unpacking go to `progress`.
    pub async fn unpack_layer(
        &self,
        descriptor: &Descriptor,
        diff_id: &Digest,
        progress: Progress,
    ) -> Result<LayerSink> {
        self.lease.pin(&descriptor.digest);
        self.lease.pin(diff_id);
        let wanted = descriptor.clone();
        let origin = move |inner: &Arc<Inner>| match inner.content.size(&wanted.digest) {
            Some(size) if size == wanted.size => inner.content.open_blob(&wanted.digest, 0).map(Origin::Stored),
            _ => inner.content.resume(&wanted).map(|file| Origin::Fetched(Box::new(file))),
        };
        let origin = self.images.blocking(origin).await?;
        let (feed, source) = mpsc::channel(QUEUE);
        let (tell, done) = oneshot::channel();
        let resumed = match &origin {
            Origin::Fetched(file) => file.resumed(),
            Origin::Stored(_) => descriptor.size,
        };
        let job = LayerJob {
            inner: Arc::clone(&self.images.0),
            lease: Arc::clone(&self.lease),
            descriptor: descriptor.clone(),
            diff_id: *diff_id,
            progress,
        };
        let thread = std::thread::Builder::new().name("layer".into());
        let work = move || drop(tell.send(job.run(source, origin)));
        thread.spawn(work).map_err(|e| Error::io("starting a thread for a layer", e))?;
        Ok(LayerSink { feed, done, resumed })
    }

    /// Makes the image visible, durably. All its layers must be there.
    pub async fn finish(self, image: FinishImage) -> Result<ImageId> {
        let manifest = Manifest::parse(&image.manifest)?;
        let config = ImageConfig::parse(&image.config)?;
        let id = ImageId(Digest::of(&image.config));
        if id.0 != manifest.config.digest {
            let what = "image configuration".into();
            return Err(Error::DigestMismatch { what, expected: manifest.config.digest, actual: id.0 });
        }
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            let reason = format!(
                "it has {} layers, but its configuration has {}",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            );
            return Err(Error::MalformedDocument { document: "manifest", reason });
        }
        for digest in &config.rootfs.diff_ids {
            self.lease.pin(digest);
        }
        self.lease.pin(&id.0);
        let manifest_digest = Digest::of(&image.manifest);
        self.lease.pin(&manifest_digest);
        let descriptor =
            Descriptor::new(image.manifest_media_type.clone(), manifest_digest, image.manifest.len() as u64);
        let sources = std::mem::take(&mut *self.sources.lock());
        let names: Vec<Reference> = image.tag.into_iter().chain(image.repo_digest).collect();
        let work = move |inner: &Arc<Inner>| {
            inner.content.put(&image.manifest)?;
            for (diff_id, layer) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
                let Some(known) = sources.get(&layer.digest) else { continue };
                layers::change(inner, diff_id, |record| record.note_sources(&layer.digest, known))?;
            }
            let new = NewImage {
                config_json: &image.config,
                config: &config,
                parent: None,
                manifest: Some(descriptor),
                names: &names,
                by_hand: false,
                now: false,
            };
            inner.add_image(new).map(|record: Arc<ImageRecord>| record.id)
        };
        self.images.blocking(work).await
    }
}

/// What a thread needs to bring in a layer.
struct LayerJob {
    inner: Arc<Inner>,
    lease: Arc<Lease>,
    descriptor: Descriptor,
    diff_id: Digest,
    progress: Progress,
}

/// Where a layer's blob is.
enum Origin {
    /// With whoever feeds the sink, but for what an earlier attempt left.
    Fetched(Box<BlobFile>),
    /// In the content store already; its unpacked form is missing.
    Stored(std::fs::File),
}

impl LayerJob {
    fn run(self, queue: mpsc::Receiver<Feed>, origin: Origin) -> Result<()> {
        let id = self.descriptor.digest.short();
        let stage = Stage::new(&self.inner)?;
        let (fs, total) = (stage.fs().as_fd(), self.descriptor.size);
        let through = |source: &mut dyn Source, blob| {
            let passed = pipeline::run(source, blob, fs, &self.inner.limits, &self.progress, &id, total)?;
            check_diff_id(&passed, &self.diff_id, &id).map(|()| passed)
        };
        let (passed, stored) = match origin {
            Origin::Fetched(file) => {
                let mut source = FeedSource { queue, ended: false, what: id.clone() };
                (through(&mut source, Blob::Keep(*file))?, None)
            }
            Origin::Stored(mut file) => {
                let passed = through(&mut ReadSource::new(&mut file, "a blob"), Blob::Stored);
                if passed.is_err() {
                    // It cannot be what it was: the next attempt fetches it.
                    self.inner.reaper.discard(&self.inner.content.path(&self.descriptor.digest))?;
                }
                let blob = LayerBlob { digest: self.descriptor.digest, size: total, compression: Compression::None };
                (passed?, Some(blob))
            }
        };
        stage.commit(passed, stored, &self.lease).map(drop)
    }
}

/// Refuses a layer that is not the one the image's configuration names.
pub(crate) fn check_diff_id(passed: &Passed, expected: &Digest, id: &str) -> Result<()> {
    if passed.diff_id == *expected {
        return Ok(());
    }
    let what = format!("layer {id}, uncompressed");
    Err(Error::DigestMismatch { what, expected: *expected, actual: passed.diff_id })
}

/// What goes to a layer's thread. A queue that closes without an end was given up.
enum Feed {
    Bytes(Bytes),
    End,
}

struct FeedSource {
    queue: mpsc::Receiver<Feed>,
    ended: bool,
    what: String,
}

impl Source for FeedSource {
    fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.queue.blocking_recv() {
                _ if self.ended => return Ok(None),
                Some(Feed::Bytes(bytes)) if bytes.is_empty() => {}
                Some(Feed::Bytes(bytes)) => return Ok(Some(bytes)),
                Some(Feed::End) => {
                    self.ended = true;
                    return Ok(None);
                }
                None => return Err(Error::Interrupted(format!("fetching layer {}", self.what))),
            }
        }
    }
}

/// Takes the bytes of a blob.
pub struct BlobSink {
    images: Images,
    file: Option<BlobFile>,
    resumed: u64,
    _lease: Arc<Lease>,
}

impl BlobSink {
    /// How many bytes are there already: the first byte to write is the one at this offset. Constant.
    pub fn resume_offset(&self) -> u64 {
        self.resumed
    }

    /// Takes the next bytes. An error is final.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut file = self.file.take().ok_or_else(|| Error::Interrupted("writing a blob".into()))?;
        let written = self.images.blocking(move |_| file.write(&bytes).map(|()| file)).await?;
        self.file = Some(written);
        Ok(())
    }

    /// Verifies size and digest and makes the blob visible. After a drop without this, a later attempt may resume.
    pub async fn finish(mut self) -> Result<()> {
        let file = self.file.take().ok_or_else(|| Error::Interrupted("writing a blob".into()))?;
        self.images.blocking(move |inner| publish(&inner.content, file)).await
    }
}

fn publish(content: &Content, file: BlobFile) -> Result<()> {
    let sealed = file.seal()?;
    sealed.file.sync_data().map_err(|e| Error::io(format!("writing blob {}", sealed.digest), e))?;
    sealed.publish()?;
    content.sync_directory()
}

/// Takes the bytes of a layer's blob.
pub struct LayerSink {
    feed: mpsc::Sender<Feed>,
    done: oneshot::Receiver<Result<()>>,
    resumed: u64,
}

impl LayerSink {
    /// How many bytes are there already: the first byte to write is the one at this offset. Constant.
    pub fn resume_offset(&self) -> u64 {
        self.resumed
    }

    /// Takes the next bytes; waits while those before are still being unpacked. An error is final.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        match self.feed.send(Feed::Bytes(bytes)).await {
            Ok(()) => Ok(()),
            // The thread has ended before its time, and says why.
            Err(_) => match (&mut self.done).await {
                Ok(Err(error)) => Err(error),
                _ => Err(Error::Interrupted("unpacking a layer".into())),
            },
        }
    }

    /// Verifies size, digest and diff id, and makes the layer visible, durably. After a drop without this, a later
    /// attempt may resume the download.
    pub async fn finish(self) -> Result<()> {
        // A thread that has ended already has something to say as well.
        let _ = self.feed.send(Feed::End).await;
        self.done.await.unwrap_or_else(|_| Err(Error::Interrupted("unpacking a layer".into())))
    }
}

/// Reads a blob in pieces.
pub struct BlobReader {
    images: Images,
    digest: Digest,
    size: u64,
    offset: u64,
    file: Arc<std::fs::File>,
    _lease: Lease,
}

impl Images {
    /// Reads a blob from `offset` on. It stays while the reader lives.
    pub async fn open_blob(&self, digest: &Digest, offset: u64) -> Result<BlobReader> {
        let lease = self.0.lease();
        lease.pin(digest);
        let wanted = *digest;
        let file = self.blocking(move |inner| inner.content.open_blob(&wanted, 0)).await?;
        let size = file.metadata().map_err(|e| Error::io(format!("reading blob {digest}"), e))?.len();
        let file = Arc::new(file);
        Ok(BlobReader { images: self.clone(), digest: *digest, size, offset, file, _lease: lease })
    }

    /// A whole small blob: a manifest or a configuration (4 MiB at most).
    pub async fn read_blob(&self, digest: &Digest) -> Result<Bytes> {
        let digest = *digest;
        self.blocking(move |inner| inner.content.read(&digest, MAX_DOCUMENT).map(Bytes::from)).await
    }
}

impl BlobReader {
    /// The blob's size in bytes, from its beginning.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece (up to 256 KiB); `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let (file, offset, digest) = (Arc::clone(&self.file), self.offset, self.digest);
        let read = self.images.blocking(move |_| {
            let mut buffer = bytes::BytesMut::zeroed(pipeline::BUFFER);
            let got = std::os::unix::fs::FileExt::read_at(&*file, &mut buffer, offset);
            let got = got.map_err(|e| Error::io(format!("reading blob {digest}"), e))?;
            buffer.truncate(got);
            Ok(buffer.freeze())
        });
        let bytes = read.await?;
        self.offset += bytes.len() as u64;
        Ok((!bytes.is_empty()).then_some(bytes))
    }
}

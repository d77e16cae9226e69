//! A layer on its way: one stream, and everything that is done to it at the same time.
//!
//! ```text
//! source ─▶ hash, write the blob ─▶ decompress ─┬─▶ hash (diff id)
//!  (caller's thread)                 (thread)   ├─▶ unpack        (a thread each)
//!                                               └─▶ compress, hash, write the blob (where the source is no blob)
//! ```
//! A source that is not compressed is hashed once, as both digests are the same.
//! Buffers of 256 KiB travel through short queues; nothing is copied from one to another, and nothing is written but
//! the blob and the files. The slowest step sets the pace, and the queues bound the memory.

use crate::compression::{Compression, MAGIC, read_full};
use crate::content::{BlobFile, Hashed, SealedBlob};
use crate::images::UnpackLimits;
use crate::unpack::{self, Unpacked};
use crate::{Digest, Error, Hasher, Phase, Progress, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::fd::BorrowedFd;
use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Bytes of a buffer.
pub(crate) const BUFFER: usize = 256 << 10;

/// Buffers that wait in a queue.
const QUEUE: usize = 6;

/// zstd's level for blobs that are made here: the fastest that still makes less than half of a root file system.
const ZSTD_LEVEL: i32 = 1;

/// Bytes between two events.
const PROGRESS_STEP: u64 = 512 << 10;

/// Where a layer's bytes come from.
pub(crate) trait Source {
    /// The next bytes; `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>>;
}

/// Bytes of a reader.
pub(crate) struct ReadSource<'a> {
    input: &'a mut dyn Read,
    what: &'a str,
    pool: Pool,
}

impl<'a> ReadSource<'a> {
    pub(crate) fn new(input: &'a mut dyn Read, what: &'a str) -> ReadSource<'a> {
        ReadSource { input, what, pool: Pool::default() }
    }
}

impl Source for ReadSource<'_> {
    fn next(&mut self) -> Result<Option<Bytes>> {
        let mut buffer = self.pool.take();
        let got = read_full(self.input, &mut buffer).map_err(|e| Error::io(format!("reading {}", self.what), e))?;
        buffer.truncate(got);
        Ok((got > 0).then(|| buffer.freeze()))
    }
}

/// What becomes of the stream besides being unpacked.
pub(crate) enum Blob {
    /// The source is a blob that is kept as it comes.
    Keep(BlobFile),
    /// The source is a blob that is in the content store already.
    Stored,
    /// The source is an uncompressed archive, of which a compressed blob is made.
    Make(BlobFile),
}

/// A layer that went through, in a directory that nobody sees yet.
#[derive(Debug)]
pub(crate) struct Passed {
    /// The blob; `None` where it was in the content store before.
    pub(crate) blob: Option<SealedBlob>,
    /// The compression of the blob, kept, stored or made.
    pub(crate) compression: Compression,
    pub(crate) diff_id: Digest,
    /// Uncompressed bytes.
    pub(crate) tar_size: u64,
    pub(crate) unpacked: Unpacked,
}

/// Sends a layer through. `id` names it in events.
pub(crate) fn run(
    source: &mut dyn Source,
    blob: Blob,
    into: BorrowedFd<'_>,
    limits: &UnpackLimits,
    progress: &Progress,
    id: &str,
    total: u64,
) -> Result<Passed> {
    let packed = AtomicU64::new(0);
    let pool = &Pool::default();
    let (kept, made) = match blob {
        Blob::Keep(file) => (Some(file), None),
        Blob::Make(file) => (None, Some(file)),
        Blob::Stored => (None, None),
    };
    thread::scope(|scope| {
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        let no_thread = |e| Error::io("starting a thread for a layer", e);
        let (to_unpack, unpack_from) = sync_channel(QUEUE);
        let (to_hash, hash_from) = sync_channel(QUEUE);
        let (to_decode, decode_from) = sync_channel(QUEUE);
        let unpacker = spawn("layer-unpack").spawn_scoped(scope, || {
            let options = unpack::Options::of_layer(limits, Some(&packed));
            unpack::unpack_here(into, Chunks::new(unpack_from, Some(pool), None), &options)
        });
        let hasher = spawn("layer-hash").spawn_scoped(scope, move || {
            let mut hasher = Hasher::new();
            while let Ok(bytes) = hash_from.recv() {
                let bytes: Bytes = bytes;
                hasher.update(&bytes);
                pool.give(bytes);
            }
            (hasher.size(), hasher.finish())
        });
        let mut outputs = vec![to_unpack, to_hash];
        let maker = made.map(|file| {
            let (to_make, make_from) = sync_channel(QUEUE);
            outputs.push(to_make);
            spawn("layer-compress").spawn_scoped(scope, move || make_blob(make_from, file, pool))
        });
        let packed = &packed;
        let report = Report { progress, id, total };
        let decoder = spawn("layer-decode")
            .spawn_scoped(scope, move || decode(Chunks::new(decode_from, None, Some(packed)), &outputs, pool, &report));
        // Once a thread is missing, the others see their queues closed, and end.
        let fed = if unpacker.is_ok() && hasher.is_ok() && decoder.is_ok() {
            feed(source, kept, &to_decode)
        } else {
            Ok(None)
        };
        drop(to_decode);
        let lost = || Error::Interrupted("unpacking a layer".into());
        let decoded = decoder.map_err(no_thread)?.join().map_err(|_| lost())?;
        let unpacked = unpacker.map_err(no_thread)?.join().map_err(|_| lost())?;
        let (tar_size, diff_id) = hasher.map_err(no_thread)?.join().map_err(|_| lost())?;
        let made = maker.transpose().map_err(no_thread)?.map(|maker| maker.join().map_err(|_| lost())).transpose()?;
        // The first in the stream that failed is the cause of what those behind it saw.
        let mut kept = fed?;
        let refused = [decoded.as_ref().err(), unpacked.as_ref().err()].into_iter().flatten().any(|e| !e.is_no_space());
        if refused {
            // It came whole and is wrong, be it in its last bytes: taken up again, it would be wrong again.
            kept.iter_mut().for_each(BlobFile::spoil);
        }
        let compression = decoded?;
        let made = made.transpose()?;
        let unpacked = unpacked?;
        let compression = if made.is_some() { Compression::Zstd } else { compression };
        let blob = match (kept, made) {
            (Some(kept), _) => Some(kept.seal_as(Some(Hashed { size: tar_size, digest: diff_id }))?),
            (None, made) => made,
        };
        Ok(Passed { blob, compression, diff_id, tar_size, unpacked })
    })
}

/// Brings the source's bytes into the blob's file and to the decoder. Ends early when that one wants no more.
fn feed(source: &mut dyn Source, mut kept: Option<BlobFile>, out: &SyncSender<Bytes>) -> Result<Option<BlobFile>> {
    if let Some(file) = &mut kept {
        while file.resumed() > 0 {
            let mut buffer = BytesMut::zeroed(BUFFER);
            let got = file.replay(&mut buffer)?;
            buffer.truncate(got);
            if got == 0 {
                break;
            }
            if out.send(buffer.freeze()).is_err() {
                file.spoil();
                return Ok(kept);
            }
        }
    }
    let mut first = true;
    while let Some(bytes) = source.next()? {
        if let Some(file) = &mut kept {
            // The blob of an uncompressed layer is what the layer's own digest is of: it is hashed once.
            if std::mem::take(&mut first) && bytes.len() >= MAGIC && Compression::of(&bytes) == Compression::None {
                file.hash_downstream();
            }
            file.write(&bytes)?;
        }
        if out.send(bytes).is_err() {
            // The contents are refused: to fetch the same again would end the same way.
            kept.iter_mut().for_each(BlobFile::spoil);
            break;
        }
    }
    Ok(kept)
}

/// Whom to tell how far a layer is.
struct Report<'a> {
    progress: &'a Progress,
    id: &'a str,
    total: u64,
}

/// Decompresses, and hands every buffer to all who want it.
fn decode(
    mut input: Chunks<'_>,
    outputs: &[SyncSender<Bytes>],
    pool: &Pool,
    report: &Report<'_>,
) -> Result<Compression> {
    let failed = |e: io::Error| match e.downcast::<Error>() {
        Ok(ours) => ours,
        Err(e) => Error::Decompress { what: format!("layer {}", report.id), reason: e.to_string() },
    };
    let compression = Compression::of(input.peek(MAGIC));
    let Some(taken) = input.taken else { return Ok(compression) };
    let mut told = 0;
    let mut tell = || {
        let current = taken.load(Ordering::Relaxed);
        if current >= told + PROGRESS_STEP {
            told = current;
            report.progress.emit(report.id, Phase::Extracting { current, total: report.total });
        }
    };
    let hand_out = |bytes: Bytes| outputs.iter().all(|output| output.send(bytes.clone()).is_ok());
    if compression == Compression::None {
        while let Some(bytes) = input.whole_buffer() {
            if !hand_out(bytes) {
                return Ok(compression);
            }
            tell();
        }
    } else {
        let mut decoder = compression.decoder(input).map_err(failed)?;
        loop {
            let mut buffer = pool.take();
            let got = read_full(&mut decoder, &mut buffer).map_err(failed)?;
            buffer.truncate(got);
            if got == 0 || !hand_out(buffer.freeze()) {
                return Ok(compression);
            }
            tell();
        }
    }
    let current = taken.load(Ordering::Relaxed);
    report.progress.emit(report.id, Phase::Extracting { current, total: report.total.max(current) });
    Ok(compression)
}

/// Makes a compressed blob of an uncompressed archive.
fn make_blob(input: Receiver<Bytes>, file: BlobFile, pool: &Pool) -> Result<SealedBlob> {
    struct Into(BlobFile);
    impl Write for Into {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let failed = |e| Error::io("compressing a layer", e);
    let mut encoder = zstd::stream::write::Encoder::new(Into(file), ZSTD_LEVEL).map_err(failed)?;
    while let Ok(bytes) = input.recv() {
        encoder.write_all(&bytes).map_err(failed)?;
        pool.give(bytes);
    }
    encoder.finish().map_err(failed)?.0.seal()
}

/// Buffers that were used and can be used again.
#[derive(Default)]
struct Pool(Mutex<Vec<BytesMut>>);

impl Pool {
    fn take(&self) -> BytesMut {
        let mut buffer = self.0.lock().pop().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        buffer
    }

    /// Keeps the buffer, if nobody else still reads it.
    fn give(&self, bytes: Bytes) {
        if let Ok(buffer) = bytes.try_into_mut()
            && buffer.capacity() >= BUFFER
        {
            let mut kept = self.0.lock();
            if kept.len() < 2 * QUEUE {
                kept.push(buffer);
            }
        }
    }
}

/// Buffers of a queue as one stream. Ends when the queue is closed.
struct Chunks<'a> {
    queue: Receiver<Bytes>,
    present: Bytes,
    /// The buffer as it came, to be given back whole.
    whole: Bytes,
    pool: Option<&'a Pool>,
    /// Counts what was taken.
    taken: Option<&'a AtomicU64>,
}

impl<'a> Chunks<'a> {
    fn new(queue: Receiver<Bytes>, pool: Option<&'a Pool>, taken: Option<&'a AtomicU64>) -> Chunks<'a> {
        Chunks { queue, present: Bytes::new(), whole: Bytes::new(), pool, taken }
    }

    /// Looks at the first bytes, joining buffers until there are enough.
    fn peek(&mut self, wanted: usize) -> &[u8] {
        while self.present.len() < wanted {
            let Ok(more) = self.queue.recv() else { break };
            if self.present.is_empty() {
                self.present = more;
            } else {
                self.present = [&self.present[..], &more[..]].concat().into();
            }
        }
        &self.present
    }

    /// The next buffer, whole.
    fn whole_buffer(&mut self) -> Option<Bytes> {
        let bytes = if self.present.is_empty() { self.queue.recv().ok()? } else { std::mem::take(&mut self.present) };
        self.count(bytes.len());
        Some(bytes)
    }

    fn count(&self, bytes: usize) {
        if let Some(taken) = self.taken {
            taken.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl BufRead for Chunks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.present.is_empty() {
            self.present = Bytes::new();
            let used = std::mem::take(&mut self.whole);
            if let Some(pool) = self.pool {
                pool.give(used);
            }
            match self.queue.recv() {
                Ok(bytes) => {
                    if self.pool.is_some() {
                        self.whole = bytes.clone();
                    }
                    self.present = bytes;
                }
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.present)
    }

    fn consume(&mut self, bytes: usize) {
        self.present.advance(bytes);
        self.count(bytes);
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let at_hand = self.fill_buf()?;
        let taken = at_hand.len().min(into.len());
        into[..taken].copy_from_slice(&at_hand[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}

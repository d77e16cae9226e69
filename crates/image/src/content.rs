//! The content store: blobs, each in a file named by its digest.
//!
//! ```text
//! blobs/sha256/<hex>    whole, verified, and on the disk before its name is
//! ingest/<hex>.part     coming in; what is there survives an interruption, to be resumed
//! ingest/<number>.new   coming in, digest not known before; does not survive
//! ```

use crate::{Descriptor, Digest, Error, Hasher, Result};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How long a partial blob waits to be resumed, before the garbage collection takes it.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Bytes of a blob after which the disk is asked to begin with them.
const WRITE_BEHIND: u64 = 8 << 20;

/// Blobs below a directory.
#[derive(Debug)]
pub(crate) struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
    /// Partial blobs that somebody is writing.
    busy: Mutex<HashSet<Digest>>,
    next: AtomicU64,
}

impl Content {
    /// Opens the store, and removes what an end in the middle of something left and nobody can resume.
    pub(crate) fn open(root: &Path) -> Result<Content> {
        let (blobs, ingest) = (root.join("blobs/sha256"), root.join("ingest"));
        for dir in [&blobs, &ingest] {
            fs::create_dir_all(dir).map_err(|e| Error::io(format!("making {}", dir.display()), e))?;
        }
        for entry in list(&ingest)? {
            if !entry.file_name().as_encoded_bytes().ends_with(b".part") {
                remove_file(&entry.path())?;
            }
        }
        Ok(Content { blobs, ingest, busy: Mutex::default(), next: AtomicU64::new(0) })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// The blob's size in bytes, if it is there.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::symlink_metadata(self.path(digest)).ok().filter(fs::Metadata::is_file).map(|meta| meta.len())
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    /// Opens a blob at an offset.
    pub(crate) fn open_blob(&self, digest: &Digest, offset: u64) -> Result<File> {
        let mut file = match File::open(self.path(digest)) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::BlobMissing(*digest)),
            Err(e) => return Err(Error::io(format!("opening blob {digest}"), e)),
        };
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io(format!("reading blob {digest}"), e))?;
        }
        Ok(file)
    }

    /// A whole blob, if it has no more than `limit` bytes.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open_blob(digest, 0)?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(format!("reading blob {digest}"), e))?;
        if bytes.len() as u64 > limit {
            let what = format!("blob {digest}");
            return Err(Error::SizeMismatch { what, expected: limit, actual: bytes.len() as u64 });
        }
        Ok(bytes)
    }

    /// Begins a blob that is known before: where an earlier attempt ended, unless somebody else is at it.
    pub(crate) fn resume(self: &Arc<Content>, descriptor: &Descriptor) -> Result<BlobFile> {
        let digest = descriptor.digest;
        if !self.busy.lock().insert(digest) {
            let mut blob = self.begin()?;
            blob.expected = Some((digest, descriptor.size));
            return Ok(blob);
        }
        let path = self.ingest.join(format!("{}.part", digest.hex()));
        let mut blob = BlobFile::open(self, path, Some(digest))?;
        blob.expected = Some((digest, descriptor.size));
        blob.resumed = blob.file.metadata().map_err(|e| blob.failed(e))?.len();
        if blob.resumed > descriptor.size {
            blob.file.set_len(0).map_err(|e| blob.failed(e))?;
            blob.resumed = 0;
        }
        Ok(blob)
    }

    /// Begins a blob whose digest its bytes will tell.
    pub(crate) fn begin(self: &Arc<Content>) -> Result<BlobFile> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        BlobFile::open(self, self.ingest.join(format!("{number}.new")), None)
    }

    /// Takes in a small blob whole: verified, synced, visible.
    pub(crate) fn put(self: &Arc<Content>, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.has(&digest) {
            return Ok(digest);
        }
        let mut blob = self.begin()?;
        blob.write(bytes)?;
        let sealed = blob.seal()?;
        sealed.file.sync_data().map_err(|e| Error::io(format!("writing blob {digest}"), e))?;
        sealed.publish()?;
        self.sync_directory()?;
        Ok(digest)
    }

    /// Makes names of blobs durable.
    pub(crate) fn sync_directory(&self) -> Result<()> {
        let sync = || File::open(&self.blobs)?.sync_all();
        sync().map_err(|e| Error::io(format!("syncing {}", self.blobs.display()), e))
    }

    /// Every blob and its size.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let mut all = Vec::new();
        for entry in list(&self.blobs)? {
            let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) else {
                continue;
            };
            if let Some(size) = self.size(&digest) {
                all.push((digest, size));
            }
        }
        Ok(all)
    }

    /// Removes partial blobs that nobody came back for, or all that nobody writes; the bytes they had.
    pub(crate) fn remove_partial(&self, all: bool) -> Result<u64> {
        let mut freed = 0;
        for entry in list(&self.ingest)? {
            let name = entry.file_name();
            let Some(hex) = name.to_str().and_then(|n| n.strip_suffix(".part")) else { continue };
            let Ok(digest) = Digest::from_hex(hex) else { continue };
            // Held while the file goes, so that nobody resumes it meanwhile.
            let busy = self.busy.lock();
            let Ok(meta) = entry.metadata() else { continue };
            let old = meta
                .modified()
                .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > PARTIAL_KEPT));
            if !busy.contains(&digest) && (all || old) {
                freed += meta.len();
                remove_file(&entry.path())?;
            }
        }
        Ok(freed)
    }
}

pub(crate) fn list(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect);
    entries.map_err(|e| Error::io(format!("listing {}", dir.display()), e))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format!("removing {}", path.display()), e)),
        _ => Ok(()),
    }
}

/// What was hashed by others than who wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashed {
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// Who hashes a blob.
#[derive(Debug)]
enum Hashing {
    /// Whoever writes it.
    Here(Hasher),
    /// Whoever reads the same bytes further on; so many were written.
    Downstream { written: u64 },
}

impl Hashing {
    /// Bytes that were seen.
    fn size(&self) -> u64 {
        match self {
            Hashing::Here(hasher) => hasher.size(),
            Hashing::Downstream { written } => *written,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hashing::Here(hasher) => hasher.update(bytes),
            Hashing::Downstream { written } => *written += bytes.len() as u64,
        }
    }
}

/// A blob coming in.
#[derive(Debug)]
pub(crate) struct BlobFile {
    content: Arc<Content>,
    file: File,
    path: PathBuf,
    /// The digest under which it counts as busy, and under which it can be resumed.
    claim: Option<Digest>,
    expected: Option<(Digest, u64)>,
    hashing: Hashing,
    resumed: u64,
    /// How far the disk was asked to begin.
    begun: u64,
    /// Whether what is there is worth nothing to a later attempt.
    spoilt: bool,
    published: bool,
}

impl BlobFile {
    fn open(content: &Arc<Content>, path: PathBuf, claim: Option<Digest>) -> Result<BlobFile> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = file.map_err(|e| {
            if let Some(digest) = claim {
                content.busy.lock().remove(&digest);
            }
            Error::io(format!("making {}", path.display()), e)
        })?;
        Ok(BlobFile {
            content: Arc::clone(content),
            file,
            path,
            claim,
            expected: None,
            hashing: Hashing::Here(Hasher::new()),
            resumed: 0,
            begun: 0,
            spoilt: false,
            published: false,
        })
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(format!("writing {}", self.path.display()), e)
    }

    /// What it is, for people.
    pub(crate) fn what(&self) -> String {
        match self.expected {
            Some((digest, _)) => format!("blob {}", digest.short()),
            None => "a new blob".into(),
        }
    }

    /// Bytes that an earlier attempt left. They are to be given to [`BlobFile::replay`] before anything is written.
    pub(crate) fn resumed(&self) -> u64 {
        self.resumed
    }

    /// The next bytes that an earlier attempt left, hashed; 0 when all were seen.
    pub(crate) fn replay(&mut self, into: &mut [u8]) -> Result<usize> {
        let seen = self.hashing.size();
        let rest = usize::try_from(self.resumed - seen).unwrap_or(usize::MAX).min(into.len());
        let read = std::os::unix::fs::FileExt::read_at(&self.file, &mut into[..rest], seen);
        let read = read.map_err(|e| self.failed(e))?;
        if read == 0 && rest > 0 {
            self.spoilt = true;
            return Err(Error::Interrupted(self.what()));
        }
        self.hashing.update(&into[..read]);
        Ok(read)
    }

    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        debug_assert!(self.hashing.size() >= self.resumed, "what was resumed is hashed first");
        if let Some((_, expected)) = self.expected {
            let actual = self.hashing.size() + bytes.len() as u64;
            if actual > expected {
                self.spoilt = true;
                return Err(Error::SizeMismatch { what: self.what(), expected, actual });
            }
        }
        self.file.write_all(bytes).map_err(|e| {
            let error = self.failed(e);
            // Leaves room for others where there is none.
            self.spoilt = true;
            error
        })?;
        self.hashing.update(bytes);
        self.start_writing();
        Ok(())
    }

    /// Lets the disk begin with what has come, while the rest comes: less is left to wait for at the end. What is on
    /// the disk then leaves the page cache to those who are read soon, which a blob is not.
    fn start_writing(&mut self) {
        let length = self.hashing.size() - self.begun;
        if let Some(range) = NonZeroU64::new(length).filter(|length| length.get() >= WRITE_BEHIND) {
            // Advice: nothing is lost where it is not taken.
            let _ = rustix::fs::fadvise(&self.file, self.begun, Some(range), rustix::fs::Advice::DontNeed);
            self.begun = self.hashing.size();
        }
    }

    /// Leaves the hashing to whoever reads the same bytes further on, where nothing was seen yet.
    /// [`BlobFile::seal_as`] then takes the digest.
    pub(crate) fn hash_downstream(&mut self) {
        if self.resumed == 0 && self.hashing.size() == 0 {
            self.hashing = Hashing::Downstream { written: 0 };
        }
    }

    /// No more bytes: verifies them.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`] and [`Error::DigestMismatch`] where it is not what was expected.
    pub(crate) fn seal(self) -> Result<SealedBlob> {
        self.seal_as(None)
    }

    /// As [`BlobFile::seal`], with what was hashed further on. It counts where the hashing was left to there.
    pub(crate) fn seal_as(mut self, downstream: Option<Hashed>) -> Result<SealedBlob> {
        let actual = self.hashing.size();
        if let Some((_, expected)) = self.expected
            && actual != expected
        {
            self.spoilt = actual > expected;
            return Err(Error::SizeMismatch { what: self.what(), expected, actual });
        }
        let hashing = std::mem::replace(&mut self.hashing, Hashing::Downstream { written: actual });
        let digest = match (hashing, downstream) {
            (Hashing::Here(hasher), _) => hasher.finish(),
            (Hashing::Downstream { written }, Some(seen)) if seen.size == written => seen.digest,
            (Hashing::Downstream { .. }, _) => return Err(Error::Interrupted(self.what())),
        };
        if let Some((expected, _)) = self.expected
            && digest != expected
        {
            self.spoilt = true;
            return Err(Error::DigestMismatch { what: self.what(), expected, actual: digest });
        }
        let file = self.file.try_clone().map_err(|e| self.failed(e))?;
        Ok(SealedBlob { digest, size: actual, file, blob: self })
    }

    /// Throws away what is there.
    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        let worth = self.claim.is_some() && !self.spoilt && self.file.metadata().is_ok_and(|meta| meta.len() > 0);
        if !self.published && !worth {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(digest) = self.claim {
            self.content.busy.lock().remove(&digest);
        }
    }
}

/// A blob that is whole and verified, but not visible yet, and perhaps not on the disk.
#[derive(Debug)]
pub(crate) struct SealedBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) file: File,
    blob: BlobFile,
}

impl SealedBlob {
    /// Makes it visible. The caller has synced its bytes, and syncs the directory afterwards.
    pub(crate) fn publish(mut self) -> Result<Digest> {
        let path = self.blob.content.path(&self.digest);
        fs::rename(&self.blob.path, &path).map_err(|e| Error::io(format!("making {}", path.display()), e))?;
        self.blob.published = true;
        Ok(self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> (tempfile::TempDir, Arc<Content>) {
        let temp = tempfile::tempdir().unwrap();
        let content = Arc::new(Content::open(temp.path()).unwrap());
        (temp, content)
    }

    fn descriptor(bytes: &[u8]) -> Descriptor {
        Descriptor::new("x", Digest::of(bytes), bytes.len() as u64)
    }

    #[test]
    fn a_blob_is_seen_only_when_it_is_whole() {
        let (_temp, content) = content();
        let wanted = descriptor(b"hello world");
        let mut blob = content.resume(&wanted).unwrap();
        blob.write(b"hello ").unwrap();
        assert!(!content.has(&wanted.digest));
        drop(blob);

        let content = Arc::new(Content::open(content.blobs.parent().unwrap().parent().unwrap()).unwrap());
        let mut blob = content.resume(&wanted).unwrap();
        assert_eq!(blob.resumed(), 6);
        while blob.replay(&mut [0; 4]).unwrap() > 0 {}
        blob.write(b"world").unwrap();
        blob.seal().unwrap().publish().unwrap();
        assert_eq!(content.read(&wanted.digest, 100).unwrap(), b"hello world");
        assert_eq!(list(&content.ingest).unwrap().len(), 0);
    }

    #[test]
    fn what_is_hashed_further_on_counts_only_where_it_is_all_that_was_written() {
        let (_temp, content) = content();
        let seen = |bytes: &[u8]| Some(Hashed { size: bytes.len() as u64, digest: Digest::of(bytes) });
        let written = |bytes: &[u8]| {
            let mut blob = content.begin().unwrap();
            blob.hash_downstream();
            blob.write(bytes).unwrap();
            blob
        };
        assert_eq!(written(b"whole").seal_as(seen(b"whole")).unwrap().digest, Digest::of(b"whole"));
        assert!(matches!(written(b"whole").seal_as(seen(b"who")), Err(Error::Interrupted(_))));
        assert!(matches!(written(b"whole").seal(), Err(Error::Interrupted(_))));

        let wanted = descriptor(b"hello");
        let mut blob = content.resume(&wanted).unwrap();
        blob.hash_downstream();
        blob.write(b"jello").unwrap();
        assert!(matches!(blob.seal_as(seen(b"jello")), Err(Error::DigestMismatch { .. })));
    }

    #[test]
    fn wrong_bytes_leave_nothing_to_resume() {
        let (_temp, content) = content();
        let wanted = descriptor(b"hello");
        let mut blob = content.resume(&wanted).unwrap();
        blob.write(b"HELLO").unwrap();
        assert!(matches!(blob.seal().unwrap_err(), Error::DigestMismatch { .. }));
        let mut blob = content.resume(&wanted).unwrap();
        assert_eq!(blob.resumed(), 0);
        assert!(matches!(blob.write(b"hello, and more").unwrap_err(), Error::SizeMismatch { .. }));
        drop(blob);
        assert_eq!(list(&content.ingest).unwrap().len(), 0);
    }

    #[test]
    fn two_that_fetch_the_same_do_not_meet() {
        let (_temp, content) = content();
        let wanted = descriptor(b"twice");
        let (mut a, mut b) = (content.resume(&wanted).unwrap(), content.resume(&wanted).unwrap());
        a.write(b"tw").unwrap();
        b.write(b"twice").unwrap();
        a.write(b"ice").unwrap();
        for blob in [a, b] {
            blob.seal().unwrap().publish().unwrap();
        }
        assert_eq!(content.read(&wanted.digest, 5).unwrap(), b"twice");
    }
}

//! Layers: unpacked in a directory that nobody sees, then made visible.

use crate::compression::Compression;
use crate::images::Inner;
use crate::made::stacked;
use crate::pack;
use crate::pipeline::Passed;
use crate::record::{self, LAYER, LayerBlob, LayerRecord, Under, key_of};
use crate::state::Lease;
use crate::{Digest, Error, Hasher, Result};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory for a layer that is being unpacked. Dropped before [`Stage::commit`], it is gone.
pub(crate) struct Stage {
    inner: Arc<Inner>,
    name: String,
    fs: File,
    /// What the directory will lie upon.
    pub(crate) under: Option<Under>,
}

impl Stage {
    pub(crate) fn new(inner: &Arc<Inner>) -> Result<Stage> {
        let name = inner.next_layer();
        let path = inner.root.join("staging").join(&name);
        let make = || {
            fs::create_dir_all(path.join("fs"))?;
            fs::set_permissions(path.join("fs"), fs::Permissions::from_mode(0o755))?;
            File::open(path.join("fs"))
        };
        let fs = make().map_err(|e| Error::io(format!("making {}", path.display()), e))?;
        Ok(Stage { inner: Arc::clone(inner), name, fs, under: None })
    }

    /// The directory to unpack into.
    pub(crate) fn fs(&self) -> &File {
        &self.fs
    }

    /// What is to become the layer's: its directory, and what is beside it.
    pub(crate) fn path(&self) -> PathBuf {
        self.inner.root.join("staging").join(&self.name)
    }

    /// Where the directory to unpack into is.
    pub(crate) fn fs_path(&self) -> PathBuf {
        self.path().join("fs")
    }

    /// Makes the layer visible, and its blob: on the disk first, then by name, then in the store. One that somebody
    /// else brought in meanwhile stays, and learns the blob.
    pub(crate) fn commit(self, passed: Passed, stored: Option<LayerBlob>, lease: &Lease) -> Result<Arc<LayerRecord>> {
        let inner = Arc::clone(&self.inner);
        inner.syncer.sync()?;
        lease.pin(&passed.diff_id);
        let blob = match passed.blob {
            Some(sealed) => {
                lease.pin(&sealed.digest);
                let blob = LayerBlob { digest: sealed.digest, size: sealed.size, compression: passed.compression };
                sealed.publish()?;
                inner.content.sync_directory()?;
                Some(blob)
            }
            None => stored.map(|blob| LayerBlob { compression: passed.compression, ..blob }),
        };
        let _one = inner.committing.lock();
        let there = inner.state.lock().layers.get(&passed.diff_id).map(Arc::clone);
        let record = match there {
            Some(there) => {
                let mut record = LayerRecord::clone(&there);
                record.blobs.extend(blob.filter(|blob| there.blobs.iter().all(|known| known.digest != blob.digest)));
                record
            }
            None => {
                let (from, to) = (self.path(), inner.layer_dir(&self.name));
                let rename = || {
                    fs::rename(&from, &to)?;
                    File::open(inner.root.join("layers"))?.sync_all()
                };
                rename().map_err(|e| Error::io(format!("making {}", to.display()), e))?;
                LayerRecord {
                    diff_id: passed.diff_id,
                    dir: self.name.clone(),
                    under: self.under.clone(),
                    size: passed.unpacked.file_bytes,
                    tar_size: passed.tar_size,
                    repacked: blob.is_none(),
                    says_root: passed.unpacked.says_top,
                    blobs: blob.into_iter().collect(),
                    sources: Default::default(),
                    erofs: None,
                }
            }
        };
        put(&inner, record)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What was committed is not there any more.
        if let Err(error) = self.inner.reaper.discard(&self.path()) {
            tracing::warn!(%error, "a layer that was not finished stays until the next start");
        }
    }
}

/// Writes a layer's record. The caller holds `committing`.
pub(crate) fn put(inner: &Inner, record: LayerRecord) -> Result<Arc<LayerRecord>> {
    let key = key_of(LAYER, &record.diff_id);
    inner.store.txn().put(&key, record::encode(&key, &record)?).commit()?;
    let record = Arc::new(record);
    inner.state.lock().layers.insert(record.diff_id, Arc::clone(&record));
    Ok(record)
}

/// Changes a layer's record, if the layer is there.
pub(crate) fn change(inner: &Inner, diff_id: &Digest, change: impl FnOnce(&mut LayerRecord)) -> Result<()> {
    let _one = inner.committing.lock();
    let Some(there) = inner.state.lock().layers.get(diff_id).map(Arc::clone) else { return Ok(()) };
    let mut record = LayerRecord::clone(&there);
    change(&mut record);
    if record != *there {
        put(inner, record)?;
    }
    Ok(())
}

/// Opens a layer's archive, decompressed, from whichever form of it is here; it is made anew where it can be.
pub(crate) fn open_tar(inner: &Inner, layer: &LayerRecord) -> Result<Verified> {
    let archive: Box<dyn Read + Send> = match present_blob(inner, layer) {
        Some(blob) => {
            let file = inner.content.open_blob(&blob.digest, 0)?;
            let reader = std::io::BufReader::with_capacity(crate::pipeline::BUFFER, file);
            let decoder = blob.compression.decoder(reader);
            decoder.map_err(|e| Error::io(format!("reading blob {}", blob.digest), e))?
        }
        None if layer.repacked => Box::new({
            let open = |dir| pack::open(&inner.layer_dir(dir).join("fs"));
            match &layer.under {
                None => pack::packed(open(&layer.dir)?, layer.says_root)?,
                Some(_) => stacked(layer.dirs().map(open).collect::<Result<_>>()?, layer.says_root, None)?,
            }
        }),
        None => return Err(missing(layer)),
    };
    Ok(Verified { archive, hasher: Hasher::new(), expected: layer.diff_id })
}

/// A layer's archive, hashed while it is read.
pub(crate) struct Verified {
    archive: Box<dyn Read + Send>,
    hasher: Hasher,
    expected: Digest,
}

impl Verified {
    /// Fails where it was not the layer's. Reads the rest of it, if any.
    pub(crate) fn verify(mut self) -> Result<()> {
        std::io::copy(&mut self, &mut std::io::sink()).map_err(|e| Error::io("reading a layer", e))?;
        let (actual, expected) = (self.hasher.finish(), self.expected);
        if actual == expected {
            return Ok(());
        }
        let what = format!("layer {} in the content store", expected.short());
        Err(Error::DigestMismatch { what, expected, actual })
    }
}

impl Read for Verified {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let got = self.archive.read(into)?;
        self.hasher.update(&into[..got]);
        Ok(got)
    }
}

/// A form of the layer that is here; an uncompressed one first, as it costs nothing to read.
pub(crate) fn present_blob(inner: &Inner, layer: &LayerRecord) -> Option<LayerBlob> {
    let present = || layer.blobs.iter().filter(|blob| inner.content.has(&blob.digest));
    present().find(|blob| blob.compression == Compression::None).or_else(|| present().next()).copied()
}

pub(crate) fn missing(layer: &LayerRecord) -> Error {
    Error::BlobMissing(layer.blobs.first().map_or(layer.diff_id, |blob| blob.digest))
}

//! A place for images that is gone after the test, and archives to fill it with.
#![allow(dead_code)] // each test uses its part

use bytes::Bytes;
use image::tar::{Entry, Kind, TarWriter};
use image::{
    Descriptor, Digest, FinishImage, HistoryEntry, ImageConfig, ImageId, Images, ImagesConfig, Manifest, Platform,
    Progress, Reference, Result, RunConfig, UnpackLimits, media_type,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Images in a directory of their own.
pub(crate) struct Place {
    pub(crate) images: Images,
    pub(crate) store: store::Store,
    pub(crate) root: PathBuf,
    _temp: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn new() -> Place {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("images");
        let mut place = Place::at(root, store::Store::in_memory().unwrap());
        place._temp = Some(temp);
        place
    }

    pub(crate) fn at(root: PathBuf, store: store::Store) -> Place {
        let images = open(root.clone(), store.clone()).unwrap();
        Place { images, store, root, _temp: None }
    }

    /// As after a restart of the daemon.
    pub(crate) fn reopened(&self) -> Images {
        open(self.root.clone(), self.store.clone()).unwrap()
    }

    /// Names in a directory below the root.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.root.join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn open(root: PathBuf, store: store::Store) -> Result<Images> {
    let (rootfs, platform) = (root.join("containers"), Platform::host());
    Images::open(ImagesConfig { root, rootfs, store, platform, limits: UnpackLimits::default() })
}

pub(crate) fn file(path: &str, contents: &str) -> (Entry, Vec<u8>) {
    let mut entry = Entry::new(path, Kind::File, 0o644);
    entry.size = contents.len() as u64;
    (entry, contents.into())
}

pub(crate) fn dir(path: &str) -> (Entry, Vec<u8>) {
    (Entry::new(path, Kind::Directory, 0o755), Vec::new())
}

pub(crate) fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, contents) in entries {
        writer.append_file(entry, &mut contents.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

/// An image as a registry has it.
pub(crate) struct Remote {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    /// Descriptors, diff ids and blobs.
    pub(crate) layers: Vec<(Descriptor, Digest, Vec<u8>)>,
}

impl Remote {
    /// Of uncompressed layers, sent as gzip.
    pub(crate) fn new(layers: &[Vec<u8>], change: impl FnOnce(&mut ImageConfig)) -> Remote {
        let layers: Vec<_> = layers
            .iter()
            .map(|tar| {
                let blob = gzip(tar);
                (
                    Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(&blob), blob.len() as u64),
                    Digest::of(tar),
                    blob,
                )
            })
            .collect();
        let mut config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            created: Some("2026-01-02T03:04:05Z".into()),
            config: RunConfig { cmd: Some(vec!["/bin/true".into()]), ..RunConfig::default() },
            ..ImageConfig::default()
        };
        config.rootfs.diff_ids = layers.iter().map(|(_, diff_id, _)| *diff_id).collect();
        let step = |n| HistoryEntry { created_by: format!("step {n}"), ..HistoryEntry::default() };
        config.history = (0..layers.len()).map(step).collect();
        change(&mut config);
        let config = config.to_json().unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            config: Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64),
            layers: layers.iter().map(|(descriptor, _, _)| descriptor.clone()).collect(),
            annotations: BTreeMap::new(),
        };
        Remote { manifest: serde_json::to_vec(&manifest).unwrap(), config, layers }
    }

    pub(crate) fn id(&self) -> ImageId {
        ImageId(Digest::of(&self.config))
    }

    /// Comes in as a pull brings it in.
    pub(crate) async fn pull(&self, images: &Images, name: &str) -> Result<ImageId> {
        let ingest = images.begin_image();
        for (descriptor, diff_id, blob) in &self.layers {
            if ingest.has_layer(diff_id) {
                continue;
            }
            let mut sink = ingest.unpack_layer(descriptor, diff_id, Progress::none()).await?;
            for piece in blob[sink.resume_offset() as usize..].chunks(1000) {
                sink.write(Bytes::copy_from_slice(piece)).await?;
            }
            sink.finish().await?;
        }
        ingest.finish(self.finished(name)).await
    }

    pub(crate) fn finished(&self, name: &str) -> FinishImage {
        let digest = Digest::of(&self.manifest).to_string();
        FinishImage {
            manifest: self.manifest.clone().into(),
            manifest_media_type: media_type::OCI_MANIFEST.into(),
            config: self.config.clone().into(),
            tag: Some(reference(name).with_default_tag()),
            repo_digest: Some(reference(name).with_digest(&digest).unwrap()),
        }
    }
}

/// A small root file system.
pub(crate) fn base_layer() -> Vec<u8> {
    tar(&[
        dir("etc"),
        file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        dir("bin"),
        file("bin/true", "#!"),
        file("gone", "x"),
    ])
}

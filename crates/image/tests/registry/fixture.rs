//! Images to pull, made for a test, and a place to pull them into.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::registry::{Registries, RegistryConfig};
use image::tar::{Entry, Kind, TarWriter};
use image::{
    Descriptor, Digest, ImageConfig, ImageId, Images, ImagesConfig, LayerList, Manifest, Phase, Platform, Progress,
    UnpackLimits, media_type,
};

/// An image with all its blobs.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) diff_ids: Vec<Digest>,
}

impl Fixture {
    /// An image whose layers hold one file each, of these sizes; `seed` makes images differ.
    pub(crate) fn new(seed: &str, sizes: &[usize]) -> Fixture {
        Fixture::on(seed, sizes, "amd64")
    }

    pub(crate) fn on(seed: &str, sizes: &[usize], architecture: &str) -> Fixture {
        let mut blobs = BTreeMap::new();
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for (number, size) in sizes.iter().enumerate() {
            let tar = layer(&format!("{seed}-{number}"), *size);
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&tar).unwrap();
            let blob = gzip.finish().unwrap();
            diff_ids.push(Digest::of(&tar));
            layers.push(Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(&blob), blob.len() as u64));
            blobs.insert(Digest::of(&blob), blob);
        }
        let config = ImageConfig {
            architecture: architecture.into(),
            os: "linux".into(),
            comment: seed.into(),
            created: Some("2026-01-02T03:04:05Z".into()),
            rootfs: LayerList { diff_ids: diff_ids.clone(), ..LayerList::default() },
            ..ImageConfig::default()
        };
        let config = config.to_json().unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            config: Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64),
            layers: layers.clone(),
            annotations: BTreeMap::new(),
        };
        let (digest, manifest) = (Digest::of(&config), serde_json::to_vec(&manifest).unwrap());
        blobs.insert(digest, config);
        Fixture { blobs, manifest, config: digest, layers, diff_ids }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(crate) fn id(&self) -> ImageId {
        ImageId(self.config)
    }

    /// Brings the image to a registry by another client than ours.
    pub(crate) fn publish(&self, reference: &str, credentials: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        self.write_layout(dir.path());
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
        if let Some(credentials) = credentials {
            command.args(["--dest-creds", credentials]);
        }
        let output = command
            .arg(format!("oci:{}:x", dir.path().display()))
            .arg(format!("docker://{reference}"))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn write_layout(&self, dir: &Path) {
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, blob) in &self.blobs {
            std::fs::write(blobs.join(digest.hex()), blob).unwrap();
        }
        std::fs::write(blobs.join(self.digest().hex()), &self.manifest).unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": media_type::OCI_MANIFEST, "digest": self.digest(), "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "x"},
        }]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }
}

/// A layer with one file that compresses badly, as the cut of a connection has to fall into it.
fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut state = u64::from_str_radix(&Digest::of(name.as_bytes()).hex()[..16], 16).unwrap() | 1;
    let contents: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    let mut tar = TarWriter::new(Vec::new());
    let file = Entry { size: size as u64, ..Entry::new(name, Kind::File, 0o644) };
    tar.append_file(&file, &mut &contents[..]).unwrap();
    tar.finish().unwrap()
}

/// Images of a test, gone with it.
pub(crate) struct Place {
    pub(crate) images: Images,
    _dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(ImagesConfig {
            root: dir.path().join("images"),
            rootfs: dir.path().join("containers"),
            store: store::Store::open(dir.path().join("store.redb")).unwrap(),
            platform: "linux/amd64".parse::<Platform>().unwrap(),
            limits: UnpackLimits::default(),
        });
        Place { images: images.unwrap(), _dir: dir }
    }

    /// Whether the image is here with all its layers.
    #[track_caller]
    pub(crate) fn holds(&self, fixture: &Fixture) {
        let ingest = self.images.begin_image();
        assert!(ingest.has_blob(&fixture.config), "the configuration is here");
        for diff_id in &fixture.diff_ids {
            assert!(ingest.has_layer(diff_id), "layer {diff_id} is here");
        }
    }
}

/// Registries that don't wait long before they try again.
pub(crate) fn registries() -> Registries {
    Registries::new(impatient())
}

pub(crate) fn impatient() -> RegistryConfig {
    RegistryConfig {
        backoff: Duration::from_millis(5),
        backoff_max: Duration::from_secs(2),
        certificate_dirs: Vec::new(),
        ..RegistryConfig::default()
    }
}

/// Keeps all events.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<(String, Phase)>>>);

impl Events {
    pub(crate) fn progress(&self) -> Progress {
        let events = self.0.clone();
        Progress::new(move |event| events.lock().unwrap().push((event.id, event.phase)))
    }

    pub(crate) fn of(&self, digest: &Digest) -> Vec<Phase> {
        let events = self.0.lock().unwrap();
        events.iter().filter(|(id, _)| *id == digest.short()).map(|(_, phase)| phase.clone()).collect()
    }

    pub(crate) fn all(&self) -> Vec<Phase> {
        self.0.lock().unwrap().iter().map(|(_, phase)| phase.clone()).collect()
    }
}

//! Images as one archive: an OCI layout with Docker's `manifest.json` beside it, as Docker 25 and later write it, which
//! older Dockers, podman and skopeo read, too. The same images make the same bytes.

use crate::attestation::{EMPTY, NAMELESS, Referrer, with_entries};
use crate::images::Inner;
use crate::record::LayerRecord;
use crate::state::{Lease, State};
use crate::tar::{Entry, Kind, TarWriter};
use crate::{
    Attestation, Descriptor, Digest, Error, ImageConfig, ImageId, Images, Index, Manifest, Platform, Reference, Result,
    layers, media_type,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};
use std::sync::Arc;

/// An image of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    layer_sources: BTreeMap<Digest, Descriptor>,
}

/// An image to be written, and the names it goes under.
struct Wanted {
    id: ImageId,
    platform: Platform,
    config: Vec<u8>,
    names: BTreeSet<Reference>,
    layers: Vec<Arc<LayerRecord>>,
    /// What is said of it.
    attestations: Vec<Attestation>,
}

/// What the names of an archive stand for.
enum Named {
    /// Each image has its own.
    Each,
    /// All images together, as one for several platforms.
    Together(BTreeSet<Reference>),
}

impl Images {
    /// Writes images as one archive: under the name they are asked for by; under all tags of a repository that is asked
    /// for without one; without a name where an id is given. Blocks as long as whoever takes it does.
    pub fn save(&self, images: &[String], output: impl Write) -> Result<()> {
        let inner = &self.0;
        let lease = inner.lease();
        let wanted = choose(inner, images, &lease)?;
        write(inner, &wanted, Named::Each, output).map(drop)
    }

    /// Writes images that nobody has yet as one archive, as [`Images::save`] does: one, or one for each of several platforms, which is
    /// an index then, as it is of one where it is asked for. The caller keeps their layers. What the names stand for. Blocks as long as whoever takes it does.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], and where it can't be written.
    pub fn save_made(
        &self,
        images: &[(ImageConfig, Vec<Attestation>)],
        names: &[Reference],
        index: bool,
        output: impl Write,
    ) -> Result<Descriptor> {
        let inner = &self.0;
        let lease = inner.lease();
        let mut wanted = Vec::new();
        for (image, attestations) in images {
            let config = image.to_json()?;
            let layers = inner.state.lock().layers_of(&image.rootfs.diff_ids)?;
            layers.iter().flat_map(|layer| &layer.blobs).for_each(|blob| lease.pin(&blob.digest));
            let id = ImageId(Digest::of(&config));
            let (platform, attestations) = (image.platform(), attestations.clone());
            wanted.push(Wanted { id, platform, config, names: BTreeSet::new(), layers, attestations });
        }
        let all: BTreeSet<Reference> = names.iter().cloned().collect();
        let named = match &mut wanted[..] {
            [one] if !index => {
                one.names = all;
                Named::Each
            }
            _ => Named::Together(all),
        };
        write(inner, &wanted, named, output)
    }
}

impl Named {
    /// What a statement calls an image.
    fn of(&self, image: &Wanted) -> String {
        let names = match self {
            Named::Each => &image.names,
            Named::Together(names) => names,
        };
        names.first().map_or_else(|| NAMELESS.to_owned(), Reference::name)
    }
}

/// Writes an archive. What its names stand for.
fn write(inner: &Inner, wanted: &[Wanted], named: Named, output: impl Write) -> Result<Descriptor> {
    let output = BufWriter::with_capacity(crate::pipeline::BUFFER, output);
    let mut archive = Archive { tar: TarWriter::new(output), written: BTreeSet::new() };
    let descriptor = archive.write(inner, wanted, named)?;
    archive.tar.finish().map_err(failed)?.flush().map_err(failed)?;
    Ok(descriptor)
}

fn failed(e: std::io::Error) -> Error {
    Error::io("writing an archive of images", e)
}

/// Finds what is asked for, and holds it.
fn choose(inner: &Arc<Inner>, texts: &[String], lease: &Lease) -> Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for text in texts {
        let found = asked_for(&inner.state.lock(), text)?;
        for (id, name) in found {
            lease.pin(&id.0);
            if !wanted.iter().any(|other| other.id == id) {
                let image = inner.state.lock().image(&id)?;
                image.diff_ids.iter().for_each(|diff_id| lease.pin(diff_id));
                let layers = inner.state.lock().layers_of(&image.diff_ids)?;
                layers.iter().flat_map(|layer| &layer.blobs).for_each(|blob| lease.pin(&blob.digest));
                let config = inner.content.read(&id.0, crate::manifest::MAX_DOCUMENT)?;
                let (platform, names) = (image.platform.clone(), BTreeSet::new());
                let attestations = inner.attestations(&id)?.into_iter().map(|(_, attestation)| attestation).collect();
                wanted.push(Wanted { id, platform, config, names, layers, attestations });
            }
            let mine = wanted.iter_mut().find(|other| other.id == id);
            mine.into_iter().for_each(|mine| mine.names.extend(name.clone()));
        }
    }
    Ok(wanted)
}

fn asked_for(state: &State, text: &str) -> Result<Vec<(ImageId, Option<Reference>)>> {
    let id = state.resolve(text);
    let Ok(reference) = Reference::parse(text) else { return Ok(vec![(id?, None)]) };
    if reference.is_name_only() {
        let same = |name: &&Reference| name.tag().is_some() && name.without_version() == reference;
        let all: Vec<_> = state.names.keys().filter(same).map(|name| (state.names[name], Some(name.clone()))).collect();
        if !all.is_empty() {
            return Ok(all);
        }
    }
    let named = state.names.contains_key(&reference) && reference.tag().is_some();
    Ok(vec![(id?, named.then_some(reference))])
}

/// An archive being written.
struct Archive<W> {
    tar: TarWriter<W>,
    written: BTreeSet<Digest>,
}

impl<W: Write> Archive<W> {
    fn write(&mut self, inner: &Inner, wanted: &[Wanted], named: Named) -> Result<Descriptor> {
        for name in ["blobs/", "blobs/sha256/"] {
            self.tar.append(&Entry::new(name, Kind::Directory, 0o755)).map_err(failed)?;
        }
        let mut manifests = Vec::new();
        let mut docker = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for image in wanted {
            let config = self.document(media_type::OCI_CONFIG, &image.config)?;
            let mut descriptors = Vec::new();
            for layer in &image.layers {
                self.layer(inner, layer)?;
                descriptors.push(Descriptor::new(media_type::OCI_LAYER, layer.diff_id, layer.tar_size));
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(media_type::OCI_MANIFEST.into()),
                config,
                layers: descriptors.clone(),
                annotations: BTreeMap::new(),
            };
            let mut manifest = self.document(media_type::OCI_MANIFEST, &json(&manifest)?)?;
            let name = named.of(image);
            let said = image.attestations.iter().map(|said| self.referrer(&Referrer::new(said, &name, &manifest)?));
            let said = said.collect::<Result<Vec<Value>>>()?;
            manifest.platform = Some(image.platform.clone());
            manifests.push((manifest, said));
            for name in &image.names {
                let top = image.layers.last().map_or(image.id.0, |layer| layer.diff_id);
                let tags = repositories.entry(name.familiar_name()).or_default();
                tags.insert(name.tag().unwrap_or_default().to_owned(), top.hex());
            }
            docker.push(DockerImage {
                config: blob_path(&image.id.0),
                repo_tags: (!image.names.is_empty()).then(|| image.names.iter().map(Reference::familiar).collect()),
                layers: image.layers.iter().map(|layer| blob_path(&layer.diff_id)).collect(),
                layer_sources: descriptors.into_iter().map(|layer| (layer.digest, layer)).collect(),
            });
        }
        let descriptor = match named {
            Named::Each => {
                let tops = manifests.into_iter().map(|one| self.top(vec![one])).collect::<Result<Vec<_>>>()?;
                let images = tops.iter().zip(wanted);
                let named = images.flat_map(|(top, image)| in_index(top, &image.names)).collect();
                self.file("index.json", &json(&index(named))?)?;
                // Docker's own list, which knows no index.
                self.file("manifest.json", &json(&docker)?)?;
                tops.into_iter().next()
            }
            Named::Together(names) => {
                let together = self.index_of(manifests)?;
                self.file("index.json", &json(&index(in_index(&together, &names)))?)?;
                Some(together)
            }
        };
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            self.file("repositories", &json(&repositories)?)?;
        }
        descriptor.ok_or_else(|| failed(std::io::Error::other("no image was named")))
    }

    fn file(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        let mut entry = Entry::new(name, Kind::File, 0o644);
        entry.size = contents.len() as u64;
        self.tar.append_file(&entry, &mut &contents[..]).map_err(failed)
    }

    /// Writes a document as a blob, once.
    fn document(&mut self, media_type: &str, contents: &[u8]) -> Result<Descriptor> {
        let digest = Digest::of(contents);
        if self.written.insert(digest) {
            self.file(&blob_path(&digest), contents)?;
        }
        Ok(Descriptor::new(media_type, digest, contents.len() as u64))
    }

    /// Writes a statement, and the manifest that refers to it. That as an index has it.
    fn referrer(&mut self, referrer: &Referrer) -> Result<Value> {
        for blob in [EMPTY, &referrer.statement, &referrer.manifest] {
            self.document("", blob)?;
        }
        Ok(referrer.descriptor.clone())
    }

    /// What one name stands for: an image alone, or an index of several and of what refers to them. In the layout's own index each
    /// would be an image of its own to who takes the only one that there is.
    fn top(&mut self, mut images: Vec<(Descriptor, Vec<Value>)>) -> Result<Descriptor> {
        if let [(_, said)] = &images[..]
            && said.is_empty()
            && let Some((alone, _)) = images.pop()
        {
            return Ok(alone);
        }
        self.index_of(images)
    }

    /// Writes an index of manifests, and of what is said of each.
    fn index_of(&mut self, images: Vec<(Descriptor, Vec<Value>)>) -> Result<Descriptor> {
        let (manifests, said): (Vec<Descriptor>, Vec<Vec<Value>>) = images.into_iter().unzip();
        let images = json(&index(manifests))?;
        let all = with_entries(Some(&images), &said.concat()).map_err(|e| failed(std::io::Error::other(e)))?;
        self.document(media_type::OCI_INDEX, &all.unwrap_or(images))
    }

    /// Writes a layer as a blob, uncompressed, once.
    fn layer(&mut self, inner: &Inner, layer: &LayerRecord) -> Result<()> {
        if !self.written.insert(layer.diff_id) {
            return Ok(());
        }
        let mut tar = layers::open_tar(inner, layer)?;
        let mut entry = Entry::new(blob_path(&layer.diff_id), Kind::File, 0o644);
        entry.size = layer.tar_size;
        self.tar.append_file(&entry, &mut tar).map_err(failed)?;
        tar.verify()
    }
}

fn index(manifests: Vec<Descriptor>) -> Index {
    let media_type = Some(media_type::OCI_INDEX.into());
    Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() }
}

/// Something in the index: once for each of its names.
fn in_index(plain: &Descriptor, names: &BTreeSet<Reference>) -> Vec<Descriptor> {
    let named = |name: &Reference| {
        let mut entry = plain.clone();
        entry.annotations.insert("io.containerd.image.name".into(), name.canonical());
        entry.annotations.insert("org.opencontainers.image.ref.name".into(), name.tag().unwrap_or_default().into());
        entry
    };
    if names.is_empty() { vec![plain.clone()] } else { names.iter().map(named).collect() }
}

/// Where an OCI layout has a blob (image-spec, image-layout.md).
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn json<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|e| Error::MalformedDocument { document: "archive's index", reason: e.to_string() })
}

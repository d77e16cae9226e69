//! What an archive's documents say its images are.

use super::{Contents, LoadedImage};
use crate::images::Inner;
use crate::manifest::parse;
use crate::naming::NewImage;
use crate::save::blob_path;
use crate::state::Lease;
use crate::{
    Descriptor, Digest, Error, HistoryEntry, ImageConfig, Index, Manifest, Platform, Reference, Result, media_type,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Indexes in indexes.
pub(super) const DEPTH: usize = 4;

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Takes in all images that the documents tell of.
pub(super) fn images(
    inner: &Inner,
    contents: &Contents,
    platform: Option<&Platform>,
    lease: &Lease,
) -> Result<Vec<LoadedImage>> {
    let documents = &contents.documents;
    let loaded = if let Some(manifest) = documents.get(&b"manifest.json"[..]) {
        docker(inner, contents, parse("manifest.json", manifest)?, platform, lease)?
    } else if let Some(index) = documents.get(&b"index.json"[..]) {
        oci(inner, contents, &Index::parse(index)?, platform, lease)?
    } else if let Some(repositories) = documents.get(&b"repositories"[..]) {
        legacy(inner, contents, parse("repositories", repositories)?, lease)?
    } else {
        let reason = "it has no manifest.json, no index.json and no repositories. (A root file system is imported: `docker import`)";
        return Err(Error::BadArchive(reason.into()));
    };
    if let (Some(platform), true) = (platform, loaded.is_empty()) {
        return Err(Error::BadArchive(format!(
            "requested platform ({platform}) not found: image might be filtered out"
        )));
    }
    if loaded.is_empty() {
        return Err(Error::BadArchive("it holds no image for this platform".into()));
    }
    Ok(loaded)
}

/// Whether an image of that configuration is wanted.
fn is_for(config: &[u8], platform: Option<&Platform>) -> Result<bool> {
    let Some(platform) = platform else { return Ok(true) };
    Ok(platform.matches(&ImageConfig::parse(config)?.platform()))
}

fn docker(
    inner: &Inner,
    contents: &Contents,
    images: Vec<DockerImage>,
    platform: Option<&Platform>,
    lease: &Lease,
) -> Result<Vec<LoadedImage>> {
    let mut loaded = Vec::new();
    for image in images {
        let config = contents.document(image.config.as_bytes())?;
        if !is_for(config, platform)? {
            continue;
        }
        let layers = image.layers.unwrap_or_default();
        let layers = layers.iter().map(|path| contents.layer(path.as_bytes()).map(|layer| layer.diff_id));
        let names = image.repo_tags.unwrap_or_default();
        let names: Vec<Reference> = names.iter().map(|name| Reference::parse(name)).collect::<Result<_, _>>()?;
        loaded.push(add(inner, config, &layers.collect::<Result<Vec<_>>>()?, None, names, lease)?);
    }
    Ok(loaded)
}

fn oci(
    inner: &Inner,
    contents: &Contents,
    index: &Index,
    platform: Option<&Platform>,
    lease: &Lease,
) -> Result<Vec<LoadedImage>> {
    let chosen = platform.unwrap_or(&inner.platform);
    let mut found: BTreeMap<Digest, (Descriptor, Vec<Reference>)> = BTreeMap::new();
    for descriptor in &index.manifests {
        let name = name_of(descriptor);
        for manifest in manifests(chosen, contents, descriptor, 0)? {
            found.entry(manifest.digest).or_insert_with(|| (manifest, Vec::new())).1.extend(name.clone());
        }
    }
    let mut loaded = Vec::new();
    for (descriptor, names) in found.into_values() {
        let bytes = contents.document(blob_path(&descriptor.digest).as_bytes())?;
        let manifest = Manifest::parse(bytes)?;
        // Signatures, charts and the like travel as manifests, too.
        if !matches!(manifest.config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
            continue;
        }
        let config = contents.document(blob_path(&manifest.config.digest).as_bytes())?;
        if !is_for(config, platform)? {
            continue;
        }
        let layers =
            manifest.layers.iter().map(|layer| contents.layer(blob_path(&layer.digest).as_bytes()).map(|l| l.diff_id));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        lease.pin(&descriptor.digest);
        inner.content.put(bytes)?;
        loaded.push(add(inner, config, &layers, Some(descriptor), names, lease)?);
    }
    Ok(loaded)
}

/// The image manifests that a descriptor leads to: of an index, the one for the platform, or all it says nothing of.
fn manifests(chosen: &Platform, contents: &Contents, descriptor: &Descriptor, depth: usize) -> Result<Vec<Descriptor>> {
    let fits = |platform: &Platform| chosen.matches(platform);
    if media_type::is_manifest(&descriptor.media_type) {
        return Ok(vec![descriptor.clone()]);
    }
    if !media_type::is_index(&descriptor.media_type) || depth >= DEPTH {
        return Ok(Vec::new());
    }
    let index = Index::parse(contents.document(blob_path(&descriptor.digest).as_bytes())?)?;
    let mut all = Vec::new();
    for entry in index.manifests.iter().filter(|entry| entry.platform.as_ref().is_none_or(fits)) {
        all.extend(manifests(chosen, contents, entry, depth + 1)?);
    }
    Ok(all)
}

/// The name that an index gives an image: containerd's annotation, or OCI's, where that is a whole name.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotation = |key: &str| descriptor.annotations.get(key);
    let whole = |name: &&String| name.contains([':', '/']);
    let name = annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(whole));
    name.and_then(|name| Reference::parse(name).ok()).filter(|name| name.digest().is_none())
}

/// What Docker wrote before images had digests: each layer is an image with a parent.
fn legacy(
    inner: &Inner,
    contents: &Contents,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    lease: &Lease,
) -> Result<Vec<LoadedImage>> {
    #[derive(Deserialize)]
    struct Parent {
        #[serde(default)]
        parent: Option<String>,
        #[serde(default)]
        created: Option<String>,
        #[serde(default)]
        author: String,
        #[serde(default)]
        comment: String,
        #[serde(default)]
        container_config: Option<crate::RunConfig>,
    }
    let mut names: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            names.entry(id).or_default().push(Reference::parse(&format!("{repository}:{tag}"))?);
        }
    }
    let mut loaded = Vec::new();
    for (id, names) in names {
        let (mut layers, mut history, mut at) = (Vec::new(), Vec::new(), Some(id.clone()));
        while let Some(id) = at {
            if layers.len() >= crate::manifest::MAX_LAYERS {
                return Err(Error::BadArchive("its images are each other's parents, or too many".into()));
            }
            layers.push(contents.layer(format!("{id}/layer.tar").as_bytes())?.diff_id);
            let step: Parent = parse("image of an old archive", contents.document(format!("{id}/json").as_bytes())?)?;
            history.push(HistoryEntry {
                created: step.created,
                author: step.author,
                comment: step.comment,
                created_by: step.container_config.and_then(|config| config.cmd).unwrap_or_default().join(" "),
                empty_layer: false,
            });
            at = step.parent.filter(|parent| !parent.is_empty());
        }
        layers.reverse();
        history.reverse();
        #[derive(Deserialize)]
        #[serde(default)]
        #[derive(Default)]
        struct Old {
            architecture: String,
            os: String,
            author: String,
            comment: String,
            created: Option<String>,
            docker_version: String,
            config: Option<crate::RunConfig>,
        }
        let old: Old = parse("image of an old archive", contents.document(format!("{id}/json").as_bytes())?)?;
        let mut config = ImageConfig {
            architecture: old.architecture,
            os: if old.os.is_empty() { "linux".into() } else { old.os },
            author: old.author,
            comment: old.comment,
            created: old.created,
            docker_version: old.docker_version,
            config: old.config.unwrap_or_default(),
            history,
            ..ImageConfig::default()
        };
        config.rootfs.diff_ids.clone_from(&layers);
        loaded.push(add(inner, &config.to_json()?, &layers, None, names, lease)?);
    }
    Ok(loaded)
}

fn add(
    inner: &Inner,
    config_json: &[u8],
    layers: &[Digest],
    manifest: Option<Descriptor>,
    names: Vec<Reference>,
    lease: &Lease,
) -> Result<LoadedImage> {
    let config = ImageConfig::parse(config_json)?;
    if config.rootfs.diff_ids != layers {
        let reason = "an image's layers are not those that its configuration names";
        return Err(Error::BadArchive(reason.into()));
    }
    lease.pin(&Digest::of(config_json));
    let names: Vec<Reference> = names.into_iter().map(Reference::with_default_tag).collect();
    let new =
        NewImage { config_json, config: &config, parent: None, manifest, names: &names, by_hand: false, now: false };
    let id = inner.add_image(new)?.id;
    Ok(LoadedImage { id, names })
}

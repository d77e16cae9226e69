//! Images as clients see them: the image store, with the rules about containers that use images, and events.

mod attestations;
mod intermediate;
mod list;
mod manifests;
mod transfer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use image::{Base, Digest, ImageId, ImageUser, Platform, Reference, Removed, RunConfig};

use crate::container::GraphDirs;
use crate::events::EventKind;
use crate::model::{ContainerId, ContainerRecord, Filters, MountPointKind, Timestamp};
use crate::{Engine, Error, Result};

pub use intermediate::Intermediates;
pub use list::{IMAGE_FILTERS, ImageHistory, ImageSummary, ListImages};
pub use manifests::ImageManifest;
pub use transfer::{ImportRequest, PullRequest, PulledImage, PushRequest, PushedImage};

/// What `image` says, in the engine's kinds.
pub(crate) fn error(error: image::Error) -> Error {
    let text = error.to_string();
    match error {
        image::Error::NoSuchImage(_) | image::Error::NoSuchRootfs(_) => Error::not_found(text),
        image::Error::Conflict(_) => Error::conflict(text),
        image::Error::AmbiguousId(_)
        | image::Error::Reference(_)
        | image::Error::Digest(_)
        | image::Error::Invalid(_)
        | image::Error::BadChange(_)
        | image::Error::BadArchive(_)
        | image::Error::HostileEntry { .. }
        | image::Error::LimitExceeded { .. }
        | image::Error::MalformedTar { .. }
        | image::Error::MalformedDocument { .. } => Error::invalid(text),
        image::Error::Busy { .. } => Error::unavailable(text),
        _ => Error::system(text),
    }
}

/// What a registry says, in the engine's kinds.
pub(crate) fn registry_error(error: image::registry::RegistryError) -> Error {
    use image::registry::RegistryErrorKind as Kind;
    let text = error.to_string();
    match error.kind() {
        Kind::Invalid => Error::invalid(text),
        Kind::NotFound => Error::not_found(text),
        Kind::Unauthorized => Error::unauthorized(text),
        Kind::Forbidden => Error::forbidden(text),
        Kind::Unavailable => Error::unavailable(text),
        _ => Error::system(text),
    }
}

/// An image that a container is made from.
pub(crate) struct ResolvedImage {
    pub(crate) base: Base,
    pub(crate) run: RunConfig,
    /// Digest of its manifest.
    pub(crate) manifest: Option<String>,
}

/// An image that is being built, as far as it is: there is none of that name, but its layers are here, and whoever builds
/// it keeps them.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfinished {
    /// What it would be called if it ended here.
    pub id: ImageId,
    /// How its containers run.
    pub run: RunConfig,
    /// Its layers, bottom first.
    pub diff_ids: Vec<Digest>,
    /// Others that are being built and that are mounted in it, by their ids: their layers, bottom first.
    pub mounted: Vec<(ImageId, Vec<Digest>)>,
}

impl From<&Unfinished> for ResolvedImage {
    fn from(Unfinished { id, run, diff_ids, .. }: &Unfinished) -> ResolvedImage {
        let base = Base::Layers { image: *id, diff_ids: diff_ids.clone() };
        ResolvedImage { base, run: run.clone(), manifest: None }
    }
}

impl Unfinished {
    /// What is mounted of images, by their ids.
    pub(crate) fn mounted(unfinished: Option<&Unfinished>, id: ImageId) -> Base {
        let known = unfinished.and_then(|unfinished| unfinished.mounted.iter().find(|(own, _)| *own == id));
        known.map_or(Base::Image(id), |(image, diff_ids)| Base::Layers { image: *image, diff_ids: diff_ids.clone() })
    }

    /// Whether a mount of an image is of one that is being built, too.
    pub(crate) fn knows(unfinished: Option<&Unfinished>, source: &str) -> Option<ImageId> {
        let id = image_id(source)?;
        unfinished?.mounted.iter().any(|(own, _)| *own == id).then_some(id)
    }
}

/// Everything about an image.
#[derive(Clone, Debug)]
pub struct ImageDetails {
    /// `sha256:…`
    pub id: String,
    /// Names with tags.
    pub repo_tags: Vec<String>,
    /// Names with digests.
    pub repo_digests: Vec<String>,
    /// The image it was committed from; empty: none.
    pub parent: String,
    /// Its configuration.
    pub config: Arc<image::ImageConfig>,
    /// Bytes in the files of its layers.
    pub size: u64,
    /// When it was last given a name here.
    pub last_tagged: Option<Timestamp>,
    /// Directories of its layers.
    pub layers: Option<GraphDirs>,
    /// Its manifest, where it has one.
    pub descriptor: Option<image::Descriptor>,
    /// The same with what of it is here, where asked for.
    pub manifests: Vec<ImageManifest>,
}

/// What a prune of images removed.
#[derive(Clone, Debug, Default)]
pub struct ImagePruneReport {
    /// Step by step.
    pub removed: Vec<Removed>,
    /// Bytes of unpacked layers, as images' sizes count them.
    pub reclaimed: u64,
}

impl Engine {
    /// The image store, for what needs no rules.
    pub fn image_store(&self) -> &image::Images {
        &self.0.images
    }

    /// The client for registries and for files of the web, with the daemon's proxies.
    pub fn registries(&self) -> &image::registry::Registries {
        &self.0.registries
    }

    /// Makes an image of layers that are here and that the caller keeps, with names that are taken from whoever has them.
    /// Where all of that is so already, nothing is written.
    pub async fn image_assemble(&self, config: image::ImageConfig, names: &[Reference]) -> Result<ImageId> {
        let images = &self.0.images;
        let id = ImageId(Digest::of(&config.to_json().map_err(error)?));
        let named = |name: &Reference| images.resolve(&name.to_string()).is_ok_and(|there| there == id);
        if images.get(&id).is_some() && names.iter().all(named) {
            return Ok(id);
        }
        let id = images.assemble(config, names.to_vec()).await.map_err(error)?;
        for name in names {
            self.tell_image("tag", &id, Some(&name.familiar()));
        }
        Ok(id)
    }

    pub(crate) fn image_count(&self) -> usize {
        self.0.images.list(&image::ListFilters::default()).len()
    }

    pub(crate) fn insecure_registries(&self) -> Vec<String> {
        self.0.registries.config().insecure.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn mirrors(&self) -> Vec<String> {
        self.0.registries.config().mirrors.get("docker.io").cloned().unwrap_or_default()
    }

    /// The image that `reference` names, if it runs on `platform`.
    pub(crate) async fn resolve_image(&self, reference: &str, platform: Option<&str>) -> Result<ResolvedImage> {
        let id = self.find_or_make_image(reference).await?;
        let config = self.0.images.config(&id).map_err(error)?;
        if let Some(wanted) = platform.filter(|platform| !platform.is_empty()) {
            self.image_runs_on(reference, wanted)?;
        }
        let record = self.0.images.get(&id).ok_or_else(|| Error::not_found(format!("No such image: {reference}")))?;
        let manifest = record.manifest.as_ref().map(|manifest| manifest.digest.to_string());
        Ok(ResolvedImage { base: Base::Image(id), run: config.config.clone(), manifest })
    }

    /// Whether the image that `reference` names is for a platform, `os/arch[/variant]`.
    ///
    /// # Errors
    /// Not found where there is no such image, or it is for another one.
    pub fn image_runs_on(&self, reference: &str, platform: &str) -> Result<()> {
        let wanted = Platform::from_str(platform).map_err(|error| Error::invalid(error.to_string()))?;
        let have = self.0.images.config(&self.find_image(reference)?).map_err(error)?.platform();
        match wanted.matches(&have) {
            true => Ok(()),
            false => Err(Error::not_found(format!(
                "image with reference {reference} was found but its platform ({have}) does not match the specified \
                 platform ({wanted})"
            ))),
        }
    }

    pub(crate) fn find_image(&self, reference: &str) -> Result<ImageId> {
        self.0.images.resolve(reference).map_err(error)
    }

    /// Everything about an image; about its manifests where that is asked for.
    pub async fn image_inspect(&self, reference: &str, manifests: bool) -> Result<ImageDetails> {
        let id = self.find_or_make_image(reference).await?;
        let gone = || Error::not_found(format!("No such image: {reference}"));
        let record = self.0.images.get(&id).ok_or_else(gone)?;
        let (tags, digests) = self.names_of(&id);
        let layers = self.0.images.layers(&id).map_err(error)?;
        let fs = |dir: &str| self.0.images.layers_dir().join(dir).join("fs");
        let mut dirs: Vec<PathBuf> = layers.iter().rev().flat_map(|layer| layer.dirs()).map(fs).collect();
        let layers = (!dirs.is_empty()).then(|| {
            let upper = dirs.remove(0);
            GraphDirs { lower: dirs, work: upper.with_file_name("work"), merged: upper.with_file_name("merged"), upper }
        });
        Ok(ImageDetails {
            id: id.to_string(),
            repo_tags: tags,
            repo_digests: digests,
            parent: record.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            config: self.0.images.config(&id).map_err(error)?,
            size: record.size,
            last_tagged: record.tagged,
            layers,
            descriptor: record.manifest.clone(),
            manifests: if manifests { self.manifests_of(id).await? } else { Vec::new() },
        })
    }

    /// An image's names as people write them: with tags, and with digests.
    pub(super) fn names_of(&self, id: &ImageId) -> (Vec<String>, Vec<String>) {
        let names = self.0.images.references(id);
        let (digests, tags): (Vec<Reference>, Vec<Reference>) =
            names.into_iter().partition(|name| name.digest().is_some());
        let familiar = |names: Vec<Reference>| names.iter().map(Reference::familiar).collect();
        (familiar(tags), familiar(digests))
    }

    /// Gives an image one more name.
    pub async fn image_tag(&self, reference: &str, repository: &str, tag: &str) -> Result<()> {
        let id = self.find_or_make_image(reference).await?;
        let name = parse_reference(repository)?;
        let name = if tag.is_empty() { name } else { name.with_tag(tag).map_err(invalid_reference)? };
        let name = name.with_default_tag();
        self.0.images.tag(&id, &name).await.map_err(error)?;
        self.tell_image("tag", &id, Some(&name.familiar()));
        Ok(())
    }

    /// Removes a name, and the image with its last one.
    pub async fn image_remove(&self, reference: &str, force: bool, prune_parents: bool) -> Result<Vec<Removed>> {
        self.unused_by_the_removed().await;
        let options = image::RemoveOptions { force, prune_parents, users: self.image_users() };
        // Events tell of which image a name was, and its labels, which go with it.
        let of = self.find_image(reference).ok().map(|id| (id, self.image_attributes(&id)));
        let removed = self.0.images.remove(reference, options).await.map_err(error)?;
        self.tell_removed(&removed, of);
        self.collect_garbage();
        Ok(removed)
    }

    /// Removes images that nobody uses: those without a name, with `dangling=false` all.
    pub async fn image_prune(&self, filters: &Filters) -> Result<ImagePruneReport> {
        filters.only(&["dangling", "label", "label!", "until"])?;
        let labels = |key: &str| filters.values(key).map(image::LabelFilter::parse).collect();
        let wanted = image::PruneFilters {
            all: filters.flag("dangling")? == Some(false),
            until: crate::container::until(filters)?,
            labels: labels("label"),
            without_labels: labels("label!"),
        };
        self.unused_by_the_removed().await;
        let removed = self.0.images.prune(wanted, self.image_users()).await.map_err(error)?;
        self.tell_removed(&removed, None);
        let collected = self.0.images.gc(true).await.map_err(error)?;
        // As the images' sizes said before; what they were unpacked from goes as well, and is counted nowhere.
        let reclaimed = BTreeMap::from([("reclaimed".to_owned(), collected.unpacked.to_string())]);
        self.0.events.tell(EventKind::Image, "prune", "", reclaimed);
        Ok(ImagePruneReport { removed, reclaimed: collected.unpacked })
    }

    /// Waits until containers that are removed use their images no more.
    async fn unused_by_the_removed(&self) {
        drop(self.0.leaving.write().await);
    }

    /// What images take on the disk.
    pub async fn image_usage(&self) -> Result<image::DiskUsage> {
        self.0.images.disk_usage().await.map_err(error)
    }

    /// Takes away what no image needs any more. Nobody waits for it.
    pub(crate) fn collect_garbage(&self) {
        let engine = self.clone();
        tokio::spawn(async move {
            if let Err(error) = engine.0.images.gc(false).await {
                tracing::warn!(%error, "could not collect what no image needs");
            }
        });
    }

    pub(super) fn image_users(&self) -> Vec<ImageUser> {
        let users = |record: Arc<ContainerRecord>| {
            let images = image_id(&record.image_id).into_iter().chain(mounted_images(&record));
            let user =
                |image| ImageUser { image, container: record.id.to_string(), running: record.state.phase.is_live() };
            images.map(user).collect::<Vec<_>>()
        };
        self.0.containers.all().into_iter().flat_map(|container| users(container.record())).collect()
    }

    /// What a container's mounts show where that is part of a tree, or an image: by their targets. `sources` are the
    /// directories of its volumes.
    pub(crate) fn mount_trees(
        &self,
        record: &ContainerRecord,
        sources: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<PathBuf, sandbox::MountTree>> {
        let mut trees = BTreeMap::new();
        for mount in &record.mounts {
            let root = match (mount.kind, image_id(&mount.source), sources.get(&mount.target)) {
                (MountPointKind::Image, Some(image), _) => self.image_tree(record, &image)?,
                (MountPointKind::Volume, _, Some(source)) if !mount.subpath.is_empty() => {
                    sandbox::RootFs::Path(source.into())
                }
                _ => continue,
            };
            let tree = sandbox::MountTree { root, subpath: PathBuf::from(&mount.subpath) };
            trees.insert(PathBuf::from(&mount.target), tree);
        }
        Ok(trees)
    }

    /// The files of an image that is mounted in a container.
    fn image_tree(&self, record: &ContainerRecord, image: &ImageId) -> Result<sandbox::RootFs> {
        let tree = self.0.images.mounted_image(record.id.as_str(), image).map_err(error)?;
        let options = if record.is_machine() { &LAYERS_WITH_HANDLES } else { &image::OVERLAY_OPTIONS };
        Ok(sandbox::RootFs::Overlay {
            layers_dir: tree.layers_dir,
            lower: tree.lower,
            upper: None,
            work: None,
            options: overlay_options(options),
            mount_point: None,
        })
    }

    /// The images that the `ancestor` filter of a list of containers means; `None`: it is not given.
    pub(crate) fn ancestors(&self, filters: &Filters) -> Result<Option<std::collections::HashSet<String>>> {
        if !filters.has("ancestor") {
            return Ok(None);
        }
        let mut wanted = std::collections::HashSet::new();
        for reference in filters.values("ancestor") {
            // An image that is not here has no containers.
            let Ok(id) = self.find_image(reference) else { continue };
            let Ok(base) = self.0.images.config(&id) else { continue };
            wanted.insert(id.to_string());
            for summary in self.0.images.list(&image::ListFilters { all: true, ..Default::default() }) {
                if summary.image.diff_ids.starts_with(&base.rootfs.diff_ids) && !base.rootfs.diff_ids.is_empty() {
                    wanted.insert(summary.image.id.to_string());
                }
            }
        }
        Ok(Some(wanted))
    }

    /// Whether the name that a container was made from stands for another image by now.
    pub(crate) fn image_moved(&self, record: &ContainerRecord) -> bool {
        self.0.images.resolve(&record.config.image).map_or(true, |id| id.to_string() != record.image_id)
    }

    /// `of`: the image that names were taken from; else it is the one that is deleted after them.
    fn tell_removed(&self, removed: &[Removed], of: Option<(ImageId, BTreeMap<String, String>)>) {
        for (index, step) in removed.iter().enumerate() {
            match step {
                Removed::Untagged(name) => {
                    let deleted = removed[index..].iter().find_map(|step| match step {
                        Removed::Deleted(id) => Some(id.to_string()),
                        _ => None,
                    });
                    let (actor, attributes) = match &of {
                        Some((id, attributes)) => (id.to_string(), attributes.clone()),
                        None => (deleted.unwrap_or_else(|| name.familiar()), BTreeMap::new()),
                    };
                    let attributes = named(&actor).into_iter().chain(attributes).collect();
                    self.0.events.tell(EventKind::Image, "untag", &actor, attributes);
                }
                Removed::Deleted(id) => {
                    self.0.events.tell(EventKind::Image, "delete", &id.to_string(), named(&id.to_string()));
                }
                Removed::LayerDeleted(_) => {}
            }
        }
    }

    pub(crate) fn tell_image(&self, action: &str, id: &ImageId, name: Option<&str>) {
        let mut attributes = self.image_attributes(id);
        let name = name.map_or_else(|| id.to_string(), str::to_owned);
        attributes.insert("name".to_owned(), name.clone());
        let actor = if action == "pull" || action == "push" { name } else { id.to_string() };
        self.0.events.tell(EventKind::Image, action, &actor, attributes);
    }

    fn image_attributes(&self, id: &ImageId) -> BTreeMap<String, String> {
        self.0.images.get(id).map(|image| image.labels.clone()).unwrap_or_default()
    }

    /// Takes the files away of a container that has no record any more; they go in the background.
    pub(crate) async fn discard_rootfs(&self, id: &ContainerId) {
        if let Err(error) = self.0.images.discard_rootfs(id.as_str()).await {
            tracing::warn!(container = %id.short(), %error, "could not remove its directory");
        }
    }

    /// A container's root file system, as the sandbox mounts it.
    pub(crate) fn root_file_system(&self, id: &ContainerId) -> Result<sandbox::RootFs> {
        let rootfs = self.0.images.rootfs(id.as_str()).map_err(error)?;
        Ok(sandbox::RootFs::Overlay {
            layers_dir: rootfs.layers_dir,
            lower: rootfs.lower,
            upper: Some(rootfs.upper),
            work: Some(rootfs.work),
            options: overlay_options(&image::OVERLAY_OPTIONS),
            mount_point: Some(self.0.config.run_dir.join("bundle/rootfs")),
        })
    }

    /// Directories of a container's root file system.
    pub(crate) fn graph_dirs(&self, id: &ContainerId) -> Option<GraphDirs> {
        let rootfs = self.0.images.rootfs(id.as_str()).ok()?;
        Some(GraphDirs {
            lower: rootfs.lower.iter().map(|name| rootfs.layers_dir.join(name)).collect(),
            merged: rootfs.upper.with_file_name("merged"),
            upper: rootfs.upper,
            work: rootfs.work,
        })
    }

    /// Bytes of a container's files. One of which that can't be told does not keep all others from being listed.
    pub(crate) async fn size_of(&self, record: &ContainerRecord) -> crate::ContainerSize {
        match self.0.images.rootfs_size(record.id.as_str()).await {
            Ok(size) => {
                let disk = self.disk_usage_of(record);
                crate::ContainerSize { rw: Some(size.own + disk), root_fs: Some(size.total + disk) }
            }
            Err(error) => {
                tracing::debug!(container = %record.id.short(), %error, "could not tell its size");
                crate::ContainerSize::default()
            }
        }
    }

    /// Root file systems that belong to no container.
    pub(crate) async fn sweep_rootfs(&self, known: &std::collections::HashSet<String>) {
        for owner in self.0.images.rootfs_owners() {
            let made_now = self.0.containers.by_id(&owner).is_some() || self.0.containers.is_reserved(&owner);
            if !known.contains(&owner) && !made_now {
                tracing::info!(container = owner, "removing the root file system of a container that is no more");
                if let Err(error) = self.0.images.remove_rootfs(&owner).await {
                    tracing::warn!(container = owner, %error, "could not remove it");
                }
            }
        }
    }
}

fn named(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("name".to_owned(), name.to_owned())])
}

/// As [`image::OVERLAY_OPTIONS`], of layers to which nothing is written: their files have handles, where those of the layers have, by which the server of a machine that goes on knows
/// them again.
const LAYERS_WITH_HANDLES: [(&str, &str); 3] =
    [("redirect_dir", "nofollow"), ("metacopy", "off"), ("nfs_export", "on")];

fn overlay_options(options: &[(&str, &str)]) -> Vec<String> {
    options.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The images that are mounted in a container.
pub(crate) fn mounted_images(record: &ContainerRecord) -> impl Iterator<Item = ImageId> {
    let images = record.mounts.iter().filter(|mount| mount.kind == MountPointKind::Image);
    images.filter_map(|mount| image_id(&mount.source))
}

/// The identifier of a container's image.
pub(crate) fn image_id(text: &str) -> Option<ImageId> {
    Digest::from_str(text).ok().map(ImageId)
}

pub(crate) fn parse_reference(text: &str) -> Result<Reference> {
    Reference::parse(text).map_err(invalid_reference)
}

pub(crate) fn invalid_reference(error: image::reference::ReferenceError) -> Error {
    Error::invalid(error.to_string())
}

//! Looking at images: lists, histories, what they take on the disk.

use crate::record::{ImageRecord, LayerRecord};
use crate::reference::Pattern;
use crate::remove::LabelFilter;
use crate::{Descriptor, Digest, ImageId, Images, Manifest, Reference, Result};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Which images are listed.
#[derive(Clone, Debug, Default)]
pub struct ListFilters {
    /// Also images without a name that others were committed from.
    pub all: bool,
    /// `Some(true)`: only those without a tag; `Some(false)`: none of those without a name.
    pub dangling: Option<bool>,
    /// Only those with all these labels.
    pub labels: Vec<LabelFilter>,
    /// Only those made before this one.
    pub before: Option<ImageId>,
    /// Only those made after this one.
    pub since: Option<ImageId>,
    /// Only those made before.
    pub until: Option<Timestamp>,
    /// Only names that one of these matches, and images that have such names.
    pub references: Vec<Pattern>,
}

/// An image in a list.
#[derive(Clone, Debug)]
pub struct ImageSummary {
    /// The image.
    pub image: Arc<ImageRecord>,
    /// Its names with tags.
    pub tags: Vec<Reference>,
    /// Its names with digests.
    pub digests: Vec<Reference>,
}

/// A step in an image's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryStep {
    /// The image that ends with this step, where one is here.
    pub id: Option<ImageId>,
    /// When.
    pub created: Option<Timestamp>,
    /// By what command.
    pub created_by: String,
    /// What was said.
    pub comment: String,
    /// The names of that image.
    pub tags: Vec<Reference>,
    /// Bytes in the files of its layer; 0 where it made none.
    pub size: u64,
}

/// What is here of an image's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestContent {
    /// The manifest, with what it runs on.
    pub descriptor: Descriptor,
    /// Whether all it points at is here.
    pub complete: bool,
    /// Bytes of it, and of all it points at, as far as that is here.
    pub size: u64,
}

/// What images take on the disk.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Bytes in the files of all layers, each counted once, and in the EROFS files that are kept of them.
    pub layers: u64,
    /// Bytes of all blobs.
    pub blobs: u64,
    /// Each image.
    pub images: Vec<ImageUsage>,
}

/// What an image takes on the disk.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// The image and its names.
    pub summary: ImageSummary,
    /// Bytes in the files of layers that other images have, too.
    pub shared: u64,
    /// Containers with a root file system of it.
    pub containers: u64,
}

impl Images {
    /// Images that fit, the newest first.
    pub fn list(&self, filters: &ListFilters) -> Vec<ImageSummary> {
        let state = self.0.state.lock();
        let made = |id: &Option<ImageId>| id.as_ref().and_then(|id| state.images.get(id)).map(|image| image.created);
        let (before, since) = (made(&filters.before), made(&filters.since));
        let mut names: HashMap<ImageId, Vec<&Reference>> = HashMap::new();
        for (name, id) in &state.names {
            names.entry(*id).or_default().push(name);
        }
        let mut list = Vec::new();
        for image in state.images.values() {
            let fits = before.is_none_or(|at| image.created < at)
                && since.is_none_or(|at| image.created > at)
                && filters.until.is_none_or(|at| image.created < at)
                && filters.labels.iter().all(|label| label.matches(&image.labels));
            if !fits {
                continue;
            }
            let mine = names.get(&image.id).map_or(&[][..], Vec::as_slice);
            let wanted = |name: &&&Reference| {
                filters.references.is_empty() || filters.references.iter().any(|pattern| name.matches(pattern))
            };
            let (tags, digests): (Vec<_>, Vec<_>) =
                mine.iter().filter(wanted).map(|name| (*name).clone()).partition(|name| name.tag().is_some());
            if tags.is_empty() && digests.is_empty() {
                let hidden = !filters.all && !state.children(&image.id).is_empty();
                if hidden || filters.dangling == Some(false) || !filters.references.is_empty() {
                    continue;
                }
            } else if filters.dangling == Some(true) && !tags.is_empty() {
                continue;
            }
            list.push(ImageSummary { image: Arc::clone(image), tags, digests });
        }
        list.sort_by(|a, b| b.image.created.cmp(&a.image.created).then_with(|| a.image.id.cmp(&b.image.id)));
        list
    }

    /// What is here of an image's manifest; `None` where it has none, as images that were made here. Blocks.
    pub fn manifest_content(&self, id: &ImageId) -> Result<Option<ManifestContent>> {
        let image = self.0.state.lock().image(id)?;
        let (Some(descriptor), Some(json)) = (&image.manifest, self.manifest_json(id)?) else { return Ok(None) };
        let manifest = Manifest::parse(&json)?;
        let parts = std::iter::once(&manifest.config).chain(&manifest.layers);
        // A layer that comes twice is there once.
        let parts: BTreeMap<Digest, Option<u64>> =
            parts.map(|part| (part.digest, self.0.content.size(&part.digest))).collect();
        Ok(Some(ManifestContent {
            descriptor: Descriptor { platform: Some(image.platform.clone()), ..descriptor.clone() },
            complete: parts.values().all(Option::is_some),
            size: descriptor.size + parts.values().flatten().sum::<u64>(),
        }))
    }

    /// An image's layers, bottom first.
    pub fn layers(&self, id: &ImageId) -> Result<Vec<Arc<LayerRecord>>> {
        let state = self.0.state.lock();
        state.layers_of(&state.image(id)?.diff_ids)
    }

    /// How an image came about, the newest step first.
    pub fn history(&self, id: &ImageId) -> Result<Vec<HistoryStep>> {
        let config = self.config(id)?;
        let layers = self.layers(id)?;
        let mut sizes = layers.iter().map(|layer| layer.size);
        let mut steps: Vec<HistoryStep> = config
            .history
            .iter()
            .map(|entry| HistoryStep {
                id: None,
                created: entry.created.as_deref().and_then(|text| text.parse().ok()),
                created_by: entry.created_by.clone(),
                comment: entry.comment.clone(),
                tags: Vec::new(),
                size: if entry.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
            })
            .collect();
        steps.reverse();
        // The image itself ends with the newest step, its parents with those before.
        let mut at = Some(*id);
        for step in &mut steps {
            let Some(id) = at else { break };
            step.id = Some(id);
            step.tags = self.references(&id).into_iter().filter(|name| name.tag().is_some()).collect();
            at = self.get(&id).and_then(|image| image.parent).filter(|parent| self.get(parent).is_some());
        }
        Ok(steps)
    }

    /// What images take on the disk. Counts blobs on the disk: on a thread that may block.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let blobs = self.blocking(|inner| inner.content.list()).await?.iter().map(|(_, size)| size).sum();
        let summaries = self.list(&ListFilters { all: true, ..ListFilters::default() });
        let state = self.0.state.lock();
        let mut users: BTreeMap<Digest, u64> = BTreeMap::new();
        for summary in &summaries {
            let mut mine = summary.image.diff_ids.clone();
            mine.sort_unstable();
            mine.dedup();
            mine.into_iter().for_each(|diff_id| *users.entry(diff_id).or_default() += 1);
        }
        let size = |diff_id: &Digest| state.layers.get(diff_id).map_or(0, |layer| layer.size);
        let images = summaries
            .into_iter()
            .map(|summary| ImageUsage {
                shared: summary
                    .image
                    .diff_ids
                    .iter()
                    .filter(|id| users.get(id).is_some_and(|n| *n > 1))
                    .map(size)
                    .sum(),
                containers: state.rootfs.values().filter(|r| r.image == Some(summary.image.id)).count() as u64,
                summary,
            })
            .collect();
        Ok(DiskUsage { layers: bytes_of(state.layers.values()), blobs, images })
    }
}

/// Bytes in the files of layers, and in their EROFS files. What lies under several of them counts once.
fn bytes_of<'l>(layers: impl Iterator<Item = &'l Arc<LayerRecord>>) -> u64 {
    let mut of: HashMap<&str, u64> = HashMap::new();
    let mut erofs = 0;
    for layer in layers {
        erofs += layer.erofs.map_or(0, |erofs| erofs.size);
        match &layer.under {
            None => drop(of.insert(&layer.dir, layer.size)),
            Some(under) => {
                of.insert(&layer.dir, under.own);
                // The layer whose directory it was says so better, where it is there.
                of.entry(&under.dir).or_insert(layer.size.saturating_sub(under.own));
            }
        }
    }
    of.values().sum::<u64>() + erofs
}

//! `images` and `history`

use std::cmp::Reverse;
use std::collections::BTreeMap;

use image::LabelFilter;
use image::reference::Pattern;

use crate::model::{Filters, Timestamp};
use crate::{Engine, Error, Result};

use super::{ImageManifest, error};

/// Which images are listed.
#[derive(Clone, Debug, Default)]
pub struct ListImages {
    /// Images without a name that others were committed from as well.
    pub all: bool,
    /// `before`, `dangling`, `label`, `reference`, `since`, `until`
    pub filters: Filters,
    /// Tell the bytes that are shared with other images.
    pub shared_size: bool,
    /// Tell of the images' manifests.
    pub manifests: bool,
}

/// An image in a list.
#[derive(Clone, Debug)]
pub struct ImageSummary {
    /// `sha256:…`
    pub id: String,
    /// The image it was committed from; empty: none.
    pub parent: String,
    /// Names with tags.
    pub repo_tags: Vec<String>,
    /// Names with digests.
    pub repo_digests: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// Bytes in the files of its layers.
    pub size: u64,
    /// Bytes of layers that other images have too, where asked for.
    pub shared_size: Option<u64>,
    /// Containers made from it, where asked for.
    pub containers: Option<u64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its manifest, where it has one.
    pub descriptor: Option<image::Descriptor>,
    /// The same with what of it is here, where asked for.
    pub manifests: Vec<ImageManifest>,
}

/// A step in an image's history.
#[derive(Clone, Debug)]
pub struct ImageHistory {
    /// The image that ends with it; `<missing>` where none is here.
    pub id: String,
    /// When.
    pub created: Option<Timestamp>,
    /// By what command.
    pub created_by: String,
    /// Names of that image.
    pub tags: Vec<String>,
    /// Bytes in the files of its layer.
    pub size: u64,
    /// What was said.
    pub comment: String,
}

/// What lists of images can be filtered by.
pub const IMAGE_FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

impl Engine {
    /// Images, the newest first.
    pub async fn image_list(&self, options: &ListImages) -> Result<Vec<ImageSummary>> {
        let filters = self.list_filters(options)?;
        let mut usage = BTreeMap::new();
        if options.shared_size {
            let measured = self.0.images.disk_usage().await.map_err(error)?;
            usage.extend(
                measured
                    .images
                    .into_iter()
                    .map(|image| (image.summary.image.id.to_string(), (image.shared, image.containers))),
            );
        }
        let mut summaries = self.0.images.list(&filters);
        summaries.sort_by_key(|summary| Reverse(summary.image.created));
        let familiar = |names: &[image::Reference]| names.iter().map(image::Reference::familiar).collect();
        let mut listed = Vec::with_capacity(summaries.len());
        for summary in summaries {
            let id = summary.image.id.to_string();
            let used = usage.get(&id);
            let manifests = match options.manifests {
                // It may have been removed in this moment.
                true => self.manifests_of(summary.image.id).await.unwrap_or_default(),
                false => Vec::new(),
            };
            listed.push(ImageSummary {
                parent: summary.image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
                repo_tags: familiar(&summary.tags),
                repo_digests: familiar(&summary.digests),
                created: summary.image.created,
                size: summary.image.size,
                shared_size: used.map(|(shared, _)| *shared),
                containers: used.map(|(_, containers)| *containers),
                labels: summary.image.labels.clone(),
                descriptor: summary.image.manifest.clone(),
                manifests,
                id,
            });
        }
        Ok(listed)
    }

    fn list_filters(&self, options: &ListImages) -> Result<image::ListFilters> {
        let filters = &options.filters;
        filters.only(&IMAGE_FILTERS)?;
        let one = |key: &str| filters.values(key).next().map(|name| self.find_image(name)).transpose();
        let pattern =
            |text: &str| Pattern::parse(text).map_err(|_| Error::invalid(format!("invalid reference filter: {text}")));
        Ok(image::ListFilters {
            all: options.all,
            dangling: filters.flag("dangling")?,
            labels: filters.values("label").map(LabelFilter::parse).collect(),
            before: one("before")?,
            since: one("since")?,
            until: crate::container::until(filters)?,
            references: filters.values("reference").map(pattern).collect::<Result<_>>()?,
        })
    }

    /// How an image came about, the newest step first.
    pub async fn image_history(&self, reference: &str) -> Result<Vec<ImageHistory>> {
        let id = self.find_or_make_image(reference).await?;
        let (engine, steps) = (self.clone(), id);
        let steps = crate::blocking(move || engine.0.images.history(&steps).map_err(error)).await?;
        Ok(steps
            .into_iter()
            .map(|step| ImageHistory {
                id: step.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
                created: step.created,
                created_by: step.created_by,
                tags: step.tags.iter().map(image::Reference::familiar).collect(),
                size: step.size,
                comment: step.comment,
            })
            .collect())
    }
}

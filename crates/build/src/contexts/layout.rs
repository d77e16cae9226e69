//! A further context that is an image in a directory of whoever asks, in the form of an OCI layout. Only what the build takes of it comes here, verified
//! by its digests; here it is an image without a name.

use crate::elsewhere::{Layout, LayoutEntry, layout};
use crate::progress::{StepEvent, StepId};
use crate::solve::Solver;
use crate::{Error, Result};
use bytes::Bytes;
use image::registry::choose;
use image::{Descriptor, FinishImage, ImageConfig, ImageId, Index, Manifest, Platform, Progress, media_type};
use std::sync::Arc;

/// Indexes may point at indexes; deeper than this they are a trap.
const DEEPEST: usize = 4;

/// What an image is called where nothing is said.
const LATEST: &str = "latest";

/// An image in a directory.
#[derive(Clone)]
pub struct LayoutImage {
    /// The directory.
    pub layout: Arc<dyn Layout>,
    /// The name that the user knows it by.
    pub path: String,
    /// Which of what it has; `None`: what is called `latest`, or the only one.
    pub entry: Option<LayoutEntry>,
}

impl Solver<'_> {
    /// Brings an image in that fits a platform.
    pub(crate) async fn of_layout(&self, image: &LayoutImage, platform: &Platform, step: StepId) -> Result<ImageId> {
        let brought = self.brought(image, platform, step).await;
        brought.map_err(|why| Error::Invalid(format!("oci-layout://{}: {why}", image.path)))
    }

    async fn brought(&self, image: &LayoutImage, platform: &Platform, step: StepId) -> Result<ImageId, String> {
        let failed = |e: image::Error| e.to_string();
        let from = &*image.layout;
        let (bytes, kind) = chosen(from, image.entry.as_ref(), platform).await?;
        let manifest = Manifest::parse(&bytes).map_err(failed)?;
        let config = layout::blob(from, &manifest.config).await?;
        let parsed = ImageConfig::parse(&config).map_err(failed)?;
        if !matches!(&*parsed.os, "" | "linux") {
            return Err(format!("it is an image for {}, and not for linux", parsed.os));
        }
        let ingest = self.images().begin_image();
        for (layer, diff_id) in manifest.layers.iter().zip(&parsed.rootfs.diff_ids) {
            if !ingest.has_layer(diff_id) {
                let told = self.progress.clone();
                let progress = Progress::new(move |event| told.step(step, StepEvent::Layer(event)));
                layout::take(from, &ingest, layer, diff_id, progress).await?;
            }
        }
        // That it has as many layers as it says is looked at there.
        let image = FinishImage { manifest: bytes, manifest_media_type: kind, config, tag: None, repo_digest: None };
        ingest.finish(image).await.map_err(failed)
    }
}

/// The manifest that is meant, and its type.
async fn chosen(
    from: &dyn Layout,
    entry: Option<&LayoutEntry>,
    platform: &Platform,
) -> Result<(Bytes, String), String> {
    let none = || format!("it has nothing for {}", platform.normalized());
    let mut at = choose(&listed(from, entry).await?, platform).cloned().ok_or_else(none)?;
    for _ in 0..DEEPEST {
        let bytes = layout::blob(from, &at).await?;
        // Of what is known by its digest alone, it says itself what it is.
        let index = Index::parse(&bytes).map_err(|e| e.to_string())?;
        let own = Some(at.media_type).filter(|own| !own.is_empty()).or(index.media_type.clone());
        let is_index = own.as_deref().map_or(!index.manifests.is_empty(), media_type::is_index);
        if !is_index {
            return Ok((bytes, own.unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned())));
        }
        at = choose(&index, platform).cloned().ok_or_else(none)?;
    }
    Err(format!("more than {DEEPEST} indexes point at one another"))
}

/// What is meant of a directory: as several, where it is there for several platforms.
async fn listed(from: &dyn Layout, entry: Option<&LayoutEntry>) -> Result<Index, String> {
    let index = layout::index(from).await?;
    let named = |name: &str| {
        let is_named = |one: &&Descriptor| one.annotations.get(layout::NAME).is_some_and(|own| own == name);
        index.manifests.iter().filter(is_named).cloned().collect::<Vec<_>>()
    };
    let manifests = match entry {
        // Whatever is in the directory has a digest, whether the list has it or not.
        Some(LayoutEntry::Digest(digest)) => {
            let listed = index.manifests.iter().find(|one| one.digest == *digest).cloned();
            vec![listed.unwrap_or_else(|| Descriptor::new("", *digest, 0))]
        }
        Some(LayoutEntry::Named(name)) => named(name),
        None => match (named(LATEST), &*index.manifests) {
            (named, [only]) if named.is_empty() => vec![only.clone()],
            (named, _) => named,
        },
    };
    match manifests.is_empty() {
        true => {
            let name = match entry {
                Some(LayoutEntry::Named(name)) => name,
                _ => LATEST,
            };
            Err(format!("nothing in it is called {name:?}: add :TAG or @DIGEST"))
        }
        false => Ok(Index { manifests, ..index.clone() }),
    }
}

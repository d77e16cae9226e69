//! What a build came by, kept for others.

use super::document::{ARTIFACT_TYPE, DOCUMENT_TYPE};
use super::layout::{self, Layout};
use super::trail::{CacheMode, document};
use crate::product::Product;
use crate::progress::{ExportEvent, Progress};
use crate::solve::Builder;
use crate::{Error, Result};
use image::registry::{Auth, NewArtifact};
use image::{Descriptor, Reference};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where a cache goes.
#[derive(Clone)]
pub enum CacheTo {
    /// To a registry, under a name.
    Registry(Reference),
    /// Into a directory.
    Layout {
        /// The directory, for people.
        name: String,
        /// It.
        layout: Arc<dyn Layout>,
        /// What the cache is called there.
        tag: String,
    },
}

impl fmt::Display for CacheTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheTo::Registry(reference) => f.write_str(&reference.familiar()),
            CacheTo::Layout { name, .. } => f.write_str(name),
        }
    }
}

impl Builder {
    /// Keeps steps that a product came by where others find them. What they are called there.
    ///
    /// # Errors
    /// What a registry said; where a directory can't be written.
    pub async fn export_cache(
        &self,
        product: &Product,
        mode: CacheMode,
        to: &CacheTo,
        credentials: &BTreeMap<String, Auth>,
        (number, progress): (usize, &Progress),
    ) -> Result<Descriptor> {
        let failed = |e: &dyn fmt::Display| Error::failed("packing layers for a cache", e);
        let document = document(product.steps(), mode)?;
        let layers = self.images().layers_for_push(document.layers.clone()).await.map_err(|e| failed(&e))?;
        let json = serde_json::to_vec(&document).map_err(|e| Error::failed("writing a cache's document", e))?;
        let artifact =
            NewArtifact { artifact_type: ARTIFACT_TYPE, document_type: DOCUMENT_TYPE, document: json.into(), layers };
        match to {
            CacheTo::Registry(reference) => {
                let progress = progress.clone();
                let layers = image::Progress::new(move |event| progress.export(number, ExportEvent::Layer(event)));
                let (registries, auth) = (self.engine().registries(), credentials.get(reference.domain()));
                let pushed = registries.push_artifact(self.images(), artifact, reference, auth, layers).await;
                pushed.map_err(|e| Error::Invalid(format!("pushing {}: {e}", reference.familiar())))
            }
            CacheTo::Layout { layout, tag, .. } => {
                layout::write(&**layout, self.images(), artifact, tag, &product.damaged()).await
            }
        }
    }
}

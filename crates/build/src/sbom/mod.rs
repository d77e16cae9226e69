//! What an image is made of: the packages of its distribution, as its own package manager wrote them down, in a document of SPDX 2.3.
//!
//! The document says nothing but what is in the image: the same image has the same one, whoever asks when.

mod packages;
mod spdx;

use crate::solve::Builder;
use crate::{Error, Result};
use image::{ImageConfig, ImageId, KeptLayers};
use packages::Found;
use rustix::fd::AsFd as _;
use serde_json::Value;

pub(crate) use spdx::encoded;

/// The packages of an image.
pub(crate) struct Listed {
    pub(crate) document: Value,
    /// What it does not list: one line for people.
    pub(crate) missing: Option<String>,
}

impl Builder {
    /// The document of an image that is here.
    ///
    /// # Errors
    /// Where its files can't be read, or are no databases of packages although they are called so.
    pub async fn packages_of(&self, image: &str) -> Result<Value> {
        let failed = |e: image::Error| Error::failed("opening an image's files", e);
        let id = self.images().resolve(image).map_err(failed)?;
        let config = self.images().config(&id).map_err(failed)?;
        self.packages_in(id, &config).await.map(|listed| listed.document)
    }

    /// The document of an image whose layers are here, of which nobody need have a record.
    pub(crate) async fn packages_in(&self, id: ImageId, config: &ImageConfig) -> Result<Listed> {
        let failed = |e: image::Error| Error::failed("opening an image's files", e);
        let kept: Option<KeptLayers> = self.images().keep_layers(&config.rootfs.diff_ids);
        let gone = || Error::Invalid("the image was removed while it was looked at".into());
        let _kept = kept.ok_or_else(gone)?;
        let found = if config.rootfs.diff_ids.is_empty() {
            Found::default()
        } else {
            let mounted = self.images().view_layers(config.rootfs.diff_ids.clone()).await.map_err(failed)?;
            let reading = tokio::task::spawn_blocking(move || packages::find(mounted.as_fd())).await;
            reading.map_err(|e| Error::failed("reading an image's packages", e))?.map_err(Error::Invalid)?
        };
        let created = config.created_at().map_or(0, |at| at.as_second());
        Ok(Listed { document: spdx::document(&id.0, created, &found), missing: found.missing() })
    }
}

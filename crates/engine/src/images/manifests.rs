//! The manifests of images: of each image here the one that it came with.

use image::{ImageId, ManifestContent};

use crate::{Engine, Result};

use super::error;

/// A manifest of an image.
#[derive(Clone, Debug)]
pub struct ImageManifest {
    /// It, and what of it is here.
    pub content: ManifestContent,
    /// Bytes in the files of the image's layers.
    pub unpacked: u64,
    /// Containers made from it.
    pub containers: Vec<String>,
}

impl Engine {
    /// The manifests of an image. One that was made here has none.
    pub(super) async fn manifests_of(&self, id: ImageId) -> Result<Vec<ImageManifest>> {
        let engine = self.clone();
        crate::blocking(move || {
            let Some(content) = engine.0.images.manifest_content(&id).map_err(error)? else { return Ok(Vec::new()) };
            let unpacked = engine.0.images.get(&id).map_or(0, |image| image.size);
            let of_it = engine.image_users().into_iter().filter(|user| user.image == id);
            Ok(vec![ImageManifest { content, unpacked, containers: of_it.map(|user| user.container).collect() }])
        })
        .await
    }
}

//! Images that are none yet, and become some when somebody asks for them.

use futures_util::future::BoxFuture;
use image::ImageId;

use crate::{Engine, ErrorKind, Result};

/// Whoever knows of images that are none yet: what a build was on its way to.
pub trait Intermediates: Send + Sync {
    /// Makes the image whose id begins with these digits, if it is known; `None`: it is not.
    fn make<'a>(&'a self, engine: &'a Engine, digits: &'a str) -> BoxFuture<'a, Option<ImageId>>;
}

impl Engine {
    /// From here on, images that are not here are looked for there as well.
    pub fn look_for_images_in(&self, intermediates: Box<dyn Intermediates>) {
        // There is one for each engine; a second one would know nothing else.
        drop(self.0.intermediates.set(intermediates));
    }

    /// The image that `reference` names. One that a build was on its way to is made now.
    pub(crate) async fn find_or_make_image(&self, reference: &str) -> Result<ImageId> {
        match (self.find_image(reference), self.0.intermediates.get()) {
            (Err(error), Some(intermediates)) if error.kind() == ErrorKind::NotFound => {
                intermediates.make(self, reference).await.ok_or(error)
            }
            (found, _) => found,
        }
    }
}

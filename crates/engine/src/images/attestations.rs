//! What is said of images: kept with them, or known to a registry.

use image::registry::{Auth, SaidOf};
use image::{AttestationRecord, Reference};
use serde_json::Value;

use super::{error, registry_error};
use crate::{Engine, Result};

impl Engine {
    /// What is said of an image that is here.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub async fn image_attestations(&self, reference: &str) -> Result<Vec<(AttestationRecord, Value)>> {
        let id = self.find_image(reference)?;
        self.0.images.attestations(&id).await.map_err(error)
    }

    /// Takes off an image what is said of it, all of it or that of one kind. What it was.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub async fn image_take_off(&self, reference: &str, kind: Option<String>) -> Result<Vec<AttestationRecord>> {
        let id = self.find_image(reference)?;
        self.0.images.take_off(&id, kind).await.map_err(error)
    }

    /// What its registry has that is said of an image, whether that is here or not.
    ///
    /// # Errors
    /// What the registry said.
    pub async fn image_said_of(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Vec<SaidOf>> {
        self.0.registries.said_of(reference, auth).await.map_err(registry_error)
    }
}

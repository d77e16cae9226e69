//! Steps of builds: containers of images that are being built, of which only what they changed is wanted.

use image::NewLayer;

use crate::model::ContainerId;
use crate::{Engine, Error, Result};

impl Engine {
    /// Takes what a container changed, which does not run any more, to make a layer of it. It has changed nothing afterwards.
    pub async fn take_changes(&self, reference: &str) -> Result<NewLayer> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        if life.record().state.phase.is_live() {
            return Err(Error::conflict(format!("container {reference} is running: what it changes is not whole yet")));
        }
        life.files.settle(&life).await?;
        let (images, id) = (self.0.images.clone(), life.id.to_string());
        crate::blocking(move || images.take_changes(&id).map_err(crate::images::error)).await
    }

    /// Containers that are steps of builds. Right after the daemon's start they belong to builds that ended with it.
    pub fn steps(&self) -> Vec<ContainerId> {
        let all = self.0.containers.all();
        all.iter().filter(|container| container.record().step).map(|container| container.id.clone()).collect()
    }
}

//! Images of microVMs, and their versions.

use engine::model::Timestamp;
use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::{Hooks, Microvms, step};

/// A version of an image: a machine that was saved when its program was ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageVersion {
    /// The image's name.
    pub name: String,
    /// From 1 on.
    pub version: u32,
    /// When it was saved.
    pub created: Timestamp,
    /// The container image that runs in it, as it was named.
    pub image: String,
    /// What its program is told.
    pub hooks: Option<Hooks>,
    /// The port at which it was waited for.
    #[serde(default)]
    pub port: Option<u16>,
    /// Bytes that its snapshot takes.
    pub size: u64,
}

impl ImageVersion {
    /// What the engine calls it, and people: `NAME:VERSION`.
    pub fn machine_image(&self) -> String {
        key(&self.name, self.version)
    }
}

fn key(name: &str, version: u32) -> String {
    format!("{name}:{version}")
}

impl Microvms {
    /// All versions of all images, by name and number.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn versions(&self) -> Result<Vec<ImageVersion>> {
        let listed = self.0.images.list().map_err(|error| step("read the images of microVMs", error))?;
        let mut versions: Vec<_> = listed.items.into_iter().map(|item| item.value).collect();
        versions.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        Ok(versions)
    }

    /// The version that `NAME:VERSION` names; `NAME`: its newest.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, reference: &str) -> Result<ImageVersion> {
        let (name, wanted) =
            reference.rsplit_once(':').map_or((reference, None), |(name, version)| (name, Some(version)));
        let is_it = |version: &ImageVersion| wanted.is_none_or(|wanted| version.version.to_string() == wanted);
        let found = self.versions()?.into_iter().rfind(|version| version.name == name && is_it(version));
        found.ok_or_else(|| Error::not_found(format!("No such microVM image: {reference}")))
    }

    /// Removes the versions that `NAME:VERSION` or `NAME` names, all of it. What goes on from them goes on.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_image(&self, reference: &str) -> Result<Vec<ImageVersion>> {
        let newest = self.find(reference)?;
        let all = match reference.contains(':') {
            true => vec![newest],
            false => self.versions()?.into_iter().filter(|version| version.name == newest.name).collect(),
        };
        for version in &all {
            let name = version.machine_image();
            // Whoever is killed in between leaves a machine image without a record, which is removed at the next start.
            self.0.images.delete(&name).map_err(|error| step("forget an image of microVMs", error))?;
            self.0.engine.remove_machine_image(&name).await?;
        }
        Ok(all)
    }

    /// Gives a machine the next number of an image, and has it saved and recorded as that by `save`.
    pub(crate) async fn number<F: Future<Output = Result<ImageVersion>>>(
        &self,
        name: &str,
        save: impl FnOnce(u32) -> F,
    ) -> Result<ImageVersion> {
        let _one = self.0.numbering.lock().await;
        let last =
            self.versions()?.into_iter().filter(|version| version.name == name).map(|version| version.version).max();
        let number =
            last.unwrap_or(0).checked_add(1).ok_or_else(|| Error::invalid("the image has too many versions"))?;
        let saved = save(number).await?;
        let put = self.0.images.put(&saved.machine_image(), &saved);
        match put {
            Ok(_) => Ok(saved),
            Err(error) => {
                self.0.engine.remove_machine_image(&saved.machine_image()).await?;
                Err(step("record an image of microVMs", error))
            }
        }
    }
}

//! Machine images: machines that were saved with all that runs in them, for any number of containers to go on from.
//!
//! One is made of a container that runs in a microVM. It outlives that: it has the snapshot's files, what the container was asked to be, and keeps the
//! image that it was made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::{Collection, Expect, Store};

use crate::container::{CreateRequest, Created};
use crate::model::{ContainerConfig, EndpointRequest, HostConfig, SnapshotId, State, Timestamp};
use crate::{Engine, Error, Result};

/// A machine that was saved with what runs in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineImage {
    /// Its name, which is whoever's who had it made.
    pub name: String,
    /// When the machine was as it is in it.
    pub created: Timestamp,
    /// Bytes that the snapshot takes.
    pub size: u64,
    /// The identifier of the image that its container was made of.
    pub image: String,
    /// What its container was asked to be.
    pub config: ContainerConfig,
    /// How that was asked to be run.
    pub host: HostConfig,
    /// What was asked of its endpoints, by network.
    pub endpoints: BTreeMap<String, EndpointRequest>,
    /// What its containers go on from.
    pub snapshot: SnapshotId,
}

/// All machine images.
pub(crate) struct MachineImages {
    records: Collection<MachineImage>,
    known: Mutex<BTreeMap<String, Arc<MachineImage>>>,
}

impl MachineImages {
    /// Reads the records.
    pub(crate) fn open(store: &Store) -> Result<Self> {
        let records: Collection<MachineImage> = Collection::new(store, "machine-image/");
        let listed = records.list().map_err(|error| Error::step("read the machine images", error))?;
        let known = listed.items.into_iter().map(|item| (item.value.name.clone(), Arc::new(item.value))).collect();
        Ok(Self { records, known: Mutex::new(known) })
    }

    /// The snapshots that they need.
    pub(crate) fn snapshots(&self) -> BTreeSet<SnapshotId> {
        self.known.lock().values().map(|image| image.snapshot.clone()).collect()
    }
}

/// Whose an image of containers is that a machine image was made of.
fn owner(name: &str) -> String {
    format!("machine image {name}")
}

impl Engine {
    /// Makes a machine image of a container that runs in a microVM, and goes on.
    ///
    /// # Errors
    /// As [`Engine::snapshot`]; or there is one of that name.
    pub async fn save_machine_image(&self, reference: &str, name: &str) -> Result<Arc<MachineImage>> {
        let (record, saved) = self.save_lastingly(reference).await?;
        let snapshot = saved.record();
        let origin = record.origin_of_copies();
        let image = MachineImage {
            name: name.to_owned(),
            created: snapshot.created,
            size: snapshot.size,
            image: record.image_id.clone(),
            config: origin.config,
            host: origin.host,
            endpoints: origin.endpoints,
            snapshot: snapshot.id.clone(),
        };
        let put = self.0.machine_images.records.put_if(name, Expect::Absent, &image);
        if let Err(error) = put {
            return Err(match self.machine_image(name) {
                Ok(_) => Error::conflict(format!("there is a machine image {name} already")),
                Err(_) => Error::step("record a machine image", error),
            });
        }
        let image = Arc::new(image);
        self.0.machine_images.known.lock().insert(name.to_owned(), image.clone());
        // Until then it is the container that needs it.
        self.hold_image_of(&image).await?;
        Ok(image)
    }

    /// Sees that the image which a machine image was made of stays: a daemon that was killed in the middle may not have come to that.
    ///
    /// # Errors
    /// It is gone.
    pub async fn hold_image_of(&self, image: &MachineImage) -> Result<()> {
        let of = crate::images::image_id(&image.image).ok_or_else(|| Error::system("the container has no image"))?;
        self.0.images.hold(&owner(&image.name), &of).await.map_err(crate::images::error)
    }

    /// All machine images.
    pub fn machine_images(&self) -> Vec<Arc<MachineImage>> {
        self.0.machine_images.known.lock().values().cloned().collect()
    }

    /// The machine image of a name.
    ///
    /// # Errors
    /// There is none.
    pub fn machine_image(&self, name: &str) -> Result<Arc<MachineImage>> {
        let found = self.0.machine_images.known.lock().get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("No such machine image: {name}")))
    }

    /// Makes a container that goes on from a machine image when it is started, for `purpose` ([`crate::model::ContainerRecord::purpose`]). `change` may
    /// ask for more than its container was.
    ///
    /// # Errors
    /// There is no such machine image, or the container can't be made as asked.
    pub async fn create_of_machine_image(
        &self,
        name: &str,
        container: Option<String>,
        purpose: String,
        change: impl FnOnce(&mut ContainerConfig, &mut HostConfig) + Send,
    ) -> Result<Created> {
        let image = self.machine_image(name)?;
        let _held = self.0.snapshots.hold(&image.snapshot)?;
        let (mut config, mut host) = (image.config.clone(), image.host.clone());
        change(&mut config, &mut host);
        let state = State { suspended: Some(image.snapshot.clone()), ..State::default() };
        let (endpoints, image) = (image.endpoints.clone(), Some(image.image.clone()));
        self.create(CreateRequest {
            name: container,
            config,
            host,
            endpoints,
            image,
            state,
            purpose: Some(purpose),
            ..CreateRequest::default()
        })
        .await
    }

    /// Removes a machine image. What goes on from it goes on.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn remove_machine_image(&self, name: &str) -> Result<()> {
        self.machine_image(name)?;
        // Before the record goes: nobody would know later whose it was.
        self.0.images.release(&owner(name)).await.map_err(crate::images::error)?;
        let records = &self.0.machine_images.records;
        records.delete(name).map_err(|error| Error::step("forget a machine image", error))?;
        self.0.machine_images.known.lock().remove(name);
        self.collect_snapshots_beside();
        Ok(())
    }
}

//! Volumes: directories of the host with a name, that outlive the containers that use them.

mod driver;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::{Collection, Expect, Txn};

use crate::events::EventKind;
use crate::model::{ContainerRecord, Filters, Timestamp};
use crate::{Engine, Error, Result};

use driver::Options;
pub(crate) use driver::Source;

/// How the names begin of directories that are being removed; no volume's name does.
const ASIDE: &str = ".removed-";

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// `local`
    pub driver: String,
    /// The driver's options: `type`, `o`, `device`.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Nobody named it: it goes with its container where that is removed with its volumes.
    pub anonymous: bool,
    /// Directory of its files.
    pub mountpoint: PathBuf,
}

/// A volume to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeCreate {
    /// Its name; empty: a new one.
    pub name: String,
    /// Its driver; empty: `local`.
    pub driver: String,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume and what it holds.
#[derive(Clone, Debug)]
pub struct VolumeUsage {
    /// The volume.
    pub volume: Volume,
    /// Bytes of its files; `None`: not known (not a directory of this host).
    pub size: Option<u64>,
    /// How many containers use it.
    pub references: usize,
}

/// All volumes of this instance.
pub(crate) struct Volumes {
    directory: PathBuf,
    records: Collection<Volume>,
    by_name: Mutex<BTreeMap<String, Arc<Volume>>>,
    /// How many running containers hold each volume that has to be mounted before use.
    mounted: Mutex<HashMap<String, usize>>,
}

impl Volumes {
    /// Reads the records below `volume/`.
    pub(crate) fn open(store: &store::Store, directory: PathBuf) -> Result<Self> {
        let records: Collection<Volume> = Collection::new(store, "volume/");
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::step(format!("create {}", directory.display()), error))?;
        let listed = records.list().map_err(|error| Error::step("read the volumes", error))?;
        let by_name = listed.items.into_iter().map(|item| (item.value.name.clone(), Arc::new(item.value))).collect();
        let volumes = Self { directory, records, by_name: Mutex::new(by_name), mounted: Mutex::default() };
        volumes.set_strays_aside();
        Ok(volumes)
    }

    /// Directories whose record is gone: what a killed daemon left between the two steps of a removal or a creation.
    /// They lose their name before anybody can make a volume of it.
    fn set_strays_aside(&self) {
        for name in self.names_on_disk() {
            if !name.starts_with(ASIDE) && !self.by_name.lock().contains_key(&name) {
                tracing::info!(volume = name, "removing what is left of a volume");
                if let Err(error) = self.set_aside(&name) {
                    tracing::warn!(volume = name, %error, "could not set aside what is left of a volume");
                }
            }
        }
    }

    /// Gives a volume's directory a name that no volume has; `None`: there is none.
    fn set_aside(&self, name: &str) -> std::io::Result<Option<PathBuf>> {
        let aside = self.directory.join(format!("{ASIDE}{}", names::random()));
        match std::fs::rename(self.directory.join(name), &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn names_on_disk(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The volume named `name`.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Volume>> {
        let found = self.by_name.lock().get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// All volumes, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Volume>> {
        self.by_name.lock().values().cloned().collect()
    }

    /// Makes a volume, or gives the one that is there. The flag tells whether it is new.
    pub(crate) fn create(&self, request: VolumeCreate) -> Result<(Arc<Volume>, bool)> {
        check(&request)?;
        let volume = match request.name.is_empty() {
            true => self.make_directory(&names::random(), request)?,
            false => {
                let name = request.name.clone();
                names::check(&name)?;
                if let Some(existing) = self.by_name.lock().get(&name) {
                    return Ok((existing.clone(), false));
                }
                self.make_directory(&name, request)?
            }
        };
        match self.records.put_if(&volume.name, Expect::Absent, &volume) {
            Ok(_) => {}
            Err(error) if error.is_conflict() => return Ok((self.get(&volume.name)?, false)),
            Err(error) => return Err(Error::step(format!("record the volume {}", volume.name), error)),
        }
        self.show(&volume);
        Ok((Arc::new(volume), true))
    }

    /// Makes an anonymous volume for a container, whose record is to be written together with the container's
    /// ([`Self::put_in`]), and shown then ([`Self::show`]): without the one there is no use for the other.
    pub(crate) fn create_with_container(&self, request: VolumeCreate) -> Result<Volume> {
        check(&request)?;
        self.make_directory(&names::random(), request)
    }

    /// Adds a volume's record to a transaction.
    pub(crate) fn put_in<'a>(&self, txn: Txn<'a>, volume: &Volume) -> Result<Txn<'a>> {
        let put = self.records.put_in(txn, &volume.name, volume);
        put.map_err(|error| Error::step(format!("record the volume {}", volume.name), error))
    }

    /// Adds the deletion of a volume's record to a transaction; what follows it is [`Self::forget`].
    pub(crate) fn delete_in<'a>(&self, txn: Txn<'a>, volume: &Volume) -> Txn<'a> {
        txn.delete(self.records.key(&volume.name))
    }

    /// Has a volume found whose record is written.
    pub(crate) fn show(&self, volume: &Volume) {
        self.by_name.lock().insert(volume.name.clone(), Arc::new(volume.clone()));
    }

    fn make_directory(&self, name: &str, request: VolumeCreate) -> Result<Volume> {
        let home = self.directory.join(name);
        let mountpoint = home.join("_data");
        std::fs::create_dir_all(&mountpoint)
            .map_err(|error| Error::step(format!("create {}", mountpoint.display()), error))?;
        restrict(&home)?;
        Ok(Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            options: request.options,
            labels: request.labels,
            created: Timestamp::now(),
            anonymous: request.name.is_empty(),
            mountpoint,
        })
    }

    /// Takes a volume and its files away. The caller has seen that nobody uses it.
    pub(crate) fn remove(&self, volume: &Volume) -> Result<()> {
        // The record goes first: a directory without a record is swept, a record without a directory would be a lie.
        self.records
            .delete(&volume.name)
            .map_err(|error| Error::step(format!("forget the volume {}", volume.name), error))?;
        self.forget(volume)
    }

    /// Takes away a volume whose record is deleted: its name is free once its files are out of the way.
    pub(crate) fn forget(&self, volume: &Volume) -> Result<()> {
        let step = |error| Error::step(format!("unable to remove volume {}", volume.name), error);
        let aside = self.set_aside(&volume.name);
        self.by_name.lock().remove(&volume.name);
        match aside.map_err(step)? {
            Some(aside) => std::fs::remove_dir_all(aside).map_err(step),
            None => Ok(()),
        }
    }

    /// Removes what was set aside, and unmounts what nobody uses: a daemon that was killed left it.
    pub(crate) fn sweep(&self) {
        for name in self.names_on_disk().into_iter().filter(|name| name.starts_with(ASIDE)) {
            if let Err(error) = std::fs::remove_dir_all(self.directory.join(&name)) {
                tracing::warn!(directory = name, %error, "could not remove what is left of a volume");
            }
        }
        for volume in self.all() {
            let mounted = self.mounted.lock();
            if !mounted.contains_key(&volume.name)
                && let Err(error) = driver::unmount(&volume)
            {
                tracing::warn!(volume = volume.name, %error, "could not unmount the volume");
            }
        }
    }

    /// Makes the volume ready for one more running container, and tells what to mount.
    pub(crate) fn acquire(&self, name: &str) -> Result<Source> {
        let volume = self.get(name)?;
        let options = Options::parse(name, &volume.options)?;
        let mut mounted = self.mounted.lock();
        let users = mounted.entry(name.to_owned()).or_insert(0);
        let source = options.source(&volume.mountpoint, *users == 0)?;
        *users += 1;
        Ok(source)
    }

    /// A running container that was here before this daemon uses it.
    pub(crate) fn adopt(&self, name: &str) {
        *self.mounted.lock().entry(name.to_owned()).or_insert(0) += 1;
    }

    /// One running container less uses it; the last one unmounts what was mounted.
    pub(crate) fn release(&self, name: &str) {
        let mut mounted = self.mounted.lock();
        let Some(users) = mounted.get_mut(name) else { return };
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        mounted.remove(name);
        let Ok(volume) = self.get(name) else { return };
        if let Err(error) = driver::unmount(&volume) {
            tracing::warn!(volume = name, %error, "could not unmount the volume");
        }
    }
}

/// Refuses drivers and options that are not there.
fn check(request: &VolumeCreate) -> Result<()> {
    if !matches!(request.driver.as_str(), "" | "local") {
        return Err(Error::not_found(format!(
            "create {}: error looking up volume plugin {}: plugin \"{}\" not found",
            request.name, request.driver, request.driver
        )));
    }
    Options::parse(&request.name, &request.options).map(drop)
}

/// Nobody but root looks into volumes by their path on the host.
fn restrict(home: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o701))
        .map_err(|error| Error::step(format!("set the mode of {}", home.display()), error))
}

impl Engine {
    /// Makes a volume, or gives the one of that name.
    pub async fn volume_create(&self, request: VolumeCreate) -> Result<Volume> {
        let engine = self.clone();
        let (volume, new) = crate::blocking(move || engine.0.volumes.create(request)).await?;
        if new {
            self.tell_volume("create", &volume);
        }
        Ok((*volume).clone())
    }

    /// The volume of that name.
    pub fn volume_inspect(&self, name: &str) -> Result<Volume> {
        Ok((*self.0.volumes.get(name)?).clone())
    }

    /// Volumes by name; filters: `dangling`, `driver`, `label`, `name`.
    pub fn volumes(&self, filters: &Filters) -> Result<Vec<Volume>> {
        filters.only(&["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.flag("dangling")?;
        let wanted = |volume: &Volume| {
            filters.any("name", |part| volume.name.contains(part))
                && filters.any("driver", |driver| volume.driver == driver)
                && filters.labels_match(&volume.labels)
                && dangling.is_none_or(|dangling| self.volume_users(&volume.name).is_empty() == dangling)
        };
        Ok(self.0.volumes.all().into_iter().filter(|volume| wanted(volume)).map(|volume| (*volume).clone()).collect())
    }

    /// Removes a volume that nobody uses; with `force`, one that is not there is no failure.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let volume = match self.0.volumes.get(name) {
            Ok(volume) => volume,
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
        };
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        let (engine, removed) = (self.clone(), volume.clone());
        crate::blocking(move || engine.0.volumes.remove(&removed)).await?;
        self.tell_volume("destroy", &volume);
        Ok(())
    }

    /// Removes the volumes that nobody uses: anonymous ones, and all of them with `all=true`.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<crate::PruneReport> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.flag("all")?.unwrap_or(false);
        let mut report = crate::PruneReport::default();
        for volume in self.0.volumes.all() {
            let wanted = (all || volume.anonymous) && filters.labels_match(&volume.labels);
            if !wanted || !self.volume_users(&volume.name).is_empty() {
                continue;
            }
            let size = self.volume_size(&volume).await.unwrap_or(0);
            match self.volume_remove(&volume.name, true).await {
                Ok(()) => {
                    report.reclaimed += size;
                    report.deleted.push(volume.name.clone());
                }
                Err(error) => tracing::warn!(volume = volume.name, %error, "could not prune the volume"),
            }
        }
        let reclaimed = BTreeMap::from([("reclaimed".to_owned(), report.reclaimed.to_string())]);
        self.0.events.tell(EventKind::Volume, "prune", "", reclaimed);
        Ok(report)
    }

    /// What every volume holds, and who uses it.
    pub(crate) async fn volume_usage(&self) -> Vec<VolumeUsage> {
        let mut usage = Vec::new();
        for volume in self.0.volumes.all() {
            let size = self.volume_size(&volume).await;
            let references = self.volume_users(&volume.name).len();
            usage.push(VolumeUsage { volume: (*volume).clone(), size, references });
        }
        usage
    }

    async fn volume_size(&self, volume: &Volume) -> Option<u64> {
        let mountpoint = volume.mountpoint.clone();
        crate::blocking(move || Ok(crate::system::directory_size(&mountpoint))).await.ok()
    }

    /// Containers that use the volume, running or not.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |record: &ContainerRecord| record.mounts.iter().any(|mount| mount.volume() == Some(name));
        let all = self.0.containers.all().into_iter().map(|container| container.record());
        all.filter(|record| uses(record)).map(|record| record.id.to_string()).collect()
    }

    /// A container's run with its volumes begins or ends.
    pub(crate) fn tell_mounts(&self, record: &ContainerRecord, action: &str) {
        for mount in &record.mounts {
            let Some(name) = mount.volume() else { continue };
            let mut attributes = BTreeMap::from([
                ("container".to_owned(), record.id.to_string()),
                ("driver".to_owned(), mount.driver.clone()),
            ]);
            if action == "mount" {
                attributes.insert("destination".to_owned(), mount.target.clone());
                attributes.insert("propagation".to_owned(), mount.propagation.clone());
                attributes.insert("read/write".to_owned(), mount.writable.to_string());
            }
            self.0.events.tell(EventKind::Volume, action, name, attributes);
        }
    }

    pub(crate) fn tell_volume(&self, action: &str, volume: &Volume) {
        let attributes = BTreeMap::from([("driver".to_owned(), volume.driver.clone())]);
        self.0.events.tell(EventKind::Volume, action, &volume.name, attributes);
    }
}

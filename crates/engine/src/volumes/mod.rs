//! Volumes: directories of the host with a name, that outlive the containers that use them.

mod claims;
mod driver;
mod fill;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::{Collection, Expect, Txn};

use crate::events::EventKind;
use crate::model::{ContainerId, ContainerRecord, Filters, Timestamp};
use crate::{Engine, Error, Result};

pub(crate) use claims::Claim;
use claims::{Claims, Removal};
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
    /// How many running containers and copies hold each volume.
    mounted: Mutex<HashMap<String, usize>>,
    /// Containers that are being made, and removals.
    claims: Claims,
}

/// A volume that goes with its container: from here on nobody begins to use it.
pub(crate) struct Leaving {
    volume: Arc<Volume>,
    _removal: Removal,
}

impl std::ops::Deref for Leaving {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl Volumes {
    /// Reads the records below `volume/`.
    pub(crate) fn open(store: &store::Store, directory: PathBuf) -> Result<Self> {
        let records: Collection<Volume> = Collection::new(store, "volume/");
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::step(format!("create {}", directory.display()), error))?;
        let listed = records.list().map_err(|error| Error::step("read the volumes", error))?;
        let by_name = listed.items.into_iter().map(|item| (item.value.name.clone(), Arc::new(item.value))).collect();
        let volumes = Self {
            directory,
            records,
            by_name: Mutex::new(by_name),
            mounted: Mutex::default(),
            claims: Claims::default(),
        };
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

    /// Claims a volume for a container that is being made.
    pub(crate) fn claim(&self, name: &str, by: &ContainerId) -> Claim {
        self.claims.claim(name, by)
    }

    /// The key of a volume's record: a transaction that counts on it expects it to be there.
    pub(crate) fn key(&self, name: &str) -> String {
        self.records.key(name)
    }

    /// Makes a volume, or gives the one that is there. The flag tells whether it is new. The caller claims it where it has a
    /// name.
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
            // Somebody else was first, and may not have shown it yet.
            Err(error) if error.is_conflict() => return Ok((self.recorded(&volume.name)?, false)),
            Err(error) => return Err(Error::step(format!("record the volume {}", volume.name), error)),
        }
        self.show(&volume);
        Ok((Arc::new(volume), true))
    }

    fn recorded(&self, name: &str) -> Result<Arc<Volume>> {
        let found = self.records.get(name).map_err(|error| Error::step(format!("read the volume {name}"), error))?;
        let found = found.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))?;
        Ok(self.by_name.lock().entry(name.to_owned()).or_insert_with(|| Arc::new(found.value)).clone())
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

    /// Takes a volume and its files away, if nobody claims it and `users` has none either: else gives their identifiers.
    pub(crate) fn remove(&self, volume: &Volume, users: impl FnOnce() -> Vec<String>) -> Result<Vec<String>> {
        let removal = match self.claims.remove(&volume.name) {
            Ok(removal) => removal,
            Err(claimed) => return Ok(claimed.iter().map(ToString::to_string).collect()),
        };
        let users = users();
        if !users.is_empty() {
            return Ok(users);
        }
        // Somebody may have removed it meanwhile, and made another one of its name.
        let present = self.by_name.lock().get(&volume.name).cloned();
        if present.map_or(!volume.anonymous, |present| *present != *volume) {
            return Err(Error::not_found(format!("get {}: no such volume", volume.name)));
        }
        driver::unmount(volume)?;
        // The record goes first: a directory without a record is swept, a record without a directory would be a lie.
        self.records
            .delete(&volume.name)
            .map_err(|error| Error::step(format!("forget the volume {}", volume.name), error))?;
        let aside = self.out_of_the_way(volume);
        drop(removal);
        delete(volume, aside?).map(|()| Vec::new())
    }

    /// Begins to take away a volume together with its container, if nobody claims it and `others` is false.
    pub(crate) fn leave(&self, name: &str, others: impl FnOnce() -> bool) -> Option<Leaving> {
        let removal = self.claims.try_remove(name)?;
        let volume = self.get(name).ok().filter(|_| !others())?;
        Some(Leaving { volume, _removal: removal })
    }

    /// Takes away a volume whose record is deleted.
    pub(crate) fn forget(&self, leaving: &Leaving) -> Result<()> {
        // What is mounted there stays what it is.
        let unmounted = driver::unmount(leaving);
        if unmounted.is_err() {
            self.by_name.lock().remove(&leaving.name);
        }
        unmounted?;
        delete(leaving, self.out_of_the_way(leaving)?)
    }

    /// Its name is free once its files are out of the way. Gives where they are now.
    fn out_of_the_way(&self, volume: &Volume) -> Result<Option<PathBuf>> {
        let aside = self.set_aside(&volume.name);
        self.by_name.lock().remove(&volume.name);
        aside.map_err(|error| Error::step(format!("unable to remove volume {}", volume.name), error))
    }

    /// Removes what was set aside, and unmounts what nobody uses: a daemon that was killed left it.
    pub(crate) fn sweep(&self) {
        for name in self.names_on_disk().into_iter().filter(|name| name.starts_with(ASIDE)) {
            if let Err(error) = image::remove_tree(&self.directory.join(&name)) {
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
        self.hold(&*self.get(name)?)
    }

    fn hold(&self, volume: &Volume) -> Result<Source> {
        let options = Options::parse(&volume.name, &volume.options)?;
        let mut mounted = self.mounted.lock();
        let users = mounted.get(&volume.name).copied().unwrap_or(0);
        let source = options.source(&volume.mountpoint, users == 0)?;
        mounted.insert(volume.name.clone(), users + 1);
        Ok(source)
    }

    /// A running container that was here before this daemon uses it.
    pub(crate) fn adopt(&self, name: &str) {
        *self.mounted.lock().entry(name.to_owned()).or_insert(0) += 1;
    }

    /// One running container less uses it; the last one unmounts what was mounted.
    pub(crate) fn release(&self, name: &str) {
        match self.get(name) {
            Ok(volume) => self.let_go(&volume),
            Err(_) => drop(self.mounted.lock().remove(name)),
        }
    }

    fn let_go(&self, volume: &Volume) {
        let mut mounted = self.mounted.lock();
        // Nobody is known to hold what a container had that ended while no daemon ran.
        let users = mounted.remove(&volume.name).unwrap_or(0).saturating_sub(1);
        if users > 0 {
            mounted.insert(volume.name.clone(), users);
            return;
        }
        if let Err(error) = driver::unmount(volume) {
            tracing::warn!(volume = volume.name, %error, "could not unmount the volume");
        }
    }
}

/// Removes the files of a volume that has no name any more. What is mounted in it is not its own, and stays.
fn delete(volume: &Volume, aside: Option<PathBuf>) -> Result<()> {
    let Some(aside) = aside else { return Ok(()) };
    image::remove_tree(&aside)
        .map_err(|error| Error::step(format!("unable to remove all files of volume {}", volume.name), error))
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

/// What lists of volumes can be filtered by.
pub const VOLUME_FILTERS: [&str; 5] = ["dangling", "driver", "label", "label!", "name"];

impl Engine {
    /// Makes a volume, or gives the one of that name.
    pub async fn volume_create(&self, request: VolumeCreate) -> Result<Volume> {
        let engine = self.clone();
        let (volume, new) = crate::blocking(move || {
            let _claim = engine.0.volumes.claim(&request.name, &ContainerId::random());
            engine.0.volumes.create(request)
        })
        .await?;
        if new {
            self.tell_volume("create", &volume);
        }
        Ok((*volume).clone())
    }

    /// The volume of that name.
    pub fn volume_inspect(&self, name: &str) -> Result<Volume> {
        Ok((*self.0.volumes.get(name)?).clone())
    }

    /// Volumes by name, of those that fit [`VOLUME_FILTERS`].
    pub fn volumes(&self, filters: &Filters) -> Result<Vec<Volume>> {
        filters.only(&VOLUME_FILTERS)?;
        let dangling = filters.flag("dangling")?;
        let names = filters.patterns("name");
        let wanted = |volume: &Volume| {
            names.matches(&volume.name)
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
        let (engine, removed) = (self.clone(), volume.clone());
        let users = crate::blocking(move || {
            let users = || engine.volume_users(&removed.name);
            engine.0.volumes.remove(&removed, users)
        })
        .await?;
        if !users.is_empty() {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
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

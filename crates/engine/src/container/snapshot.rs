//! What only a container with a kernel of its own can do: be saved as it is at a moment, and go on from there, as often as one likes.
//!
//! - a *snapshot* is taken while it runs on; *rollback* has it go on from one;
//! - *suspend* takes one, and ends the run; the next start goes on from it, whether by `resume`, `start` or a restart policy;
//! - *fork* takes one, and has new containers go on from it.
//!
//! A machine rests while whoever had it saved is connected to its process, and goes on when that is over: also where it is over because the daemon was killed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use microvm::control::Connection;
use microvm::driver::Extent;

use super::machine_network;
use super::stop::{SIGKILL, stuck};
use super::template::Templates;
use super::{Container, CreateRequest, Life, RemoveOptions};
use crate::model::{
    ContainerId, ContainerRecord, EndpointRequest, Halting, MountPointKind, Phase, PortBinding, SnapshotId,
    SnapshotRecord, State, Timestamp,
};
use crate::snapshots::Held;
use crate::{Engine, Error, Result};

/// The most copies of one fork.
const FORKS: u32 = 1000;
/// What a snapshot's name is called in errors.
const SNAPSHOT_NAME: &str = "snapshot name";
/// The longest name of a saved machine, in bytes.
const NAME_MAX: usize = 128;

/// Whether a snapshot lasts beyond what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    /// It has a name, or its container is suspended in it: a loss of power does not take it.
    Lasting(Option<String>),
    /// Copies go on from it at once.
    ForNow,
}

/// A copy that a fork made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forked {
    /// Its identifier.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Saves a running container under a name, while it runs on; `None`: the time is its name.
    ///
    /// # Errors
    /// It is no machine, does not run, has a snapshot of that name, or the disk is full.
    pub async fn snapshot(&self, reference: &str, name: Option<&str>) -> Result<SnapshotRecord> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        let record = self.can_be_saved(&life)?;
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) => check_saved_name(SNAPSHOT_NAME, name)?.to_owned(),
            None => Timestamp::now().strftime("%Y%m%d-%H%M%S.%f").to_string(),
        };
        if self.0.snapshots.of(&record.id).iter().any(|other| other.name.as_deref() == Some(&name)) {
            return Err(Error::conflict(format!("container {reference} has a snapshot {name:?} already")));
        }
        let (engine, run, kept) = (self.clone(), record.clone(), Kept::Lasting(Some(name.clone())));
        let saved = crate::blocking(move || {
            let (saved, machine) = engine.save(&run, kept)?;
            drop(machine);
            Ok((**saved.record()).clone())
        });
        let saved = saved.await?;
        self.tell_container(&record, "snapshot", [("snapshot", name)]);
        Ok(saved)
    }

    /// Saves a running container as it is, while it runs on. Whoever wants to keep that says who needs it before it lets go of it.
    pub(crate) async fn save_lastingly(&self, reference: &str) -> Result<(Arc<ContainerRecord>, Held)> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        let record = self.can_be_saved(&life)?;
        // What is run of it outlives the container, and would have no volumes of that.
        if has_volumes(&record) {
            super::lacking(&record, "machine images of containers with volumes")?;
        }
        let (engine, run) = (self.clone(), record.clone());
        let saved = crate::blocking(move || engine.save(&run, Kept::Lasting(None)).map(|(saved, _machine)| saved));
        Ok((record, saved.await?))
    }

    /// A container's snapshots, the oldest first.
    ///
    /// # Errors
    /// There is no such container.
    pub fn snapshots(&self, reference: &str) -> Result<Vec<Arc<SnapshotRecord>>> {
        Ok(self.0.snapshots.of(&self.0.containers.find(reference)?.id))
    }

    /// Removes a snapshot. What goes on from it goes on.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn remove_snapshot(&self, reference: &str, name: &str) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let found = self.find_snapshot(&container, Some(name))?;
        let engine = self.clone();
        crate::blocking(move || {
            engine.0.snapshots.unname(&found.id)?;
            engine.collect_snapshots();
            Ok(())
        })
        .await
    }

    /// A container's snapshot of a name; `None`: the newest.
    fn find_snapshot(&self, container: &Container, name: Option<&str>) -> Result<Arc<SnapshotRecord>> {
        let mut snapshots = self.0.snapshots.of(&container.id);
        match name {
            Some(name) => snapshots
                .into_iter()
                .find(|snapshot| snapshot.name.as_deref() == Some(name) || snapshot.id.as_str() == name)
                .ok_or_else(|| Error::not_found(format!("No such snapshot: {name}"))),
            None => snapshots
                .pop()
                .ok_or_else(|| Error::not_found(format!("container {} has no snapshots", container.record().name))),
        }
    }

    /// Whether a container may be suspended, as far as that is known before its machine is asked to save itself.
    ///
    /// # Errors
    /// It is no machine, does not run, or has what can't be saved.
    pub async fn check_suspend(&self, reference: &str) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        self.can_be_saved(&life).map(drop)
    }

    /// Saves a running container, and ends its run: its next start goes on from there.
    ///
    /// # Errors
    /// As [`Engine::snapshot`].
    pub async fn suspend(&self, reference: &str) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let mut turns = container.turns();
        let before = turns.borrow_and_update().exits;
        let life = container.life(reference).await?;
        let record = self.can_be_saved(&life)?;
        let (engine, run) = (self.clone(), record.clone());
        let (saved, machine) = crate::blocking(move || engine.save(&run, Kept::Lasting(None))).await?;
        let halting = Halting { snapshot: saved.record().id.clone(), rests: true };
        self.change(&life, |record| record.state.halting = Some(halting)).await?;
        drop(life);
        // It has heard of that before anybody can be gone, and does not go on then. What does not listen is killed while it rests.
        let _ = machine.end();
        if let Err(error) = self.end_run(&record, &mut turns, before).await {
            self.runs_on(&container).await;
            return Err(error);
        }
        drop(machine);
        self.tell_container(&record, "suspend", []);
        Ok(())
    }

    /// Has a suspended container go on.
    ///
    /// # Errors
    /// It is not suspended, or can't go on.
    pub async fn resume(&self, reference: &str) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let record = container.settled().await;
        if record.state.phase.is_live() || record.state.suspended.is_none() {
            return Err(Error::conflict(format!("container {reference} is not suspended")));
        }
        self.start(reference).await?;
        self.tell_container(&container.record(), "resume", []);
        Ok(())
    }

    /// Has a container go on from one of its snapshots, whatever it does now; `None`: from the newest.
    ///
    /// # Errors
    /// It has no such snapshot, or can't go on from it.
    pub async fn rollback(&self, reference: &str, name: Option<&str>) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let found = self.find_snapshot(&container, name)?;
        let mut turns = container.turns();
        let before = turns.borrow_and_update().exits;
        self.cancel_restart(&container).await?;
        let _held = self.0.snapshots.hold(&found.id)?;
        let (was, record) = {
            let life = container.life(reference).await?;
            let was = life.record();
            if was.state.phase.is_live() {
                // What runs is ended only for what can go on.
                self.can_go_on(&was, &found).await?;
                let halting = Halting { snapshot: found.id.clone(), rests: false };
                (was, self.change(&life, |record| record.state.halting = Some(halting)).await?)
            } else {
                (was.clone(), was)
            }
        };
        if record.state.phase.is_live() {
            self.let_go(&container, &record).await?;
            if let Err(error) = self.end_run(&record, &mut turns, before).await {
                self.runs_on(&container).await;
                return Err(error);
            }
        }
        let undo = {
            let life = container.life(reference).await?;
            if life.record().state.phase.is_live() {
                return Err(Error::conflict(format!("container {reference} was started meanwhile")));
            }
            let goes_on = |record: &mut ContainerRecord| {
                record.state.suspended = Some(found.id.clone());
                record.state.stopped_by_hand = true;
            };
            self.change(&life, goes_on).await?;
            !was.state.phase.is_live()
        };
        let name = found.name.clone().unwrap_or_else(|| found.id.to_string());
        if let Err(error) = self.start(reference).await {
            if undo {
                self.stays_as(&container, &was).await;
                return Err(error);
            }
            return Err(error.context(format!(
                "container {0} was ended to go on from its snapshot {name}, and does not: another one may do, or `docker stop {0}` and `docker start {0}` have it begin anew",
                was.name
            )));
        }
        self.tell_container(&container.record(), "rollback", [("snapshot", name)]);
        Ok(())
    }

    /// Makes copies of a running container that go on from where it is, each with a name, addresses, random numbers and a time of its own; the
    /// container goes on, too. `names` are theirs; for those beyond, the container's with a number.
    ///
    /// Their published ports are free ones of the host, as its own are taken; on its networks they have its aliases, and no fixed addresses.
    ///
    /// # Errors
    /// As [`Engine::snapshot`]; or a copy can't be made or go on, and then there is none.
    pub async fn fork(&self, reference: &str, count: u32, names: &[String]) -> Result<Vec<Forked>> {
        let container = self.0.containers.find(reference)?;
        let named = u32::try_from(names.len()).unwrap_or(u32::MAX);
        if count == 0 || count > FORKS || named > count {
            return Err(Error::invalid(format!(
                "fork {reference} {count} times, with {named} names: it takes 1 to {FORKS} copies, and no more names than copies"
            )));
        }
        let (record, saved) = {
            let life = container.life(reference).await?;
            let record = self.can_be_saved(&life)?;
            let (engine, run) = (self.clone(), record.clone());
            // It goes on as soon as it is saved.
            let saved = crate::blocking(move || engine.save(&run, Kept::ForNow).map(|(saved, _machine)| saved));
            (record, saved.await?)
        };
        let origin = &saved.record().id;
        let mut copies = Vec::new();
        let made = self.make_copies(&record, origin, count, names, &mut copies).await;
        let made = match made {
            // All of them come to their end, as what is given up half-way would be left half-made.
            Ok(()) => {
                let started = join_all(copies.iter().map(|copy: &Forked| self.start(copy.id.as_str()))).await;
                started.into_iter().collect::<Result<()>>()
            }
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            for copy in &copies {
                let options = RemoveOptions { force: true, volumes: true, link: false };
                match self.remove(copy.id.as_str(), options).await {
                    // One that removes itself may be gone.
                    Err(left) if left.kind() != crate::ErrorKind::NotFound => {
                        tracing::warn!(container = copy.name, error = %left, "could not remove a copy of a fork that failed");
                    }
                    _ => {}
                }
            }
            return Err(error.context(format!("fork {reference}")));
        }
        self.tell_container(&record, "fork", [("count", count.to_string())]);
        drop(saved);
        Ok(copies)
    }

    /// Makes the containers of a fork, which are to go on from a snapshot when they are started.
    async fn make_copies(
        &self,
        record: &ContainerRecord,
        saved: &SnapshotId,
        count: u32,
        names: &[String],
        copies: &mut Vec<Forked>,
    ) -> Result<()> {
        let mut number = 0;
        for at in 0..count as usize {
            let created = match names.get(at) {
                Some(name) => self.create(copy_of(record, name, saved)).await?,
                // The next number that no container has.
                None => loop {
                    number += 1;
                    match self.create(copy_of(record, &format!("{}-{number}", record.name), saved)).await {
                        Err(error) if error.kind() == crate::ErrorKind::Conflict => {}
                        created => break created?,
                    }
                },
            };
            let name = self.0.containers.find(created.id.as_str())?.record().name.clone();
            copies.push(Forked { id: created.id, name, warnings: created.warnings });
        }
        Ok(())
    }

    /// What was to be ended runs on.
    async fn runs_on(&self, container: &Arc<Container>) {
        let Ok(life) = container.life(container.id.as_str()).await else { return };
        if life.record().state.phase.is_live() {
            self.note(&life, None, |record| record.state.halting = None).await;
        }
    }

    /// What did not run before, and could not go on from a snapshot, is what it was.
    async fn stays_as(&self, container: &Arc<Container>, was: &ContainerRecord) {
        let Ok(life) = container.life(container.id.as_str()).await else { return };
        if !life.record().state.phase.is_live() {
            self.note(&life, None, |record| {
                record.state.suspended.clone_from(&was.state.suspended);
                record.state.stopped_by_hand = was.state.stopped_by_hand;
            })
            .await;
        }
    }

    /// Whether a running container could go on from a snapshot, with what it has by now: its image's files, a kernel, a driver, networks.
    ///
    /// # Errors
    /// It could not: why.
    async fn can_go_on(&self, record: &ContainerRecord, from: &SnapshotRecord) -> Result<()> {
        let mut as_if = record.clone();
        as_if.state.suspended = Some(from.id.clone());
        self.booted(&as_if, Templates::Used).await?;
        let (engine, from, net) = (self.clone(), from.clone(), record.net.clone());
        crate::blocking(move || {
            let interfaces = net.as_ref().map(net::Sandbox::guest_interfaces).unwrap_or_default();
            super::machine::fits(&from, &engine.machine_driver()?, &interfaces)
        })
        .await
    }

    /// Ends a run, and waits until its end is recorded. The caller does not hold the container's life.
    async fn end_run(
        &self,
        record: &Arc<ContainerRecord>,
        turns: &mut tokio::sync::watch::Receiver<super::Turn>,
        before: u64,
    ) -> Result<()> {
        self.send(record, SIGKILL).await?;
        match self.is_over(record, turns, before).await? {
            true => Ok(()),
            false => Err(stuck(record)),
        }
    }

    /// The record of a container whose machine can be saved.
    fn can_be_saved(&self, life: &Life<'_>) -> Result<Arc<ContainerRecord>> {
        let record = runs_in_machine(life)?;
        if has_volumes(&record) && !self.machine_driver()?.saves_volumes() {
            return Err(super::machine::refused(microvm::Error::NotSaved));
        }
        let others = self.0.guests.lock().of(&record.id);
        if let Some(other) = others.iter().find_map(|id| self.0.containers.by_id(id.as_str())) {
            return Err(Error::conflict(format!(
                "container {} can't be saved while {} runs in its microVM, which no snapshot can have: end that first",
                record.name,
                other.record().name
            )));
        }
        Ok(record)
    }

    /// Saves a running machine, which rests until the connection is dropped. Blocks.
    fn save(&self, record: &ContainerRecord, kept: Kept) -> Result<(Held, Connection)> {
        let new = self.0.snapshots.begin()?;
        let copied = self.save_copied(record, &new)?;
        let mut machine = self.machine_connection(&record.id)?;
        let saved = machine.save(new.files()).map_err(|error| Error::system(error.to_string()))?;
        let saved = saved.map_err(|failure| Error::system(format!("save the machine: {failure}")))?;
        let parent = match (saved.extent, &record.state.origin) {
            (Extent::Whole, _) => None,
            (Extent::Difference, Some(origin)) => Some(origin.clone()),
            (Extent::Difference, None) => {
                return Err(Error::system("the machine saved a difference to a snapshot that nobody knows"));
            }
        };
        let interfaces = record.net.as_ref().map(net::Sandbox::guest_interfaces).unwrap_or_default();
        // Also of one that is suspended: a start from there that is given up may have written to the disk, which then would be another than memory takes it for.
        let disk = self.disk_path(record)?;
        disk.iter().try_for_each(|disk| new.copy_disk(disk))?;
        let (name, lasts) = match kept {
            Kept::Lasting(name) => (name, true),
            Kept::ForNow => (None, false),
        };
        let snapshot = SnapshotRecord {
            id: new.id.clone(),
            container: record.id.clone(),
            name,
            created: Timestamp::now(),
            parent,
            size: new.size()?,
            driver: self.machine_driver()?.to_string(),
            vcpus: saved.vcpus,
            processor: saved.processor,
            memory: saved.memory,
            most_memory: Some(saved.most_memory),
            places: Some(machine_network::places_of(&interfaces, &saved.cards)?),
            cards: interfaces.iter().map(|interface| interface.mac.octets()).collect(),
            networks: machine_network::networks(record.net.as_ref()),
            files_place: saved.files_place,
            outputs: saved.outputs,
            disk: disk.is_some(),
            copied,
        };
        Ok((new.keep(snapshot, lasts)?, machine))
    }
}

/// The record of a container that runs in a machine, and is not frozen.
fn runs_in_machine(life: &Life<'_>) -> Result<Arc<ContainerRecord>> {
    let record = life.record();
    if !record.is_machine() {
        return Err(Error::invalid(format!(
            "container {} shares the host's kernel, which holds what it does: only one in a microVM can be saved (run it with --isolation microvm)",
            record.name
        )));
    }
    match record.state.phase {
        Phase::Running => {}
        Phase::Paused => {
            return Err(Error::conflict(format!("container {} is paused: unpause it first", record.name)));
        }
        _ if record.state.suspended.is_some() => {
            return Err(Error::conflict(format!(
                "container {0} is suspended: `stratus resume {0}` first",
                record.name
            )));
        }
        _ => return Err(Error::conflict(format!("container {} is not running: start it first", record.name))),
    }
    super::member::not_within(&record, "memory that could be saved")?;
    Ok(record)
}

/// Whether it has anything of the host's. What is in the machine's memory is saved with that.
pub(super) fn has_volumes(record: &ContainerRecord) -> bool {
    record.mounts.iter().any(|mount| mount.kind != MountPointKind::Tmpfs)
}

/// Refuses what is no name of a saved machine; `what` says in the error whose it was to be.
///
/// # Errors
/// It is longer than 128 bytes, or no plain word.
pub fn check_saved_name<'n>(what: &str, name: &'n str) -> Result<&'n str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.len() <= NAME_MAX && name.chars().all(is_plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        true => Ok(name),
        false => Err(Error::invalid(format!(
            "Invalid {what} ({name}): it takes up to {NAME_MAX} of [a-zA-Z0-9_.-], the first one a letter or a digit"
        ))),
    }
}

/// What a copy of a container is made of. It shares the volumes of that, anonymous ones as well: what runs in it has their files open.
fn copy_of(record: &ContainerRecord, name: &str, origin: &SnapshotId) -> CreateRequest {
    CreateRequest {
        name: Some(name.to_owned()),
        state: State { suspended: Some(origin.clone()), ..State::default() },
        mounts: Some(record.mounts.clone()),
        ..record.origin_of_copies()
    }
}

impl ContainerRecord {
    /// What it was asked to be, without what only one can have: its addresses, its ports of the host, and its own name where that is its host's.
    pub(crate) fn origin_of_copies(&self) -> CreateRequest {
        let (mut config, mut host) = (self.config.clone(), self.host.clone());
        config.mac_address = None;
        if config.hostname == self.id.short() {
            // Its own, then.
            config.hostname.clear();
        }
        for binding in host.port_bindings.values_mut().flatten() {
            *binding = PortBinding { host_ports: None, ..binding.clone() };
        }
        let endpoint = |request: &EndpointRequest| EndpointRequest {
            ipv4: None,
            ipv6: None,
            link_local: Vec::new(),
            mac: None,
            ..request.clone()
        };
        let endpoints: BTreeMap<_, _> =
            self.networks.iter().map(|(network, settings)| (network.clone(), endpoint(&settings.request))).collect();
        CreateRequest { config, host, endpoints, image: Some(self.image_id.clone()), ..CreateRequest::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_saved_are_plain_words() {
        for good in ["before-upgrade_2.1", "web-2.1_b"] {
            assert!(check_saved_name(SNAPSHOT_NAME, good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a:1", "a/b", "..", "a b", "\u{1b}[31m", &"a".repeat(129)] {
            assert!(check_saved_name(SNAPSHOT_NAME, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_copy_has_what_its_original_was_asked_for_and_nothing_that_only_one_can_have() {
        use crate::model::{EndpointSettings, ExposedPort, Protocol};
        let mut record = ContainerRecord::sample();
        record.config.hostname = record.id.short().to_owned();
        let port = ExposedPort { port: 80, protocol: Protocol::Tcp };
        let binding = PortBinding { host_ip: Some([127, 0, 0, 1].into()), host_ports: Some((8080, 8080)) };
        record.host.port_bindings.insert(port, vec![binding]);
        let request = EndpointRequest {
            aliases: vec!["web".to_owned()],
            ipv4: Some([10, 0, 0, 7].into()),
            mac: Some("02:00:00:00:00:07".to_owned()),
            ..EndpointRequest::default()
        };
        record.networks.insert("net".to_owned(), EndpointSettings { request, ..EndpointSettings::default() });
        let copy = copy_of(&record, "copy", &SnapshotId::random());
        assert_eq!(copy.config.hostname, "");
        let binding = &copy.host.port_bindings.values().next().unwrap()[0];
        assert_eq!((binding.host_ip, binding.host_ports), (Some([127, 0, 0, 1].into()), None));
        let endpoint = &copy.endpoints["net"];
        assert_eq!((endpoint.ipv4, &endpoint.mac, endpoint.aliases.as_slice()), (None, &None, &["web".to_owned()][..]));
    }
}

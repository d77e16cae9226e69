//! A container in the machine of another one: with `--network container:NAME`, where that is in a microVM and this one is to be, too. They share its kernel, its processors and its network, as
//! the containers of a pod do, and have root file systems and limits of their own.
//!
//! The keeper holds a process that stands for it ([`microvm::MemberPlan`]), so that everything about its run is as for any container. It ends with the machine. Its volumes are served as
//! [`member_volumes`](super::member_volumes) says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use guest_protocol::configuration::Root;
use guest_protocol::message::Blob;
use guest_protocol::message::Request;
use microvm::container::{CONTAINER, MemberHost, OwnFiles, at};
use microvm::control::{Connection, ConnectionError};
use microvm::{MemberPlan, MemorySize};
use oci_spec::runtime::{LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder, Spec};
use sandbox::MountTree;

use super::Container;
use super::machine::{Booted, MachineStart, not_so, refused, root, workload};
use crate::model::{ContainerId, ContainerRecord, NetworkMode, Phase, PidMode, Within};
use crate::{Engine, Error, ErrorKind, Result};

/// How long a machine's process may take to say that it is there, or whether one in it is paused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a container is that runs in a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inside {
    /// Whose machine that is: the container that it was made for, which may be the same.
    pub(crate) owner: ContainerId,
    /// Its number in there.
    pub(crate) number: guest_protocol::message::ContainerId,
}

impl Inside {
    /// Where a container is; what it is in is its own machine, unless its record says another.
    pub(crate) fn of(record: &ContainerRecord) -> Self {
        match &record.state.within {
            Some(within) => {
                Self { owner: within.owner.clone(), number: guest_protocol::message::ContainerId(within.number) }
            }
            None => Self { owner: record.id.clone(), number: CONTAINER },
        }
    }
}

/// Refuses what one that shares another container's machine can't have by itself.
pub(super) fn not_within(record: &ContainerRecord, what: &str) -> Result<()> {
    match &record.state.within {
        Some(within) => Err(Error::not_implemented(format!(
            "container {} runs in the microVM of container {}, and has no {what} of its own there yet",
            record.name,
            within.owner.short()
        ))),
        None => Ok(()),
    }
}

/// When the machine comes that a container is to come into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToCome {
    /// It is there, or no waiting helps.
    Nothing,
    /// Its first container waits for its own start by policy, or has ended, of which nobody has heard yet.
    Soon,
    /// Its first container stays down until somebody starts it ([`Engine::machine_has_come`]).
    WithItsStart,
}

impl Engine {
    /// The container whose machine this one comes into; `None`: it has its own, or none.
    ///
    /// # Errors
    /// The other one does not run, or is in no machine.
    pub(super) fn comes_into(&self, record: &ContainerRecord) -> Result<Option<Arc<ContainerRecord>>> {
        let NetworkMode::Container(name) = &record.host.network_mode else { return Ok(None) };
        if !record.is_machine() {
            return Ok(None);
        }
        let other = self.running(name, "network")?.record();
        if !other.is_machine() {
            let what = format!("the network of {}, which shares the host's kernel,", other.name);
            return Err(refused(microvm::Error::NotBehind { what }));
        }
        if let Some(within) = &other.state.within {
            return Err(Error::invalid(format!(
                "container {} is itself in the microVM of container {}: join that one",
                other.name,
                within.owner.short()
            )));
        }
        match other.state.phase {
            Phase::Paused => {
                Err(Error::conflict(format!("the microVM of container {} is paused: unpause it first", other.name)))
            }
            _ => Ok(Some(other)),
        }
    }

    /// Where another container is, a namespace of which a container in a machine is to share; `None`: one of the two is in no machine.
    ///
    /// # Errors
    /// The other one does not run, or not in the machine that this one comes into.
    pub(crate) fn shares_with(&self, record: &ContainerRecord, reference: &str, what: &str) -> Result<Option<Inside>> {
        let other = self.running(reference, what)?.record();
        if !record.is_machine() || !other.is_machine() {
            return Ok(None);
        }
        let inside = Inside::of(&other);
        match self.comes_into(record)? {
            Some(owner) if owner.id == inside.owner => Ok(Some(inside)),
            _ => Err(Error::invalid(format!(
                "cannot join {what} of container {0}: container {1} does not come into its microVM (--network container:{2} has it do that)",
                other.name,
                record.name,
                inside.owner.short()
            ))),
        }
    }

    /// Whether the machine that a container comes into is still to come. A start of that which is under way is waited for. The caller does not hold the container's life.
    pub(super) async fn machine_to_come(&self, container: &Container) -> ToCome {
        let record = container.record();
        let NetworkMode::Container(name) = &record.host.network_mode else { return ToCome::Nothing };
        let Ok(owner) = self.0.containers.find(name) else { return ToCome::Nothing };
        if !record.is_machine() || !owner.record().is_machine() {
            return ToCome::Nothing;
        }
        match owner.settled().await.state.phase {
            Phase::Running => {
                let (engine, id) = (self.clone(), owner.id.clone());
                let machine = crate::blocking(move || engine.patient_connection(&id, PATIENCE)).await;
                match machine {
                    // Of its end nobody has heard yet.
                    Err(error) if error.kind() != ErrorKind::Conflict => ToCome::Soon,
                    // Where no waiting helps, the start says why.
                    _ => ToCome::Nothing,
                }
            }
            phase if phase.awaits_start() => ToCome::Soon,
            Phase::Created | Phase::Exited => ToCome::WithItsStart,
            _ => ToCome::Nothing,
        }
    }

    /// A machine is there: whoever waits for it by policy comes into it.
    pub(super) fn machine_has_come(&self, owner: &Container) {
        if !owner.record().is_machine() {
            return;
        }
        let comes_into = |record: &ContainerRecord| match &record.host.network_mode {
            NetworkMode::Container(name) => self.0.containers.find(name).is_ok_and(|found| found.id == owner.id),
            _ => false,
        };
        for waiting in self.0.containers.all() {
            let record = waiting.record();
            if record.state.phase.awaits_start() && record.is_machine() && comes_into(&record) {
                self.restart_after(&waiting, Duration::ZERO);
            }
        }
    }

    /// Makes the plan of the process that stands for a container in the machine of another one. Blocks.
    pub(super) fn member_start(
        &self,
        record: &ContainerRecord,
        owner: &ContainerRecord,
        spec: &Spec,
        trees: BTreeMap<PathBuf, MountTree>,
        booted: &Booted,
    ) -> Result<MachineStart> {
        let lacks = |what: &str| {
            Err(Error::not_implemented(format!(
                "a container that comes into another one's microVM has no {what} yet: give it a microVM of its own, without --network container:{}",
                owner.name
            )))
        };
        if super::disk::size(&record.host)?.is_some() {
            return lacks("disk of its own (--storage-opt)");
        }
        let container = guest_protocol::message::ContainerId(rand::random_range(CONTAINER.0 + 1..=u32::MAX));
        let (own, first) = (self.container_dir(&record.id), self.container_dir(&owner.id));
        let files = OwnFiles { own: &own, first: Some(&first), container };
        let inside = microvm::container::inside(spec.clone(), files, &trees);
        let inside = inside.map_err(refused)?;
        if !inside.sysctls.is_empty() {
            return lacks("settings of the network (--sysctl net.*) of its own");
        }
        let (limits, memory) = microvm::container::limits_beside(spec);
        let plan = workload(record, &inside.spec, record.host.init.unwrap_or(self.0.config.init), container)?;
        let plan = MemberPlan {
            control: at::SOCKET.into(),
            words: at::WORDS.into(),
            container,
            layers: (0..booted.layers.len()).map(at::layer).collect(),
            root: Root { limits, ..root(&inside, container, false) },
            memory,
            plan: Blob(plan),
            shares_processes: matches!(record.host.pid_mode, PidMode::Container(_)),
            terminal: record.config.tty,
            stdin: record.config.open_stdin,
        };
        let directory = self.machine_dir(&record.id);
        let (plan, words) = self.machine_files(&directory, &plan.to_bytes().map_err(refused)?)?;
        let host = MemberHost {
            program: self.0.machine_program.path()?.to_owned(),
            plan,
            control: self.machine_dir(&owner.id).join("control"),
            words,
            layers: booted.layers.iter().map(|layer| layer.path().to_owned()).collect(),
        };
        let outside = microvm::container::beside(spec, &host).map_err(refused)?;
        let within = Within { owner: owner.id.clone(), number: container.0, memory };
        self.raise_machine(record, owner, &within)?;
        let keeps = match inside.volumes.is_empty() {
            true => None,
            false => Some(self.serve_volumes(owner, &inside.volumes, &inside.volumes.moved(trees))?),
        };
        let cgroup = self.0.placements.create(record, &outside)?;
        let start = self.machine_process(&outside, &directory, cgroup, BTreeMap::new(), None)?;
        Ok(MachineStart { within: Some(within), keeps, ..start })
    }

    /// Where a container is that is to be asked something.
    ///
    /// # Errors
    /// Nobody answers there, as the machine is paused.
    pub(super) fn inside(&self, record: &ContainerRecord) -> Result<Inside> {
        let inside = Inside::of(record);
        if inside.owner != record.id {
            let owner = self.0.containers.find(inside.owner.as_str())?.record();
            if owner.state.phase == Phase::Paused {
                return Err(Error::conflict(format!(
                    "the microVM of container {} is paused: unpause it first",
                    owner.name
                )));
            }
        }
        Ok(inside)
    }

    /// Changes the limits of a container that is in the machine of another one: its own in there, and by how many bytes that machine is larger for it, which it returns. Blocks.
    pub(super) fn update_member(&self, record: &ContainerRecord, within: &Within, now: &LinuxResources) -> Result<u64> {
        let Inside { owner, number } = self.inside(record)?;
        let owner = self.0.containers.find(owner.as_str())?.record();
        let (limits, memory) = microvm::container::resized_beside(now);
        let mut machine = self.machine_connection(&owner.id)?;
        let resize = |machine: &mut Connection, bytes| machine.resize_for(number, bytes).map_err(told)?.map_err(not_so);
        let counts = |memory: u64| self.0.guests.lock().comes(record.id.clone(), Within { memory, ..within.clone() });
        // More of it first, as it may be refused; nobody uses it before the container's limit lets them.
        let grows = memory > within.memory;
        let grown = match grows {
            true => self
                .raise_machine(record, &owner, &Within { memory, ..within.clone() })
                .and_then(|()| resize(&mut machine, memory)),
            false => Ok(()),
        };
        let limited = grown.and_then(|()| {
            machine.ask(Request::Limit { container: number, limits }).map_err(told)?.map_err(not_so).map(drop)
        });
        if let Err(error) = limited {
            if grows {
                // Its limit is what it was, whatever the machine does.
                let _ = resize(&mut machine, within.memory);
                counts(within.memory);
            }
            return Err(error);
        }
        if memory < within.memory {
            resize(&mut machine, memory)?;
            counts(memory);
        }
        Ok(memory)
    }

    /// Holds a container that is in the machine of another one still, or lets it go on: that lasts beyond this daemon. Blocks.
    pub(super) fn pause_member(&self, record: &ContainerRecord, paused: bool) -> Result<()> {
        let (mut machine, number) = self.machine_of(record)?;
        machine.pause(number, paused).map_err(told)?.map_err(not_so)
    }

    /// Pauses those containers that are in machines of others, or lets them go on, as their records say: a daemon that was killed in between left them otherwise. One machine does not wait for
    /// another, and one that does not answer is asked once.
    pub(super) async fn settle_members(&self, containers: &[Arc<Container>]) {
        let mut machines: BTreeMap<ContainerId, Vec<&Arc<Container>>> = BTreeMap::new();
        for container in containers {
            if let Some(within) = &container.record().state.within {
                machines.entry(within.owner.clone()).or_default().push(container);
            }
        }
        join_all(machines.into_iter().map(|(owner, members)| self.settle_members_of(owner, members))).await;
    }

    async fn settle_members_of(&self, owner: ContainerId, members: Vec<&Arc<Container>>) {
        for container in members {
            let Ok(life) = container.life(container.id.as_str()).await else { continue };
            let record = life.record();
            if !record.state.phase.is_live() || record.state.within.as_ref().is_none_or(|within| within.owner != owner)
            {
                continue;
            }
            let (engine, found) = (self.clone(), Arc::clone(&record));
            let answer = crate::blocking(move || {
                let Inside { owner, number } = engine.inside(&found)?;
                let mut machine = engine.patient_connection(&owner, PATIENCE)?;
                machine.pause(number, found.state.phase == Phase::Paused).map_err(told)
            });
            match answer.await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => {
                    let error = not_so(failure);
                    tracing::warn!(container = %record.id.short(), %error, "whether it is paused may be otherwise than is said");
                }
                Err(error) => {
                    tracing::warn!(machine = %owner.short(), %error, "a machine does not say which containers in it are paused");
                    return;
                }
            }
        }
    }

    /// Lets the process of a machine have so many bytes more of the host's memory for a container that comes, if it has a limit. It is never lowered while the machine runs: the guest may not have left what one
    /// had that is gone.
    fn raise_machine(&self, record: &ContainerRecord, owner: &ContainerRecord, within: &Within) -> Result<()> {
        let limits = microvm::container::resized(&crate::spec::limits(&owner.host.resources)?).map_err(refused)?;
        let limit = limits.outside.memory().as_ref().and_then(|memory| memory.limit()).filter(|limit| *limit > 0);
        // Held until the limit is there: others may come at the same time.
        let mut guests = self.0.guests.lock();
        guests.comes(record.id.clone(), within.clone());
        let (Some(limit), 1..) = (limit, within.memory) else { return Ok(()) };
        let wanted = limit.unsigned_abs().saturating_add(guests.memory(&owner.id));
        // No more than a machine can have, which its own process says.
        MemorySize::from_mib(wanted >> 20).map_err(|error| Error::invalid(error.to_string()))?;
        let now = self.0.placements.cgroup(owner)?.stats().map_err(|error| Error::system(error.to_string()))?;
        if now.memory.limit.is_none_or(|now| now >= wanted) {
            return Ok(());
        }
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let memory = LinuxMemoryBuilder::default().limit(wanted).build();
        let resources = memory.and_then(|memory| LinuxResourcesBuilder::default().memory(memory).build());
        let resources = resources.map_err(|error| Error::system(error.to_string()))?;
        self.0.placements.update(owner, &resources)
    }
}

fn told(error: ConnectionError) -> Error {
    Error::system(error.to_string())
}

/// Containers in machines of others: those that run, and those that are about to.
#[derive(Debug, Default)]
pub(crate) struct Guests(BTreeMap<ContainerId, Within>);

impl Guests {
    /// A container comes into a machine.
    pub(super) fn comes(&mut self, container: ContainerId, within: Within) {
        self.0.insert(container, within);
    }

    /// It has ended, or did not come: says where it was.
    pub(super) fn goes(&mut self, container: &ContainerId) -> Option<Within> {
        self.0.remove(container)
    }

    /// Those in a container's machine.
    pub(super) fn of(&self, owner: &ContainerId) -> Vec<ContainerId> {
        self.0.iter().filter(|(_, within)| within.owner == *owner).map(|(container, _)| container.clone()).collect()
    }

    /// The numbers of those in a container's machine.
    pub(super) fn numbers(&self, owner: &ContainerId) -> BTreeSet<u32> {
        self.0.values().filter(|within| within.owner == *owner).map(|within| within.number).collect()
    }

    /// By how many bytes a container's machine has grown for others.
    pub(super) fn memory(&self, owner: &ContainerId) -> u64 {
        self.0.values().filter(|within| within.owner == *owner).fold(0, |sum, within| sum.saturating_add(within.memory))
    }
}

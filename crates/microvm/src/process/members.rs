//! Other containers in the machine: each has a root file system and a limit of its own, and the network of the first one.
//!
//! One comes with the connection of a process that stands for it ([`crate::member`]), and goes with that or by its own end; with the first one's end the machine ends, and all of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use guest_protocol::configuration::{Disk, Lower, Root, VolumeKind};
use guest_protocol::message::{Blob, ContainerId, Failure, Plan, ProcessId, Reply, Request, Streams, feature};
use vmm::{MIB, MemorySize};

use super::clients::descriptors;
use super::layers::{Layers, Place};
use super::streams::Attached;
use super::{Asked, Process, Stage, start};
use crate::container::CONTAINER;
use crate::control::{FromMachine, Join};
use crate::error::{Error, Result};
use crate::plan::LAYERS;

/// As many containers may have ended that the guest has not let go of; then nobody else comes.
const REMOVING: usize = 64;

/// The containers that came, and what all of them have in common.
#[derive(Debug)]
pub(super) struct Members {
    /// The memory that the first container's machine is to have.
    memory: MemorySize,
    layers: Layers,
    by_process: BTreeMap<ProcessId, Member>,
}

/// A container that is not the first one.
#[derive(Debug)]
struct Member {
    container: ContainerId,
    /// By how many bytes the machine has grown for it.
    memory: u64,
    /// It is held still until somebody has it go on.
    paused: bool,
    /// What it has of the file system of containers that came.
    files: Files,
    stage: MemberStage,
}

/// What a container has of the file system of those that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// Nothing.
    None,
    /// Volumes, and it may have written there what is in the guest's memory.
    Mounted,
    /// It had some: the guest has said how far it could let go of them.
    Left,
}

/// How far it is.
#[derive(Debug)]
enum MemberStage {
    /// Its root file system is being made; what is run then.
    MakingRoot(Blob, Streams),
    /// Its process is started, or runs.
    Running,
    /// It is over, and its root file system is being taken away.
    Removing,
}

/// How far a container is, for one who is about to kill it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Its first process runs.
    Runs(ProcessId),
    /// That has ended, and the guest lets go of the rest.
    Ends,
}

impl Members {
    /// Of a machine that has so much memory, and in which nothing lies but its first container's layers.
    pub(super) fn new(memory: MemorySize, layers: Layers) -> Self {
        Self { memory, layers, by_process: BTreeMap::new() }
    }

    /// A container that came and has not ended.
    fn there(&mut self, container: ContainerId) -> Option<&mut Member> {
        let is_it =
            |member: &&mut Member| member.container == container && !matches!(member.stage, MemberStage::Removing);
        self.by_process.values_mut().find(is_it)
    }

    /// How far a container is that came; `None`: it is not there, or does not run yet.
    pub(super) fn life(&self, container: ContainerId) -> Option<Life> {
        let (process, member) = self.by_process.iter().find(|(_, member)| member.container == container)?;
        match member.stage {
            MemberStage::MakingRoot(..) => None,
            MemberStage::Running => Some(Life::Runs(*process)),
            MemberStage::Removing => Some(Life::Ends),
        }
    }

    /// Whether a container is held still whoever is connected.
    pub(super) fn is_paused(&self, container: ContainerId) -> bool {
        self.by_process.values().any(|member| member.container == container && member.paused)
    }

    /// Whether a process is the first one of a container that came.
    pub(super) fn is_first(&self, process: ProcessId) -> bool {
        self.by_process.contains_key(&process)
    }

    /// Whether something of the file system of those that came is mounted for one of them, or may be.
    pub(super) fn have_files(&self) -> bool {
        self.by_process.values().any(|member| member.files != Files::None)
    }

    /// Whether something that a container has written, whose first process this is, may still be on its way to where it belongs.
    pub(super) fn writes(&self, process: ProcessId) -> bool {
        self.by_process.get(&process).is_some_and(|member| member.files == Files::Mounted)
    }

    /// All of the machine's memory.
    fn memory(&self) -> Result<MemorySize> {
        let more = self.by_process.values().fold(0u64, |sum, member| sum.saturating_add(member.memory));
        Ok(MemorySize::from_mib(self.memory.mib().saturating_add(more.div_ceil(MIB)))?)
    }

    /// Those whose root is being taken away, or could not be.
    fn removing(&self) -> impl Iterator<Item = ProcessId> {
        let is_over = |member: &Member| matches!(member.stage, MemberStage::Removing);
        self.by_process.iter().filter(move |(_, member)| is_over(member)).map(|(process, _)| *process)
    }
}

impl Process {
    /// The machine is to have so much memory for its first container.
    pub(super) fn have_memory(&mut self, memory: MemorySize) -> Result<()> {
        let was = std::mem::replace(&mut self.members.memory, memory);
        let resized = self.members.memory().and_then(|all| self.machine.resize(all));
        if resized.is_err() {
            self.members.memory = was;
        }
        resized
    }

    /// The machine is to be so many bytes larger than without that container.
    pub(super) fn have_memory_for(&mut self, container: ContainerId, bytes: u64) -> Result<(), Failure> {
        let Some(member) = self.members.there(container) else { return Err(not_there()) };
        let was = std::mem::replace(&mut member.memory, bytes);
        let resized = self.members.memory().and_then(|all| self.machine.resize(all));
        resized.map_err(|error| {
            if let Some(member) = self.members.there(container) {
                member.memory = was;
            }
            Failure::Refused { why: error.to_string() }
        })
    }

    /// A container that came is to be held still, or to go on, for whoever asks.
    pub(super) fn on_pause(&mut self, number: u64, container: ContainerId, paused: bool) -> Result<()> {
        let was = match self.members.there(container) {
            Some(member) => std::mem::replace(&mut member.paused, paused),
            None if paused => {
                self.clients.answer(number, Err(not_there()));
                return Ok(());
            }
            // It has ended, and is not held.
            None => false,
        };
        // What a client holds still goes on with that.
        if was == paused || self.clients.freezes(container) {
            self.clients.answer(number, Ok(Reply::Done));
            return Ok(());
        }
        if !self.host.is_connected() {
            return self.on_paused(number, container, Err(away()));
        }
        self.ask(Request::Freeze { container, frozen: paused }, Asked::Pause(number, container))
    }

    /// What came of that. Where it could not be, the container goes on, now or when the agent is there again.
    pub(super) fn on_paused(
        &mut self,
        number: u64,
        container: ContainerId,
        result: Result<Reply, Failure>,
    ) -> Result<()> {
        let failed = result.is_err();
        self.clients.answer(number, result);
        match self.members.there(container).filter(|_| failed) {
            Some(member) => {
                member.paused = false;
                self.thaw(container)
            }
            None => Ok(()),
        }
    }

    /// Runs another container, for the client that stands for it.
    pub(super) fn on_join(&mut self, number: u64, join: Join) -> Result<()> {
        let (layers, fds) = self.clients.take_layers(number);
        let Some((stdin, outputs)) = descriptors(join.streams, fds) else { return self.close(number) };
        let refused = |why: &str| FromMachine::Refused(Failure::Refused { why: why.to_owned() });
        let is_there = |member: &Member| member.container == join.container;
        if self.stage != Stage::Running {
            self.clients.send(number, &refused("the microVM's first container does not run"));
            return Ok(());
        }
        if self.clients.hold() {
            self.clients.send(number, &refused("the microVM rests, as it is being saved: try again"));
            return Ok(());
        }
        // What could not be taken away is tried again.
        self.remove_roots()?;
        if self.members.removing().count() >= REMOVING {
            let why = "the microVM does not let go of containers that have ended: restart it";
            self.clients.send(number, &refused(why));
            return Ok(());
        }
        if !self.can(feature::SEVERAL) {
            let why = "the microVM goes on from what an older version of stratus has saved, and takes no other container: restart it";
            self.clients.send(number, &refused(why));
            return Ok(());
        }
        if join.shares_processes && !self.can(feature::PID_NAMESPACES) {
            let why = "the microVM goes on from what an older version of stratus has saved, and its containers share no processes (--pid): restart it";
            self.clients.send(number, &refused(why));
            return Ok(());
        }
        if join.container == CONTAINER || self.members.by_process.values().any(is_there) {
            self.clients.send(number, &refused("there is a container of that number in the microVM"));
            return Ok(());
        }
        let Some(process) = self.next_process() else {
            self.clients.send(number, &refused("the microVM has had as many processes as it can: restart it"));
            return Ok(());
        };
        let Join { container, mut root, memory, plan, shares_processes: _, streams } = join;
        let files = match self.place_files(&mut root) {
            Ok(files) => files,
            Err(why) => {
                self.clients.send(number, &refused(why));
                return Ok(());
            }
        };
        let stage = MemberStage::MakingRoot(plan, streams);
        self.members.by_process.insert(process, Member { container, memory, paused: false, files, stage });
        let places = match self.make_room(container, layers) {
            Ok(places) => places,
            Err(error) => {
                self.forget_member(process)?;
                self.clients.send(number, &refused(&error.to_string()));
                return Ok(());
            }
        };
        (root.container, root.lower) =
            (container, Lower::Layers { disk: Disk::Serial(LAYERS.to_owned()), layers: places });
        self.clients.stand_for(number, process, container);
        self.attached.insert(process, Attached::new(process, stdin, outputs));
        match self.ask(Request::MakeRoot(Box::new(root)), Asked::Member(process)) {
            Err(Error::TooLong(_)) => {
                let failure =
                    Failure::Refused { why: "its files and mounts are more than fit into a message".to_owned() };
                self.member_failed(process, failure)?;
                self.forget_member(process)
            }
            asked => asked,
        }
    }

    /// Says where the file system is that a container has volumes of.
    fn place_files(&self, root: &mut Root) -> Result<Files, &'static str> {
        let mut files = Files::None;
        for volume in &mut root.volumes {
            let VolumeKind::Plugged { place, .. } = &mut volume.kind else { continue };
            let there = self.shared_files.place().ok_or("nobody serves the container's volumes in the microVM")?;
            there.clone_into(place);
            files = Files::Mounted;
        }
        Ok(files)
    }

    /// Puts layers on their disk, and has the machine be as large as it is to be. Says where they lie.
    fn make_room(&mut self, container: ContainerId, layers: Vec<OwnedFd>) -> Result<Vec<Place>> {
        let (places, new) = self.members.layers.place(container, layers.into_iter().map(File::from).collect())?;
        if !new.is_empty() {
            self.machine.lay(new.into_iter().map(|(at, file)| (at, Some(file))).collect(), false)?;
        }
        let memory = self.members.memory()?;
        if memory > self.members.memory {
            self.machine.resize(memory)?;
        }
        Ok(places)
    }

    /// What came of making or removing a member's root, or nothing did, as the conversation broke off.
    pub(super) fn on_member(&mut self, process: ProcessId, result: Option<Result<Reply, Failure>>) -> Result<()> {
        let Some(member) = self.members.by_process.get_mut(&process) else { return Ok(()) };
        let container = member.container;
        match (std::mem::replace(&mut member.stage, MemberStage::Removing), result) {
            (MemberStage::MakingRoot(plan, streams), Some(Ok(_))) if self.clients.stands_for(process) => {
                member.stage = MemberStage::Running;
                let started = self.ask(start(process, container, Plan::Init(plan), streams), Asked::Start(process));
                match started {
                    Err(Error::TooLong(_)) => self.member_failed(process, super::too_long()),
                    asked => asked,
                }
            }
            (MemberStage::MakingRoot(..), Some(Ok(_))) => {
                // Nobody stands for it any more.
                self.attached.remove(&process);
                self.remove_root(process)
            }
            (MemberStage::MakingRoot(..), Some(Err(failure))) => self.member_failed(process, failure),
            (MemberStage::MakingRoot(..), None) => self.member_failed(process, away()),
            (MemberStage::Running, _) => {
                member.stage = MemberStage::Running;
                Ok(())
            }
            // Its layers are not there any more for anybody in the guest.
            (MemberStage::Removing, Some(Ok(_))) => {
                self.forget_member(process)?;
                self.let_unused_files_go();
                self.on_progress(process)
            }
            // What the guest did not let go of stays where it lies, and is asked for again with the next who comes, or when the machine is to be saved.
            (MemberStage::Removing, Some(Err(_))) => {
                if member.files == Files::Mounted {
                    member.files = Files::Left;
                }
                self.on_progress(process)
            }
            (MemberStage::Removing, None) => Ok(()),
        }
    }

    /// A process was not started: where it is a member's, its root goes.
    pub(super) fn member_failed(&mut self, process: ProcessId, failure: Failure) -> Result<()> {
        self.attached.remove(&process);
        self.clients.refused(process, failure);
        self.remove_root(process)
    }

    /// A process is over: where it is a member's first one, its root goes.
    pub(super) fn remove_root(&mut self, process: ProcessId) -> Result<()> {
        let Some(member) = self.members.by_process.get_mut(&process) else { return Ok(()) };
        (member.stage, member.paused) = (MemberStage::Removing, false);
        let (container, memory) = (member.container, std::mem::take(&mut member.memory));
        if memory > 0 {
            // At once, whenever the guest says that it has let go of the rest: its memory is the host's.
            let resized = self.members.memory().and_then(|all| self.machine.resize(all));
            resized.unwrap_or_else(|error| complain(&error));
        }
        self.ask(Request::RemoveRoot { container }, Asked::Member(process))
    }

    /// What was to go, and is there still, is asked for again.
    pub(super) fn remove_roots(&mut self) -> Result<()> {
        let is_asked = |process: &ProcessId| {
            self.asked.values().any(|asked| matches!(asked, Asked::Member(other) if other == process))
        };
        let over: Vec<_> = self.members.removing().filter(|process| !is_asked(process)).collect();
        over.into_iter().try_for_each(|process| self.remove_root(process))
    }

    /// Why the machine can't be saved, as others are in it. Where none is, their file system goes: it is the last thing that is in the way.
    pub(super) fn members_keep_from_saving(&mut self) -> Result<Option<&'static str>> {
        self.remove_roots()?;
        if self.members.removing().count() < self.members.by_process.len() {
            return Ok(Some("another container runs in this microVM, which no snapshot can have: end that first"));
        }
        if !self.members.by_process.is_empty() {
            return Ok(Some("what another container had in this microVM is not taken away yet: try again"));
        }
        self.let_files_go();
        Ok(match self.shared_files.are_gone() {
            true => None,
            false => Some("the file system of another container is not taken away yet: try again"),
        })
    }

    /// Nothing of a member is left in the guest: nothing of it is on the disk any more either. What the machine's driver refuses stays there.
    fn forget_member(&mut self, process: ProcessId) -> Result<()> {
        let Some(member) = self.members.by_process.remove(&process) else { return Ok(()) };
        let left = self.members.layers.leave(member.container);
        let gone = match left.is_empty() {
            true => Ok(()),
            false => self.machine.lay(left.iter().map(|at| (*at, None)).collect(), self.clients.hold()),
        };
        match gone {
            Ok(()) => self.members.layers.take_away(&left),
            Err(error) => complain(&error),
        }
        Ok(())
    }
}

/// What nobody waits for, and ends nothing, is told on standard error.
pub(super) fn complain(error: &Error) {
    eprintln!("\rstratus: {error}\r");
}

/// Somebody speaks of a container that is not there, or not any more.
fn not_there() -> Failure {
    Failure::Refused { why: "there is no such container in the microVM".to_owned() }
}

/// The agent was away when something was asked.
pub(super) fn away() -> Failure {
    Failure::Refused { why: "the machine's agent was away".to_owned() }
}

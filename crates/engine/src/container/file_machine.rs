//! The machine in which a container's disk is read and written while the container does not run: one of the daemon's own, with the container's layers and its disk, in which nothing runs but the agent. What a guest
//! has written to a file system is never read by the host's kernel.
//!
//! Several commands share it, and it is ended some seconds after the last of them, killed: whoever wrote has had it synced, so that the disk is as after a loss of power, which loses nothing. A start waits for those
//! who use it, and has it ended before the container's own machine has the disk; a removal waits for nobody. It has the container's limits on the host once it is there, goes on from a template where there is one, and few
//! begin side by side: in turns, of which none lasts long, as a disk on which something hangs is to hold up its own container's commands alone. The keeper ends it with the daemon's connection. Its identifier is made of the container's, so
//! that the next daemon finds what may be left of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use guest_protocol::configuration::{Disk, Identity, Lower, Machine, Root, Upper};
use guest_protocol::message::Blob;
use microvm::container::{CONTAINER, Host, at};
use microvm::{Backing, Contained, DiskLimits, Hardware, MachinePlan, MemorySize, Processor, VcpuCount, Volumes};
use oci_spec::runtime::{Linux, LinuxMemory, LinuxResources, Spec};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, Semaphore, oneshot};

use super::Container;
use super::machine::{Booted, MachineStart, origin_of, refused};
use super::template::{Failed, Templates};
use crate::guest_files::Guest;
use crate::model::{ContainerId, ContainerRecord, Timestamp};
use crate::templates::Template;
use crate::{Engine, Error, Result};

/// How long it is there after its last use.
const KEPT: Duration = Duration::from_secs(5);
/// How long a start waits for those who use it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a turn lasts at most: a machine that takes longer to begin goes on beside the next one's.
const TURN: Duration = Duration::from_secs(5);
/// Its memory, in MiB: a kernel, the agent, and some of the disk's files.
const MEMORY: u64 = 160;

/// What this daemon knows of a container's machine for its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: an earlier daemon may have left one.
    #[default]
    Nothing,
    /// There is none.
    Down,
    /// It is there.
    Up,
}

/// The machine of a container, held by those who use it, and alone by who makes an end of it.
#[derive(Default)]
pub(super) struct FileMachine {
    known: Arc<RwLock<Known>>,
    uses: AtomicU64,
}

/// Nobody but the holder has a container's disk.
pub(super) type DiskTaken = OwnedRwLockWriteGuard<Known>;

/// A use of such a machine, which is there until the last of them is dropped, and some seconds more.
pub(crate) struct Use {
    /// Until it is dropped.
    known: Option<OwnedRwLockReadGuard<Known>>,
    engine: Engine,
    container: Arc<Container>,
    runtime: tokio::runtime::Handle,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.known = None;
        let number = self.container.file_machine.uses.fetch_add(1, Ordering::SeqCst) + 1;
        let (engine, container) = (self.engine.clone(), self.container.clone());
        self.runtime.spawn(async move {
            tokio::time::sleep(KEPT).await;
            let machine = &container.file_machine;
            // Whoever has used it since, or does now, sees to its end.
            if machine.uses.load(Ordering::SeqCst) == number
                && let Ok(mut known) = machine.known.clone().try_write_owned()
                && let Err(error) = engine.end_file_machine(&container.id, &mut known).await
            {
                tracing::warn!(container = container.id.short(), %error, "could not end the machine for its files");
            }
        });
    }
}

/// What the machine for a container's files is called.
fn name(container: &ContainerId) -> Result<ContainerId> {
    let name = image::Digest::of(format!("files of {container}").as_bytes()).hex();
    ContainerId::try_from(name.to_string()).map_err(|error| Error::system(error.to_string()))
}

/// How many may begin at once: as many as have a processor of the host each.
pub(crate) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)))
}

/// A machine's turn to begin: over when this is dropped, or when it has lasted for [`TURN`].
struct Turn {
    _over: oneshot::Sender<()>,
}

/// Its parts: as those of templates, so that it goes on from one of them.
fn hardware(booted: &Booted) -> Result<Hardware> {
    let memory = MemorySize::from_mib(MEMORY).map_err(|error| Error::system(error.to_string()))?;
    Ok(Hardware {
        vcpus: VcpuCount::new(1).map_err(|error| Error::system(error.to_string()))?,
        processor: Processor::Host,
        memory,
        most_memory: memory,
        kernel: at::KERNEL.into(),
        initramfs: at::INITRAMFS.into(),
        layers: (0..booted.layers.len()).map(at::layer).collect(),
        upper: Some(at::UPPER.into()),
        limits: DiskLimits::default(),
        cards: microvm::places([]),
        volumes: None,
        files_place: true,
        console: false,
    })
}

/// What is in it: the container's root, and nothing that runs.
fn contained(memory: MemorySize) -> Contained {
    let identity = Identity {
        clock: u64::try_from(Timestamp::now().as_nanosecond()).ok(),
        entropy: Blob(rand::random::<[u8; 64]>().to_vec()),
        ..Identity::default()
    };
    let root = Root {
        container: CONTAINER,
        lower: Lower::Layers { disk: Disk::Serial(String::new()), layers: Vec::new() },
        upper: Upper::Disk(MachinePlan::upper()),
        volumes: Vec::new(),
        files: Vec::new(),
        limits: Vec::new(),
    };
    Contained { configuration: Machine { identity, ..Machine::default() }, root, workload: None, memory }
}

/// Of a container's specification, what its limits are on its use of the host while it begins. That of memory is for a machine of this size.
fn limited(record: &ContainerRecord) -> Result<Spec> {
    let mut resources = crate::spec::limits(&record.host.resources)?;
    // Nothing of the container's runs yet, and a hundredth of a processor would boot for minutes.
    resources.set_cpu(None).set_block_io(None);
    let mut memory = LinuxMemory::default();
    memory.set_limit(i64::try_from((MEMORY - microvm::container::KERNEL) << 20).ok());
    resources.set_memory(Some(memory));
    let mut linux = Linux::default();
    linux.set_resources(Some(resources));
    let mut spec = Spec::default();
    spec.set_process(None).set_linux(Some(linux));
    Ok(spec)
}

/// What is added to that once it is there.
fn limits(record: &ContainerRecord) -> Result<LinuxResources> {
    let mut resources = crate::spec::limits(&record.host.resources)?;
    resources.set_memory(None).set_pids(None);
    Ok(resources)
}

impl Engine {
    /// The disk of a container on which something may be.
    pub(super) fn written_disk(&self, record: &ContainerRecord) -> Result<Option<PathBuf>> {
        Ok(self.disk_path(record)?.filter(|disk| disk.exists()))
    }

    /// The agent of the machine for the files of a container that does not run and has such a disk; `None`: it runs by now.
    pub(super) async fn guest_of_disk(&self, container: &Arc<Container>) -> Result<Option<Guest>> {
        let known = container.file_machine.known.clone().read_owned().await;
        let used = match *known {
            Known::Up => Some(self.use_of(container, known)),
            Known::Nothing | Known::Down => {
                drop(known);
                let (engine, container) = (self.clone(), container.clone());
                // To its end, whoever waits for it.
                let booted = tokio::spawn(async move { engine.boot_file_machine(&container).await }).await;
                booted.map_err(|error| Error::system(format!("a task of the engine was lost: {error}")))??
            }
        };
        let Some(used) = used else { return Ok(None) };
        if container.turns.borrow().removed {
            return Err(Error::no_such_container(container.id.as_str()));
        }
        let (engine, id) = (self.clone(), name(&container.id)?);
        match crate::blocking(move || engine.machine_connection(&id)).await {
            Ok(connection) => Ok(Some(Guest::at_rest((connection, CONTAINER), used))),
            Err(error) => {
                drop(used);
                // It has ended, or does not answer: the next one boots.
                if let Ok(mut known) = container.file_machine.known.clone().try_write_owned() {
                    self.end_file_machine(&container.id, &mut known).await?;
                }
                Err(error.context(format!("ask the machine for the files of container {}", container.id.short())))
            }
        }
    }

    fn use_of(&self, container: &Arc<Container>, known: OwnedRwLockReadGuard<Known>) -> Use {
        let runtime = tokio::runtime::Handle::current();
        Use { known: Some(known), engine: self.clone(), container: container.clone(), runtime }
    }

    async fn boot_file_machine(&self, container: &Arc<Container>) -> Result<Option<Use>> {
        // Whoever waits for it keeps no start from the disk.
        let _turn = self.file_machine_turn().await?;
        let mut known = container.file_machine.known.clone().write_owned().await;
        let record = container.record();
        // Whoever asked looks again.
        if record.state.phase.is_live() || record.state.suspended.is_some() {
            return Ok(None);
        }
        if *known != Known::Up {
            self.end_file_machine(&container.id, &mut known).await?;
            if !self.has_own_disk(&record).await? {
                return Ok(None);
            }
            let booted = self.begin_file_machine(&container.id, record.clone()).await;
            // Also of half a one.
            *known = Known::Up;
            if let Err(error) = booted {
                self.end_file_machine(&container.id, &mut known).await?;
                return Err(error.context(format!("start a machine for the files of container {}", record.name)));
            }
        }
        Ok(Some(self.use_of(container, known.downgrade())))
    }

    /// Waits until few others begin.
    async fn file_machine_turn(&self) -> Result<Turn> {
        let permit = self.0.file_machine_turns.clone().acquire_owned().await;
        let permit = permit.map_err(|error| Error::system(format!("wait for other machines to begin: {error}")))?;
        let (turn, over) = oneshot::channel();
        tokio::spawn(async move {
            // Which of the two, is all the same.
            let _ = tokio::time::timeout(TURN, over).await;
            drop(permit);
        });
        Ok(Turn { _over: turn })
    }

    /// Whether something is on a container's own disk, which it has again by then.
    async fn has_own_disk(&self, record: &Arc<ContainerRecord>) -> Result<bool> {
        let (engine, record) = (self.clone(), record.clone());
        crate::blocking(move || {
            engine.put_back_own(&record)?;
            Ok(engine.written_disk(&record)?.is_some())
        })
        .await
    }

    /// Has it begin, until its agent has the disk. One that went on from its template and was lost boots in its place.
    async fn begin_file_machine(&self, container: &ContainerId, record: Arc<ContainerRecord>) -> Result<()> {
        let id = name(container)?;
        let Err(failed) = self.try_file_machine(&id, &record, None).await else { return Ok(()) };
        let (template, error) = failed.instead_of()?;
        self.boots_instead(&template, &error);
        self.end_beside(&id).await?;
        self.try_file_machine(&id, &record, Some((&template, &error))).await.map_err(|failed| failed.error)
    }

    async fn try_file_machine(
        &self,
        id: &ContainerId,
        record: &Arc<ContainerRecord>,
        instead_of: Option<(&Template, &Error)>,
    ) -> Result<(), Failed> {
        let booted = self.booted(record, Templates::unless(instead_of)).await?;
        let booted = booted.ok_or_else(|| Error::system("a container without a machine has a disk"))?;
        let (engine, machine, limits, record) = (self.clone(), id.clone(), limits(record)?, record.clone());
        let mut start = crate::blocking(move || engine.file_machine_process(&machine, &record, &booted)).await?;
        let (template, wanted) = (start.template.take(), start.wanted.take());
        self.boot_beside(id, start).await.map_err(|error| Failed { error, template })?;
        let (engine, id) = (self.clone(), id.clone());
        crate::blocking(move || engine.0.placements.update_beside(&id, &limits)).await?;
        if let Some((template, error)) = instead_of {
            self.booted_instead(template, error);
        }
        wanted.into_iter().for_each(|wanted| self.make_template_beside(wanted));
        Ok(())
    }

    /// Makes the plan of its process. Blocks.
    fn file_machine_process(
        &self,
        id: &ContainerId,
        record: &ContainerRecord,
        booted: &Booted,
    ) -> Result<MachineStart> {
        let disk = self.written_disk(record)?.ok_or_else(|| Error::system("the container's disk is gone"))?;
        let size = super::disk::size(&record.host)?;
        let driver = self.machine_driver()?;
        let hardware = hardware(booted)?;
        let beginning = self.beginning(&driver, &hardware, size, booted)?;
        let plan = MachinePlan {
            driver: driver.clone(),
            origin: origin_of(&beginning, booted),
            backing: Backing::Mapped,
            container: Some(contained(hardware.memory)),
            hardware,
            start_timeout: self.0.config.machines.start_timeout,
            control: at::SOCKET.into(),
            scratch: at::SCRATCH.into(),
        };
        let directory = self.machine_dir(id);
        let snapshots = beginning.directories(booted);
        let host = self.write_machine(&directory, &plan, booted, snapshots, Volumes::default())?;
        let host = Host { upper: Some(disk), ..host };
        let outside = microvm::container::outside(Some(&limited(record)?), &driver, &host).map_err(refused)?;
        let cgroup = self.0.placements.create_beside(id, &outside)?;
        let start = self.machine_process(&outside, &directory, cgroup, Default::default(), None)?;
        Ok(start.begun_by(beginning))
    }

    /// Ends the machine for a container's files, unless there is known to be none.
    async fn end_file_machine(&self, container: &ContainerId, known: &mut DiskTaken) -> Result<()> {
        if **known != Known::Down {
            self.end_beside(&name(container)?).await?;
            **known = Known::Down;
        }
        Ok(())
    }

    /// Takes a container's disk for a run, which is to begin while this is held: whoever works on its files is waited for, with patience. `None`: it has none.
    pub(super) async fn take_disk(&self, container: &Container) -> Result<Option<DiskTaken>> {
        let record = container.record();
        if self.disk_path(&record)?.is_none() {
            return Ok(None);
        }
        let taken = tokio::time::timeout(PATIENCE, container.file_machine.known.clone().write_owned()).await;
        let mut known = taken.map_err(|_| {
            Error::conflict(format!(
                "files of container {} are being copied: start it when that is done, or end the copy",
                record.name
            ))
        })?;
        self.end_file_machine(&container.id, &mut known).await?;
        Ok(Some(known))
    }

    /// Ends the machine for the files of a container that is removed, whoever uses it.
    pub(super) async fn remove_file_machine(&self, container: &Container, record: &ContainerRecord) {
        if !self.written_disk(record).is_ok_and(|disk| disk.is_some()) {
            return;
        }
        let ended = async {
            // Who uses it hears of that. One that boots at the moment comes to its end behind that.
            self.end_beside(&name(&container.id)?).await?;
            let mut known = container.file_machine.known.clone().write_owned().await;
            self.end_file_machine(&container.id, &mut known).await
        };
        if let Err(error) = ended.await {
            tracing::warn!(container = container.id.short(), %error, "could not end the machine for its files");
        }
    }

    /// Takes the machine for some container's files that has that name, or begins so, to make an end of what is left of it; an error: it is in use. `None`: there is no such container.
    pub(super) fn take_left_file_machine(&self, found: &str) -> Result<Option<DiskTaken>, InUse> {
        let is_its = |container: &Arc<Container>| {
            container.record().is_machine() && name(&container.id).is_ok_and(|name| name.as_str().starts_with(found))
        };
        let Some(container) = self.0.containers.all().into_iter().find(is_its) else { return Ok(None) };
        match container.file_machine.known.clone().try_write_owned() {
            Ok(known) if *known != Known::Up => Ok(Some(known)),
            _ => Err(InUse),
        }
    }
}

/// A machine is used at the moment.
#[derive(Debug)]
pub(super) struct InUse;

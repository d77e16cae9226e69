//! The engine: containers, and everything that a container needs, as one set of calls.
//!
//! A door translates its protocol into these calls; the floor below does the work: `image` gives root file systems,
//! `net` gives endpoints, `sandbox` turns a runtime specification into a plan, `keeper` runs it and holds it,
//! `store` remembers. The engine knows the rules: what may be done when, in which order, and what is told to whom.
//!
//! # Invariants
//! - What a caller was told is done is in the store: records are written before they are shown.
//! - One operation at a time changes a container's life (`container::Container::life`); reading never waits.
//! - In-memory state is rebuilt from the store and the keeper at every start ([`Engine::open`]).
#![forbid(unsafe_code)]

mod apparmor;
mod cleaned;
mod config;
mod container;
mod error;
mod events;
mod guest_files;
mod images;
mod limits;
mod link;
mod log_changes;
mod machine_images;
mod machine_program;
mod metering;
mod names_service;
mod networks;
mod open;
mod signals;
mod snapshots;
mod spec;
mod streams;
mod system;
mod tally;
mod templates;
mod usage;
mod users;
mod volumes;

pub mod model;
pub mod model_text;

use std::collections::BTreeMap;
use std::sync::Arc;

use store::{Collection, Txn};

pub use apparmor::profile_name as apparmor_profile;
pub use cleaned::{note as note_clean, take_back_addresses};
pub use config::{DEFAULT_RUNTIME, DnsDefaults, EngineConfig, Machines, NetworkDefaults};
pub use container::step::{Access, Lent, LentMount, Secret, file_in_memory, socket_in_memory};
pub use container::{
    ArchiveStat, Attachment, BlockIoCounters, ByteStream, CONTAINER_FILTERS, CONTAINER_STATES, CommitRequest,
    ContainerDetails, ContainerSize, CpuCounters, CreateRequest, Created, DetachKeys, ExecConfig, ExecDetails, Forked,
    GraphDirs, InputSink, ListOptions, ListedContainer, LogStream, MemoryCounters, OutputReceiver, ProcessTable,
    PruneReport, RemoveOptions, StatsSample, UpdateRequest, WaitCondition, WaitResult, check_saved_name, until,
};
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, EventKind, EventQuery, EventStream, Events};
pub use images::{
    IMAGE_FILTERS, ImageDetails, ImageHistory, ImageManifest, ImagePruneReport, ImageSummary, ImportRequest,
    Intermediates, ListImages, PullRequest, PulledImage, PushRequest, PushedImage, Unfinished,
};
pub use keeper::client::unread;
pub use limits::Limits;
pub use machine_images::MachineImage;
pub use machine_program::ProgramAt;
pub use networks::{NETWORK_FILTERS, NetworkDetails};
pub use streams::{AttachOptions, LogLine, LogOptions, OutputChunk, OutputStream};
pub use system::{DiskUsage, SystemInfo};
pub use tally::Counts;
pub use usage::{UsageBy, UsageGroup, UsageQuery, UsageReport};
pub use volumes::{VOLUME_FILTERS, Volume, VolumeCreate, VolumeUsage};

use container::{Container, Execs, Life, Placements, Registry};
use metering::Closing;
use model::{ContainerId, ContainerRecord};

pub(crate) use link::keeper_error;

/// The engine. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    config: EngineConfig,
    /// A random name of this data directory, for clients.
    instance_id: String,
    /// This is the first daemon of this data directory since the machine's boot, and has not begun its policies yet.
    booted: std::sync::atomic::AtomicBool,
    /// Held by a recovery until it has come to all containers ([`Engine::found_by_recovery`]).
    recovering: tokio::sync::RwLock<()>,
    records: Collection<ContainerRecord>,
    containers: Registry,
    execs: Execs,
    /// Read by removals whose root file system is still there; who needs them gone writes.
    leaving: Arc<tokio::sync::RwLock<()>>,
    volumes: volumes::Volumes,
    images: image::Images,
    /// Where images are looked for that are none yet.
    intermediates: std::sync::OnceLock<Box<dyn Intermediates>>,
    registries: image::registry::Registries,
    networks: Arc<net::Networks>,
    names: names_service::Names,
    placements: Placements,
    /// What containers have brought along into machines of others.
    guests: parking_lot::Mutex<container::Guests>,
    /// What serves volumes of containers that are in machines of others.
    file_servers: container::FileServers,
    /// By what microVMs are run, once it has been looked for; `None`: nothing here can.
    machine_driver: std::sync::OnceLock<std::result::Result<microvm::driver::Driver, microvm::driver::Lack>>,
    machine_program: machine_program::MachineProgram,
    snapshots: Arc<snapshots::Snapshots>,
    machine_images: machine_images::MachineImages,
    templates: Arc<templates::Templates>,
    /// Waited for by machines for the files of containers that do not run.
    file_machine_turns: Arc<tokio::sync::Semaphore>,
    keeper: link::KeeperLink,
    events: Events,
    log_changes: log_changes::LogChanges,
    metering: metering::Metering,
    tally: tally::Tally,
    users: users::UserCache,
    confinement: apparmor::Confinement,
}

impl Engine {
    /// Where everything durable is, for those above who keep something beside.
    pub fn store(&self) -> &store::Store {
        self.0.records.store()
    }

    /// Where events are told and heard.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// What this daemon has done since its start.
    pub fn counts(&self) -> Counts {
        self.0.tally.counts()
    }

    /// Changes a container's record: the store first, then memory.
    async fn change(&self, life: &Life<'_>, edit: impl FnOnce(&mut ContainerRecord)) -> Result<Arc<ContainerRecord>> {
        self.change_and_close(life, None, edit).await
    }

    /// As [`change`](Self::change), and what a run used that is over is kept in the same step.
    async fn change_and_close(
        &self,
        life: &Life<'_>,
        closing: Option<Closing>,
        edit: impl FnOnce(&mut ContainerRecord),
    ) -> Result<Arc<ContainerRecord>> {
        let mut record = (*life.record()).clone();
        edit(&mut record);
        self.record(&record, closing, Room::Ordinary).await?;
        life.show(record);
        Ok(life.record())
    }

    /// As [`change_and_close`](Self::change_and_close), for what has happened already, or must not be held up: on a full disk
    /// it is written into the room that the store keeps back. Where not even that is left, memory has it all the same, and the
    /// log says what a later daemon will not know.
    async fn note(
        &self,
        life: &Life<'_>,
        closing: Option<Closing>,
        edit: impl FnOnce(&mut ContainerRecord),
    ) -> Arc<ContainerRecord> {
        let mut record = (*life.record()).clone();
        edit(&mut record);
        if let Err(error) = self.record(&record, closing, Room::Reserve).await {
            tracing::error!(container = %life.id.short(), phase = record.state.phase.name(), %error, "a change of its state is in memory only");
        }
        life.show(record);
        life.record()
    }

    /// Writes the record of a container that is there, and with it what a run used that is over. Nobody sees it yet. It goes
    /// on from this call on, whoever waits for it.
    fn record(
        &self,
        record: &ContainerRecord,
        closing: Option<Closing>,
        room: Room,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (records, id) = (&self.0.records, record.id.as_str());
        // What is gone does not come back, whatever somebody thought to hold.
        let txn = records.txn().expect(records.key(id), store::Expect::Present);
        let txn = if room == Room::Reserve { txn.from_reserve() } else { txn };
        let txn = records.put_in(txn, id, record).and_then(|txn| closed_in(txn, closing.as_ref()));
        committed(record.id.clone(), txn.map(Txn::commit_async), closing)
    }

    /// As [`change`](Self::change) for a caller that does not hold the container's life: only where it still runs.
    async fn change_live(
        &self,
        container: &Arc<Container>,
        edit: impl FnOnce(&mut ContainerRecord),
    ) -> Result<Arc<ContainerRecord>> {
        // What was removed runs no more.
        let Ok(life) = container.life(container.id.as_str()).await else { return Ok(container.record()) };
        let record = life.record();
        if !record.state.phase.is_live() {
            return Ok(record);
        }
        self.change(&life, edit).await
    }

    /// Notes that somebody ends it by hand, before its end: its policy does not start it again then.
    async fn note_stopped_by_hand(&self, container: &Arc<Container>) {
        let Ok(life) = container.life(container.id.as_str()).await else { return };
        if life.record().state.phase.is_live() {
            self.note(&life, None, |record| record.state.stopped_by_hand = true).await;
        }
    }

    /// Writes the record of a container that is being made, and with it those of its root file system and of its
    /// anonymous volumes.
    async fn put_record(
        &self,
        record: &ContainerRecord,
        rootfs: &image::NewRootfs,
        new_volumes: &[Volume],
    ) -> Result<()> {
        let (records, id) = (&self.0.records, record.id.as_str());
        let txn = records.txn().expect(records.key(id), store::Expect::Absent);
        let txn = records.put_in(txn, id, record).map_err(|error| unrecorded(&record.id, error))?;
        let mut txn = rootfs.record_in(txn).map_err(images::error)?;
        let anonymous = || new_volumes.iter().filter(|volume| volume.anonymous);
        for volume in anonymous() {
            txn = self.0.volumes.put_in(txn, volume)?;
        }
        // Volumes that are there already are there for good.
        let is_new = |name: &str| anonymous().any(|volume| volume.name == name);
        for name in record.mounts.iter().filter_map(model::MountPoint::volume).filter(|name| !is_new(name)) {
            txn = txn.expect(self.0.volumes.key(name), store::Expect::Present);
        }
        txn.commit_async().await.map_err(|error| unrecorded(&record.id, error.into()))?;
        anonymous().for_each(|volume| self.0.volumes.show(volume));
        Ok(())
    }

    /// Deletes the record of a container, and with it those of its root file system and of volumes that go with it; what a run
    /// used that is over is kept in the same step. It goes on from this call on, whoever waits for it.
    fn delete_record(
        &self,
        id: &ContainerId,
        volumes: &[volumes::Leaving],
        closing: Option<Closing>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let txn = self.0.records.txn().delete(self.0.records.key(id.as_str()));
        let txn = self.0.images.forget_rootfs(id.as_str(), txn);
        let txn = volumes.iter().fold(txn, |txn, volume| self.0.volumes.delete_in(txn, volume));
        let commit = closed_in(txn, closing.as_ref()).map(Txn::commit_async);
        committed(id.clone(), commit, closing)
    }

    /// Tells an event of a container, with its name, image and labels.
    fn tell_container<'k>(
        &self,
        record: &ContainerRecord,
        action: &str,
        more: impl IntoIterator<Item = (&'k str, String)>,
    ) {
        let mut attributes: BTreeMap<String, String> = record.config.labels.clone();
        attributes.insert("image".to_owned(), record.config.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
        self.0.events.tell(EventKind::Container, action, record.id.as_str(), attributes);
    }
}

/// Where a record may be written on a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Nowhere.
    Ordinary,
    /// In the space that the store keeps back.
    Reserve,
}

fn closed_in<'a>(txn: Txn<'a>, closing: Option<&Closing>) -> Result<Txn<'a>, store::Error> {
    match closing {
        Some(closing) => closing.put_in(txn),
        None => Ok(txn),
    }
}

/// Waits for a commit that goes on by itself; what was closed with it is kept then.
async fn committed<T>(
    id: ContainerId,
    commit: Result<impl Future<Output = Result<T, store::CommitError>>, store::Error>,
    closing: Option<Closing>,
) -> Result<()> {
    let done = match commit {
        Ok(commit) => commit.await.map_err(store::Error::from),
        Err(error) => Err(error),
    };
    done.map_err(|error| unrecorded(&id, error))?;
    if let Some(closing) = closing {
        closing.kept();
    }
    Ok(())
}

fn unrecorded(id: &ContainerId, error: store::Error) -> Error {
    Error::system(format!("record container {}: {error}", id.short()))
}

/// Runs `work` where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::system(format!("a task of the engine was lost: {error}"))),
    }
}

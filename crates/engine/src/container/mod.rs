//! Containers: one folder for their whole life.
//!
//! A [`Container`] is a record that the store has too, and a lock that serialises what changes its life. Reading a
//! record never waits. Each operation is a file: [`create`], [`start`], [`exit`], [`stop`], [`remove`], ….

mod adapt;
mod archive;
mod attach;
mod beside;
mod brought_back;
mod commit;
mod copied;
mod create;
mod detach_keys;
mod disk;
mod exec;
mod exit;
mod file_machine;
mod files;
mod guest;
mod health;
mod lease;
mod links;
mod list;
mod logging;
mod logs;
mod machine;
mod machine_annotations;
mod machine_exec;
mod machine_limits;
mod machine_network;
mod machine_top;
mod member;
mod member_volumes;
mod merge;
mod mount_points;
mod names;
mod order;
mod parents;
mod placement;
mod process;
mod propagation;
mod prune;
mod recover;
mod registry;
mod remove;
mod rename;
mod snapshot;
mod sources;
mod start;
mod stats;
pub(crate) mod step;
mod stop;
mod storage;
mod template;
mod top;
mod touched;
mod update;
mod validate;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

pub use archive::{ArchiveStat, ByteStream};
pub use attach::{Attachment, InputSink, OutputReceiver};
pub use commit::CommitRequest;
pub use create::{CreateRequest, Created};
pub use detach_keys::DetachKeys;
pub use exec::{ExecConfig, ExecDetails};
pub use list::{
    CONTAINER_FILTERS, CONTAINER_STATES, ContainerDetails, ContainerSize, GraphDirs, ListOptions, ListedContainer,
};
pub use logs::LogStream;
pub(crate) use member::Guests;
pub(crate) use member_volumes::FileServers;
pub use prune::{PruneReport, until};
pub use remove::RemoveOptions;
pub use snapshot::{Forked, check_saved_name};
pub use stats::{BlockIoCounters, CpuCounters, MemoryCounters, StatsSample};
pub use top::ProcessTable;
pub use update::UpdateRequest;
pub use wait::{WaitCondition, WaitResult};

pub(crate) use exec::Execs;
pub(crate) use file_machine::{Use as FileMachineUse, turns as file_machine_turns};
pub(crate) use logging::check_logging_defaults;
pub(crate) use machine::lacking;
pub(crate) use machine_network::{changes_network, goes_on_with_its_networks};
pub(crate) use placement::{LastUsage, Placements};
pub(crate) use registry::Registry;
pub(crate) use start::connects_late;

use crate::model::{ContainerId, ContainerRecord, Phase};
use crate::{Error, Result};

/// A container in memory.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    record: RwLock<Arc<ContainerRecord>>,
    /// Held by whatever changes the container's life: [`Container::life`].
    life: tokio::sync::Mutex<()>,
    turns: watch::Sender<Turn>,
    /// Who works on its files, and does not hold its life for that.
    files: lease::Files,
    /// In which its disk is read and written while it does not run.
    file_machine: file_machine::FileMachine,
    /// How many forced removals of it are under way: nothing starts it any more.
    doomed: AtomicUsize,
    /// Who wants its end while a start waits for a file system.
    sources: sources::Sources,
    /// How many commits have it frozen, without its being paused.
    held_still: parking_lot::Mutex<usize>,
    /// Attachments that wait for its start.
    pub(crate) pending: parking_lot::Mutex<Vec<attach::Pending>>,
    /// What its next start has beside its record.
    lent: parking_lot::Mutex<step::Lent>,
    /// Ends the health checks and the wait for a restart.
    pub(crate) tasks: parking_lot::Mutex<Vec<tokio::task::AbortHandle>>,
}

/// The right to change the life of a container that is there: one operation at a time has it. Only its holder changes the
/// record, and a removal takes it for ever, so nothing brings back what is gone.
pub(crate) struct Life<'a> {
    container: &'a Arc<Container>,
    _held: tokio::sync::MutexGuard<'a, ()>,
}

impl<'a> Life<'a> {
    fn of(container: &'a Arc<Container>, held: tokio::sync::MutexGuard<'a, ()>) -> Option<Self> {
        let removed = container.turns.borrow().removed;
        (!removed).then_some(Self { container, _held: held })
    }

    /// The container, beyond this life.
    pub(crate) fn container(&self) -> &'a Arc<Container> {
        self.container
    }
}

impl std::ops::Deref for Life<'_> {
    type Target = Arc<Container>;

    fn deref(&self) -> &Self::Target {
        self.container
    }
}

/// A forced removal is under way.
struct Doom<'a>(&'a Container);

impl Drop for Doom<'_> {
    fn drop(&mut self) {
        self.0.doomed.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until `done` holds. `false`: not within `limit`; `None`: without end.
async fn turned(turns: &mut watch::Receiver<Turn>, limit: Option<Duration>, done: impl FnMut(&Turn) -> bool) -> bool {
    // The sender lives in the container: when that is gone, whatever was waited for has come.
    let wait = async { drop(turns.wait_for(done).await) };
    match limit {
        Some(limit) => tokio::time::timeout(limit, wait).await.is_ok(),
        None => {
            wait.await;
            true
        }
    }
}

/// What those who wait for a container hear.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    pub(crate) phase: Phase,
    /// How often it has ended.
    pub(crate) exits: u64,
    pub(crate) exit_code: i32,
    pub(crate) error: String,
    /// It is no more.
    pub(crate) removed: bool,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Self {
        let turn = Turn { phase: record.state.phase, exit_code: record.state.exit_code, ..Turn::default() };
        Self {
            id: record.id.clone(),
            record: RwLock::new(Arc::new(record)),
            life: tokio::sync::Mutex::new(()),
            turns: watch::Sender::new(turn),
            files: lease::Files::default(),
            file_machine: file_machine::FileMachine::default(),
            doomed: AtomicUsize::new(0),
            sources: sources::Sources::default(),
            held_still: parking_lot::Mutex::default(),
            pending: parking_lot::Mutex::default(),
            lent: parking_lot::Mutex::default(),
            tasks: parking_lot::Mutex::default(),
        }
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        self.record.read().clone()
    }

    /// The record once a start that is under way is done: what the program says may be heard, and answered by a signal
    /// or an exec, before the start has returned. The caller does not hold the container's life.
    async fn settled(&self) -> Arc<ContainerRecord> {
        let record = self.record();
        if record.state.phase.is_live() {
            return record;
        }
        drop(self.life.lock().await);
        self.record()
    }

    /// The right to change its life, once nobody else has it; not found where it was removed meanwhile. `reference`: what
    /// the user called it.
    pub(crate) async fn life<'a>(self: &'a Arc<Self>, reference: &str) -> Result<Life<'a>> {
        let held = self.life.lock().await;
        Life::of(self, held).ok_or_else(|| Error::no_such_container(reference))
    }

    /// As [`life`](Self::life), where blocking is allowed; `None`: it was removed.
    pub(crate) fn blocking_life(self: &Arc<Self>) -> Option<Life<'_>> {
        Life::of(self, self.life.blocking_lock())
    }

    /// Shows a record that the store has.
    pub(crate) fn show(&self, record: ContainerRecord) {
        let (phase, exit_code, error) = (record.state.phase, record.state.exit_code, record.state.error.clone());
        *self.record.write() = Arc::new(record);
        self.turns.send_if_modified(|turn| {
            // Together: who sees that it does not run goes on with its exit code.
            (turn.exit_code, turn.error) = (exit_code, error);
            std::mem::replace(&mut turn.phase, phase) != phase
        });
    }

    /// Tells those who wait that it ended.
    fn tell_exit(&self, code: i32, error: &str) {
        self.turns.send_modify(|turn| {
            turn.exits += 1;
            turn.exit_code = code;
            error.clone_into(&mut turn.error);
        });
    }

    /// Tells those who wait that it is no more.
    fn tell_removed(&self) {
        self.turns.send_modify(|turn| turn.removed = true);
    }

    /// What happens to it from now on.
    pub(crate) fn turns(&self) -> watch::Receiver<Turn> {
        self.turns.subscribe()
    }

    /// Nothing starts it until this is dropped.
    fn doom(&self) -> Doom<'_> {
        self.doomed.fetch_add(1, Ordering::SeqCst);
        Doom(self)
    }

    fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst) > 0
    }

    /// Ends background tasks.
    fn abort_tasks(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

//! After the daemon's start: what the store says, and what the keeper holds, become one.
//!
//! | store | keeper | what it means |
//! |---|---|---|
//! | running | running | it ran on: nothing is to be done |
//! | running | exited | it ended while nobody looked: its end is recorded now |
//! | running | nothing, or orphaned | the machine was booted, or the keeper was killed: it ended, nobody knows how |
//! | not running | anything | a start that nobody was told of: it is ended and forgotten |
//!
//! The record of a start is written before anybody knows what comes of it: it says running, and what was before. Where the keeper
//! knows nothing of it, and is the one that was asked, nothing came of it; what it has not brought to run yet is given up.
//!
//! A further process in a container that runs goes on, too, until it ends by itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use keeper::client::{Inspect, List};
use keeper::protocol::{EntryInfo, Exit, Request, State as Held};

use super::exit::{End, FIRST_PAUSE, KILLED, Noticed};
use super::start::show_network;
use super::{Container, Life};
use crate::model::{ContainerRecord, MountPoint, Phase, RestartPolicy, Timestamp};
use crate::{Engine, Result, Room};

/// Whether the keeper has not brought it to run yet.
fn is_on_its_way(entry: &EntryInfo) -> bool {
    matches!(entry.state, Held::Creating | Held::Created | Held::Starting)
}

/// Whether the keeper holds a process of it that has not ended. What was only created is let go of with its process.
fn is_alive(entry: &EntryInfo) -> bool {
    matches!(entry.state, Held::Creating | Held::Starting | Held::Running)
}

/// How long something that was killed may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// From one look to the next whether it has.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// What is said of what was ended with everything else.
const CLEANED: &str = "ended by stratus daemon --clean";

impl Engine {
    /// Takes up what runs, records what ended, and starts what its policy wants started.
    pub(crate) async fn recover(&self) -> Result<()> {
        let recovering = self.0.recovering.write().await;
        let entries = self.keeper().await?.call(List).await.map_err(crate::keeper_error)?;
        let mut held: HashMap<String, EntryInfo> = entries.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
        let containers = self.0.containers.all();
        let known: HashSet<String> = containers.iter().map(|container| container.id.to_string()).collect();
        // Before the end of anything is recorded: what others run on is not taken down with that.
        for container in &containers {
            if held.get(container.id.as_str()).is_some_and(|entry| entry.state == Held::Running) {
                self.adopt_volumes(&container.record());
            }
        }
        // Before anything is started again that may want volumes there; and what an end has forgotten by the time when the rest is ended is not taken up again.
        held.values().for_each(|entry| self.adopt_file_server(entry));
        let booted = self.0.booted.swap(false, Ordering::SeqCst);
        let mut waiting = Vec::new();
        for container in &containers {
            let entry = held.remove(container.id.as_str());
            match self.recover_one(container, entry, booted).await {
                Ok(true) => waiting.push(Arc::clone(container)),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(container = %container.id.short(), %error, "could not take it up again");
                }
            }
        }
        self.settle_members(&containers).await;
        crate::cleaned::forget(&self.0.config.data_dir)?;
        self.start_in_order(waiting);
        drop(recovering);
        // Side by side: each takes a moment to end.
        join_all(held.into_values().filter(|entry| !self.goes_on(entry)).map(|entry| self.end_unknown(entry))).await;
        let engine = self.clone();
        tokio::spawn(async move {
            engine.sweep_rootfs(&known).await;
            let swept = engine.clone();
            let _ = crate::blocking(move || {
                swept.sweep();
                Ok(())
            })
            .await;
            engine.collect_garbage();
        });
        Ok(())
    }

    /// Whether a recovery is coming to one container after the other.
    pub(crate) fn is_recovering(&self) -> bool {
        self.0.recovering.try_read().is_err()
    }

    /// Of an end that the keeper tells while a recovery is under way: whether that has found it itself, when it is over. Such a container is started in its order, and may run again by then.
    pub(crate) async fn found_by_recovery(&self, id: &str) -> bool {
        drop(self.0.recovering.read().await);
        let Ok(keeper) = self.keeper().await else { return true };
        !keeper.call(Inspect { id: id.to_owned() }).await.is_ok_and(|held| held.exit.is_some())
    }

    /// Whether it is to be started by its policy now.
    async fn recover_one(&self, container: &Arc<Container>, entry: Option<EntryInfo>, booted: bool) -> Result<bool> {
        // Removed in this moment: what the keeper still holds of it, its removal has it forget.
        let Ok(life) = container.life(container.id.as_str()).await else { return Ok(false) };
        let entry = match entry {
            // Nobody will hear what comes of it: it is given up where it stands.
            Some(entry) if life.record().before_start.is_some() && is_on_its_way(&entry) => {
                self.end_held(&entry).await;
                None
            }
            entry => entry,
        };
        self.settle_start(&life, entry.as_ref(), booted).await?;
        let record = life.record();
        let live = record.state.phase.is_live();
        let entry = match entry {
            // First of all, as it has the files that are put in order next.
            Some(entry) if !live => {
                self.end_held(&entry).await;
                None
            }
            entry => entry,
        };
        if record.is_machine() {
            let (engine, record) = (self.clone(), record.clone());
            crate::blocking(move || {
                engine.forget_changes(&record);
                engine.settle_own_of_killed(&record);
                Ok(())
            })
            .await?;
        }
        match entry {
            Some(entry) if entry.state == Held::Running => {
                if record.state.halting.is_some() {
                    // Its machine went on when the daemon that was about to end it was ended itself.
                    self.change(&life, |record| record.state.halting = None).await?;
                }
                if let Some(within) = &record.state.within {
                    self.0.guests.lock().comes(record.id.clone(), within.clone());
                }
                self.resume_count(&record);
                self.adopt(container, &record).await;
                if record.state.within.is_none() {
                    self.0.placements.settle_freezer(&record)?;
                }
                self.settle_networks(&life).await?;
                self.leave_networks(&life).await.map(|()| false)
            }
            Some(EntryInfo { exit: Some(exit), .. }) => self.end_found(life, self.end_of(&record, &exit)).await,
            Some(entry) => {
                self.end_held(&entry).await;
                self.end_lost(life).await
            }
            None if live => self.end_lost(life).await,
            None => self.recover_idle(life, &record, booted).await,
        }
    }

    /// What does not run, whether the keeper had heard of its start or not.
    async fn recover_idle(&self, life: Life<'_>, record: &ContainerRecord, booted: bool) -> Result<bool> {
        // A copy that was to be started with all others of its fork, of which nobody was told.
        if record.state.phase == Phase::Created && record.state.suspended.is_some() {
            tracing::info!(container = %life.id.short(), "removing a copy of a fork that was given up with its daemon");
            return self.remove_locked(life, true).await.map(|()| false);
        }
        self.begin_policy(&life, record, booted).await
    }

    /// What came of a start whose record was written while it went on.
    async fn settle_start(&self, life: &Life<'_>, entry: Option<&EntryInfo>, booted: bool) -> Result<()> {
        let mut record = (*life.record()).clone();
        let Some(before) = record.before_start.take() else { return Ok(()) };
        if entry.is_some() || booted {
            // The store goes on saying so: that is worth no write for each of a thousand that run.
            record.state.pid = entry.map_or(0, |entry| entry.pid);
            life.show(record);
            return Ok(());
        }
        tracing::info!(container = %life.id.short(), "its start was given up with the daemon that had begun it");
        let (engine, run) = (self.clone(), record.clone());
        crate::blocking(move || {
            engine.release(&run, run.net.as_ref());
            Ok(())
        })
        .await?;
        show_network(&mut record, None);
        for (name, settings) in &mut record.networks {
            settings.network_id = before.network_ids.get(name).cloned().unwrap_or_default();
        }
        record.net = None;
        record.state = before.state;
        self.record(&record, None, Room::Ordinary).await?;
        life.show(record);
        Ok(())
    }

    /// Whether it is a further process in a container that runs, or serves volumes in its machine, which its daemon's end does not end: nobody can be attached
    /// to it any more, and its end is told to nobody. A health check is waited for by nobody, and begun anew.
    fn goes_on(&self, entry: &EntryInfo) -> bool {
        let container = entry.sandbox.as_deref().and_then(|id| self.0.containers.by_id(id));
        let runs_in = |container: Arc<Container>| !entry.own && container.record().state.phase.is_live();
        entry.state == Held::Running && (self.0.file_servers.know(entry) || container.is_some_and(runs_in))
    }

    /// It ran on: names and checks are taken up.
    async fn adopt(&self, container: &Arc<Container>, record: &ContainerRecord) {
        self.attach_dns_of_running(record).await;
        self.watch_health(container);
    }

    /// The volumes of what runs are in use.
    fn adopt_volumes(&self, record: &ContainerRecord) {
        for volume in record.mounts.iter().filter_map(MountPoint::volume).filter(|_| record.state.phase.is_live()) {
            self.0.volumes.adopt(volume);
        }
    }

    /// How it ended while nobody looked.
    fn end_of(&self, record: &ContainerRecord, exit: &Exit) -> End {
        let mut end = End::of(record, exit);
        let cleaned = crate::cleaned::moment(&self.0.config.data_dir);
        if end.code == KILLED && cleaned.is_some_and(|cleaned| cleaned <= end.at) {
            end.error = CLEANED.to_owned();
        }
        end
    }

    /// Records an end that recovery found. Whether it is to be started again now.
    async fn end_found(&self, life: Life<'_>, end: End) -> Result<bool> {
        let container = life.container();
        match self.end_locked(life, end, Noticed::ByRecovery).await? {
            // It keeps failing: its turn comes when its pause is over.
            Some(pause) if pause > FIRST_PAUSE => {
                self.restart_after(container, pause);
                Ok(false)
            }
            pause => Ok(pause.is_some()),
        }
    }

    /// It ended with the machine, or with its keeper. Whether it is to be started again now.
    async fn end_lost(&self, life: Life<'_>) -> Result<bool> {
        let end = match crate::cleaned::moment(&self.0.config.data_dir) {
            Some(at) => End { code: KILLED, at, error: CLEANED.to_owned(), seen: false },
            None => End::lost(Timestamp::now()),
        };
        tracing::warn!(container = %life.id.short(), "{}", end.error);
        self.end_found(life, end).await
    }

    /// What does not run, and should by its policy, waits for its start from here on: also for that of the next daemon,
    /// where this one is killed before.
    async fn begin_policy(&self, life: &Life<'_>, record: &ContainerRecord, booted: bool) -> Result<bool> {
        let state = &record.state;
        let awaits = state.phase.awaits_start();
        let again = match record.host.restart {
            RestartPolicy::Always => state.has_run && (awaits || booted),
            RestartPolicy::UnlessStopped => state.has_run && !state.stopped_by_hand && (awaits || booted),
            RestartPolicy::No | RestartPolicy::OnFailure { .. } => awaits,
        };
        let phase = match again {
            true => Phase::Due,
            false if awaits => Phase::Exited,
            false => state.phase,
        };
        if phase != state.phase {
            self.change(life, |record| record.state.phase = phase).await?;
        }
        Ok(again)
    }

    /// Ends what no record knows.
    pub(crate) async fn end_unknown(&self, entry: EntryInfo) {
        if entry.sandbox.is_none() {
            tracing::warn!(container = entry.id, "ending a container that no record knows");
        }
        self.end_held(&entry).await;
    }

    /// Ends what the keeper holds, and has it forget that. Not before it has ended: until then the keeper holds on to it, and nothing else
    /// could be started under its name.
    pub(super) async fn end_held(&self, entry: &EntryInfo) {
        let Ok(keeper) = self.keeper().await else { return };
        let id = || entry.id.clone();
        // It may end by itself in this moment.
        let killed = entry.exit.is_none() && keeper.call(Request::Signal { id: id(), signal: 9 }).await.is_ok();
        if killed && is_alive(entry) {
            let ended = async {
                // Once whoever hears of its end has had it forgotten, it is unknown.
                while keeper.call(Inspect { id: id() }).await.is_ok_and(|held| is_alive(&held)) {
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                }
            };
            if tokio::time::timeout(ENDS_WITHIN, ended).await.is_err() {
                tracing::warn!(process = entry.id, "it was killed, and is stuck in the kernel");
            }
        }
        self.forget(&entry.id).await;
    }

    /// What is in the kernel for containers that do not run: a daemon was killed in the middle of a start or an end.
    fn sweep_runs(&self) {
        let mut ids = self.0.placements.placed();
        ids.extend(self.with_shm());
        for id in ids {
            if self.0.templates.boots(&id) {
                continue;
            }
            let Ok(_left) = self.take_left_file_machine(&id) else { continue };
            // Whoever starts it holds its life, and whoever is being made has no run yet.
            let container = self.0.containers.by_id(&id);
            let life = container.as_ref().and_then(Container::blocking_life);
            if life.as_ref().is_some_and(|life| life.record().state.phase.is_live()) {
                continue;
            }
            tracing::info!(container = id, "taking down what is left of its run");
            self.unmount_shm(&id);
            if let Err(error) = self.0.placements.clean(&id) {
                tracing::warn!(container = id, %error, "could not remove its cgroup");
            }
        }
    }

    /// Runs of what does not run, and volumes that belong to nobody.
    fn sweep(&self) {
        self.collect_snapshots();
        self.sweep_runs();
        self.sweep_machines();
        self.sweep_member_volumes();
        self.0.volumes.sweep();
    }
}

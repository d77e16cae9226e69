//! `stop`, `kill`, `restart`, `pause` and `unpause`.

use std::sync::Arc;
use std::time::Duration;

use keeper::protocol::Request;
use tokio::sync::watch;

use super::disk::has_disk;
use super::member::Inside;
use super::snapshot::has_volumes;
use super::{Container, Turn, turned};
use crate::model::{ContainerRecord, Phase};
use crate::{Engine, Error, Result, signals};

pub(super) const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// How long the kernel may take to end a killed process before the user is told.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a machine's process may take to hear that its container is to be killed.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
/// How long a guest may take to write what a killed process of its has written.
const WRITES_WITHIN: Duration = Duration::from_secs(10);

impl Engine {
    /// Stops a container: its signal, and SIGKILL when the time is up. `timeout` in seconds; negative: no end.
    pub async fn stop(&self, reference: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        self.stop_container(&container, signal, timeout).await
    }

    pub(super) async fn stop_container(
        &self,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let _ender = container.sources.want_end();
        let record = container.settled().await;
        let number = match signal.filter(|signal| !signal.is_empty()) {
            Some(signal) => signals::parse(signal)?,
            None => stop_signal(&record)?,
        };
        if self.cancel_restart(container).await? {
            return Ok(());
        }
        match record.state.phase {
            Phase::Running => {}
            Phase::Paused => self.unpause_container(container).await?,
            _ if record.state.suspended.is_some() => return self.give_up_suspended(container).await,
            _ => return Err(Error::not_modified("container already stopped")),
        }
        let mut turns = container.turns();
        let before = turns.borrow_and_update().exits;
        self.note_stopped_by_hand(container).await;
        let ended = ended_after(before);
        self.let_go(container, &record).await?;
        self.signal(&record, number).await?;
        let seconds = timeout.or(record.config.stop_timeout).unwrap_or(self.0.config.stop_timeout);
        let limit = u64::try_from(seconds).ok().map(Duration::from_secs);
        let in_time = turned(&mut turns, limit, ended).await;
        if !in_time {
            self.let_go(container, &record).await?;
            self.signal(&record, SIGKILL).await?;
        }
        if !in_time && !turned(&mut turns, Some(KILL_PATIENCE), ended).await {
            return Err(stuck(&record));
        }
        self.tell_container(&record, "stop", []);
        Ok(())
    }

    /// Sends a signal; `None`: SIGKILL.
    pub async fn kill(&self, reference: &str, signal: Option<&str>) -> Result<()> {
        let number = match signal.filter(|signal| !signal.is_empty()) {
            Some(signal) => signals::parse(signal)?,
            None => SIGKILL,
        };
        let container = self.0.containers.find(reference)?;
        let _ender = (number == SIGKILL).then(|| container.sources.want_end());
        let record = container.settled().await;
        if !record.state.phase.is_live() {
            return Err(not_running(&record));
        }
        // As `stop` does: what somebody ends by hand is not started again by its policy.
        if number == SIGKILL || stop_signal(&record).is_ok_and(|stop| stop == number) {
            self.note_stopped_by_hand(&container).await;
        }
        self.let_go(&container, &record).await?;
        if record.state.phase == Phase::Paused && record.state.within.is_none() && number == SIGKILL {
            self.signal(&record, number).await?;
            return match self.unpause_container(&container).await {
                // What is frozen may be killed as well, and its end have been heard of by now.
                Err(_) if !container.record().state.phase.is_live() => Ok(()),
                unpaused => unpaused,
            };
        }
        if number == SIGKILL {
            let mut turns = container.turns();
            let before = turns.borrow_and_update().exits;
            self.signal(&record, number).await?;
            turned(&mut turns, Some(KILL_PATIENCE), ended_after(before)).await;
            return Ok(());
        }
        self.signal(&record, number).await
    }

    /// A suspended container that is stopped begins anew when it is started.
    async fn give_up_suspended(&self, container: &Arc<Container>) -> Result<()> {
        let life = container.life(container.id.as_str()).await?;
        if life.record().state.phase.is_live() {
            return Err(Error::conflict(format!("container {} is being started", container.id.short())));
        }
        let record = self.change(&life, |record| record.state.suspended = None).await?;
        self.collect_snapshots_beside();
        self.tell_container(&record, "stop", []);
        Ok(())
    }

    pub(super) async fn signal(&self, record: &ContainerRecord, number: i32) -> Result<()> {
        let inside = if number == SIGKILL { self.kill_inside(record).await } else { None };
        if inside.is_none() {
            self.send(record, number).await?;
        }
        self.tell_container(record, "kill", [("signal", number.to_string())]);
        if let Some((mut turns, before)) = inside
            && !turned(&mut turns, Some(WRITES_WITHIN), ended_after(before)).await
        {
            self.send(record, number).await?;
        }
        Ok(())
    }

    /// Has the process of a container killed within its machine: what it wrote to a disk, or to a volume by `mmap(2)`, the guest may have in its memory alone, and writes
    /// it then as after any end. Returns what tells that end, and how many there were before. `None`: there is no such machine, or nobody there hears.
    async fn kill_inside(&self, record: &ContainerRecord) -> Option<(watch::Receiver<Turn>, u64)> {
        // Those of others that came into it are its server's.
        let has_guests_volumes = self.0.file_servers.have(&record.id);
        let lasts = has_disk(record) || has_volumes(record) || has_guests_volumes;
        if !(lasts && record.is_machine()) {
            return None;
        }
        let container = self.0.containers.find(record.id.as_str()).ok()?;
        // A machine that is paused hears nothing, and one that was when its record was looked at may go on by now. One that came into another's is held still within that.
        if record.state.within.is_none() && container.record().state.phase != Phase::Running {
            return None;
        }
        let Inside { owner, number } = self.inside(record).ok()?;
        let mut turns = container.turns();
        let before = turns.borrow_and_update().exits;
        let engine = self.clone();
        let asked = crate::blocking(move || {
            let mut machine = engine.patient_connection(&owner, ASKED_WITHIN)?;
            machine.kill(number).map_err(|error| Error::system(error.to_string()))
        });
        // One that has ended in this moment hears nothing.
        asked.await.ok().map(|()| (turns, before))
    }

    /// As [`signal`](Self::signal), without telling anybody.
    pub(super) async fn send(&self, record: &ContainerRecord, number: i32) -> Result<()> {
        let request = Request::Signal { id: record.id.to_string(), signal: number };
        match self.keeper().await?.call(request).await {
            // It ended by itself in this moment: its end is on the way.
            Ok(()) | Err(keeper::client::ClientError::Failed(_)) => Ok(()),
            Err(error) => Err(crate::keeper_error(error)),
        }
    }

    /// Waits for the end of a run that was killed, as whoever watched its `turns` from `before` on. `false`: the kernel does not end it.
    pub(super) async fn is_over(
        &self,
        record: &Arc<ContainerRecord>,
        turns: &mut watch::Receiver<Turn>,
        before: u64,
    ) -> Result<bool> {
        if record.state.phase == Phase::Paused && record.state.within.is_none() {
            // A frozen process takes no signal on v1 until it is thawed; within machines is none.
            self.freeze(record, false).await?;
        }
        Ok(turned(turns, Some(KILL_PATIENCE), ended_after(before)).await)
    }

    /// Stops it, if it runs, and starts it.
    pub async fn restart(&self, reference: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        match self.stop_container(&container, signal, timeout).await {
            Ok(()) => {}
            Err(error) if error.kind() == crate::ErrorKind::NotModified => {}
            Err(error) => return Err(error),
        }
        match self.start(container.id.as_str()).await {
            Ok(()) => {}
            Err(error) if error.kind() == crate::ErrorKind::NotModified => {}
            Err(error) => return Err(error),
        }
        self.tell_container(&container.record(), "restart", []);
        Ok(())
    }

    /// Freezes its processes.
    pub async fn pause(&self, reference: &str) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        let record = life.record();
        match record.state.phase {
            Phase::Running => {}
            Phase::Paused => return Err(Error::conflict(format!("Container {} is already paused", record.id))),
            Phase::Restarting => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    record.id
                )));
            }
            _ => return Err(not_running(&record)),
        }
        self.freeze(&record, true).await?;
        let record = self.note(&life, None, |record| record.state.phase = Phase::Paused).await;
        self.tell_container(&record, "pause", []);
        Ok(())
    }

    /// Thaws its processes.
    pub async fn unpause(&self, reference: &str) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        self.unpause_container(&container).await
    }

    async fn unpause_container(&self, container: &Arc<Container>) -> Result<()> {
        let life = container.life(container.id.as_str()).await?;
        let record = life.record();
        if record.state.phase != Phase::Paused {
            return Err(Error::conflict(format!("Container {} is not paused", record.id)));
        }
        self.freeze(&record, false).await?;
        let record = self.note(&life, None, |record| record.state.phase = Phase::Running).await;
        self.tell_container(&record, "unpause", []);
        Ok(())
    }

    /// Thaws it where a commit has it frozen: signals reach nobody there. The commit goes on, with files that may change.
    pub(super) async fn let_go(&self, container: &Arc<Container>, record: &Arc<ContainerRecord>) -> Result<()> {
        if *container.held_still.lock() > 0 && record.state.phase == Phase::Running {
            self.freeze(record, false).await?;
        }
        Ok(())
    }

    pub(super) async fn freeze(&self, record: &Arc<ContainerRecord>, frozen: bool) -> Result<()> {
        let (engine, record) = (self.clone(), record.clone());
        crate::blocking(move || match record.state.within {
            // Its processes are in a machine that runs on.
            Some(_) => engine.pause_member(&record, frozen),
            None => engine.0.placements.freeze(&record, frozen),
        })
        .await
    }

    /// Ends the wait for a restart. `false`: there was none.
    pub(super) async fn cancel_restart(&self, container: &Arc<Container>) -> Result<bool> {
        if !container.record().state.phase.awaits_start() {
            return Ok(false);
        }
        let Ok(life) = container.life(container.id.as_str()).await else { return Ok(false) };
        if !life.record().state.phase.awaits_start() {
            return Ok(false);
        }
        life.abort_tasks();
        let record = self
            .note(&life, None, |record| {
                record.state.phase = Phase::Exited;
                record.state.stopped_by_hand = true;
            })
            .await;
        life.tell_exit(record.state.exit_code, "");
        self.tell_container(&record, "stop", []);
        Ok(true)
    }
}

/// Whether a container has ended since it had so often, or is no more.
fn ended_after(before: u64) -> impl Fn(&Turn) -> bool + Copy {
    move |turn| turn.removed || turn.exits > before
}

fn stop_signal(record: &ContainerRecord) -> Result<i32> {
    match record.config.stop_signal.as_str() {
        "" => Ok(SIGTERM),
        signal => signals::parse(signal),
    }
}

/// The error for a run that goes on though it was killed.
pub(super) fn stuck(record: &ContainerRecord) -> Error {
    Error::system(format!(
        "container {} did not end within {} seconds of SIGKILL: its process is stuck in the kernel",
        record.id.short(),
        KILL_PATIENCE.as_secs()
    ))
}

/// The error for what needs a running container.
pub(super) fn not_running(record: &ContainerRecord) -> Error {
    Error::conflict(format!("container {} is not running", record.id))
}

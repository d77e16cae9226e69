//! A container's process has ended: what is told, taken back and decided then.

use std::sync::Arc;
use std::time::Duration;

use keeper::protocol::{Exit, ExitStatus, Request};

use super::member::ToCome;
use super::start::show_network;
use super::{Container, LastUsage, Life};
use crate::metering::Closing;
use crate::model::{ContainerRecord, Phase, PidMode, RestartPolicy, SnapshotId, State, Timestamp};
use crate::{Engine, Result};

/// First pause before a restart; it doubles with each failure in a row.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A run of this length is a success: the next pause is the first again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// How a run ended.
pub(super) struct End {
    pub(super) code: i32,
    pub(super) at: Timestamp,
    pub(super) error: String,
    /// The keeper saw its process end; else it may be there still.
    pub(super) seen: bool,
}

/// When the end of a run was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noticed {
    /// When it happened.
    AtOnce,
    /// By recovery, which starts what is to run again at once, in the order in which containers need each other.
    ByRecovery,
}

/// The signal by which the kernel ends a process that makes a system call which its filter has not (`SIGSYS`, seccomp(2)).
const BAD_CALL: u8 = 31;
const BROKE_ITS_FILTER: &str = "the microVM's process was ended by the kernel, as it made a system call that it has no reason to make (seccomp): its guest may have broken out into it, or it is a fault of stratus; the kernel's log says which call (type=1326)";

const LOST_ITS_MACHINE: &str =
    "its microVM ended before it did: its last line of standard error (docker logs) says why";

/// The exit code of what SIGKILL ended, as shells have it.
pub(super) const KILLED: i32 = 137;

impl End {
    /// Of what nobody held any more: how it ended, nobody saw.
    pub(super) fn lost(at: Timestamp) -> Self {
        let error = "the keeper that held it ended (the machine was booted, or the keeper was killed)";
        Self { code: ExitStatus::Unknown.shell_code().into(), at, error: error.to_owned(), seen: false }
    }

    /// Of what the keeper saw.
    pub(super) fn of(record: &ContainerRecord, exit: &Exit) -> Self {
        let at = Timestamp::from_nanosecond(exit.at.0.into()).unwrap_or_else(|_| Timestamp::now());
        let error = match exit.status {
            // A later keeper found that it was there no more.
            ExitStatus::Unknown => return Self::lost(at),
            // No signal that somebody sends does: its process hands those on to the container's.
            ExitStatus::Signal { signal: BAD_CALL, .. } if record.is_machine() => BROKE_ITS_FILTER,
            _ => "",
        };
        Self { code: exit.status.shell_code().into(), at, error: error.to_owned(), seen: true }
    }
}

impl Engine {
    /// The keeper says that a container's process has ended.
    pub(crate) async fn container_ended(&self, container: &Arc<Container>, exit: &Exit) {
        let Ok(life) = container.life(container.id.as_str()).await else {
            return self.forget(container.id.as_str()).await;
        };
        let end = End::of(&life.container().record(), exit);
        match self.end_locked(life, end, Noticed::AtOnce).await {
            Ok(Some(pause)) => self.restart_after(container, pause),
            Ok(None) => {}
            Err(error) => tracing::error!(container = %container.id.short(), %error, "could not record its end"),
        }
    }

    /// Records the end of a run, and removes the container where it is to go with that. Gives how long it has to wait for its
    /// restart, which the caller sees to.
    pub(super) async fn end_locked(&self, life: Life<'_>, end: End, noticed: Noticed) -> Result<Option<Duration>> {
        let container = life.container();
        let record = container.record();
        let halted = self.halted(&record, &end);
        let end = if halted.is_some() { End { code: 0, error: String::new(), ..end } } else { end };
        if !record.state.phase.is_live() {
            self.forget(container.id.as_str()).await;
            return Ok(None);
        }
        let end = self.with_its_reason(&record, end);
        container.abort_tasks();
        // It may be heard of before recovery has come to this container.
        self.resume_count(&record);
        let pause = if halted.is_some() { None } else { next_pause(&record, &end) };
        if pause.is_none() && record.host.auto_remove && halted.is_none() {
            return self.end_and_remove(life, &record, &end).await.map(|()| None);
        }
        let was_from_snapshot = record.state.origin.is_some();
        let outlived = !ended_whole(&record, &end);
        let (engine, run) = (self.clone(), record.clone());
        let (usage, closing) = crate::blocking(move || {
            let closed = engine.close_run(&run, end.at);
            engine.take_back(&run, outlived);
            Ok(closed)
        })
        .await?;
        self.tell_end(&record, &end, &usage);
        self.note(&life, closing, |record| {
            show_network(record, None);
            record.net = None;
            ended(&mut record.state, &end, usage.oom_killed);
            if halted.is_some() {
                record.state.suspended = halted;
                record.state.stopped_by_hand = true;
            }
            if let Some(pause) = &pause {
                pause.begin(&mut record.state);
                if noticed == Noticed::ByRecovery && pause.is_first() {
                    record.state.phase = Phase::Due;
                }
            }
        })
        .await;
        if !outlived {
            // Not before what it counted is kept: a daemon that comes after one that was killed looks there again.
            let engine = self.clone();
            crate::blocking(move || {
                engine.remove_cgroup(&record);
                Ok(())
            })
            .await?;
        }
        self.forget(container.id.as_str()).await;
        if was_from_snapshot {
            self.collect_snapshots_beside();
        }
        container.tell_exit(end.code, &end.error);
        Ok(pause.map(|pause| pause.length))
    }

    /// Says of a container that was killed whether it was its machine that ended.
    fn with_its_reason(&self, record: &ContainerRecord, end: End) -> End {
        let says_nothing = end.code == KILLED && end.error.is_empty();
        match says_nothing && record.is_machine() && self.lost_its_machine(&record.id) {
            true => End { error: LOST_ITS_MACHINE.to_owned(), ..end },
            false => end,
        }
    }

    /// The snapshot that the next run goes on from, where this one was ended for that. What ended otherwise, or went on after it was saved as who wanted it
    /// to end was killed, has an end of its own.
    fn halted(&self, record: &ContainerRecord, end: &End) -> Option<SnapshotId> {
        let halting = record.state.halting.as_ref()?;
        let by_us = (end.code == KILLED || !end.seen) && !(halting.rests && self.went_on(&record.id));
        by_us.then(|| halting.snapshot.clone())
    }

    /// The end of a run that is its container's end as well. Its removal is the record of it: a daemon that is killed
    /// before finds the end at the keeper again.
    async fn end_and_remove(&self, life: Life<'_>, record: &Arc<ContainerRecord>, end: &End) -> Result<()> {
        let later = ended_whole(record, end);
        let volumes = self.anonymous_volumes(record);
        let (engine, run, at) = (self.clone(), record.clone(), end.at);
        let (usage, deleted, volumes) = crate::blocking(move || {
            let (usage, closing) = engine.close_run(&run, at);
            // It goes on beside the rest.
            let deleted = engine.delete_record(&run.id, &volumes, closing);
            engine.take_back(&run, !later);
            Ok((usage, deleted, volumes))
        })
        .await?;
        self.tell_end(record, end, &usage);
        life.tell_exit(end.code, &end.error);
        deleted.await?;
        self.removed(life, volumes).await;
        self.forget(record.id.as_str()).await;
        if later {
            let (engine, record) = (self.clone(), record.clone());
            tokio::task::spawn_blocking(move || engine.remove_cgroup(&record));
        }
        Ok(())
    }

    /// What the run used that ended at `ended`, and what is to be recorded of it.
    fn close_run(&self, record: &ContainerRecord, ended: Timestamp) -> (LastUsage, Option<Closing>) {
        let mut usage = self.0.placements.last_usage(record);
        usage.oom_killed |= record.is_machine() && self.oom_killed_inside(&record.id);
        let closing = self.close_count(record, &usage, ended);
        (usage, closing)
    }

    /// Takes back what belonged to a run that was counted. `cgroup`: that goes at once, too.
    fn take_back(&self, record: &ContainerRecord, cgroup: bool) {
        if cgroup {
            self.remove_cgroup(record);
        }
        self.release_shared(record, record.net.as_ref());
    }

    /// Tells the events of an end.
    fn tell_end(&self, record: &ContainerRecord, end: &End, usage: &LastUsage) {
        self.0.tally.ended(usage.oom_killed);
        if usage.oom_killed {
            self.tell_container(record, "oom", []);
        }
        let duration = record.state.started_at.map_or(0, |started| (end.at.as_second() - started.as_second()).max(0));
        self.tell_container(
            record,
            "die",
            [("exitCode", end.code.to_string()), ("execDuration", duration.to_string())],
        );
        self.tell_networks(record, "disconnect");
        self.tell_mounts(record, "unmount");
    }

    /// The keeper need not remember the process any longer.
    pub(super) async fn forget(&self, process: &str) {
        let Ok(keeper) = self.keeper().await else { return };
        if let Err(error) = keeper.post(Request::Forget { id: process.to_owned() }).await {
            tracing::debug!(process, %error, "could not tell the keeper to forget it");
        }
    }

    /// Has it started by its policy when the pause is over.
    pub(super) fn restart_after(&self, container: &Arc<Container>, pause: Duration) {
        let (engine, restarted) = (self.clone(), container.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            engine.start_by_policy(&restarted).await;
        });
        container.tasks.lock().push(task.abort_handle());
    }

    /// Starts a container that waits for its restart; where that fails, it waits again.
    pub(super) async fn start_by_policy(&self, container: &Arc<Container>) {
        let is_due = |life: &Life<'_>| life.record().state.phase.awaits_start() && !life.is_doomed();
        match container.life(container.id.as_str()).await {
            // A task that waited for this ends itself: it is no longer one that a start should end.
            Ok(life) if is_due(&life) => container.tasks.lock().clear(),
            _ => return,
        }
        // Neither is a try of its own.
        match self.machine_to_come(container).await {
            ToCome::Nothing => {}
            ToCome::Soon => return self.restart_after(container, FIRST_PAUSE),
            ToCome::WithItsStart => return,
        }
        let Ok(life) = container.life(container.id.as_str()).await else { return };
        if !is_due(&life) {
            return;
        }
        let started = match life.files.settle(&life).await {
            Ok(()) => self.start_locked(&life, false).await,
            busy => busy,
        };
        if let Err(error) = started {
            tracing::warn!(container = %container.id.short(), %error, "its restart policy could not start it");
            self.retry_restart(&life).await;
        }
    }

    /// A start by policy that failed counts as a run that failed at once.
    async fn retry_restart(&self, life: &Life<'_>) {
        let record = life.record();
        // It did not run at all, however long ago it last did.
        let at = record.state.started_at.unwrap_or_else(Timestamp::now);
        let end = End { code: record.state.exit_code, at, error: record.state.error.clone(), seen: true };
        let Some(pause) = next_pause(&record, &end) else { return };
        let changed = self.change(life, |record| pause.begin(&mut record.state)).await;
        match changed {
            Ok(_) => self.restart_after(life.container(), pause.length),
            Err(error) => tracing::error!(container = %life.id.short(), %error, "could not record its restart"),
        }
    }
}

/// Whether everything in it has ended with its process, as its PID namespace did, and nothing is started in its cgroup again:
/// that is in nobody's way.
fn ended_whole(record: &ContainerRecord, end: &End) -> bool {
    end.seen && record.host.pid_mode == PidMode::Private
}

fn ended(state: &mut State, end: &End, oom_killed: bool) {
    state.phase = Phase::Exited;
    state.pid = 0;
    state.exit_code = end.code;
    state.finished_at = Some(end.at);
    state.oom_killed = oom_killed;
    state.origin = None;
    state.halting = None;
    state.error.clone_from(&end.error);
    if let Some(health) = &mut state.health {
        health.status = crate::model::HealthStatus::Unhealthy;
    }
}

/// The wait for a restart.
struct Pause {
    length: Duration,
    quick_ends: u32,
}

impl Pause {
    /// It has not failed again and again.
    fn is_first(&self) -> bool {
        self.length <= FIRST_PAUSE
    }

    fn begin(&self, state: &mut State) {
        state.phase = Phase::Restarting;
        state.restart_count = state.restart_count.saturating_add(1);
        state.quick_ends = self.quick_ends;
    }
}

/// How long until the policy starts it again; `None`: it stays down.
fn next_pause(record: &ContainerRecord, end: &End) -> Option<Pause> {
    let state = &record.state;
    let again = match record.host.restart {
        _ if state.stopped_by_hand => false,
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { retries } => end.code != 0 && (retries == 0 || state.restart_count < retries),
    };
    if !again {
        return None;
    }
    let ran = state.started_at.map(|started| end.at - started).and_then(|span| Duration::try_from(span).ok());
    // However often it was started again before: what ran well begins anew.
    let before = if ran.is_some_and(|ran| ran >= GOOD_RUN) { 0 } else { state.quick_ends };
    let doubled = FIRST_PAUSE.saturating_mul(1 << before.min(10));
    Some(Pause { length: doubled.min(LONGEST_PAUSE), quick_ends: before.saturating_add(1) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostConfig;

    fn record(restart: RestartPolicy, restart_count: u32) -> ContainerRecord {
        ContainerRecord {
            host: HostConfig { restart, ..HostConfig::default() },
            state: State { restart_count, started_at: Some(Timestamp::UNIX_EPOCH), ..State::default() },
            ..ContainerRecord::sample()
        }
    }

    fn end(code: i32, after: i64) -> End {
        End { code, at: Timestamp::from_second(after).unwrap(), error: String::new(), seen: true }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_a_good_run_resets_them() {
        let pause = |count, after| {
            let mut record = record(RestartPolicy::Always, 0);
            record.state.quick_ends = count;
            let pause = next_pause(&record, &end(1, after)).unwrap();
            (pause.length.as_millis(), pause.quick_ends)
        };
        assert_eq!((pause(0, 1), pause(1, 1), pause(3, 1)), ((100, 1), (200, 2), (800, 4)));
        assert_eq!((pause(30, 1).0, pause(30, 11)), (60_000, (100, 1)));
    }

    #[test]
    fn a_quick_end_after_many_good_runs_waits_no_longer_than_the_first() {
        assert_eq!(next_pause(&record(RestartPolicy::Always, 500), &end(1, 1)).unwrap().length, FIRST_PAUSE);
    }

    #[test]
    fn on_failure_counts_and_forgives_success() {
        let policy = RestartPolicy::OnFailure { retries: 2 };
        assert!(next_pause(&record(policy.clone(), 1), &end(1, 1)).is_some());
        assert!(next_pause(&record(policy.clone(), 2), &end(1, 1)).is_none());
        assert!(next_pause(&record(policy, 0), &end(0, 1)).is_none());
    }

    #[test]
    fn a_machine_that_broke_its_filter_is_told_as_that() {
        use keeper::protocol::{UnixNanos, Usage};
        let by = |status| Exit { status, at: UnixNanos(1), usage: Usage::default() };
        let bad_call = by(ExitStatus::Signal { signal: BAD_CALL, core: false });
        let mut machine = record(RestartPolicy::No, 0);
        machine.host.isolation = crate::model::MICROVM.to_owned();
        let told = End::of(&machine, &bad_call);
        assert_eq!((told.code, told.error.contains("type=1326")), (159, true));
        // A program in the guest that its own filter ended, and an ordinary container's.
        assert_eq!(End::of(&machine, &by(ExitStatus::Code(159))).error, "");
        assert_eq!(End::of(&record(RestartPolicy::No, 0), &bad_call).error, "");
    }

    #[test]
    fn what_was_stopped_by_hand_stays_down() {
        let mut stopped = record(RestartPolicy::Always, 0);
        stopped.state.stopped_by_hand = true;
        assert!(next_pause(&stopped, &end(143, 60)).is_none());
    }
}

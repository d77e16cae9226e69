//! Where a container is in its life.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{ContainerId, SnapshotId, Timestamp};

/// The phases of a container's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Made, never started.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It ended and waits for its next start.
    Restarting,
    /// It is being taken away.
    Removing,
    /// Its process ended.
    Exited,
    /// It ended with the machine, or while no daemon ran, and a start of the daemon is about to start it again: to all who
    /// look, it has exited.
    Due,
    /// It could not be taken away whole.
    Dead,
}

impl Phase {
    /// The phase as clients read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited | Self::Due => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether a process is there (frozen ones count).
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether its restart policy is going to start it.
    pub fn awaits_start(self) -> bool {
        matches!(self, Self::Restarting | Self::Due)
    }
}

/// Where a container is, and what its last run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Where it is.
    pub phase: Phase,
    /// Process identifier on the host; 0 while not running.
    pub pid: u32,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Why the last start failed; empty: it did not.
    pub error: String,
    /// The kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// Start of the last run.
    pub started_at: Option<Timestamp>,
    /// End of the last run.
    pub finished_at: Option<Timestamp>,
    /// Its health, where a check is set.
    pub health: Option<Health>,
    /// How often the restart policy started it again.
    pub restart_count: u32,
    /// How many runs in a row have ended soon: the pause before the next one grows with them.
    pub quick_ends: u32,
    /// Somebody stopped it, so that policies leave it.
    pub stopped_by_hand: bool,
    /// The snapshot that its next start goes on from: it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<SnapshotId>,
    /// Its run is being ended, so that the next one goes on from a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halting: Option<Halting>,
    /// The snapshot that its present run went on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<SnapshotId>,
    /// The machine of another container that its present run is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
    /// It has been started at least once since the daemon's policies know it.
    pub has_run: bool,
}

/// A run in the machine of another container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Within {
    /// The container whose machine it is.
    pub owner: ContainerId,
    /// Its number in there, which is 1 for the owner.
    pub number: u32,
    /// By how many bytes the machine has grown for it.
    pub memory: u64,
}

/// A run that is being ended by a kill, so that the next one goes on from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halting {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The machine has rested since it was saved: where it went on, its end is one of its own.
    pub rests: bool,
}

/// What the health checks say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five results.
    pub log: VecDeque<HealthResult>,
}

/// The verdict of health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Not yet known.
    Starting,
    /// The last check passed.
    Healthy,
    /// Too many failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// The verdict as clients read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0: well; -1: it took too long.
    pub exit_code: i32,
    /// The first 4096 bytes that it printed.
    pub output: String,
}

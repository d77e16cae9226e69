//! What a killed keeper has left behind.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::ClientError;
use crate::protocol::{Exit, Recovery, UnixNanos};
use crate::records::{self, Record};

/// A sandbox or exec that a keeper which is no more has left on record.
#[derive(Debug, Clone, PartialEq)]
pub struct OrphanRecord {
    /// The id.
    pub id: String,
    /// For an exec: the sandbox.
    pub sandbox: Option<String>,
    /// Its process id, which may be somebody else's by now: see [`OrphanRecord::is_alive`].
    pub pid: u32,
    /// When it was created.
    pub created: UnixNanos,
    /// How it ended, if the keeper saw it.
    pub exit: Option<Exit>,
    /// What the daemon said about it when it was created.
    pub recovery: Recovery,
    identity: records::Identity,
}

/// Reads what a killed keeper has left in a run directory. Does not change anything. While a keeper lives there, this fails with
/// [`ClientError::Unexpected`], as nothing is orphaned then. A keeper started afterwards lists the same things, as
/// [`crate::protocol::State::Exited`] or [`crate::protocol::State::Orphaned`], until they are forgotten.
pub fn recover_orphans(run_dir: &Path) -> Result<Vec<OrphanRecord>, ClientError> {
    if records::holder(run_dir).map_err(ClientError::system("look for a keeper in", run_dir))?.is_some() {
        return Err(ClientError::Unexpected("a keeper is alive, so nothing is orphaned".to_owned()));
    }
    let records = records::read(run_dir).map_err(ClientError::system("read the keeper's records in", run_dir))?;
    Ok(records.into_iter().map(OrphanRecord::from).collect())
}

impl From<Record> for OrphanRecord {
    fn from(record: Record) -> OrphanRecord {
        OrphanRecord {
            id: record.id,
            sandbox: record.sandbox,
            pid: record.identity.pid,
            created: record.created,
            exit: record.exit,
            recovery: record.recovery,
            identity: record.identity,
        }
    }
}

impl OrphanRecord {
    /// Whether its first process still lives; told apart from a later process with the same id by its start time.
    pub fn is_alive(&self) -> bool {
        self.exit.is_none() && self.identity.is_alive()
    }

    /// Kills its first process if that still lives, and everything in its cgroups, and returns when the cgroups hold no living
    /// process that could be killed. Never harms a process that merely has the same id.
    pub fn kill(&self) -> Result<(), ClientError> {
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                // Looked at after the descriptor was opened: from then on the id stays this process's own.
                Ok(pidfd) if self.is_alive() => match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(ClientError::system("kill process", self.pid.to_string())(errno.into())),
                },
                _ => {}
            }
        }
        for cgroup in &self.recovery.cgroups {
            sandbox::cgroup::kill_all(cgroup)?;
        }
        Ok(())
    }
}

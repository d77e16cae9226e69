//! What is opened of a container's process by its number: `/proc/PID/root` and its namespaces.

use keeper::client::{ClientError, Inspect};
use keeper::protocol::State as Held;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::stop::not_running;
use crate::model::ContainerRecord;
use crate::{Engine, Result};

impl Engine {
    /// What `open` opens of the process of a container that runs.
    ///
    /// A record may say for a moment that a process runs that has ended, and its number may be another's by then. The keeper
    /// has not yet waited for a process of which it says that it runs, so the number was that process's until it said so.
    pub(crate) async fn of_process<T>(
        &self,
        record: &ContainerRecord,
        open: impl FnOnce(u32) -> Result<T>,
    ) -> Result<T> {
        let opened = open(record.state.pid);
        match self.keeper().await?.call(Inspect { id: record.id.to_string() }).await {
            // What remains of one that the keeper is about to wait for has nothing that could be opened.
            Ok(entry) if entry.pid == record.state.pid && entry.state == Held::Running => match opened {
                Err(_) if has_ended(entry.pid) => Err(not_running(record)),
                opened => opened,
            },
            // Its end is on the way.
            Ok(_) | Err(ClientError::Failed(_)) => Err(not_running(record)),
            Err(error) => Err(crate::keeper_error(error)),
        }
    }

    /// The network namespace of a container that runs.
    pub(crate) async fn namespace_of_running(&self, record: &ContainerRecord) -> Result<net::NetNs> {
        self.of_process(record, |pid| net::NetNs::of_process(pid).map_err(crate::networks::error)).await
    }
}

/// Whether nothing of a process runs any more. What cannot be found out counts as running.
fn has_ended(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // Its descriptor is readable once all of its threads have ended (pidfd_open(2)).
        Ok(process) => {
            let mut polled = [PollFd::new(&process, PollFlags::IN)];
            poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        }
        Err(error) => error == Errno::SRCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_waited_for_yet_has_ended() {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!has_ended(child.id()));
        child.kill().unwrap();
        waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(has_ended(child.id()));
        child.wait().unwrap();
        assert!(has_ended(child.id()));
    }
}

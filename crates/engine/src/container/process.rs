//! What is opened of a container's process by its number: `/proc/PID/root` and its namespaces.

use keeper::client::{ClientError, Inspect};
use keeper::protocol::State as Held;

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
            Ok(entry) if entry.pid == record.state.pid && entry.state == Held::Running => opened,
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

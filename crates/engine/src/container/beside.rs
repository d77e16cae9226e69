//! Machines that are no container's: held by the keeper as any other, and bound to the daemon's connection, so that none outlives the daemon.

use std::time::Duration;

use keeper::client::{Create, Inspect};
use keeper::protocol::{LogConfig, Recovery, Stdio};

use super::machine::{MachineStart, remove_directory};
use crate::model::ContainerId;
use crate::{Engine, Error, Result};

/// How long a machine may take to boot: one that is emulated, by a host that is busy.
const BOOTS_WITHIN: Duration = Duration::from_secs(300);

impl Engine {
    /// Boots a machine until its agent is there, and has made what it was asked for.
    pub(super) async fn boot_beside(&self, id: &ContainerId, start: MachineStart) -> Result<()> {
        let call = Create {
            id: id.to_string(),
            plan: start.plan,
            plan_descriptors: start.descriptors,
            stdio: Stdio::Pipes { stdin: false, stdin_once: false },
            log: LogConfig::None,
            attach: Vec::new(),
            recovery: Recovery { cgroups: start.directories },
            start: true,
            bound: true,
        };
        let keeper = self.keeper().await?;
        let created = tokio::time::timeout(BOOTS_WITHIN, keeper.call(call)).await;
        let slow = || Error::system(format!("the machine did not boot within {} seconds", BOOTS_WITHIN.as_secs()));
        created.map_err(|_| slow())?.map(drop).map_err(crate::keeper_error)
    }

    /// Ends such a machine, and takes away what it was given; none is as good.
    ///
    /// # Errors
    /// Something of it may be there still.
    pub(super) async fn end_beside(&self, id: &ContainerId) -> Result<()> {
        if let Ok(entry) = self.keeper().await?.call(Inspect { id: id.to_string() }).await {
            self.end_held(&entry).await;
        }
        let (engine, id) = (self.clone(), id.clone());
        crate::blocking(move || {
            // First of all nothing is to run any more.
            engine.0.placements.clean(id.as_str())?;
            let directory = engine.machine_dir(&id);
            remove_directory(&directory).map_err(|error| Error::step(format!("remove {}", directory.display()), error))
        })
        .await
    }
}

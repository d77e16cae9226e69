//! `update`: limits and restart policy of a container, running or not.

use crate::model::{Resources, RestartPolicy};
use crate::{Engine, Error, Result};

use super::validate;

/// What is to change. Zero, an empty text or `None` leave a limit as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateRequest {
    /// Limits.
    pub resources: Resources,
    /// Restart policy.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes limits and restart policy. Gives what the user should know.
    pub async fn update(&self, reference: &str, request: UpdateRequest) -> Result<Vec<String>> {
        let container = self.0.containers.find(reference)?;
        let _life = container.life.lock().await;
        let record = container.record();
        let refused = |error: Error| Error::conflict(format!("Cannot update container {}: {error}", record.id));
        if record.host.auto_remove && request.restart.as_ref().is_some_and(|policy| *policy != RestartPolicy::No) {
            return Err(refused(Error::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            )));
        }
        let mut resources = record.host.resources.clone();
        merge(&mut resources, &request.resources);
        if resources.memory > 0 && resources.memory_swap > 0 && resources.memory > resources.memory_swap {
            return Err(refused(Error::invalid(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            )));
        }
        validate::resources(&resources)?;
        if record.state.phase.is_live() {
            let limits = crate::spec::limits(&resources)?;
            let (engine, updated) = (self.clone(), record.clone());
            crate::blocking(move || engine.0.placements.update(&updated, &limits)).await.map_err(refused)?;
        }
        let record = self
            .change(&container, |record| {
                record.host.resources = resources;
                if let Some(restart) = request.restart {
                    record.host.restart = restart;
                }
            })
            .await?;
        self.tell_container(&record, "update", []);
        Ok(warnings(&request.resources, self.0.placements.layout()))
    }
}

/// Puts what `new` sets over `old`.
fn merge(old: &mut Resources, new: &Resources) {
    let nothing = Resources::default();
    macro_rules! take {
        ($($field:ident),*) => { $(if new.$field != nothing.$field { old.$field.clone_from(&new.$field); })* };
    }
    // Quota and period say the same as nano CPUs: the newer way of saying it counts.
    if new.nano_cpus != 0 {
        (old.cpu_period, old.cpu_quota) = (0, 0);
    }
    if new.cpu_period != 0 || new.cpu_quota != 0 {
        old.nano_cpus = 0;
    }
    take!(
        cpu_shares,
        nano_cpus,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        memory,
        memory_reservation,
        memory_swap,
        memory_swappiness,
        oom_kill_disable,
        pids_limit,
        blkio_weight,
        blkio_weight_device,
        blkio_read_bps,
        blkio_write_bps,
        blkio_read_iops,
        blkio_write_iops
    );
    if new.memory > 0 && new.memory_swap == 0 && old.memory_swap > 0 && old.memory_swap < new.memory {
        old.memory_swap = new.memory.saturating_mul(2);
    }
}

/// What this machine can't do of what is asked, and does without.
pub(super) fn warnings(resources: &Resources, layout: &sandbox::cgroup::Layout) -> Vec<String> {
    let mut warnings = Vec::new();
    if layout.is_unified() && resources.memory_swappiness.is_some_and(|value| value >= 0) {
        warnings.push("cgroup v2 has no memory swappiness of a group: it is ignored.".to_owned());
    }
    if layout.is_unified() && resources.oom_kill_disable == Some(true) {
        warnings.push("cgroup v2 can't disable the OOM killer of a group: OomKillDisable is ignored.".to_owned());
    }
    if !layout.is_unified() && resources.oom_kill_disable == Some(true) && resources.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_stays() {
        let mut old = Resources { memory: 64 << 20, cpu_quota: 50_000, cpu_period: 100_000, ..Resources::default() };
        merge(&mut old, &Resources { nano_cpus: 1_000_000_000, ..Resources::default() });
        assert_eq!((old.memory, old.nano_cpus, old.cpu_quota, old.cpu_period), (64 << 20, 1_000_000_000, 0, 0));
    }
}

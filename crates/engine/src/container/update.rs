//! `update`: limits and restart policy of a container, running or not.

use crate::model::{Resources, RestartPolicy};
use crate::{Engine, Error, Result};

use super::{adapt::adapt, validate};

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
    pub async fn update(&self, reference: &str, mut request: UpdateRequest) -> Result<Vec<String>> {
        let warnings = adapt(&mut request.resources, self.0.placements.limits())?;
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        let record = life.record();
        let refused = |error: Error| Error::conflict(format!("Cannot update container {}: {error}", record.id));
        if record.host.auto_remove && request.restart.as_ref().is_some_and(|policy| *policy != RestartPolicy::No) {
            return Err(refused(Error::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            )));
        }
        let mut resources = record.host.resources.clone();
        cpu_time(&resources, &request.resources).map_err(refused)?;
        merge(&mut resources, &request.resources);
        if resources.memory > 0 && resources.memory_swap > 0 && resources.memory > resources.memory_swap {
            return Err(refused(Error::invalid(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            )));
        }
        validate::resources(&resources)?;
        // By how much the machine of another one is larger for this one.
        let mut memory = None;
        // A machine that answers nobody keeps nobody from another policy.
        let as_before = record.state.within.is_some() && resources == record.host.resources;
        if record.state.phase.is_live() && !as_before {
            let limits = crate::spec::limits(&resources)?;
            let (engine, updated) = (self.clone(), record.clone());
            let update = move || match &updated.state.within {
                Some(within) => engine.update_member(&updated, within, &limits).map(Some),
                None if updated.is_machine() => engine.update_machine(&updated, &limits).map(|()| None),
                None => engine.0.placements.update(&updated, &limits).map(|()| None),
            };
            memory = crate::blocking(update).await.map_err(refused)?;
        }
        let record = self
            .change(&life, |record| {
                record.host.resources = resources;
                if let (Some(within), Some(memory)) = (&mut record.state.within, memory) {
                    within.memory = memory;
                }
                if let Some(restart) = request.restart {
                    record.host.restart = restart;
                }
            })
            .await?;
        self.tell_container(&record, "update", []);
        Ok(warnings)
    }
}

/// Refuses to say in two ways how much CPU time there is.
fn cpu_time(old: &Resources, new: &Resources) -> Result<()> {
    let conflict = |what: &str| Err(Error::invalid(format!("Conflicting options: {what}")));
    match (new.nano_cpus, old.nano_cpus) {
        (1.., _) if old.cpu_period > 0 => conflict("Nano CPUs cannot be updated as CPU Period has already been set"),
        (1.., _) if old.cpu_quota > 0 => conflict("Nano CPUs cannot be updated as CPU Quota has already been set"),
        (_, 1..) if new.cpu_period > 0 => conflict("CPU Period cannot be updated as NanoCPUs has already been set"),
        (_, 1..) if new.cpu_quota > 0 => conflict("CPU Quota cannot be updated as NanoCPUs has already been set"),
        _ => Ok(()),
    }
}

/// Puts what `new` sets over `old`.
fn merge(old: &mut Resources, new: &Resources) {
    let nothing = Resources::default();
    macro_rules! take {
        ($($field:ident),*) => { $(if new.$field != nothing.$field { old.$field.clone_from(&new.$field); })* };
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_stays() {
        let mut old = Resources { memory: 64 << 20, cpu_quota: 50_000, cpu_period: 100_000, ..Resources::default() };
        merge(&mut old, &Resources { cpu_quota: 40_000, ..Resources::default() });
        assert_eq!((old.memory, old.cpu_quota, old.cpu_period), (64 << 20, 40_000, 100_000));
    }

    #[test]
    fn cpu_time_is_said_in_one_way() {
        let nano = Resources { nano_cpus: 1_000_000_000, ..Resources::default() };
        let quota = Resources { cpu_quota: 50_000, ..Resources::default() };
        for (old, new) in [(&nano, &quota), (&quota, &nano)] {
            assert!(cpu_time(old, new).unwrap_err().to_string().starts_with("Conflicting options: "));
        }
        assert!(cpu_time(&nano, &nano).and_then(|()| cpu_time(&quota, &quota)).is_ok());
    }
}

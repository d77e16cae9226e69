//! Limits that this machine's kernel doesn't have.
//!
//! A container does without most of them, and whoever makes it is told, in dockerd's words. Those that would be missed are refused.

use crate::limits::Limits;
use crate::model::Resources;
use crate::{Error, Result};

/// Takes out of what is asked for what this machine can't do. Gives what the user should know.
pub(super) fn adapt(resources: &mut Resources, limits: &Limits) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    memory(resources, limits, &mut warnings);
    if resources.pids_limit.is_some() && !limits.pids {
        if resources.pids_limit > Some(0) {
            warnings.push(missing("PIDs limit capabilities", "PIDs limit"));
        }
        resources.pids_limit = None;
    }
    cpu(resources, limits, &mut warnings)?;
    block_io(resources, limits, &mut warnings);
    Ok(warnings)
}

/// What to say of an `oom_score_adj` that the container may not get: below what the daemon has itself, it takes CAP_SYS_RESOURCE
/// (proc_pid_oom_score_adj(5)).
pub(super) fn unkept_oom_score(wanted: i32) -> Option<String> {
    let capabilities = rustix::thread::capabilities(None).ok()?;
    if wanted >= 0 || capabilities.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        return None;
    }
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    (wanted < own).then(|| {
        format!(
            "The daemon lacks CAP_SYS_RESOURCE and can't lower oom_score_adj to {wanted}. The container keeps the daemon's own, {own}."
        )
    })
}

fn missing(what: &str, discarded: &str) -> String {
    format!("Your kernel does not support {what} or the cgroup is not mounted. {discarded} discarded.")
}

fn memory(resources: &mut Resources, limits: &Limits, warnings: &mut Vec<String>) {
    if resources.memory > 0 && !limits.memory {
        warnings.push(missing("memory limit capabilities", "Limitation"));
        (resources.memory, resources.memory_swap) = (0, 0);
    }
    if resources.memory > 0 && resources.memory_swap != -1 && !limits.swap {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited \
             without swap."
                .to_owned(),
        );
        resources.memory_swap = -1;
    }
    if resources.memory_swappiness.is_some() && !limits.swappiness {
        warnings.push(missing("memory swappiness capabilities", "Memory swappiness"));
        resources.memory_swappiness = None;
    }
    if resources.memory_reservation > 0 && !limits.memory {
        warnings.push(missing("memory soft limit capabilities", "Limitation"));
        resources.memory_reservation = 0;
    }
    if resources.oom_kill_disable.is_some() && !limits.oom_kill_disable {
        // Who wants it as it is anyway misses nothing.
        if resources.oom_kill_disable == Some(true) {
            warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        }
        resources.oom_kill_disable = None;
    }
    if resources.oom_kill_disable == Some(true) && resources.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    }
}

fn cpu(resources: &mut Resources, limits: &Limits, warnings: &mut Vec<String>) -> Result<()> {
    if (resources.cpu_realtime_period != 0 || resources.cpu_realtime_runtime != 0) && !limits.cpu_realtime {
        return Err(Error::invalid("kernel does not support CPU real-time scheduler"));
    }
    if resources.nano_cpus > 0 && !limits.cpu_quota {
        return Err(Error::invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        ));
    }
    if resources.cpu_shares > 0 && !limits.cpu_shares {
        warnings.push(missing("CPU shares", "Shares"));
        resources.cpu_shares = 0;
    }
    if (resources.cpu_period != 0 || resources.cpu_quota != 0) && !limits.cpu_quota {
        warnings.push("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".to_owned());
        (resources.cpu_period, resources.cpu_quota) = (0, 0);
    }
    let cpu_set = !resources.cpuset_cpus.is_empty() || !resources.cpuset_mems.is_empty();
    if cpu_set && !limits.cpu_set {
        warnings.push(missing("cpuset", "Cpuset"));
        resources.cpuset_cpus.clear();
        resources.cpuset_mems.clear();
    }
    Ok(())
}

fn block_io(resources: &mut Resources, limits: &Limits, warnings: &mut Vec<String>) {
    if resources.blkio_weight > 0 && !limits.io_weight {
        warnings.push(missing("Block I/O weight", "Weight"));
        resources.blkio_weight = 0;
    }
    if !resources.blkio_weight_device.is_empty() && !limits.io_weight_device {
        warnings.push(missing("Block I/O weight_device", "Weight-device"));
        resources.blkio_weight_device.clear();
    }
    let throttles = [
        (&mut resources.blkio_read_bps, "read limit in bytes per second", "BPS read limit"),
        (&mut resources.blkio_write_bps, "write limit in bytes per second", "BPS write limit"),
        (&mut resources.blkio_read_iops, "read limit in IO per second", "IOPS read limit"),
        (&mut resources.blkio_write_iops, "write limit in IO per second", "IOPS write limit"),
    ];
    for (devices, what, discarded) in throttles {
        if !devices.is_empty() && !limits.io_throttle {
            warnings.push(missing(&format!("Block I/O {what}"), &format!("Block I/O {discarded}")));
            devices.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ThrottleDevice;

    fn asked() -> Resources {
        let device = ThrottleDevice { path: "/dev/vda".into(), rate: 1 << 20 };
        Resources {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            memory_reservation: 32 << 20,
            memory_swappiness: Some(10),
            oom_kill_disable: Some(true),
            pids_limit: Some(10),
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpuset_cpus: "0".into(),
            blkio_weight: 300,
            blkio_read_bps: vec![device],
            ..Resources::default()
        }
    }

    fn v2() -> Limits {
        let memory_and_cpu =
            Limits { memory: true, swap: true, cpu_quota: true, cpu_shares: true, cpu_set: true, ..Limits::default() };
        Limits { pids: true, io_weight: true, io_weight_device: true, io_throttle: true, ..memory_and_cpu }
    }

    fn v1() -> Limits {
        Limits { swappiness: true, oom_kill_disable: true, cpu_realtime: true, ..v2() }
    }

    /// A hybrid has the limits of its v1 hierarchies: `Limits` sees to that.
    #[test]
    fn what_the_kernel_has_is_left_as_it_is() {
        let mut resources = Resources { cpu_realtime_runtime: 1000, ..asked() };
        assert_eq!(adapt(&mut resources, &v1()).unwrap(), Vec::<String>::new());
        assert_eq!(resources, Resources { cpu_realtime_runtime: 1000, ..asked() });
    }

    #[test]
    fn what_only_v1_has_is_discarded_on_v2_and_told() {
        let mut resources = asked();
        let told = [
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory \
             swappiness discarded.",
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        ];
        assert_eq!(adapt(&mut resources, &v2()).unwrap(), told);
        assert_eq!(resources, Resources { memory_swappiness: None, oom_kill_disable: None, ..asked() });
        // Who asks for what is the case anyway is not told.
        let mut resources = Resources { oom_kill_disable: Some(false), ..Resources::default() };
        assert_eq!(adapt(&mut resources, &v2()).unwrap(), Vec::<String>::new());
        assert_eq!(resources, Resources::default());
        let mut resources = Resources { cpu_realtime_period: 1000, ..Resources::default() };
        assert_eq!(
            adapt(&mut resources, &v2()).unwrap_err().to_string(),
            "kernel does not support CPU real-time scheduler"
        );
    }

    #[test]
    fn nothing_is_left_where_the_kernel_limits_nothing() {
        let mut resources = asked();
        let told = adapt(&mut resources, &Limits::default()).unwrap();
        assert_eq!(resources, Resources::default());
        assert_eq!(told.len(), 10, "{told:#?}");
        assert!(told.iter().all(|warning| warning.starts_with("Your kernel does not support ")), "{told:#?}");
        let mut resources = Resources { nano_cpus: 1, ..Resources::default() };
        assert!(
            adapt(&mut resources, &Limits::default()).unwrap_err().to_string().starts_with("NanoCPUs can not be set")
        );
    }

    #[test]
    fn memory_is_limited_without_swap_where_swap_is_not_accounted_for() {
        let mut resources = Resources { memory: 64 << 20, ..Resources::default() };
        let told = adapt(&mut resources, &Limits { swap: false, ..v1() }).unwrap();
        assert!(told[0].ends_with("Memory limited without swap."), "{told:?}");
        assert_eq!((resources.memory, resources.memory_swap), (64 << 20, -1));
    }

    #[test]
    fn who_may_run_out_of_memory_is_warned() {
        let mut resources = Resources { oom_kill_disable: Some(true), ..Resources::default() };
        let told = adapt(&mut resources, &v1()).unwrap();
        assert!(
            told[0].starts_with("OOM killer is disabled for the container, but no memory limit is set"),
            "{told:?}"
        );
    }
}

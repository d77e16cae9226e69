//! What a container may ask for: refused before anything is made.

use std::time::Duration;

use crate::model::{
    ContainerConfig, HealthTest, HostConfig, IpcMode, MICROVM, NetworkMode, PidMode, Resources, RestartPolicy,
    UsernsMode, UtsMode,
};
use crate::spec::SecurityOptions;
use crate::{Error, Result};

/// dockerd's smallest memory limit.
const SMALLEST_MEMORY: i64 = 6 << 20;

/// Refuses a container that makes no sense.
pub(super) fn container(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if let Some(wrong) = config.env.iter().find(|variable| variable.is_empty() || variable.starts_with('=')) {
        return Err(Error::invalid(format!("invalid environment variable: {wrong}")));
    }
    if !config.stop_signal.is_empty() {
        crate::signals::parse(&config.stop_signal)?;
    }
    health(config)?;
    resources(&host.resources)?;
    namespaces(config, host)?;
    policies(host)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    match host.runtime.as_str() {
        "" | "stratus" | "runc" | "io.containerd.runc.v2" | MICROVM => {}
        other => return Err(Error::invalid(format!("unknown or invalid runtime name: {other}"))),
    }
    match host.isolation.as_str() {
        "container" if host.runtime == MICROVM => {
            return Err(Error::invalid(format!(
                "isolation container and runtime {MICROVM} contradict each other: leave one of them away"
            )));
        }
        "" | "default" | "container" | MICROVM => {}
        other => {
            let message = format!("invalid isolation: {other:?} - linux only supports 'default'");
            return Err(Error::invalid(message));
        }
    }
    super::machine_annotations::check(&host.annotations)?;
    SecurityOptions::parse(&host.security_opt).map(drop)
}

/// Refuses options of the root file system, in dockerd's words where it could not do it either. `file_system`: the name of what the data directory
/// is on.
pub(super) fn storage(host: &HostConfig, file_system: &str) -> Result<()> {
    if host.isolation == MICROVM || host.runtime == MICROVM {
        return super::disk::size(host).map(drop);
    }
    let Some(option) = host.storage_opt.keys().next() else { return Ok(()) };
    if file_system != "xfs" {
        let message = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";
        return Err(Error::invalid(message));
    }
    Err(Error::not_implemented(format!(
        "--storage-opt {option} is not supported: root file systems are not limited in size"
    )))
}

fn health(config: &ContainerConfig) -> Result<()> {
    const SHORTEST: Duration = Duration::from_millis(1);
    let Some(check) = &config.healthcheck else { return Ok(()) };
    let durations = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    for (name, duration) in durations {
        if !duration.is_zero() && duration < SHORTEST {
            return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if matches!(&check.test, HealthTest::Command(argv) if argv.is_empty()) {
        return Err(Error::invalid("the health check has no command"));
    }
    Ok(())
}

fn namespaces(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let conflict = |what: &str| Err(Error::invalid(format!("conflicting options: {what}")));
    match &host.network_mode {
        NetworkMode::Host if !host.links.is_empty() => {
            return conflict("host type networking can't be used with links. This would result in undefined behavior");
        }
        NetworkMode::Container(name) => {
            if name.is_empty() {
                return Err(Error::invalid("Invalid network mode: invalid container format container:<name|id>"));
            }
            if !config.hostname.is_empty() {
                return conflict("hostname and the network mode");
            }
            if !host.links.is_empty() {
                return conflict(
                    "container type network can't be used with links. This would result in undefined behavior",
                );
            }
            if !host.dns.is_empty() {
                return conflict("dns and the network mode");
            }
            if !host.extra_hosts.is_empty() {
                return conflict("custom host-to-IP mapping and the network mode");
            }
            if config.mac_address.is_some() {
                return conflict("mac-address and the network mode");
            }
            if !host.port_bindings.is_empty() || host.publish_all_ports {
                return conflict("port publishing and the container type network mode");
            }
            if !config.exposed_ports.is_empty() {
                return conflict("port exposing and the container type network mode");
            }
        }
        _ => {}
    }
    if host.uts_mode == UtsMode::Host && (!config.hostname.is_empty() || !config.domainname.is_empty()) {
        return conflict("hostname and the UTS mode");
    }
    if matches!(&host.ipc_mode, IpcMode::Container(name) if name.is_empty()) {
        return Err(Error::invalid("invalid IPC mode: container:"));
    }
    if matches!(&host.pid_mode, PidMode::Container(name) if name.is_empty()) {
        return Err(Error::invalid("invalid PID mode: container:"));
    }
    own_users(host)?;
    for entry in &host.extra_hosts {
        let (name, address) = entry.split_once([':', '=']).unwrap_or((entry, ""));
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() || (address != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err()) {
            return Err(Error::invalid(format!("bad format for add-host: \"{entry}\"")));
        }
    }
    for server in &host.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid(format!("invalid DNS address: {server}")));
        }
    }
    Ok(())
}

/// What can't be shared with who has other users: the kernel lets nobody in whose user namespace is not above.
fn own_users(host: &HostConfig) -> Result<()> {
    if host.userns_mode != UsernsMode::Private {
        return Ok(());
    }
    if host.pid_mode == PidMode::Host {
        return Err(Error::invalid("cannot share the host PID namespace when user namespaces are enabled"));
    }
    let others = [
        ("network", matches!(host.network_mode, NetworkMode::Container(_))),
        ("IPC", matches!(host.ipc_mode, IpcMode::Container(_))),
        ("PID", matches!(host.pid_mode, PidMode::Container(_))),
    ];
    match others.iter().find(|(_, shared)| *shared) {
        Some((what, _)) => Err(Error::invalid(format!(
            "cannot share another container's {what} namespace with a user namespace of its own (--userns private)"
        ))),
        None => Ok(()),
    }
}

fn policies(host: &HostConfig) -> Result<()> {
    if host.auto_remove && host.restart != RestartPolicy::No {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    super::logging::check_driver(&host.log.driver)
}

/// Refuses limits that make no sense, at creation and at updates.
pub(super) fn resources(resources: &Resources) -> Result<()> {
    memory(resources)?;
    cpu(resources)?;
    let weight = |weight: u16| weight == 0 || (10..=1000).contains(&weight);
    if !weight(resources.blkio_weight) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    if let Some(device) = resources.blkio_weight_device.iter().find(|device| !weight(device.weight)) {
        return Err(Error::invalid(format!("Range of blkio weight of {} is from 10 to 1000", device.path)));
    }
    for ulimit in &resources.ulimits {
        if ulimit.hard >= 0 && (ulimit.soft > ulimit.hard || ulimit.soft < 0) {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                ulimit.soft, ulimit.hard
            )));
        }
    }
    Ok(())
}

fn memory(resources: &Resources) -> Result<()> {
    let Resources { memory, memory_swap, memory_reservation, memory_swappiness, .. } = *resources;
    if memory < 0 || (memory > 0 && memory < SMALLEST_MEMORY) {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if memory > 0 && memory_swap > 0 && memory_swap < memory {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if memory == 0 && memory_swap > 0 {
        return Err(Error::invalid("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if memory_reservation < 0 || (memory_reservation > 0 && memory_reservation < SMALLEST_MEMORY) {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if memory > 0 && memory_reservation > 0 && memory < memory_reservation {
        return Err(Error::invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    match memory_swappiness {
        Some(value) if !(-1..=100).contains(&value) => {
            Err(Error::invalid(format!("Invalid value: {value}, valid memory swappiness range is 0-100")))
        }
        _ => Ok(()),
    }
}

fn cpu(resources: &Resources) -> Result<()> {
    if resources.nano_cpus > 0 && (resources.cpu_period > 0 || resources.cpu_quota > 0) {
        let other = if resources.cpu_period > 0 { "CPU Period" } else { "CPU Quota" };
        return Err(Error::invalid(format!("Conflicting options: Nano CPUs and {other} cannot both be set")));
    }
    if resources.nano_cpus != 0 {
        let cpus = crate::system::online_cpus();
        if !(0..=i64::from(cpus) * 1_000_000_000).contains(&resources.nano_cpus) {
            return Err(Error::invalid(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
    }
    if resources.cpu_period != 0 && !(1_000..=1_000_000).contains(&resources.cpu_period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if resources.cpu_quota > 0 && resources.cpu_quota < 1_000 {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if resources.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            resources.cpu_shares
        )));
    }
    set_of("CPUs", &resources.cpuset_cpus, "/sys/devices/system/cpu/online", "cpuset cpus")?;
    set_of("memory nodes", &resources.cpuset_mems, "/sys/devices/system/node/online", "cpuset mems")
}

/// Whether each number of `wanted` is in the kernel's list at `online`.
fn set_of(what: &str, wanted: &str, online: &str, field: &str) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(numbers) = numbers(wanted) else {
        return Err(Error::invalid(format!("Invalid value {wanted} for {field}: invalid format: {wanted}")));
    };
    let text = std::fs::read_to_string(online).unwrap_or_else(|_| "0".to_owned());
    let available = self::numbers(text.trim()).unwrap_or_default();
    if numbers.iter().all(|number| available.contains(number)) {
        return Ok(());
    }
    Err(Error::invalid(format!("Requested {what} are not available - requested {wanted}, available: {}", text.trim())))
}

/// `0-2,4` as numbers (cpuset(7), list format).
fn numbers(list: &str) -> Option<Vec<u32>> {
    const HIGHEST: u32 = 8192;
    let mut out = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        out.extend(first..=last);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(numbers("0-2,4"), Some(vec![0, 1, 2, 4]));
        for wrong in ["", "a", "2-1", "0-99999999"] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_swap_limit_needs_a_memory_limit() {
        let resources = Resources { memory_swap: 1 << 30, ..Resources::default() };
        assert!(memory(&resources).unwrap_err().to_string().starts_with("You should always set the Memory limit"));
    }
}

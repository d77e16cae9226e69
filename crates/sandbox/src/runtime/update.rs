//! `update`: other limits for a running container.

use std::fs;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::cli::Update;
use super::rdt::{Rdt, Resctrl};
use super::state::{Container, Status, Store};
use super::systemd::Scope;
use super::{Result, RuntimeError};

/// `update`.
pub(super) fn update(store: &Store, options: &Update) -> Result<()> {
    let mut container = store.open(&options.id)?;
    if container.status() == Status::Stopped {
        return Err(RuntimeError::State("container not running".into()));
    }
    update_rdt(&mut container, options)?;
    let resources = match &options.resources {
        Some(path) => read(path)?,
        None => from_flags(options)?,
    };
    // First, as systemd sets all that it knows whenever it is told something.
    if container.saved.systemd {
        Scope::parse(&container.saved.cgroup)?.set(&resources)?;
    }
    Ok(container.cgroup()?.update(&resources)?)
}

fn update_rdt(container: &mut Container, options: &Update) -> Result<()> {
    let given = |schema: &Option<String>| schema.clone().filter(|schema| !schema.is_empty());
    let (l3_cache_schema, mem_bw_schema) = (given(&options.l3_cache_schema), given(&options.mem_bw_schema));
    if l3_cache_schema.is_none() && mem_bw_schema.is_none() {
        return Ok(());
    }
    let rdt = Rdt::of_schemas(l3_cache_schema, mem_bw_schema);
    let former = container.saved.intel_rdt.clone();
    container.saved.intel_rdt = Some(Resctrl::find()?.update(&options.id, former, &container.cgroup()?, &rdt)?);
    container.save()
}

fn read(path: &Path) -> Result<LinuxResources> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map_err(RuntimeError::file("read", path))?;
    } else {
        bytes = fs::read(path).map_err(RuntimeError::file("read", path))?;
    }
    serde_json::from_slice(&bytes).map_err(RuntimeError::json(path))
}

fn from_flags(options: &Update) -> Result<LinuxResources> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(options.cpu_share)
        .set_period(options.cpu_period)
        .set_quota(options.cpu_quota)
        .set_burst(options.cpu_burst)
        .set_realtime_period(options.cpu_rt_period)
        .set_realtime_runtime(options.cpu_rt_runtime)
        .set_idle(options.cpu_idle)
        .set_cpus(options.cpuset_cpus.clone())
        .set_mems(options.cpuset_mems.clone());
    let bytes = |text: &Option<String>| text.as_deref().map(bytes).transpose();
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(bytes(&options.memory)?)
        .set_reservation(bytes(&options.memory_reservation)?)
        .set_swap(bytes(&options.memory_swap)?)
        .set_kernel_tcp(bytes(&options.kernel_memory_tcp)?);
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_memory(Some(memory));
    if let Some(weight) = options.blkio_weight {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        resources.set_block_io(Some(block_io));
    }
    if let Some(limit) = options.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

/// `1g`, `512MiB`, `1024`, `-1`.
fn bytes(text: &str) -> Result<i64> {
    let wrong = || RuntimeError::Usage(format!("{text:?} is not a size such as 512m"));
    let lower = text.trim().to_ascii_lowercase();
    if lower == "-1" {
        return Ok(-1);
    }
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("1024", 1024), ("1k", 1024), ("2MiB", 2 << 20), ("1gb", 1 << 30), ("-1", -1), ("3b", 3)] {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for wrong in ["", "x", "1x", "-2", "9999999999g"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}

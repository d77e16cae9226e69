//! `events`: statistics and out-of-memory events, a JSON object a line.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};

use super::cli::Events;
use super::rdt::Resctrl;
use super::state::{Container, Status, Store};
use super::{Result, RuntimeError};
use crate::cgroup::{CpuStats, Cpuset, IoEntry, Processors, Stats};

/// `events`.
pub(super) fn events(store: &Store, options: &Events) -> Result<()> {
    let container = store.open(&options.id)?;
    let interval = interval(&options.interval)?;
    if container.status() == Status::Stopped {
        return Err(RuntimeError::State(format!("container with id {} is not running", options.id)));
    }
    let cgroup = container.cgroup()?;
    let print_stats = || {
        let rdt = match &container.saved.intel_rdt {
            Some(group) => Resctrl::find()?.stats(group)?,
            None => json!({}),
        };
        print(&event("stats", &container, Some(data(&cgroup.stats()?, &cgroup.processors(), rdt))))
    };
    if options.stats {
        return print_stats();
    }
    let pidfd = container.pidfd()?;
    let oom = cgroup.oom_watch()?;
    let mut kills = cgroup.oom_kills()?;
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        fds.extend(oom.as_ref().map(|oom| PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN)));
        let timeout = Timespec { tv_sec: interval.as_secs() as i64, tv_nsec: interval.subsec_nanos().into() };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => print_stats()?,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(RuntimeError::System("wait for events", errno)),
        }
        if let Some(oom) = oom.as_ref().filter(|_| fds.get(1).is_some_and(|fd| fd.revents().contains(PollFlags::IN))) {
            let _ = rustix::io::read(oom, &mut [0u8; 4096]);
            // v2 tells of every change of the file; what counts is that something was killed. On v1 the cgroup may
            // be gone already.
            let now = cgroup.oom_kills().unwrap_or(kills);
            if now != kills || cgroup.directory("memory").is_some_and(|d| d.join("memory.oom_control").exists()) {
                kills = now;
                print(&event("oom", &container, None))?;
            }
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

fn event(kind: &str, container: &Container, data: Option<Value>) -> Value {
    let mut event = json!({ "type": kind, "id": container.saved.id });
    if let Some(data) = data {
        event["data"] = data;
    }
    event
}

fn print(event: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{event}").map_err(RuntimeError::file("write to", "standard output".as_ref()))
}

/// Go's notation of durations, as far as an interval needs it: `5s`, `500ms`, `1m30s`.
fn interval(text: &str) -> Result<Duration> {
    let wrong = || RuntimeError::Usage(format!("--interval {text:?} is not a duration such as 5s"));
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total = unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    if total.is_zero() {
        return Err(RuntimeError::Usage("duration interval must be greater than 0".into()));
    }
    Ok(total)
}

fn entries(entries: &[IoEntry]) -> Value {
    let entry = |e: &IoEntry| json!({ "major": e.major, "minor": e.minor, "op": e.operation, "value": e.value });
    entries.iter().map(entry).collect()
}

/// Processor time. What the kernel does not tell of each processor is left out, as version 2 of cgroups tells none of it.
fn cpu_usage(cpu: &CpuStats, processors: &Processors) -> Value {
    let mut usage = json!({ "total": cpu.usage, "kernel": cpu.system, "user": cpu.user });
    let of_each = [("percpu", &cpu.per_cpu), ("percpu_kernel", &processors.kernel), ("percpu_user", &processors.user)];
    for (name, figures) in of_each.into_iter().filter(|(_, figures)| !figures.is_empty()) {
        usage[name] = json!(figures);
    }
    usage
}

/// Which processors and memory nodes it may use. The flags are version 1's; where there are none they are 0.
fn cpuset(set: &Cpuset) -> Value {
    let mut shown: serde_json::Map<String, Value> = set
        .flags()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .chain([("sched_relax_domain_level".to_owned(), json!(set.relax_domain_level))])
        .collect();
    for (name, numbers) in [("cpus", &set.cpus), ("mems", &set.mems)] {
        if !numbers.is_empty() {
            shown.insert(name.to_owned(), json!(numbers));
        }
    }
    Value::Object(shown)
}

/// runc's shape of the figures.
fn data(stats: &Stats, processors: &Processors, rdt: Value) -> Value {
    let memory = &stats.memory;
    let unlimited = u64::MAX;
    let stat = |key: &str| memory.stat.get(key).copied().unwrap_or(0);
    let hugetlb: serde_json::Map<String, Value> = stats
        .hugetlb
        .iter()
        .map(|(size, h)| (size.clone(), json!({ "usage": h.usage, "max": h.max_usage, "failcnt": h.failures })))
        .collect();
    json!({
        "cpu": {
            "usage": cpu_usage(&stats.cpu, processors),
            "throttling": {
                "periods": stats.cpu.periods,
                "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled,
            },
        },
        "cpuset": cpuset(&processors.set),
        "memory": {
            "cache": if memory.stat.contains_key("cache") { stat("cache") } else { stat("file") },
            "usage": {
                "limit": memory.limit.unwrap_or(unlimited),
                "usage": memory.usage,
                "max": memory.max_usage,
                "failcnt": memory.failures,
            },
            "swap": {
                "limit": memory.with_swap_limit.unwrap_or(unlimited),
                "usage": memory.with_swap_usage,
                "failcnt": 0,
            },
            "kernel": { "limit": unlimited, "usage": memory.kernel_usage, "failcnt": 0 },
            "kernelTCP": { "limit": unlimited, "failcnt": 0 },
            "raw": memory.stat,
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": entries(&stats.io_bytes),
            "ioServicedRecursive": entries(&stats.io_operations),
        },
        "hugetlb": hugetlb,
        "intel_rdt": rdt,
        "network_interfaces": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(interval("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(interval("500ms").unwrap(), Duration::from_millis(500));
        for wrong in ["", "5", "s", "5x", "0s"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}

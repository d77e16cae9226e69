//! Version 2: one tree.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;

use super::v1::{positive_or_max, rdma};
use super::{CgroupError, DO_NOT_FREEZE, DO_NOT_THAW, Result, below, devices, write};

/// Creates the directory and its parents, each with all controllers handed down.
pub(super) fn make(mount: &Path, path: &str) -> Result<()> {
    let directory = below(mount, path);
    let mut parent = mount.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        hand_down(&parent)?;
        parent.push(part);
        match fs::create_dir(&parent) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(CgroupError::io("create cgroup", &directory)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Creates the directory, and its parents where they are missing.
pub(super) fn make_without_controllers(mount: &Path, path: &str) -> Result<()> {
    let directory = below(mount, path);
    match fs::create_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => fs::create_dir_all(&directory),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
    .map_err(CgroupError::io("create cgroup", &directory))
}

/// Enables for the children what is available here and not yet enabled.
fn hand_down(directory: &Path) -> Result<()> {
    let read = |file: &str| {
        let path = directory.join(file);
        fs::read_to_string(&path).map_err(CgroupError::io("read", &path))
    };
    let enabled = read("cgroup.subtree_control")?;
    let missing = |controller: &&str| !enabled.split_whitespace().any(|known| known == *controller);
    let wanted: Vec<String> =
        read("cgroup.controllers")?.split_whitespace().filter(missing).map(|name| format!("+{name}")).collect();
    if wanted.is_empty() || write(directory, "cgroup.subtree_control", &wanted.join(" ")).is_ok() {
        return Ok(());
    }
    // All at once fails if one fails (cpu, with real-time processes about): then one by one, and what is missing
    // shows when a limit is written.
    for controller in &wanted {
        let _ = write(directory, "cgroup.subtree_control", controller);
    }
    Ok(())
}

pub(super) fn apply(directory: &Path, resources: &LinuxResources, new: bool) -> Result<()> {
    if let Some(memory) = resources.memory() {
        apply_memory(directory, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(directory, cpu)?;
    }
    if let Some(cpu) = resources.cpu()
        && (cpu.realtime_runtime().is_some_and(|time| time != 0) || cpu.realtime_period().is_some_and(|time| time != 0))
    {
        let reason = "cgroups of version 2 have no real-time scheduling of groups".to_owned();
        return Err(CgroupError::Invalid { field: "cpu.rt_runtime_us".into(), reason });
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        write(directory, "pids.max", &positive_or_max(limit))?;
    }
    if let Some(block_io) = resources.block_io() {
        apply_io(directory, block_io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        write(directory, &format!("hugetlb.{}.max", limit.page_size()), &limit.limit().to_string())?;
        // Reservations count as well, where the kernel can limit them (5.7).
        let reserved = format!("hugetlb.{}.rsvd.max", limit.page_size());
        if directory.join(&reserved).exists() {
            write(directory, &reserved, &limit.limit().to_string())?;
        }
    }
    for (device, limits) in resources.rdma().iter().flatten() {
        write(directory, "rdma.max", &rdma(device, limits.hca_handles(), limits.hca_objects()))?;
    }
    if let Some(rules) = resources.devices().as_deref().filter(|rules| !rules.is_empty())
        && (devices::restricts(rules) || !new)
    {
        devices::attach(directory, rules, !new)?;
    }
    apply_unified(directory, resources)
}

/// The settings that the spec passes through by the names of their files.
pub(super) fn apply_unified(directory: &Path, resources: &LinuxResources) -> Result<()> {
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || file.starts_with("cgroup.procs") || file.starts_with("cgroup.threads") {
            let reason = format!("{file:?} is not a setting");
            return Err(CgroupError::Invalid { field: "unified".into(), reason });
        }
        // A file such as io.max takes one line at a time.
        for line in value.lines() {
            write(directory, file, line)?;
        }
    }
    Ok(())
}

fn apply_memory(directory: &Path, memory: &LinuxMemory) -> Result<()> {
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let (limit, swap) = (set(memory.limit()), set(memory.swap()));
    if let Some(swap) = swap_limit(limit, swap)? {
        // Absent where swap accounting is off, which is as good as a limit of nothing more than memory.
        match write(directory, "memory.swap.max", &swap) {
            Err(CgroupError::Write { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    if let Some(limit) = limit {
        if memory.check_before_update().unwrap_or(false) {
            let path = directory.join("memory.current");
            let current = fs::read_to_string(&path).map_err(CgroupError::io("read", &path))?;
            if limit > 0 && current.trim().parse::<i64>().unwrap_or(0) > limit {
                let reason = format!("{limit} is below what is used now ({})", current.trim());
                return Err(CgroupError::Invalid { field: "memory.limit".into(), reason });
            }
        }
        write(directory, "memory.max", &positive_or_max(limit))?;
    }
    if let Some(reservation) = set(memory.reservation()) {
        write(directory, "memory.low", &positive_or_max(reservation))?;
    }
    Ok(())
}

/// Version 1 limits memory and swap together, version 2 swap alone.
fn swap_limit(limit: Option<i64>, swap: Option<i64>) -> Result<Option<String>> {
    let wrong = |reason: &str| CgroupError::Invalid { field: "memory.swap".into(), reason: reason.to_owned() };
    match (limit, swap) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some("max".to_owned())),
        (_, None) => Ok(None),
        (Some(limit), Some(swap)) if limit > 0 && swap >= limit => Ok(Some((swap - limit).to_string())),
        (Some(limit), Some(_)) if limit > 0 => Err(wrong("memory and swap together must not be less than memory")),
        _ => Err(wrong("a limit of swap needs a limit of memory")),
    }
}

/// `cpu.shares` (2 to 262144) as `cpu.weight` (1 to 10000).
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn apply_cpu(directory: &Path, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        write(directory, "cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        write(directory, "cpu.idle", &idle.to_string())?;
    }
    let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) => positive_or_max(quota),
            None => fs::read_to_string(directory.join("cpu.max"))
                .ok()
                .and_then(|text| text.split_whitespace().next().map(str::to_owned))
                .unwrap_or_else(|| "max".to_owned()),
        };
        let value = match period {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        write(directory, "cpu.max", &value)?;
    }
    if let Some(burst) = cpu.burst().filter(|burst| *burst != 0) {
        write(directory, "cpu.max.burst", &burst.to_string())?;
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            write(directory, file, value)?;
        }
    }
    Ok(())
}

/// `blkio.weight` (10 to 1000) as `io.weight` (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn apply_io(directory: &Path, block_io: &LinuxBlockIo) -> Result<()> {
    let bfq = directory.join("io.bfq.weight").exists();
    let weigh = |device: &str, weight: u16| {
        let prefix = if device.is_empty() { String::new() } else { format!("{device} ") };
        if bfq {
            // BFQ keeps the old range.
            write(directory, "io.bfq.weight", &format!("{prefix}{weight}"))
        } else {
            let prefix = if device.is_empty() { "default ".to_owned() } else { prefix };
            write(directory, "io.weight", &format!("{prefix}{}", io_weight(weight)))
        }
    };
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        weigh("", weight)?;
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            weigh(&format!("{}:{}", device.major(), device.minor()), weight)?;
        }
    }
    let limits = [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ];
    for (key, devices) in limits {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            write(directory, "io.max", &format!("{}:{} {key}={rate}", device.major(), device.minor()))?;
        }
    }
    Ok(())
}

fn event(directory: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(directory.join("cgroup.events")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

pub(super) fn is_frozen(directory: &Path) -> bool {
    fs::read_to_string(directory.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
}

/// `mount` is the hierarchy's root.
pub(super) fn set_frozen(mount: &Path, directory: &Path, frozen: bool) -> Result<()> {
    const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
    let path = directory.join("cgroup.events");
    let events = fs::File::open(&path).map_err(CgroupError::io("open", &path))?;
    write(directory, "cgroup.freeze", if frozen { "1" } else { "0" })?;
    if becomes_frozen(&events, directory, frozen, &SOON)? {
        return Ok(());
    }
    if frozen && put_kernel_threads_away(mount, directory) {
        // Whether all have frozen is counted when one does, and not when one goes.
        write(directory, "cgroup.freeze", "0")?;
        write(directory, "cgroup.freeze", "1")?;
    }
    if becomes_frozen(&events, directory, frozen, &PATIENCE)? {
        return Ok(());
    }
    if frozen {
        // Those that did freeze would be held for good by who was told that it failed.
        write(directory, "cgroup.freeze", "0")?;
    }
    let what = if frozen { DO_NOT_FREEZE } else { DO_NOT_THAW };
    Err(CgroupError::Stuck { path: directory.to_owned(), what })
}

/// Whether all have frozen, or thawed, before nothing changes for so long.
fn becomes_frozen(events: &fs::File, directory: &Path, frozen: bool, timeout: &Timespec) -> Result<bool> {
    while event(directory, "frozen ") != Some(u64::from(frozen)) {
        // The kernel notifies of a change of cgroup.events as an exceptional condition.
        let mut poll = [PollFd::new(events, PollFlags::PRI)];
        match rustix::event::poll(&mut poll, Some(timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(CgroupError::io("poll", &directory.join("cgroup.events"))(errno.into())),
        }
        // Reading rearms the notification.
        let _ = std::io::Read::read(&mut &*events, &mut [0; 128]);
    }
    Ok(true)
}

/// Moves the kernel's own threads to the root, and says whether there were any. They never freeze, but are counted, so that a cgroup that has one is never told to have frozen: before
/// Linux 6.13 KVM puts one (`kvm-nx-lpage-recovery`) where the process is that makes a machine. It ends with that, wherever it is.
fn put_kernel_threads_away(mount: &Path, directory: &Path) -> bool {
    let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let threads = processes.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| crate::process::is_of_kernel(*pid));
    // One that can't be moved is told of as all that do not freeze are.
    threads.filter(|pid| write(mount, "cgroup.procs", &pid.to_string()).is_ok()).count() > 0
}

pub(super) fn oom_watch(directory: &Path) -> Result<OwnedFd> {
    let path = directory.join("memory.events");
    let failed = |errno: rustix::io::Errno| CgroupError::io("watch", &path)(errno.into());
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
    inotify::add_watch(&watch, &path, inotify::WatchFlags::MODIFY).map_err(failed)?;
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_ranges_meet() {
        assert_eq!((weight_of_shares(2), weight_of_shares(1024), weight_of_shares(262_144)), (1, 39, 10_000));
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn swap_is_what_is_left_over_memory() {
        assert_eq!(swap_limit(Some(100), Some(150)).unwrap().as_deref(), Some("50"));
        assert_eq!(swap_limit(Some(100), Some(-1)).unwrap().as_deref(), Some("max"));
        assert_eq!(swap_limit(Some(100), None).unwrap(), None);
        assert!(swap_limit(Some(100), Some(50)).is_err());
        assert!(swap_limit(None, Some(50)).is_err());
    }
}

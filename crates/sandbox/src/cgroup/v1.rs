//! Version 1: one directory in every hierarchy.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{CgroupError, DO_NOT_FREEZE, DO_NOT_THAW, Hierarchy, Layout, Result, below, devices, write, write_each};

/// Creates the directory in one hierarchy, and its parents.
pub(super) fn make(hierarchy: &Hierarchy, path: &str) -> Result<()> {
    let directory = below(hierarchy.mount_point(), path);
    match fs::create_dir(&directory) {
        Ok(()) => {}
        // Perhaps by somebody who was killed before its cpuset was filled.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
                make(hierarchy, parent)?;
                bequeath_cpuset(hierarchy, parent);
            }
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(CgroupError::io("create cgroup", &directory)(error));
                }
                _ => {}
            }
        }
        Err(error) => return Err(CgroupError::io("create cgroup", &directory)(error)),
    }
    if has_cpuset(hierarchy) { inherit_cpuset(&directory) } else { Ok(()) }
}

fn has_cpuset(hierarchy: &Hierarchy) -> bool {
    hierarchy.controllers().iter().any(|controller| controller == "cpuset")
}

/// Has the kernel fill the cpusets that will be made in a directory of ours. Where it does not, each is filled by
/// [`inherit_cpuset`], with six system calls instead of one.
fn bequeath_cpuset(hierarchy: &Hierarchy, path: &str) {
    if has_cpuset(hierarchy) {
        let _ = write(&below(hierarchy.mount_point(), path), "cgroup.clone_children", "1");
    }
}

/// A new cpuset is empty, and takes no process before it has CPUs and memory nodes.
fn inherit_cpuset(directory: &Path) -> Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    let read = |directory: &Path, file| {
        let path = directory.join(file);
        fs::read_to_string(&path).map_err(CgroupError::io("read", &path))
    };
    let (cpus, nodes) = ("cpuset.cpus", "cpuset.mems");
    if !read(directory, cpus)?.trim().is_empty() {
        return Ok(());
    }
    // Whoever made the parent a moment ago may not have filled it yet. That at the top never is empty.
    inherit_cpuset(parent)?;
    write(directory, nodes, read(parent, nodes)?.trim())?;
    write(directory, cpus, read(parent, cpus)?.trim())
}

/// Writes what `resources` asks for, each controller in its hierarchy.
pub(super) fn apply(layout: &Layout, path: &str, resources: &LinuxResources, new: bool) -> Result<()> {
    let controller = |name: &'static str, field: &'static str| {
        let hierarchy = layout.hierarchy(name).ok_or(CgroupError::NoController { controller: name, field })?;
        Ok(below(hierarchy.mount_point(), path))
    };
    if let Some(memory) = resources.memory() {
        apply_memory(memory, || controller("memory", "memory"))?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(cpu, || controller("cpu", "cpu"))?;
        let cpuset = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
        for (file, value) in cpuset {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                write(&controller("cpuset", "cpu.cpus")?, file, value)?;
            }
        }
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        write(&controller("pids", "pids.limit")?, "pids.max", &positive_or_max(limit))?;
    }
    if let Some(block_io) = resources.block_io() {
        apply_block_io(block_io, || controller("blkio", "blockIO"))?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let directory = controller("hugetlb", "hugepageLimits")?;
        let file = |which: &str| format!("hugetlb.{}.{which}limit_in_bytes", limit.page_size());
        write(&directory, &file(""), &limit.limit().to_string())?;
        // Reservations count as well, where the kernel can limit them (5.7).
        if directory.join(file("rsvd.")).exists() {
            write(&directory, &file("rsvd."), &limit.limit().to_string())?;
        }
    }
    for (device, limits) in resources.rdma().iter().flatten() {
        write(&controller("rdma", "rdma")?, "rdma.max", &rdma(device, limits.hca_handles(), limits.hca_objects()))?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            write(&controller("net_cls", "network.classID")?, "net_cls.classid", &class.to_string())?;
        }
        for priority in network.priorities().iter().flatten() {
            let line = format!("{} {}", priority.name(), priority.priority());
            write(&controller("net_prio", "network.priorities")?, "net_prio.ifpriomap", &line)?;
        }
    }
    if let Some(rules) = resources.devices().as_deref().filter(|rules| !rules.is_empty())
        && (devices::restricts(rules) || !new)
    {
        let directory = controller("devices", "devices")?;
        let lines = devices::v1_lines(rules);
        for same in lines.chunk_by(|(one, _), (other, _)| one == other) {
            let file = if same[0].0 { "devices.allow" } else { "devices.deny" };
            write_each(&directory, file, same.iter().map(|(_, line)| line.as_str()))?;
        }
    }
    Ok(())
}

/// A line of `rdma.max`, as the kernel's documentation has it (admin-guide/cgroup-v1/rdma.rst, and cgroup-v2.rst): what is not named stays.
pub(super) fn rdma(device: &str, handles: Option<u32>, objects: Option<u32>) -> String {
    let mut line = device.to_owned();
    for (name, value) in [("hca_handle", handles), ("hca_object", objects)] {
        if let Some(value) = value {
            line += &format!(" {name}={value}");
        }
    }
    line
}

/// A limit as version 1's pids and all of version 2 write it.
pub(super) fn positive_or_max(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".to_owned() }
}

fn apply_memory(memory: &LinuxMemory, directory: impl Fn() -> Result<std::path::PathBuf>) -> Result<()> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    // An unlimited memory with limited swap means nothing: without a word about swap it follows.
    let limit = set(memory.limit());
    // Where swap isn't accounted for, it has no limit anyway.
    let swap = set(memory.swap())
        .filter(|swap| *swap != -1 || directory().is_ok_and(|directory| directory.join(WITH_SWAP).exists()))
        .or_else(|| limit.filter(|limit| *limit == -1 && directory().is_ok_and(|d| d.join(WITH_SWAP).exists())));
    match (limit, swap) {
        (Some(limit), Some(swap)) => {
            // memory.limit must never be above memory.memsw.limit, in the old values, the new ones, and in between.
            let directory = directory()?;
            let old =
                fs::read_to_string(directory.join(WITH_SWAP)).ok().and_then(|text| text.trim().parse::<u64>().ok());
            let grows = swap == -1 || old.is_some_and(|old| (old as i128) < i128::from(swap));
            let mut order = [(LIMIT, limit), (WITH_SWAP, swap)];
            if grows {
                order.reverse();
            }
            for (file, value) in order {
                write(&directory, file, &value.to_string())?;
            }
        }
        (Some(limit), None) => write(&directory()?, LIMIT, &limit.to_string())?,
        (None, Some(swap)) => write(&directory()?, WITH_SWAP, &swap.to_string())?,
        (None, None) => {}
    }
    if let Some(reservation) = set(memory.reservation()) {
        write(&directory()?, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(tcp) = set(memory.kernel_tcp()) {
        write(&directory()?, "memory.kmem.tcp.limit_in_bytes", &tcp.to_string())?;
    }
    // Kernel memory cannot be limited by itself since Linux 5.16 and counts as memory anyway.
    if memory.disable_oom_killer().unwrap_or(false) {
        write(&directory()?, "memory.oom_control", "1")?;
    }
    match memory.swappiness() {
        None | Some(u64::MAX) => {}
        Some(swappiness) if swappiness <= 100 => write(&directory()?, "memory.swappiness", &swappiness.to_string())?,
        Some(swappiness) => {
            let reason = format!("{swappiness} is not between 0 and 100");
            return Err(CgroupError::Invalid { field: "memory.swappiness".into(), reason });
        }
    }
    Ok(())
}

fn apply_cpu(cpu: &LinuxCpu, directory: impl Fn() -> Result<std::path::PathBuf>) -> Result<()> {
    let values = [
        ("cpu.rt_period_us", cpu.realtime_period().filter(|v| *v != 0).map(|v| v.to_string())),
        ("cpu.rt_runtime_us", cpu.realtime_runtime().filter(|v| *v != 0).map(|v| v.to_string())),
        ("cpu.shares", cpu.shares().filter(|v| *v != 0).map(|v| v.to_string())),
        ("cpu.cfs_period_us", cpu.period().filter(|v| *v != 0).map(|v| v.to_string())),
        ("cpu.cfs_quota_us", cpu.quota().filter(|v| *v != 0).map(|v| v.to_string())),
        ("cpu.cfs_burst_us", cpu.burst().filter(|v| *v != 0).map(|v| v.to_string())),
        ("cpu.idle", cpu.idle().map(|v| v.to_string())),
    ];
    for (file, value) in values {
        let Some(value) = value else { continue };
        match write(&directory()?, file, &value) {
            // A shorter period than the quota in force is refused until the quota has changed.
            Err(CgroupError::Write { source, .. })
                if file == "cpu.cfs_period_us"
                    && source.raw_os_error() == Some(libc::EINVAL)
                    && cpu.quota().is_some() =>
            {
                write(&directory()?, "cpu.cfs_quota_us", &cpu.quota().unwrap_or(-1).to_string())?;
                write(&directory()?, file, &value)?;
            }
            Err(CgroupError::Write { source, .. }) if file.starts_with("cpu.rt_") => {
                let reason = match source.kind() {
                    ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                        "the kernel has no real-time scheduling of groups (CONFIG_RT_GROUP_SCHED)".to_owned()
                    }
                    _ => format!("{value}: {source}: the cgroups above have no such time of their own to give"),
                };
                return Err(CgroupError::Invalid { field: file.to_owned(), reason });
            }
            other => other?,
        }
    }
    Ok(())
}

fn apply_block_io(block_io: &LinuxBlockIo, directory: impl Fn() -> Result<std::path::PathBuf>) -> Result<()> {
    // The BFQ scheduler's files took the place of CFQ's.
    let weights = |plain: &str, bfq: &str| -> Result<String> {
        Ok(if directory()?.join(plain).exists() { plain.to_owned() } else { bfq.to_owned() })
    };
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        write(&directory()?, &weights("blkio.weight", "blkio.bfq.weight")?, &weight.to_string())?;
    }
    if let Some(weight) = block_io.leaf_weight().filter(|weight| *weight != 0) {
        write(&directory()?, "blkio.leaf_weight", &weight.to_string())?;
    }
    for device in block_io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let file = weights("blkio.weight_device", "blkio.bfq.weight_device")?;
            write(&directory()?, &file, &format!("{number} {weight}"))?;
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0) {
            write(&directory()?, "blkio.leaf_weight_device", &format!("{number} {weight}"))?;
        }
    }
    let throttle = |file: &str, list: &Option<Vec<LinuxThrottleDevice>>| -> Result<()> {
        list.iter().flatten().try_for_each(|device| {
            write(&directory()?, file, &format!("{}:{} {}", device.major(), device.minor(), device.rate()))
        })
    };
    throttle("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device())?;
    throttle("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device())?;
    throttle("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device())?;
    throttle("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device())
}

pub(super) fn is_frozen(directory: &Path) -> bool {
    fs::read_to_string(directory.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED")
}

pub(super) fn set_frozen(directory: &Path, frozen: bool) -> Result<()> {
    const ATTEMPTS: u32 = 1000;
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    for attempt in 0..ATTEMPTS {
        // Written again each time: processes forked while freezing are caught by the next write.
        write(directory, "freezer.state", wanted)?;
        let path = directory.join("freezer.state");
        if fs::read_to_string(&path).map_err(CgroupError::io("read", &path))?.trim() == wanted {
            return Ok(());
        }
        // The v1 freezer tells nobody when it is done.
        std::thread::sleep(Duration::from_micros(10 * u64::from(attempt.clamp(1, 100))));
    }
    if frozen {
        write(directory, "freezer.state", "THAWED")?;
    }
    let what = if frozen { DO_NOT_FREEZE } else { DO_NOT_THAW };
    Err(CgroupError::Stuck { path: directory.to_owned(), what })
}

/// An eventfd that counts how often memory ran out.
pub(super) fn oom_watch(directory: &Path) -> Result<OwnedFd> {
    use rustix::event::EventfdFlags;
    let path = directory.join("memory.oom_control");
    let control = fs::File::open(&path).map_err(CgroupError::io("open", &path))?;
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| CgroupError::io("create an eventfd for", &path)(errno.into()))?;
    write(directory, "cgroup.event_control", &format!("{} {}", event.as_raw_fd(), control.as_raw_fd()))?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::rdma;

    /// Hardly a machine of tests has such a device, so that the kernel takes no line of it.
    #[test]
    fn a_line_for_rdma() {
        assert_eq!(rdma("mlx4_0", Some(2), Some(2000)), "mlx4_0 hca_handle=2 hca_object=2000");
        assert_eq!(rdma("ocrdma1", None, Some(3)), "ocrdma1 hca_object=3");
        assert_eq!(rdma("ocrdma1", Some(0), None), "ocrdma1 hca_handle=0");
    }
}

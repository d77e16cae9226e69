//! Which limits this machine's kernel has for containers.

use std::path::Path;

use sandbox::cgroup::Layout;

/// What the kernel can limit, and what of the host's settings containers depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory.
    pub memory: bool,
    /// Memory and swap together.
    pub swap: bool,
    /// How readily the memory of one container is swapped out.
    pub swappiness: bool,
    /// Whether what meets its limit of memory can be left waiting rather than killed.
    pub oom_kill_disable: bool,
    /// Time on CPUs in each period.
    pub cpu_quota: bool,
    /// Shares of CPUs.
    pub cpu_shares: bool,
    /// Time on CPUs for real-time processes.
    pub cpu_realtime: bool,
    /// Which CPUs and memory nodes.
    pub cpu_set: bool,
    /// Processes.
    pub pids: bool,
    /// Shares of block devices.
    pub io_weight: bool,
    /// Shares of single block devices.
    pub io_weight_device: bool,
    /// Bytes and operations of block devices in a second.
    pub io_throttle: bool,
    /// Whether the host forwards packets.
    pub ipv4_forwarding: bool,
}

impl Limits {
    /// Of this machine, now.
    pub(crate) fn look(layout: &Layout) -> Self {
        Self::of(layout, |path| std::fs::read_to_string(path).ok())
    }

    /// What follows from the mounted cgroups and the kernel's files: `read` gives a file's text, where it can be read. On a
    /// hybrid of both versions, containers' limits are those of v1.
    fn of(layout: &Layout, read: impl Fn(&Path) -> Option<String>) -> Self {
        let there = |path: &Path| read(path).is_some();
        let forwards = read(Path::new("/proc/sys/net/ipv4/ip_forward")).is_some_and(|text| text.trim() == "1");
        let limits = match layout.v2() {
            Some(root) if layout.is_unified() => Self::of_v2(root, read),
            _ => Self::of_v1(layout, there),
        };
        Self { ipv4_forwarding: forwards, ..limits }
    }

    fn of_v1(layout: &Layout, there: impl Fn(&Path) -> bool) -> Self {
        let has = |controller: &str, files: &[&str]| {
            layout
                .hierarchy(controller)
                .is_some_and(|hierarchy| files.iter().all(|file| there(&hierarchy.mount_point().join(file))))
        };
        let throttles = ["read_bps", "write_bps", "read_iops", "write_iops"];
        let throttles = throttles.map(|what| format!("blkio.throttle.{what}_device"));
        Self {
            memory: has("memory", &[]),
            swap: has("memory", &["memory.memsw.limit_in_bytes"]),
            swappiness: has("memory", &["memory.swappiness"]),
            oom_kill_disable: has("memory", &["memory.oom_control"]),
            cpu_quota: has("cpu", &["cpu.cfs_period_us", "cpu.cfs_quota_us"]),
            cpu_shares: has("cpu", &["cpu.shares"]),
            cpu_realtime: has("cpu", &["cpu.rt_period_us", "cpu.rt_runtime_us"]),
            cpu_set: has("cpuset", &["cpuset.cpus", "cpuset.mems"]),
            pids: has("pids", &[]),
            io_weight: has("blkio", &["blkio.weight"]) || has("blkio", &["blkio.bfq.weight"]),
            io_weight_device: has("blkio", &["blkio.weight_device"]) || has("blkio", &["blkio.bfq.weight_device"]),
            io_throttle: has("blkio", &throttles.each_ref().map(String::as_str)),
            ipv4_forwarding: false,
        }
    }

    fn of_v2(root: &Path, read: impl Fn(&Path) -> Option<String>) -> Self {
        let controllers = read(&root.join("cgroup.controllers")).unwrap_or_default();
        let has = |controller: &str| controllers.split_whitespace().any(|known| known == controller);
        // The root of the tree has no limits to look at; a kernel with swap lists what is in use.
        let swaps = read(Path::new("/proc/swaps")).is_some();
        Self {
            memory: has("memory"),
            swap: has("memory") && swaps,
            swappiness: false,
            oom_kill_disable: false,
            cpu_quota: has("cpu"),
            cpu_shares: has("cpu"),
            cpu_realtime: false,
            cpu_set: has("cpuset"),
            pids: has("pids"),
            io_weight: has("io"),
            io_weight_device: has("io"),
            io_throttle: has("io"),
            ipv4_forwarding: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const V1: &str = "\
        31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        33 30 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
        34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        35 30 0:31 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n";
    const V1_FILES: &str = "cpu,cpuacct/cpu.cfs_period_us cpu,cpuacct/cpu.cfs_quota_us cpu,cpuacct/cpu.shares \
        cpu,cpuacct/cpu.rt_period_us cpu,cpuacct/cpu.rt_runtime_us memory/memory.swappiness \
        memory/memory.memsw.limit_in_bytes memory/memory.oom_control cpuset/cpuset.cpus cpuset/cpuset.mems \
        blkio/blkio.throttle.read_bps_device blkio/blkio.throttle.write_bps_device \
        blkio/blkio.throttle.read_iops_device blkio/blkio.throttle.write_iops_device blkio/blkio.bfq.weight \
        blkio/blkio.bfq.weight_device";
    const V2: &str = "31 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    /// Of a machine with these mounts, these files below `/sys/fs/cgroup`, and those that `more` gives a text.
    fn limits(mounts: &str, files: &str, more: &[(&str, &str)]) -> Limits {
        let files = files.split_whitespace().map(|file| (format!("/sys/fs/cgroup/{file}"), String::new()));
        let more = more.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
        let all: HashMap<String, String> = files.chain(more).collect();
        Limits::of(&Layout::of_mount_table(mounts), |path| all.get(path.to_str().unwrap()).cloned())
    }

    fn all_of_v1() -> Limits {
        let memory = Limits { memory: true, swap: true, swappiness: true, oom_kill_disable: true, ..Limits::default() };
        let cpu = Limits { cpu_quota: true, cpu_shares: true, cpu_realtime: true, cpu_set: true, ..memory };
        Limits { pids: true, io_weight: true, io_weight_device: true, io_throttle: true, ..cpu }
    }

    #[test]
    fn v1_has_what_its_hierarchies_have_files_for() {
        assert_eq!(limits(V1, V1_FILES, &[]), all_of_v1());
        let without_swap = V1_FILES.replace("memory/memory.memsw.limit_in_bytes", "");
        assert_eq!(limits(V1, &without_swap, &[]), Limits { swap: false, ..all_of_v1() });
        let without_quota = V1_FILES.replace("cpu,cpuacct/cpu.cfs_quota_us", "");
        assert_eq!(limits(V1, &without_quota, &[]), Limits { cpu_quota: false, ..all_of_v1() });
        let without_iops = V1_FILES.replace("blkio/blkio.throttle.read_iops_device", "");
        assert_eq!(limits(V1, &without_iops, &[]), Limits { io_throttle: false, ..all_of_v1() });
        let without_memory: String =
            V1.lines().filter(|line| !line.contains("memory")).map(|l| l.to_owned() + "\n").collect();
        let none = Limits { memory: false, swap: false, swappiness: false, oom_kill_disable: false, ..all_of_v1() };
        assert_eq!(limits(&without_memory, V1_FILES, &[]), none);
    }

    #[test]
    fn v2_has_its_controllers() {
        let controllers = |list| [("/sys/fs/cgroup/cgroup.controllers", list), ("/proc/swaps", "Filename\n")];
        let all = Limits { oom_kill_disable: false, swappiness: false, cpu_realtime: false, ..all_of_v1() };
        assert_eq!(limits(V2, "", &controllers("cpuset cpu io memory hugetlb pids rdma misc\n")), all);
        let few = Limits { memory: true, swap: true, pids: true, ..Limits::default() };
        assert_eq!(limits(V2, "", &controllers("memory pids\n")), few);
        assert_eq!(limits(V2, "", &controllers("memory pids\n")[..1]), Limits { swap: false, ..few });
        assert_eq!(limits(V2, "", &[]), Limits::default());
    }

    #[test]
    fn on_a_hybrid_those_of_v1_count() {
        let mounts = format!("{V1}36 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let controllers = [("/sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n"), ("/proc/swaps", "")];
        assert_eq!(limits(&mounts, V1_FILES, &controllers), all_of_v1());
    }

    #[test]
    fn the_host_forwards_where_its_switch_says_so() {
        let forwarding = |text| limits(V2, "", &[("/proc/sys/net/ipv4/ip_forward", text)]).ipv4_forwarding;
        assert!(forwarding("1\n") && !forwarding("0\n"));
    }
}

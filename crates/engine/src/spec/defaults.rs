//! What a container gets when nobody asks for anything else: the same as under dockerd, so that images behave alike.

use std::path::Path;

use oci_spec::runtime::Capability;

/// Capabilities of an unprivileged container (dockerd's list since 1.13).
pub(crate) const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Paths of `/proc` and `/sys` that an unprivileged container does not see: what tells of the host, and the counters of which
/// a container could guess what others compute.
pub(crate) fn masked_paths() -> Vec<String> {
    let fixed = MASKED_PATHS.map(str::to_owned).into_iter();
    fixed.chain(thermal_counters(Path::new("/sys/devices/system/cpu"))).collect()
}

/// The processors' thermal counters, where this machine has them, in the order of the processors.
fn thermal_counters(processors: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(processors).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("cpu")?.parse::<u32>().ok();
    let mut numbers: Vec<u32> = entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    let paths = numbers.into_iter().map(|number| processors.join(format!("cpu{number}/thermal_throttle")));
    paths.filter(|path| path.exists()).filter_map(|path| Some(path.to_str()?.to_owned())).collect()
}

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths of `/proc` that an unprivileged container may not write.
pub(crate) const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The search path of a container whose image sets none.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of `/dev/shm`.
pub(crate) const SHM_SIZE: u64 = 64 << 20;

/// Device rules of an unprivileged container: type, major, minor (`None`: any), access.
pub(crate) const DEVICE_RULES: [(char, Option<i64>, Option<i64>, &str); 11] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(1), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thermal_counters_are_masked_where_they_are() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cpu10/thermal_throttle", "cpu2/thermal_throttle", "cpu3/topology", "cpufreq/thermal_throttle"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let found = thermal_counters(directory.path());
        let expected = ["cpu2", "cpu10"].map(|cpu| format!("{}/{cpu}/thermal_throttle", directory.path().display()));
        assert_eq!(found, expected);
        assert!(masked_paths().len() >= MASKED_PATHS.len());
    }
}

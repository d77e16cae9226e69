//! What a cgroup has used and may use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Layout, Result, below};

/// Everything at one moment. What the machine does not account for is zero, absent or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Bytes read and written, by device and operation.
    pub io_bytes: Vec<IoEntry>,
    /// Operations, by device and kind.
    pub io_operations: Vec<IoEntry>,
    /// Huge pages, by page size (`2MB`).
    pub hugetlb: BTreeMap<String, HugetlbStats>,
}

/// What is counted of a run: little of [`Stats`], and read from as few files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in nanoseconds.
    pub cpu: u64,
    /// Bytes of memory in use, page cache included.
    pub memory: u64,
    /// Bytes read and written, by device and operation.
    pub io_bytes: Vec<IoEntry>,
}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    /// In all.
    pub usage: u64,
    /// In user mode.
    pub user: u64,
    /// In kernel mode.
    pub system: u64,
    /// By processor (v1 only).
    pub per_cpu: Vec<u64>,
    /// Enforcement periods that have passed.
    pub periods: u64,
    /// Periods in which the limit was reached.
    pub throttled_periods: u64,
    /// How long processes were held back.
    pub throttled: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// The limit; `None` for none.
    pub limit: Option<u64>,
    /// The highest usage so far.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// Memory and swap in use together.
    pub with_swap_usage: u64,
    /// The limit of memory and swap together; `None` for none.
    pub with_swap_limit: Option<u64>,
    /// Kernel memory in use.
    pub kernel_usage: u64,
    /// `memory.stat`, under the kernel's own names.
    pub stat: BTreeMap<String, u64>,
    /// How many processes were killed for want of memory.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; `None` for no limit.
    pub limit: Option<u64>,
}

/// One counter of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoEntry {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`.
    pub operation: String,
    /// Bytes or operations.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugetlbStats {
    /// In use.
    pub usage: u64,
    /// The highest usage so far.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Above this, v1's "no limit" (the largest multiple of a page) begins.
const UNLIMITED: u64 = 1 << 62;

/// v1's files of bytes read and written: of one scheduler, or of the limits.
const IO_BYTES: &[&str] = &[
    "blkio.bfq.io_service_bytes_recursive",
    "blkio.throttle.io_service_bytes_recursive",
    "blkio.throttle.io_service_bytes",
];

pub(super) fn read(layout: &Layout, path: &str) -> Result<Stats> {
    if layout.is_unified() {
        let mount = layout.v2().ok_or(super::CgroupError::NotMounted)?;
        return Ok(unified(&below(mount, path)));
    }
    let directory = |controller: &str| layout.hierarchy(controller).map(|h| below(h.mount_point(), path));
    let mut stats = Stats::default();
    if let Some(directory) = directory("cpuacct") {
        accounted(&directory, &mut stats.cpu);
    }
    if let Some(directory) = directory("cpu") {
        let stat = keyed(&directory.join("cpu.stat"));
        let value = |key: &str| stat.get(key).copied().unwrap_or(0);
        stats.cpu.periods = value("nr_periods");
        stats.cpu.throttled_periods = value("nr_throttled");
        stats.cpu.throttled = value("throttled_time");
    }
    if let Some(directory) = directory("memory") {
        stats.memory = memory_v1(&directory);
    }
    if let Some(directory) = directory("pids") {
        stats.pids = pids(&directory);
    }
    if let Some(directory) = directory("blkio") {
        stats.io_bytes = blkio(&directory, IO_BYTES);
        stats.io_operations = blkio(
            &directory,
            &["blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"],
        );
    }
    if let Some(directory) = directory("hugetlb") {
        stats.hugetlb = hugetlb(&directory, "usage_in_bytes", "max_usage_in_bytes", "failcnt");
    }
    Ok(stats)
}

pub(super) fn usage(layout: &Layout, path: &str) -> Result<Usage> {
    if layout.is_unified() {
        let directory = below(layout.v2().ok_or(super::CgroupError::NotMounted)?, path);
        return Ok(Usage {
            cpu: keyed(&directory.join("cpu.stat")).get("usage_usec").copied().unwrap_or(0).saturating_mul(1000),
            memory: number(&directory.join("memory.current")).unwrap_or(0),
            io_bytes: io(&fs::read_to_string(directory.join("io.stat")).unwrap_or_default()).0,
        });
    }
    let directory = |controller: &str| layout.hierarchy(controller).map(|h| below(h.mount_point(), path));
    let value =
        |controller: &str, file: &str| directory(controller).and_then(|directory| number(&directory.join(file)));
    Ok(Usage {
        cpu: value("cpuacct", "cpuacct.usage").unwrap_or(0),
        memory: value("memory", "memory.usage_in_bytes").unwrap_or(0),
        io_bytes: directory("blkio").map(|directory| blkio(&directory, IO_BYTES)).unwrap_or_default(),
    })
}

/// `cpuacct`'s files. User and system time come in ticks and are scaled to the exact total.
fn accounted(directory: &Path, cpu: &mut CpuStats) {
    cpu.usage = number(&directory.join("cpuacct.usage")).unwrap_or(0);
    cpu.user = number(&directory.join("cpuacct.usage_user")).unwrap_or(0);
    cpu.system = number(&directory.join("cpuacct.usage_sys")).unwrap_or(0);
    let text = fs::read_to_string(directory.join("cpuacct.usage_percpu")).unwrap_or_default();
    cpu.per_cpu = text.split_whitespace().filter_map(|value| value.parse().ok()).collect();
}

fn memory_v1(directory: &Path) -> MemoryStats {
    let value = |file: &str| number(&directory.join(file)).unwrap_or(0);
    let limit = |file: &str| number(&directory.join(file)).filter(|limit| *limit < UNLIMITED);
    MemoryStats {
        usage: value("memory.usage_in_bytes"),
        limit: limit("memory.limit_in_bytes"),
        max_usage: value("memory.max_usage_in_bytes"),
        failures: value("memory.failcnt"),
        with_swap_usage: value("memory.memsw.usage_in_bytes"),
        with_swap_limit: limit("memory.memsw.limit_in_bytes"),
        kernel_usage: value("memory.kmem.usage_in_bytes"),
        stat: keyed(&directory.join("memory.stat")),
        oom_kills: keyed(&directory.join("memory.oom_control")).get("oom_kill").copied().unwrap_or(0),
    }
}

fn pids(directory: &Path) -> PidsStats {
    PidsStats {
        current: number(&directory.join("pids.current")).unwrap_or(0),
        limit: number(&directory.join("pids.max")),
    }
}

/// `8:0 Read 4096`, from the first of the files that has anything.
fn blkio(directory: &Path, files: &[&str]) -> Vec<IoEntry> {
    for file in files {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        let entries: Vec<IoEntry> = text.lines().filter_map(blkio_line).collect();
        if !entries.is_empty() {
            return entries;
        }
    }
    Vec::new()
}

fn blkio_line(line: &str) -> Option<IoEntry> {
    let mut fields = line.split_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    let operation = fields.next()?.to_owned();
    let value = fields.next()?.parse().ok()?;
    Some(IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, operation, value })
}

fn unified(directory: &Path) -> Stats {
    let cpu = keyed(&directory.join("cpu.stat"));
    let microseconds = |key: &str| cpu.get(key).copied().unwrap_or(0).saturating_mul(1000);
    let (io_bytes, io_operations) = io(&fs::read_to_string(directory.join("io.stat")).unwrap_or_default());
    let value = |file: &str| number(&directory.join(file));
    let (usage, limit) = (value("memory.current").unwrap_or(0), value("memory.max"));
    let events = keyed(&directory.join("memory.events"));
    let stat = keyed(&directory.join("memory.stat"));
    Stats {
        cpu: CpuStats {
            usage: microseconds("usage_usec"),
            user: microseconds("user_usec"),
            system: microseconds("system_usec"),
            per_cpu: Vec::new(),
            periods: cpu.get("nr_periods").copied().unwrap_or(0),
            throttled_periods: cpu.get("nr_throttled").copied().unwrap_or(0),
            throttled: microseconds("throttled_usec"),
        },
        memory: MemoryStats {
            usage,
            limit,
            max_usage: value("memory.peak").unwrap_or(0),
            failures: events.get("max").copied().unwrap_or(0),
            with_swap_usage: usage.saturating_add(value("memory.swap.current").unwrap_or(0)),
            with_swap_limit: limit.zip(value("memory.swap.max")).map(|(memory, swap)| memory.saturating_add(swap)),
            kernel_usage: stat.get("kernel").copied().unwrap_or(0),
            oom_kills: events.get("oom_kill").copied().unwrap_or(0),
            stat,
        },
        pids: pids(directory),
        io_bytes,
        io_operations,
        hugetlb: hugetlb(directory, "current", "peak", "events"),
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io(text: &str) -> (Vec<IoEntry>, Vec<IoEntry>) {
    const KEYS: &[(&str, bool, &str)] = &[
        ("rbytes", true, "Read"),
        ("wbytes", true, "Write"),
        ("dbytes", true, "Discard"),
        ("rios", false, "Read"),
        ("wios", false, "Write"),
        ("dios", false, "Discard"),
    ];
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let device = fields.next().and_then(|number| number.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (Some((_, is_bytes, name)), Ok(value)) = (KEYS.iter().find(|(known, ..)| *known == key), value.parse())
            else {
                continue;
            };
            let entry = IoEntry { major, minor, operation: (*name).to_owned(), value };
            if *is_bytes { bytes.push(entry) } else { operations.push(entry) }
        }
    }
    (bytes, operations)
}

fn hugetlb(directory: &Path, usage: &str, peak: &str, failures: &str) -> BTreeMap<String, HugetlbStats> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(usage)?.strip_suffix('.'));
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        let file = |what: &str| -> PathBuf { directory.join(format!("hugetlb.{size}.{what}")) };
        sizes.insert(
            size.to_owned(),
            HugetlbStats {
                usage: number(&file(usage)).unwrap_or(0),
                max_usage: number(&file(peak)).unwrap_or(0),
                failures: number(&file(failures)).or_else(|| keyed(&file(failures)).get("max").copied()).unwrap_or(0),
            },
        );
    }
    sizes
}

pub(super) fn oom_kills(layout: &Layout, path: &str) -> Result<u64> {
    let (directory, file) = match (layout.is_unified(), layout.hierarchy("memory"), layout.v2()) {
        (true, _, Some(mount)) => (below(mount, path), "memory.events"),
        (false, Some(hierarchy), _) => (below(hierarchy.mount_point(), path), "memory.oom_control"),
        _ => return Ok(0),
    };
    let path = directory.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(lines(&text).get("oom_kill").copied().unwrap_or(0)),
        Err(error) => Err(super::CgroupError::io("read", &path)(error)),
    }
}

/// A file with one number; `max` and what is not there are `None`.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A file with `key value` lines.
fn keyed(path: &Path) -> BTreeMap<String, u64> {
    lines(&fs::read_to_string(path).unwrap_or_default())
}

fn lines(text: &str) -> BTreeMap<String, u64> {
    let pair =
        |line: &str| line.split_once(' ').and_then(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)));
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_stat_is_split_into_bytes_and_operations() {
        let (bytes, operations) = io("254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n254:16 \n");
        assert_eq!(bytes[0], IoEntry { major: 254, minor: 0, operation: "Read".into(), value: 4096 });
        assert_eq!((bytes.len(), operations.len()), (3, 3));
    }
}

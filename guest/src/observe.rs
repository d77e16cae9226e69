//! What runs, and what it uses.

use std::fs;
use std::path::Path;

use guest_protocol::message::{ContainerId, Failure};
use guest_protocol::observe::{MEMORY_COUNTERS, MachineStats, MemoryDetails, RunningProcess};
use guest_protocol::place;

use crate::failed_io;

/// How deep a container's own control groups are looked into.
const DEPTH_MAX: u32 = 64;
/// The longest command line that is told, in bytes.
const COMMAND_MAX: usize = 4096;
/// The most processes that are told of.
const PROCESSES_MAX: usize = 4096;

fn read(path: impl AsRef<Path>) -> String {
    // What the kernel does not count is not there.
    fs::read_to_string(path).unwrap_or_default()
}

/// The value behind a word at the beginning of a line.
fn value(text: &str, name: &str) -> u64 {
    let of_line = |line: &str| line.strip_prefix(name)?.trim_start_matches(':').split_whitespace().next()?.parse().ok();
    text.lines().find_map(of_line).unwrap_or(0)
}

/// What a container uses, and the machine's memory.
pub(crate) fn stats(container: ContainerId) -> Result<MachineStats, Failure> {
    let path = place::cgroup(container);
    let cpu = fs::read_to_string(format!("{path}/cpu.stat")).map_err(failed_io("read", format!("{path}/cpu.stat")))?;
    let number = |name: &str| read(format!("{path}/{name}")).trim_end().parse().unwrap_or(0);
    let io = read(format!("{path}/io.stat"));
    let bytes = |name: &str| {
        let fields = io.split_whitespace().filter_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
        fields.fold(0, u64::saturating_add)
    };
    let memory = read("/proc/meminfo");
    let kib = |name| value(&memory, name) << 10;
    Ok(MachineStats {
        cpu: ["usage_usec", "user_usec", "system_usec"].map(|name| value(&cpu, name)),
        memory: number("memory.current"),
        memory_peak: number("memory.peak"),
        inactive_file: value(&read(format!("{path}/memory.stat")), "inactive_file"),
        oom_kills: oom_kills(container),
        pids: number("pids.current"),
        io: [bytes("rbytes="), bytes("wbytes=")],
        machine_memory: ["MemTotal", "MemFree", "MemAvailable"].map(kib),
        processors: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
    })
}

/// What a container's memory is in.
pub(crate) fn memory(container: ContainerId) -> Result<MemoryDetails, Failure> {
    let path = place::cgroup(container);
    fs::metadata(&path).map_err(failed_io("look at", &path))?;
    let counted = read(format!("{path}/memory.stat"));
    Ok(MemoryDetails {
        counters: MEMORY_COUNTERS.map(|name| value(&counted, name)),
        machine_cached: value(&read("/proc/meminfo"), "Cached") << 10,
    })
}

/// How many of a container's processes were killed for want of memory.
pub(crate) fn oom_kills(container: ContainerId) -> u64 {
    value(&read(format!("{}/memory.events", place::cgroup(container))), "oom_kill ")
}

/// The processes of a container, those in control groups of its own making included.
pub(crate) fn pids(container: ContainerId) -> Result<Vec<i32>, Failure> {
    let path = place::cgroup(container);
    fs::metadata(&path).map_err(failed_io("look at", &path))?;
    let mut pids = Vec::new();
    collect(Path::new(&path), &mut pids, DEPTH_MAX);
    pids.truncate(PROCESSES_MAX);
    Ok(pids)
}

fn collect(cgroup: &Path, pids: &mut Vec<i32>, depth: u32) {
    pids.extend(read(cgroup.join("cgroup.procs")).lines().filter_map(|line| line.parse::<i32>().ok()));
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if depth > 0 && below.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&below.path(), pids, depth - 1);
        }
    }
}

/// What runs in a container.
pub(crate) fn processes(container: ContainerId) -> Result<Vec<RunningProcess>, Failure> {
    // Who ends meanwhile is left out.
    Ok(pids(container)?.into_iter().filter_map(process).collect())
}

fn process(pid: i32) -> Option<RunningProcess> {
    let directory = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    // The name stands in brackets, and may have brackets in it.
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    // Of proc_pid_stat(5), where the state is the third.
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<i64>().ok()).unwrap_or(0);
    let status = read(format!("{directory}/status"));
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last()?.parse().ok());
    let command = fs::read(format!("{directory}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command[..command.len().min(COMMAND_MAX)]).replace('\0', " ");
    let command = match command.trim_end() {
        "" => format!("[{name}]"),
        command => command.to_owned(),
    };
    Some(RunningProcess {
        pid: pid.cast_unsigned(),
        inner: inner.unwrap_or(pid.cast_unsigned()),
        parent: field(4) as u32,
        uid: value(&status, "Uid") as u32,
        state: *fields.first()?.as_bytes().first()?,
        threads: field(20) as u32,
        memory: value(&status, "VmRSS") << 10,
        cpu: (field(14) + field(15)).cast_unsigned(),
        began: field(22).cast_unsigned(),
        terminal: field(7) as u32,
        command,
    })
}

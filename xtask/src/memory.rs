//! What processes hold in memory, and what files take on a disk, as the kernel counts it.

use anyhow::{Context, Result};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process and the words that it was started with.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) command: Vec<String>,
}

/// Every process that can be seen. Those that end meanwhile are left out.
pub(crate) fn processes() -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter_map(process).collect())
}

fn process(pid: u32) -> Option<Process> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command: Vec<String> =
        command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything (proc_pid_stat(5)).
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { pid, parent, command })
}

/// The processes of this list below `pid`, and itself.
pub(crate) fn family(list: &[Process], pid: u32) -> Vec<Process> {
    let mut members = vec![pid];
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        members.extend(list.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        next += 1;
    }
    list.iter().filter(|process| members.contains(&process.pid)).cloned().collect()
}

/// Proportional set size in bytes: pages that several processes share count for each with its part. Nothing for a process
/// that is gone.
pub(crate) fn pss(pid: u32) -> u64 {
    let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return 0 };
    let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.map_or(0, |kilobytes: u64| kilobytes << 10)
}

/// What the kernel itself keeps, of everybody, in bytes: its objects, stacks, page tables, and what it has once a processor (proc_meminfo(5)).
pub(crate) fn kernel() -> Result<u64> {
    const KINDS: [&str; 4] = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"];
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kilobytes = KINDS.map(|kind| -> Result<u64> {
        let found = text.lines().find_map(|line| line.strip_prefix(kind)?.trim().strip_suffix(" kB")?.parse().ok());
        found.with_context(|| format!("/proc/meminfo has no {kind}"))
    });
    kilobytes.into_iter().sum::<Result<u64>>().map(|kilobytes| kilobytes << 10)
}

/// Bytes that the files below a directory take on its disk: a file with two names counts once, and what is mounted below
/// it not at all.
pub(crate) fn disk_usage(directory: &Path) -> u64 {
    let Ok(root) = fs::symlink_metadata(directory) else { return 0 };
    let mut seen = HashSet::new();
    let mut total = root.blocks() * 512;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != root.dev() || (meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino())) {
                continue;
            }
            total += meta.blocks() * 512;
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    total
}

/// `1.3 MB`, in units of 1,000, as disks and docker have it.
pub(crate) fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b < 1e3 => format!("{b:.0} B"),
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        b if b < 1e8 => format!("{:.1} MB", b / 1e6),
        b if b < 1e9 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_found() {
        let process = |pid, parent| Process { pid, parent, command: Vec::new() };
        let list = [process(1, 0), process(5, 1), process(7, 5), process(8, 7), process(9, 1)];
        let pids: Vec<u32> = family(&list, 5).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [5, 7, 8]);
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id();
        assert!(processes().unwrap().iter().any(|process| process.pid == me && process.parent > 0));
        assert!(pss(me) > 100 << 10);
        assert_eq!(pss(u32::MAX), 0);
    }

    #[test]
    fn the_kernel_keeps_something() {
        assert!(kernel().unwrap() > 1 << 20);
    }

    #[test]
    fn two_names_are_one_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
        let once = disk_usage(directory.path());
        fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        assert_eq!(disk_usage(directory.path()), once);
        assert!(once >= 100_000);
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(
            [0, 999, 41_000, 1_340_000, 121_000_000, 2_500_000_000].map(size),
            ["0 B", "999 B", "41 kB", "1.3 MB", "121 MB", "2.50 GB"]
        );
    }
}

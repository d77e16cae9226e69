//! What runs in a machine, and what it uses.

use serde::{Deserialize, Serialize};

/// What a container and its machine use. What the guest's kernel does not count is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStats {
    /// Processor time of the container, in microseconds: in all, in user mode, in kernel mode.
    pub cpu: [u64; 3],
    /// The container's memory in bytes, page cache included.
    pub memory: u64,
    /// The most that it was.
    pub memory_peak: u64,
    /// What of it is page cache that was not used lately.
    pub inactive_file: u64,
    /// How many of its processes were killed for want of memory.
    pub oom_kills: u64,
    /// Its processes and threads.
    pub pids: u64,
    /// Bytes that it read from and wrote to block devices.
    pub io: [u64; 2],
    /// The machine's memory in bytes: all, what is free, and what could be had.
    pub machine_memory: [u64; 3],
    /// Processors that are there.
    pub processors: u32,
}

/// Counters of a container's memory, by the names that its control group has for them (`memory.stat` of version 2): bytes, but of faults, which are counted.
pub const MEMORY_COUNTERS: [&str; 16] = [
    "anon",
    "file",
    "kernel_stack",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab",
    FAULTS[0],
    FAULTS[1],
];

/// Those of [`MEMORY_COUNTERS`] that are no bytes.
pub const FAULTS: [&str; 2] = ["pgfault", "pgmajfault"];

/// What a container's memory is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDetails {
    /// [`MEMORY_COUNTERS`], in that order. What the guest's kernel does not count is 0.
    pub counters: [u64; MEMORY_COUNTERS.len()],
    /// What of the machine's memory files are in, in bytes.
    pub machine_cached: u64,
}

/// A process in a container, as `ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProcess {
    /// Its number in the guest.
    pub pid: u32,
    /// Its number in the container.
    pub inner: u32,
    /// Its parent's number in the guest.
    pub parent: u32,
    /// Whose it is.
    pub uid: u32,
    /// `R`, `S`, `D`, … (proc_pid_stat(5)).
    pub state: u8,
    /// Its threads.
    pub threads: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// Processor time, in ticks of 10 ms.
    pub cpu: u64,
    /// When it began, in ticks of 10 ms since the machine booted.
    pub began: u64,
    /// Its terminal's device number; 0: none.
    pub terminal: u32,
    /// Its command line, with spaces; in brackets its name, where it has none.
    pub command: String,
}

//! Counters of the kernel, looked at now and then, become what a run used.

use crate::ledger::Record;
use crate::usage::{Run, Usage};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the kernel's counters said at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// When: [`boot_time`], which no change of the clock disturbs.
    pub at: Duration,
    /// Time on CPUs since the counter began, in nanoseconds (`cpuacct.usage`; `usage_usec` of `cpu.stat` × 1,000).
    pub cpu_ns: u64,
    /// Memory in use now, in bytes, without page cache that can be dropped (`memory.current` − `inactive_file`).
    pub memory_bytes: u64,
    /// Bytes read from block devices since the counter began.
    pub io_read_bytes: u64,
    /// Bytes written to block devices since the counter began.
    pub io_write_bytes: u64,
    /// Bytes received from networks since the counter began.
    pub net_rx_bytes: u64,
    /// Bytes sent to networks since the counter began.
    pub net_tx_bytes: u64,
}

/// The time since the machine was started, sleep included (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // A time since boot has no sign.
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Adds up one run from samples. It can be written down at any time and go on from there later: between its last sample
/// before and its first one after, memory counts as the straight line between the two, and counters lose nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accumulator {
    run: Run,
    usage: Usage,
    last: Sample,
}

impl Accumulator {
    /// Begins counting a run. What `first`'s counters say is not the run's: for a run with counters of its own (a new
    /// cgroup), `Sample { at: boot_time(), ..Sample::default() }`.
    pub fn new(run: Run, first: Sample) -> Accumulator {
        Accumulator { run, usage: Usage::default(), last: first }
    }

    /// The run that is counted.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// What it used up to the last sample.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The last sample.
    pub fn last(&self) -> &Sample {
        &self.last
    }

    /// Adds what happened since the last sample. One that is older than the last is ignored: it says nothing new. A
    /// counter that fell began anew meanwhile, and all that it says since then counts.
    pub fn add(&mut self, sample: &Sample) {
        let Some(passed) = sample.at.checked_sub(self.last.at) else { return };
        let (last, sum) = (self.last, &mut self.usage);
        let mean = (last.memory_bytes as f64 + sample.memory_bytes as f64) / 2.0;
        sum.memory_byte_seconds += mean * passed.as_secs_f64();
        sum.wall_ns = sum.wall_ns.saturating_add(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX));
        grow(&mut sum.cpu_ns, last.cpu_ns, sample.cpu_ns);
        grow(&mut sum.io_read_bytes, last.io_read_bytes, sample.io_read_bytes);
        grow(&mut sum.io_write_bytes, last.io_write_bytes, sample.io_write_bytes);
        grow(&mut sum.net_rx_bytes, last.net_rx_bytes, sample.net_rx_bytes);
        grow(&mut sum.net_tx_bytes, last.net_tx_bytes, sample.net_tx_bytes);
        self.last = *sample;
    }

    /// The run as it is written into the ledger, over at `ended`. A last sample, where one could be had, is added
    /// before.
    pub fn finish(self, ended: Timestamp) -> Record {
        Record { run: self.run, ended, usage: self.usage }
    }
}

/// Adds to `sum` what a counter counted between two looks at it.
fn grow(sum: &mut u64, before: u64, now: u64) {
    *sum = sum.saturating_add(now.checked_sub(before).unwrap_or(now));
}

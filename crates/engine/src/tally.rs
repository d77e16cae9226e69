//! What this daemon has done since its start, as counts that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    starts: AtomicU64,
    failed_starts: AtomicU64,
    ends: AtomicU64,
    oom_kills: AtomicU64,
    execs: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Containers' starts.
    pub starts: u64,
    /// Starts that came to nothing.
    pub failed_starts: u64,
    /// Containers' ends.
    pub ends: u64,
    /// Ends of containers in which the kernel had killed something for want of memory.
    pub oom_kills: u64,
    /// Further processes that were started in containers.
    pub execs: u64,
}

impl Tally {
    pub(crate) fn started(&self, well: bool) {
        if well { &self.starts } else { &self.failed_starts }.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, oom_killed: bool) {
        self.ends.fetch_add(1, Ordering::Relaxed);
        self.oom_kills.fetch_add(oom_killed.into(), Ordering::Relaxed);
    }

    pub(crate) fn executed(&self) {
        self.execs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            starts: of(&self.starts),
            failed_starts: of(&self.failed_starts),
            ends: of(&self.ends),
            oom_kills: of(&self.oom_kills),
            execs: of(&self.execs),
        }
    }
}

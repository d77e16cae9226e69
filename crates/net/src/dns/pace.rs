//! How fast a sandbox is served: answers cost the daemon's time, which no cgroup of the sandbox' is charged for.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How much may come at once, as the time that it would take at the steady pace.
const BURST: Duration = Duration::from_secs(1);

/// Counts a sandbox' queries. Nobody is refused: who is too fast waits, and what does not fit into its socket meanwhile is
/// lost in the kernel, at no cost.
pub(super) struct Pace {
    interval: Duration,
    /// When all that was counted is over, at the steady pace.
    over: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(queries_per_second: u32, now: Instant) -> Self {
        Pace { interval: Duration::from_secs(1) / queries_per_second.max(1), over: Mutex::new(now) }
    }

    /// Counts a query, and gives how long to wait before the next is taken.
    pub(super) fn count(&self, now: Instant) -> Duration {
        let mut over = self.over.lock();
        *over = (*over).max(now) + self.interval;
        over.saturating_duration_since(now + BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_it_is_one_by_one() {
        let start = Instant::now();
        let pace = Pace::new(10, start);
        for _ in 0..10 {
            assert_eq!(pace.count(start), Duration::ZERO);
        }
        assert_eq!(pace.count(start), Duration::from_millis(100));
        // Whoever waits as told goes on at the pace.
        let mut now = start;
        for _ in 0..50 {
            now += Duration::from_millis(100);
            assert_eq!(pace.count(now), Duration::from_millis(100));
        }
        // Silence is saved up, and no more than a burst of it.
        now += Duration::from_secs(60);
        let free = std::iter::repeat_with(|| pace.count(now)).take_while(Duration::is_zero).count();
        assert_eq!(free, 10);
    }
}

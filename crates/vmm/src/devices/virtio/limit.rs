//! How much may go through a device in a second: buckets of tokens, of which each byte and each operation takes one.
//!
//! A bucket is kept as a time: when all that went through would have been due, had it come at the rate. Something may go while that is no further ahead than the burst
//! takes. So what is larger than a burst goes as well, and what follows it waits for longer; and nobody has to be there for a bucket to fill.

use crate::config::{Limits, Rate};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

const SECOND: u128 = 1_000_000_000;

/// What a device asks before it does something.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    /// When it was made: times count from here.
    since: Instant,
}

impl Limiter {
    /// One with full buckets.
    pub(crate) fn new(limits: Limits) -> Limiter {
        let Limits { bytes, operations } = limits;
        Limiter { bytes: bytes.map(Bucket::new), operations: operations.map(Bucket::new), since: Instant::now() }
    }

    /// Whether there is a limit at all.
    pub(crate) fn is_limited(&self) -> bool {
        self.bytes.is_some() || self.operations.is_some()
    }

    /// How long the next operation has to wait. `None`: it may go.
    pub(crate) fn wait(&self) -> Option<Duration> {
        if !self.is_limited() {
            return None;
        }
        let now = self.now();
        let wait = self.bytes.iter().chain(&self.operations).map(|bucket| bucket.wait(now)).max().unwrap_or(0);
        (wait > 0).then(|| Duration::from_nanos(wait))
    }

    /// One operation goes, with so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) {
        if !self.is_limited() {
            return;
        }
        let now = self.now();
        if let Some(bucket) = &mut self.bytes {
            bucket.take(now, bytes as u64);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.take(now, 1);
        }
    }

    /// Nanoseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A bucket; times are nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: NonZeroU64,
    /// How long the burst takes at the rate.
    burst: u64,
    /// When all that went through was due.
    due: u64,
}

impl Bucket {
    fn new(rate: Rate) -> Bucket {
        Bucket { per_second: rate.per_second, burst: time(rate.burst, rate.per_second), due: 0 }
    }

    fn wait(&self, now: u64) -> u64 {
        self.due.saturating_sub(now.saturating_add(self.burst))
    }

    fn take(&mut self, now: u64, tokens: u64) {
        self.due = self.due.max(now).saturating_add(time(tokens, self.per_second));
    }
}

/// How long so many tokens take, never too short.
fn time(tokens: u64, per_second: NonZeroU64) -> u64 {
    let time = (u128::from(tokens) * SECOND).div_ceil(per_second.get().into());
    u64::try_from(time).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(per_second: u64, burst: u64) -> Bucket {
        Bucket::new(Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst })
    }

    proptest! {
        /// In no time goes more than the rate and the burst allow, and the one that was the last.
        #[test]
        fn no_more_goes_than_may(
            per_second in 1u64..1 << 40,
            burst in 0u64..1 << 40,
            requests in prop::collection::vec((0u64..1 << 36, 1u64..1 << 20), 1..60),
        ) {
            let mut bucket = bucket(per_second, burst);
            let (mut now, mut gone) = (0u64, Vec::new());
            for (pause, tokens) in requests {
                now += pause;
                // As a device does: looks again when it was told to.
                now += bucket.wait(now);
                prop_assert_eq!(bucket.wait(now), 0);
                bucket.take(now, tokens);
                gone.push((now, tokens));
            }
            for (first, (start, _)) in gone.iter().enumerate() {
                let mut sum = 0u128;
                for (end, tokens) in &gone[first..] {
                    sum += u128::from(*tokens);
                    let may = u128::from(end - start) * u128::from(per_second) / SECOND + u128::from(burst) + u128::from(*tokens);
                    // The time of the burst was rounded up, by less than what a nanosecond lets through.
                    prop_assert!(sum <= may + 2 + u128::from(per_second) / SECOND, "{} in {} ns", sum, end - start);
                }
            }
        }

        #[test]
        fn what_comes_after_a_pause_never_waits(per_second in 1u64.., burst: u64, tokens: u64, at in 0u64..1 << 40) {
            let mut bucket = bucket(per_second, burst);
            bucket.take(at, tokens);
            let over = bucket.due;
            prop_assert_eq!(bucket.wait(over), 0);
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let mut bucket = bucket(1000, 5);
        let mut times = Vec::new();
        let mut now = 7_000_000_000;
        for _ in 0..9 {
            now += bucket.wait(now);
            bucket.take(now, 1);
            times.push((now - 7_000_000_000) / 1_000_000);
        }
        assert_eq!(times, [0, 0, 0, 0, 0, 0, 1, 2, 3]);
    }

    #[test]
    fn what_has_no_limit_never_waits() {
        let mut limiter = Limiter::new(Limits::default());
        limiter.take(usize::MAX);
        limiter.take(usize::MAX);
        assert_eq!(limiter.wait(), None);
    }

    #[test]
    fn either_limit_holds_back() {
        let rate = |burst| Some(Rate { per_second: NonZeroU64::MIN, burst });
        for limits in [
            Limits { bytes: rate(0), operations: rate(1 << 40) },
            Limits { bytes: rate(1 << 40), operations: rate(0) },
            Limits { bytes: None, operations: rate(0) },
        ] {
            let mut limiter = Limiter::new(limits);
            assert_eq!(limiter.wait(), None);
            limiter.take(1 << 20);
            assert!(limiter.wait().is_some(), "{limits:?}");
        }
    }
}

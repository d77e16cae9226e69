//! Waiting for what happens in its own time, without guessing how long it takes.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Longer than anything here takes on the slowest machine: who waits as long has found a fault. A minute, or as many seconds
/// as `E2E_DEADLINE` says, for a machine that is emulated.
pub(crate) static DEADLINE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("E2E_DEADLINE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
});

/// Looks until `condition` holds.
///
/// # Panics
/// When it does not hold within the deadline; `what` says what was waited for.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let mut waiting = Waiting::for_what(what);
    while !condition() {
        waiting.look_again();
    }
}

/// A wait with a deadline, for loops of one's own.
pub struct Waiting<'a> {
    what: &'a str,
    until: Instant,
}

impl<'a> Waiting<'a> {
    /// Starts to wait.
    pub fn for_what(what: &'a str) -> Self {
        Self { what, until: Instant::now() + *DEADLINE }
    }

    /// Whether the deadline is over.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Rests a moment.
    ///
    /// # Panics
    /// After the deadline.
    #[track_caller]
    pub fn look_again(&mut self) {
        self.look_again_at(String::new);
    }

    /// Rests a moment; after the deadline, fails and says what was `seen`.
    #[track_caller]
    pub fn look_again_at(&mut self, seen: impl FnOnce() -> String) {
        assert!(Instant::now() < self.until, "waited in vain for {}\n{}", self.what, seen());
        std::thread::sleep(Duration::from_millis(5));
    }
}

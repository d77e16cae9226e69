//! How long a microVM may be idle, suspended, and there at all.

use std::time::Duration;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

/// The longest time of a policy: so that no sum of two overflows.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What becomes of a microVM by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What becomes of it where nobody asks it anything through its endpoint; `None`: nothing.
    pub idle: Option<Idle>,
    /// It is ended so long after it was run, whether it runs or is suspended; `None`: never.
    pub longest: Option<Duration>,
}

/// What becomes of a microVM that is idle: one that nobody asks anything through its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// After so long it is suspended.
    pub after: Duration,
    /// Suspended for so long, it is ended; zero: it is ended in place of being suspended. `None`: it stays.
    pub suspended: Option<Duration>,
    /// A request has it go on.
    pub resumes: bool,
}

/// How a microVM is at a moment, as far as its policy goes by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A request is under way.
    Busy,
    /// It runs, and nobody has asked it anything for so long.
    Idle(Duration),
    /// It has been suspended for so long.
    Suspended(Duration),
    /// It is paused, has ended, or is being changed.
    Other,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Suspend,
    Terminate,
}

/// What a policy has to do with a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// That.
    Now(Action),
    /// Nothing before so long from now.
    In(Duration),
    /// Nothing, as things are.
    Never,
}

impl Policy {
    /// Refuses what would be no policy.
    ///
    /// # Errors
    /// A time is zero that may not be, or too long.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str, why: &str| Err(Error::invalid(format!("{what}: {why}")));
        let too_long = |time: &Duration| *time > LONGEST;
        if self.longest.is_some_and(|time| time.is_zero()) {
            return bad("the longest time that it may be there", "it has to be longer than nothing");
        }
        if self.idle.is_some_and(|idle| idle.after.is_zero()) {
            return bad("the time for which it may be idle", "it has to be longer than nothing");
        }
        let suspended = self.idle.and_then(|idle| idle.suspended);
        if self.longest.iter().chain(self.idle.map(|idle| idle.after).iter()).chain(&suspended).any(too_long) {
            return bad("a time of its policy", "a year is the longest");
        }
        Ok(())
    }

    /// What is to be done with a microVM that was run so long ago, and is as `standing` says.
    pub(crate) fn due(&self, age: Duration, standing: Standing) -> Due {
        let end = self.longest.map_or(Due::Never, |longest| after(longest, age, Action::Terminate));
        let idle = self.idle.map_or(Due::Never, |idle| match standing {
            // What ends this moment is idle that long after it at the earliest.
            Standing::Busy => Due::In(idle.after),
            Standing::Idle(time) if idle.suspended.is_some_and(|time| time.is_zero()) => {
                after(idle.after, time, Action::Terminate)
            }
            Standing::Idle(time) => after(idle.after, time, Action::Suspend),
            Standing::Suspended(time) => {
                idle.suspended.map_or(Due::Never, |longest| after(longest, time, Action::Terminate))
            }
            Standing::Other => Due::Never,
        });
        match (end, idle) {
            // The end goes before everything else.
            (Due::Now(action), _) | (_, Due::Now(action)) => Due::Now(action),
            (Due::In(one), Due::In(other)) => Due::In(one.min(other)),
            (Due::Never, other) | (other, Due::Never) => other,
        }
    }
}

/// An action that comes when something has lasted for `wanted`, and has lasted for `so_far`.
fn after(wanted: Duration, so_far: Duration, action: Action) -> Due {
    match wanted.checked_sub(so_far).filter(|left| !left.is_zero()) {
        Some(left) => Due::In(left),
        None => Due::Now(action),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn idle(after: u64, suspended: Option<u64>) -> Policy {
        let idle = Idle { after: seconds(after), suspended: suspended.map(seconds), resumes: true };
        Policy { idle: Some(idle), longest: None }
    }

    #[test]
    fn what_is_idle_is_suspended_and_what_is_suspended_ended() {
        let policy = idle(60, Some(600));
        let due = |standing| policy.due(seconds(100_000), standing);
        assert_eq!(due(Standing::Busy), Due::In(seconds(60)));
        assert_eq!(due(Standing::Idle(seconds(20))), Due::In(seconds(40)));
        assert_eq!(due(Standing::Idle(seconds(60))), Due::Now(Action::Suspend));
        assert_eq!(due(Standing::Suspended(seconds(599))), Due::In(seconds(1)));
        assert_eq!(due(Standing::Suspended(seconds(601))), Due::Now(Action::Terminate));
        assert_eq!(due(Standing::Other), Due::Never);
        assert_eq!(idle(60, None).due(seconds(0), Standing::Suspended(seconds(1 << 30))), Due::Never);
        assert_eq!(idle(60, Some(0)).due(seconds(0), Standing::Idle(seconds(60))), Due::Now(Action::Terminate));
    }

    #[test]
    fn the_longest_time_goes_before_everything_else() {
        let policy = Policy { longest: Some(seconds(100)), ..idle(60, Some(600)) };
        assert_eq!(policy.due(seconds(50), Standing::Idle(seconds(10))), Due::In(seconds(50)));
        assert_eq!(policy.due(seconds(30), Standing::Idle(seconds(10))), Due::In(seconds(50)));
        for standing in [Standing::Busy, Standing::Other, Standing::Idle(seconds(60)), Standing::Suspended(seconds(1))]
        {
            assert_eq!(policy.due(seconds(100), standing), Due::Now(Action::Terminate));
        }
        assert_eq!(Policy::default().due(seconds(1 << 40), Standing::Idle(seconds(1 << 40))), Due::Never);
    }

    #[test]
    fn what_would_be_no_policy_is_refused() {
        assert!(Policy { longest: Some(Duration::ZERO), idle: None }.check().is_err());
        assert!(idle(0, None).check().is_err());
        assert!(idle(1, Some(u64::MAX)).check().is_err());
        idle(1, Some(0)).check().unwrap();
        Policy::default().check().unwrap();
    }
}

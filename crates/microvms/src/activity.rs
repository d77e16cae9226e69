//! Who asks microVMs something through their endpoint, and when somebody did for the last time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// All microVMs that somebody asks something, or a policy looks after.
#[derive(Default)]
pub(crate) struct Activities(Mutex<HashMap<String, Arc<Activity>>>);

/// What goes on with one microVM.
pub(crate) struct Activity {
    /// Held by whoever suspends it, has it go on, or ends it, and by a request until it is counted: so that none meets one that is being suspended.
    pub(crate) gate: tokio::sync::Mutex<()>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// Requests that are under way.
    visits: usize,
    /// When the last one ended, or something came for one.
    last: Instant,
    /// A policy is at it.
    acting: bool,
    /// What a policy wanted did not work: it waits until then.
    patience: Option<Instant>,
}

/// Whether a policy may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It may.
    Free,
    /// Not before so long from now, as what it did last did not work.
    In(Duration),
    /// It is at it.
    Taken,
}

impl Activities {
    /// That of a microVM, by its container's identifier.
    pub(crate) fn of(&self, id: &str) -> Arc<Activity> {
        self.0.lock().entry(id.to_owned()).or_default().clone()
    }

    /// Forgets all others.
    pub(crate) fn keep(&self, known: &HashSet<String>) {
        // What somebody else holds comes from one that is gone, or is just being made.
        self.0.lock().retain(|id, activity| known.contains(id) || Arc::strong_count(activity) > 1);
    }
}

impl Default for Activity {
    fn default() -> Self {
        let seen = Seen { visits: 0, last: Instant::now(), acting: false, patience: None };
        Self { gate: tokio::sync::Mutex::default(), seen: Mutex::new(seen) }
    }
}

impl Activity {
    /// Something came for it.
    pub(crate) fn touch(&self) {
        self.seen.lock().last = Instant::now();
    }

    /// For how long nobody has asked it anything; `None`: somebody does.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let seen = self.seen.lock();
        (seen.visits == 0).then(|| seen.last.elapsed())
    }

    /// Whether its policy may do something.
    pub(crate) fn turn(&self) -> Turn {
        let seen = self.seen.lock();
        let now = Instant::now();
        match seen.patience.filter(|until| *until > now) {
            _ if seen.acting => Turn::Taken,
            Some(until) => Turn::In(until - now),
            None => Turn::Free,
        }
    }

    /// Whether a policy may begin with something: one at a time.
    pub(crate) fn begin(&self) -> bool {
        !std::mem::replace(&mut self.seen.lock().acting, true)
    }

    /// What a policy began is over; where it did not work it is tried again after a while.
    pub(crate) fn over(&self, patience: Option<Duration>) {
        let mut seen = self.seen.lock();
        seen.acting = false;
        seen.patience = patience.map(|time| Instant::now() + time);
    }
}

/// A request that is under way: its microVM is not idle.
pub(crate) struct Visit(Arc<Activity>);

impl Visit {
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.seen.lock().visits += 1;
        Self(activity.clone())
    }

    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut seen = self.0.seen.lock();
        seen.visits -= 1;
        seen.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_visit_counts_until_it_is_over() {
        let all = Activities::default();
        let activity = all.of("a");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(activity.idle(), Some(Duration::from_secs(5)));
        let visit = Visit::begin(&activity);
        assert_eq!(activity.idle(), None);
        drop(visit);
        assert_eq!((activity.idle(), activity.turn()), (Some(Duration::ZERO), Turn::Free));
        assert!(activity.begin() && !activity.begin());
        assert_eq!(activity.turn(), Turn::Taken);
        activity.over(Some(Duration::from_secs(2)));
        assert_eq!(activity.turn(), Turn::In(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((activity.idle(), activity.turn()), (Some(Duration::from_secs(2)), Turn::Free));
        all.keep(&HashSet::new());
        assert!(Arc::ptr_eq(&activity, &all.of("a")), "somebody holds it");
    }
}

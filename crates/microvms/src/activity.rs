//! Who asks microVMs something through their endpoint, and when somebody did for the last time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use engine::Result;
use engine::model::Timestamp;
use parking_lot::Mutex;
use store::Store;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::noted::{GRAIN, Noted, Notes};

/// All microVMs that somebody asks something, or a policy looks after.
pub(crate) struct Activities {
    notes: Arc<Notes>,
    known: Mutex<HashMap<String, Arc<Activity>>>,
}

/// What goes on with one microVM.
pub(crate) struct Activity {
    /// Held by whoever suspends it, has it go on, or ends it, and by a request until it is counted: so that none meets one that is being suspended.
    pub(crate) gate: tokio::sync::Mutex<()>,
    id: String,
    notes: Arc<Notes>,
    /// Held while something is written down, so that the last that is written is how it is.
    writing: Mutex<()>,
    seen: Mutex<Seen>,
    /// The last request that was under way is over.
    left: Notify,
}

struct Seen {
    /// Requests that are under way, and what else keeps it from being idle.
    visits: usize,
    /// Those of them that are requests.
    requests: usize,
    /// Somebody writes down every minute that there are requests.
    is_watched: bool,
    /// When the last one ended, or something came for one; `None`: not since this daemon began, and no earlier one has written down that it did.
    last: Option<Instant>,
    /// As it is, or will be, written down.
    noted: Noted,
    /// When that was last done for a request.
    written: Option<Instant>,
    /// A policy is at it.
    acting: bool,
    /// What a policy wanted did not work: it waits until then.
    patience: Option<Instant>,
    /// Why that did not work.
    refused: Option<String>,
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
    /// With what an earlier daemon wrote down.
    ///
    /// # Errors
    /// The store can't be read.
    pub(crate) fn open(store: &Store) -> Result<Self> {
        let (notes, noted) = Notes::open(store)?;
        let notes = Arc::new(notes);
        let activity = |(id, noted): (String, Noted)| (id.clone(), Arc::new(Activity::new(id, notes.clone(), noted)));
        let known = noted.into_iter().map(activity).collect();
        Ok(Self { notes, known: Mutex::new(known) })
    }

    /// That of a microVM, by its container's identifier.
    pub(crate) fn of(&self, id: &str) -> Arc<Activity> {
        let mut known = self.known.lock();
        let new = || Arc::new(Activity::new(id.to_owned(), self.notes.clone(), Noted::default()));
        known.entry(id.to_owned()).or_insert_with(new).clone()
    }

    /// Those that are not among these: they may be gone, or were made since somebody made the list.
    pub(crate) fn others(&self, listed: &HashSet<&str>) -> Vec<String> {
        self.known.lock().keys().filter(|id| !listed.contains(id.as_str())).cloned().collect()
    }

    /// Forgets microVMs that are gone. Blocks where something of them is written down.
    pub(crate) fn forget(&self, gone: &HashSet<String>) {
        // What somebody still holds is forgotten later.
        let is_kept = |id: &String, activity: &Arc<Activity>| !gone.contains(id) || Arc::strong_count(activity) > 1;
        let mut all = self.known.lock();
        let (kept, gone) = std::mem::take(&mut *all).into_iter().partition(|(id, activity)| is_kept(id, activity));
        *all = kept;
        drop(all);
        let gone: HashMap<String, Arc<Activity>> = gone;
        gone.iter().filter(|(_, activity)| activity.is_noted()).for_each(|(id, _)| self.notes.forget(id));
    }
}

impl Activity {
    fn new(id: String, notes: Arc<Notes>, noted: Noted) -> Self {
        let now = Instant::now();
        // At the latest that is possible: somebody may have asked within the minute after that.
        let ago = noted.asked.map(|asked| Duration::try_from(Timestamp::now() - asked).unwrap_or_default());
        let seen = Seen {
            visits: 0,
            requests: 0,
            is_watched: false,
            // Before the host began nothing ran that runs now: as if nobody had asked.
            last: ago.and_then(|ago| now.checked_sub(ago.saturating_sub(GRAIN))),
            noted,
            written: None,
            acting: false,
            patience: None,
            refused: None,
        };
        let gate = tokio::sync::Mutex::default();
        Self { gate, id, notes, writing: Mutex::default(), seen: Mutex::new(seen), left: Notify::new() }
    }

    /// Something came for it.
    pub(crate) fn touch(self: &Arc<Self>) {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        seen.last = Some(now);
        if seen.written.is_some_and(|written| now - written < GRAIN) {
            return;
        }
        seen.written = Some(now);
        seen.noted.asked = Some(Timestamp::now());
        drop(seen);
        let activity = self.clone();
        // Nobody waits for the disk. Where the daemon ends, it is as it was.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || activity.write(|notes, id, noted| notes.write_soon(id, noted)));
        }
    }

    fn write<T>(&self, by: impl FnOnce(&Notes, &str, &Noted) -> T) -> T {
        let _one = self.writing.lock();
        let noted = self.seen.lock().noted.clone();
        by(&self.notes, &self.id, &noted)
    }

    fn is_noted(&self) -> bool {
        self.seen.lock().noted != Noted::default()
    }

    /// When somebody asked it something, as far as that is written down.
    pub(crate) fn asked(&self) -> Option<Timestamp> {
        self.seen.lock().noted.asked
    }

    /// What a token says that is good.
    pub(crate) fn tokens(&self) -> u64 {
        self.seen.lock().noted.tokens
    }

    /// No token that there is is good any more. Blocks.
    ///
    /// # Errors
    /// It can't be written down: they are good again after a restart.
    pub(crate) fn take_tokens_back(&self) -> Result<()> {
        self.seen.lock().noted.tokens += 1;
        self.write(Notes::write)
    }

    /// For how long nobody has asked it anything, where it has run for so long; `None`: somebody does.
    pub(crate) fn idle(&self, runs: Duration) -> Option<Duration> {
        let seen = self.seen.lock();
        // However it was started, it has its time from then on.
        (seen.visits == 0).then(|| seen.last.map_or(runs, |last| last.elapsed().min(runs)))
    }

    /// Writes down once a minute that there are requests, for as long as there are: the daemon may be killed before they end.
    fn watch(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if std::mem::replace(&mut self.seen.lock().is_watched, true) {
            return;
        }
        // Whoever does nothing but wait does not hold it.
        let activity = Arc::downgrade(self);
        runtime.spawn(async move {
            while let Some(due) = activity.upgrade().and_then(|activity| activity.note_requests()) {
                tokio::time::sleep_until(due).await;
            }
        });
    }

    /// Has that there are requests written down, where it is time, and says when it is again; `None`: there are none.
    fn note_requests(self: &Arc<Self>) -> Option<Instant> {
        let mut seen = self.seen.lock();
        if seen.requests == 0 {
            seen.is_watched = false;
            return None;
        }
        drop(seen);
        self.touch();
        self.seen.lock().written.map(|written| written + GRAIN)
    }

    /// Waits until no request is under way, no longer than that. The caller holds the gate, so that none begins.
    pub(crate) async fn left_within(&self, patience: Duration) {
        let left = async {
            loop {
                let left = self.left.notified();
                if self.seen.lock().visits == 0 {
                    return;
                }
                left.await;
            }
        };
        // What takes longer is cut off.
        let _ = tokio::time::timeout(patience, left).await;
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

    /// What a policy began is over.
    pub(crate) fn over(&self) {
        let mut seen = self.seen.lock();
        (seen.acting, seen.patience, seen.refused) = (false, None, None);
    }

    /// What a policy began did not work, and why: it is tried again after a while, and no sooner than if somebody had asked it something now.
    pub(crate) fn refused(&self, why: String, patience: Duration) {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        (seen.acting, seen.patience, seen.refused) = (false, Some(now + patience), Some(why));
        seen.last = Some(now);
    }

    /// Why what its policy wanted last did not work.
    pub(crate) fn hindrance(&self) -> Option<String> {
        self.seen.lock().refused.clone()
    }
}

/// Something that is under way: its microVM is not idle.
pub(crate) struct Visit {
    activity: Arc<Activity>,
    /// It is a request.
    asks: bool,
}

impl Visit {
    /// Somebody asks it something.
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.touch();
        let visit = Self::new(activity, true);
        activity.watch();
        visit
    }

    /// Not a request, but what has to be done before there can be one.
    pub(crate) fn ours(activity: &Arc<Activity>) -> Self {
        Self::new(activity, false)
    }

    fn new(activity: &Arc<Activity>, asks: bool) -> Self {
        let mut seen = activity.seen.lock();
        seen.visits += 1;
        seen.requests += usize::from(asks);
        Self { activity: activity.clone(), asks }
    }

    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.asks {
            // It may have taken hours.
            self.activity.touch();
        }
        let mut seen = self.activity.seen.lock();
        seen.visits -= 1;
        seen.requests -= usize::from(self.asks);
        seen.last = Some(Instant::now());
        if seen.visits == 0 {
            self.activity.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn named(id: &str) -> HashSet<String> {
        HashSet::from([id.to_owned()])
    }

    /// When somebody asked `a`, as the next daemon reads it.
    fn written(store: &Store) -> Option<Timestamp> {
        Activities::open(store).unwrap().of("a").asked()
    }

    #[tokio::test(start_paused = true)]
    async fn a_visit_counts_until_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let all = Activities::open(&store).unwrap();
        let activity = all.of("a");
        let idle = || activity.idle(HOUR);
        assert_eq!(idle(), Some(HOUR), "for as long as it runs, as nobody has asked");
        let visit = Visit::ours(&activity);
        assert_eq!(idle(), None);
        drop(visit);
        assert_eq!((idle(), activity.turn()), (Some(Duration::ZERO), Turn::Free));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((idle(), activity.idle(Duration::ZERO)), (Some(Duration::from_secs(5)), Some(Duration::ZERO)));
        assert!(activity.begin() && !activity.begin());
        assert_eq!(activity.turn(), Turn::Taken);
        activity.refused("not now".to_owned(), Duration::from_secs(2));
        assert_eq!(
            (activity.turn(), activity.hindrance()),
            (Turn::In(Duration::from_secs(2)), Some("not now".to_owned()))
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((idle(), activity.turn()), (Some(Duration::from_secs(2)), Turn::Free));
        assert!(activity.begin());
        activity.over();
        assert_eq!(activity.hindrance(), None);
        all.forget(&named("a"));
        assert!(Arc::ptr_eq(&activity, &all.of("a")), "somebody holds it");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_suspends_it_waits_for_who_is_there_and_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let activity = Activities::open(&store).unwrap().of("a");
        let visits = [Visit::ours(&activity), Visit::ours(&activity)];
        let waiting = tokio::spawn({
            let activity = activity.clone();
            async move { activity.left_within(Duration::from_secs(3600)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(visits);
        waiting.await.unwrap();
        let _stays = Visit::ours(&activity);
        activity.left_within(Duration::from_secs(30)).await;
    }

    #[test]
    fn what_is_written_down_outlives_the_daemon_and_goes_with_the_microvm() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        {
            let all = Activities::open(&store).unwrap();
            let activity = all.of("a");
            activity.seen.lock().noted.asked = Some(Timestamp::now() - HOUR);
            activity.take_tokens_back().unwrap();
        }
        let all = Activities::open(&store).unwrap();
        let idle = all.of("a").idle(2 * HOUR).unwrap();
        assert!(idle < HOUR, "{idle:?}");
        assert_eq!((all.of("a").tokens(), all.of("b").tokens()), (1, 0));
        all.forget(&named("a"));
        assert_eq!(Activities::open(&store).unwrap().of("a").tokens(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_written_down_while_it_lasts_and_when_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let activity = Activities::open(&store).unwrap().of("a");
        let long_ago = Some(Timestamp::now() - 3 * HOUR);
        let until_it_is_written = async || {
            // The clock of the tests goes on by itself where all wait.
            while written(&store).is_none_or(|asked| asked < Timestamp::now() - HOUR) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let visit = Visit::begin(&activity);
        until_it_is_written().await;
        // An answer that takes hours, and a daemon that is killed meanwhile.
        activity.seen.lock().noted.asked = long_ago;
        activity.write(Notes::write).unwrap();
        until_it_is_written().await;
        // It ends long after that was done last, and the daemon with it.
        activity.seen.lock().requests = 0;
        while activity.seen.lock().is_watched {
            tokio::time::sleep(GRAIN).await;
        }
        activity.seen.lock().requests = 1;
        activity.seen.lock().noted.asked = long_ago;
        activity.write(Notes::write).unwrap();
        drop(visit);
        until_it_is_written().await;
        let next = Activities::open(&store).unwrap().of("a");
        assert_eq!(next.idle(3 * HOUR), Some(Duration::ZERO));
    }

    /// A restart of the daemon gives it no time anew, nor does what is no request.
    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_asked_is_idle_for_as_long_as_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        drop(Visit::ours(&Activities::open(&store).unwrap().of("a")));
        let next = Activities::open(&store).unwrap().of("a");
        assert_eq!((next.asked(), next.idle(HOUR)), (None, Some(HOUR)));
        // Neither is one whose tokens were taken back, which is written down as well.
        next.take_tokens_back().unwrap();
        assert_eq!(Activities::open(&store).unwrap().of("a").idle(HOUR), Some(HOUR));
    }

    #[test]
    fn what_was_made_after_the_others_were_listed_keeps_what_was_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let all = Activities::open(&store).unwrap();
        all.of("gone").take_tokens_back().unwrap();
        all.of("new").take_tokens_back().unwrap();
        let mut others = all.others(&HashSet::from(["listed"]));
        others.sort();
        assert_eq!(others, ["gone", "new"]);
        // Of which one is there, as whoever is asked now says.
        all.forget(&named("gone"));
        let next = Activities::open(&store).unwrap();
        for all in [&all, &next] {
            assert_eq!((all.of("new").tokens(), all.of("gone").tokens()), (1, 0));
        }
    }
}

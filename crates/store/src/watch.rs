//! Watches: every change below a prefix, from a revision on, in order.
//!
//! What a watch tells, it reads from the store's history; memory holds only where to start reading. So a slow watch
//! costs nothing, and neither does a change that it does not look for.

use crate::schema::{self, CHANGES, META};
use crate::store::Inner;
use crate::writer::Shared;
use crate::{Change, Revision, WatchError};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tokio::sync::Notify;

/// The most changes that are read at once.
const READ: usize = 256;

/// A watch that may have to be woken.
#[derive(Debug)]
struct Waiter {
    prefix: String,
    /// The oldest revision with a change below the prefix that was not looked at yet.
    unseen: Mutex<Option<Revision>>,
    task: Notify,
    thread: Condvar,
}

impl Waiter {
    fn wake(&self, revision: Revision) {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        *unseen = Some(unseen.map_or(revision, |older| older.min(revision)));
        self.thread.notify_all();
        self.task.notify_one();
    }
}

/// All watches of a store.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Vec<Arc<Waiter>>>);

impl Waiters {
    /// Wakes the watches that look for one of `keys`, which changed with `revision`.
    pub(crate) fn wake(&self, revision: Revision, keys: &[String]) {
        for waiter in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if keys.iter().any(|key| key.starts_with(&waiter.prefix)) {
                waiter.wake(revision);
            }
        }
    }

    /// Wakes all, as something changed from `revision` on.
    pub(crate) fn wake_all(&self, revision: Revision) {
        for waiter in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waiter.wake(revision);
        }
    }

    fn add(&self, waiter: Arc<Waiter>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(waiter);
    }

    fn remove(&self, waiter: &Arc<Waiter>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, waiter));
    }
}

/// A stream of the changes below a prefix. See [`crate::Store::watch`].
///
/// It keeps the store open. After an error it is over: the next call tells the same error, or misses nothing if the
/// error was a [`WatchError::Read`] and went away.
pub struct Watch {
    inner: Arc<Inner>,
    waiter: Arc<Waiter>,
    /// Everything up to this revision was told, or is in `ready`.
    seen: Revision,
    ready: VecDeque<Change>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.waiter.prefix).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(inner: Arc<Inner>, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        let waiter = Arc::new(Waiter {
            prefix: prefix.to_owned(),
            unseen: Mutex::new(Some(after.next())),
            task: Notify::new(),
            thread: Condvar::new(),
        });
        // Added before anything is read: what is committed from here on wakes it.
        inner.shared().waiters.add(waiter.clone());
        let mut watch = Watch { inner, waiter, seen: after, ready: VecDeque::new() };
        watch.read()?;
        Ok(watch)
    }

    /// The next change, waiting for one. Cancel-safe: a dropped future loses no change.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.try_next()? {
                return Ok(change);
            }
            // A wake that came since the look above is kept for this.
            self.waiter.task.notified().await;
        }
    }

    /// The next change, blocking the thread until there is one. Not for asynchronous tasks.
    pub fn next_blocking(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.try_next()? {
                return Ok(change);
            }
            let unseen = self.waiter.unseen.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.waiter.thread.wait_while(unseen, |unseen| unseen.is_none()));
        }
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Change>, WatchError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(Some(change));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// Reads changes that were not looked at yet into `ready`. Tells whether there was anything to look at.
    fn read(&mut self) -> Result<bool, WatchError> {
        let unseen = self.waiter.unseen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(from) = unseen.map(|unseen| unseen.max(self.seen.next())) else { return Ok(false) };
        match self.read_from(from) {
            Ok(()) => Ok(true),
            Err(error) => {
                // So that the next call finds the same to do.
                self.waiter.wake(from);
                Err(error)
            }
        }
    }

    fn read_from(&mut self, from: Revision) -> Result<(), WatchError> {
        let read = read_changes(self.inner.shared(), &self.waiter.prefix, from)?;
        if read.oldest > from {
            return Err(WatchError::Compacted { oldest: read.oldest });
        }
        // By what was read, not by what the writer has announced: a listing may be ahead of that by a moment.
        if from > read.reached.next() {
            return Err(WatchError::Ahead { asked: Revision(from.0 - 1), current: read.reached });
        }
        self.ready.extend(read.changes);
        self.seen = self.seen.max(read.reached);
        if let Some(rest) = read.rest {
            self.waiter.wake(rest);
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner.shared().waiters.remove(&self.waiter);
    }
}

/// What one look into the history gave.
struct Read {
    changes: Vec<Change>,
    /// Everything up to here was looked at.
    reached: Revision,
    /// Where to go on, if that was not all.
    rest: Option<Revision>,
    /// Where a watch may start.
    oldest: Revision,
}

/// The changes below `prefix` with revision `from` and later ones: all of them, or a good number of whole revisions.
fn read_changes(shared: &Shared, prefix: &str, from: Revision) -> Result<Read, WatchError> {
    let read = shared.file.read("the history", |txn| {
        let table = txn.open_table(CHANGES)?;
        let meta = txn.open_table(META)?;
        let mut read = Read {
            changes: Vec::new(),
            reached: schema::revision(&table, &meta)?,
            rest: None,
            oldest: schema::watchable(&meta)?,
        };
        let mut last = from.0;
        for row in table.range((from.0, 0)..)? {
            let (place, record) = row?;
            let place = place.value();
            if read.changes.len() >= READ && place.0 != last {
                (read.reached, read.rest) = (Revision(last), Some(Revision(place.0)));
                break;
            }
            last = place.0;
            if record.value().0.starts_with(prefix) {
                read.changes.push(schema::change(place, record.value()));
            }
        }
        Ok(read)
    })?;
    Ok(read)
}

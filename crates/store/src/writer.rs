//! The one thread that writes. It takes whatever transactions wait for it, writes them as one, syncs once, and only
//! then answers each.

use crate::backup::{self, Schedule};
use crate::file::DatabaseFile;
use crate::history::History;
use crate::schema::{self, Tables};
use crate::txn::{Durability, Op, Request};
use crate::watch::Waiters;
use crate::{CommitError, Conflict, Revision};
use redb::Table;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The most transactions that share one write, so that the first of them does not wait for ever.
const BATCH: usize = 512;
/// The most bytes of values that share one write.
const BATCH_BYTES: usize = 8 << 20;
/// The most that a transaction may write into the space kept back for deleting on a full disk.
const NOTE_BYTES: usize = 16 << 10;
/// The most bytes of keys and values that a transaction [from the reserve](crate::Txn::from_reserve) may hold on a full disk.
pub const RESERVED_BYTES: usize = 128 << 10;
/// How long a relaxed change may stay off the disk.
const RELAXED_FOR: Duration = Duration::from_secs(1);
/// For how many revisions of relaxed changes one sync is enough: see [`Writer::reserved`].
const RESERVE: u64 = 4096;
/// With nothing to do for this long, it is a good moment for the backup.
const IDLE: Duration = Duration::from_secs(1);

/// What a transaction comes to.
pub(crate) type Outcome = Result<Revision, CommitError>;

/// Who waits for an outcome. One that no longer does is no error.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A thread.
    Thread(SyncSender<Outcome>),
    /// An asynchronous task.
    Task(oneshot::Sender<Outcome>),
}

impl Reply {
    fn send(self, outcome: Outcome) {
        match self {
            Reply::Thread(sender) => drop(sender.send(outcome)),
            Reply::Task(sender) => drop(sender.send(outcome)),
        }
    }
}

/// A transaction on its way to the writer.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) request: Request,
    pub(crate) reply: Reply,
}

/// What readers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) file: DatabaseFile,
    /// The revision of the last commit.
    pub(crate) revision: AtomicU64,
    pub(crate) waiters: Waiters,
}

impl Shared {
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }
}

/// The writer's own state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    submissions: Receiver<Submission>,
    history: History,
    backup: Option<Schedule>,
    /// Since when there are relaxed changes that are not on the disk.
    relaxed_since: Option<Instant>,
    /// The last revision that a relaxed change may have. The disk knows of it: where such changes are lost, the store
    /// goes on above it.
    reserved: Revision,
}

/// What a batch came to.
struct Written {
    applied: Vec<Applied>,
    /// Whether it is on the disk, and all that came before.
    durable: bool,
    reserved: Revision,
}

/// One transaction within a batch, applied but not committed.
enum Applied {
    Changed(Revision, Vec<String>),
    Unchanged(Revision),
    Conflict(Conflict),
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, submissions: Receiver<Submission>, oldest: Revision) -> Writer {
        let backup = Schedule::new(&shared.file);
        Writer {
            shared,
            submissions,
            history: History::new(oldest),
            backup,
            relaxed_since: None,
            reserved: Revision::ZERO,
        }
    }

    /// Writes until the last handle on the store is gone; then everything is on the disk.
    pub(crate) fn run(mut self) {
        loop {
            match self.next() {
                Ok(first) => {
                    let batch = self.gather(first);
                    self.commit(batch);
                    self.back_up(false);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.flush();
                    self.back_up(true);
                }
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
        }
    }

    /// Waits for a transaction: for ever if nothing else is to be done.
    fn next(&self) -> Result<Submission, RecvTimeoutError> {
        let flush = self.relaxed_since.map(|since| RELAXED_FOR.saturating_sub(since.elapsed()));
        let revision = self.shared.revision();
        let backup = self.backup.as_ref().and_then(|schedule| schedule.wait(revision)).map(|wait| wait.max(IDLE));
        match flush.into_iter().chain(backup).min() {
            Some(wait) => self.submissions.recv_timeout(wait),
            None => self.submissions.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// The transactions that wait, from `first` on.
    fn gather(&self, first: Submission) -> Vec<Submission> {
        let mut bytes = size(&first.request);
        let mut batch = vec![first];
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Ok(next) = self.submissions.try_recv() else { break };
            bytes += size(&next.request);
            batch.push(next);
        }
        batch
    }

    /// Commits a batch and answers everybody in it.
    fn commit(&mut self, batch: Vec<Submission>) {
        let relief = self.shared.file.relief().clone();
        match self.write(&batch) {
            Ok(applied) => {
                for (submission, applied) in batch.into_iter().zip(applied) {
                    submission.reply.send(match applied {
                        Applied::Changed(revision, _) | Applied::Unchanged(revision) => Ok(revision),
                        Applied::Conflict(conflict) => Err(conflict.into()),
                    });
                }
            }
            // The one that is too large for the disk must not fail those that are not.
            Err(CommitError::Full { .. }) if batch.len() > 1 => {
                for submission in batch {
                    self.commit(vec![submission]);
                }
            }
            Err(CommitError::Full { .. })
                if !relief.is_allowed() && batch.iter().all(|one| may_spend(&one.request)) =>
            {
                relief.allow(true);
                self.commit(batch);
                relief.allow(false);
            }
            Err(error) => {
                for submission in batch {
                    submission.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Writes a batch, makes it visible, and wakes who watches it.
    fn write(&mut self, batch: &[Submission]) -> Result<Vec<Applied>, CommitError> {
        let before = self.shared.revision();
        let overdue = self.relaxed_since.is_some_and(|since| since.elapsed() >= RELAXED_FOR);
        let durable = overdue || batch.iter().any(|one| one.request.durability == Durability::Durable);
        let (unsynced, reserved) = (self.relaxed_since.is_some(), self.reserved);
        let history = &mut self.history;
        let options = self.shared.file.options();
        let scarce = self.shared.file.relief().is_allowed();
        let written = self.shared.file.write(|database| {
            let mut txn = database.begin_write()?;
            let mut tables = Tables::open(&txn)?;
            let (applied, reached, made) = apply(&mut tables, batch, before, history)?;
            if made > 0 {
                history.forget(&mut tables, options, reached, made, scarce)?;
            }
            let mut written = Written { applied, durable, reserved };
            if made > 0 && !durable && reached > reserved {
                written.reserved = Revision(reached.0 + RESERVE);
                written.durable = true;
                tables.meta.insert(schema::META_RESERVED, written.reserved.0)?;
            }
            drop(tables);
            if made == 0 && !(durable && unsynced) {
                // Nothing to write. An answer that rests on a relaxed change, though, is synced with it.
                txn.abort()?;
                written.durable = false;
                return Ok(written);
            }
            let durability = if written.durable { redb::Durability::Immediate } else { redb::Durability::None };
            txn.set_durability(durability).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
            txn.commit()?;
            Ok(written)
        });
        match written {
            Ok(Written { applied, durable, reserved }) => {
                let changed = applied.iter().any(|one| matches!(one, Applied::Changed(..)));
                self.relaxed_since = match durable {
                    true => None,
                    false => self.relaxed_since.or_else(|| changed.then(Instant::now)),
                };
                self.reserved = reserved;
                self.publish(&applied);
                Ok(applied)
            }
            Err(error) => Err(self.recover(before, error)),
        }
    }

    /// Shows what was committed to readers and watches.
    fn publish(&self, applied: &[Applied]) {
        let changed = applied.iter().filter_map(|applied| match applied {
            Applied::Changed(revision, keys) => Some((*revision, keys)),
            _ => None,
        });
        for (revision, keys) in changed {
            self.shared.revision.store(revision.0, Ordering::Release);
            self.shared.waiters.wake(revision, keys);
        }
    }

    /// Opens the database again after a failed write, and says what the failure came to.
    fn recover(&mut self, before: Revision, error: CommitError) -> CommitError {
        tracing::error!(store = %self.shared.file.path().display(), %error, "a write failed");
        (self.relaxed_since, self.reserved) = (None, Revision::ZERO);
        let state = match self.shared.file.reopen() {
            Ok(state) => state,
            Err(again) => {
                tracing::error!(store = %self.shared.file.path().display(), error = %again, "cannot open it again");
                return error;
            }
        };
        self.history = History::new(state.oldest);
        self.shared.revision.store(state.revision.0, Ordering::Release);
        if state.revision > before {
            // Who watches finds what came through after all, or that relaxed changes were lost.
            self.shared.waiters.wake_all(before.next());
        }
        if state.last_change > before {
            // The commit's last write came through although it was said to have failed.
            let path = self.shared.file.path().to_owned();
            let source = Arc::new(std::io::Error::other(error.to_string()));
            return CommitError::Io { path, source };
        }
        error
    }

    /// Brings relaxed changes to the disk.
    fn flush(&mut self) {
        if self.relaxed_since.is_some() {
            self.sync(|_| Ok(()));
        }
    }

    /// Brings everything to the disk; no revisions need to be skipped after such an end.
    fn finish(mut self) {
        if self.relaxed_since.is_some() || self.reserved > Revision::ZERO {
            self.sync(|meta| meta.remove(schema::META_RESERVED).map(drop).map_err(Into::into));
        }
    }

    fn sync(&mut self, note: impl FnOnce(&mut Table<'_, &'static str, u64>) -> Result<(), redb::Error>) {
        let before = self.shared.revision();
        let synced = self.shared.file.write(|database| {
            let txn = database.begin_write()?;
            note(&mut txn.open_table(schema::META)?)?;
            txn.commit().map_err(Into::into)
        });
        match synced {
            Ok(()) => self.relaxed_since = None,
            Err(error) => drop(self.recover(before, error)),
        }
    }

    /// Writes the backup if it is due.
    fn back_up(&mut self, idle: bool) {
        let revision = self.shared.revision();
        let Some(schedule) = self.backup.as_mut().filter(|schedule| schedule.is_due(revision, idle)) else { return };
        match backup::write(&self.shared.file) {
            Ok(holds) => schedule.done(Some(holds)),
            Err(error) => {
                tracing::warn!(store = %self.shared.file.path().display(), %error, "the backup was not written");
                schedule.done(None);
            }
        }
    }
}

/// Applies a batch's transactions one after the other. Tells what each came to, the revision reached, and how many
/// changes were made.
fn apply(
    tables: &mut Tables<'_>,
    batch: &[Submission],
    before: Revision,
    history: &mut History,
) -> Result<(Vec<Applied>, Revision, usize), redb::Error> {
    let mut applied = Vec::with_capacity(batch.len());
    let (mut reached, mut made) = (before, 0);
    for submission in batch {
        applied.push(match tables.apply(&submission.request, reached.next(), history.oldest())? {
            Err(conflict) => Applied::Conflict(conflict),
            Ok(keys) if keys.is_empty() => Applied::Unchanged(reached),
            Ok(keys) => {
                history.written(size(&submission.request) as u64);
                reached = reached.next();
                made += keys.len();
                Applied::Changed(reached, keys)
            }
        });
    }
    Ok((applied, reached, made))
}

/// The bytes of a transaction's keys and values.
pub(crate) fn size(request: &Request) -> usize {
    request
        .ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
            Op::DeletePrefix { prefix } => prefix.len(),
        })
        .sum()
}

/// Whether a transaction is given the space that is kept back: it frees some in the end, as it deletes, and puts no more
/// than it takes to note that; or it was said to be one that must be possible.
fn may_spend(request: &Request) -> bool {
    let deletes = request.ops.iter().any(|op| !matches!(op, Op::Put { .. }));
    (deletes && size(request) <= NOTE_BYTES) || (request.from_reserve && size(request) <= RESERVED_BYTES)
}

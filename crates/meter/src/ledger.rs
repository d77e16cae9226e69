//! The records of all runs, in the store.

use crate::accumulator::Accumulator;
use crate::usage::{Run, Subject, Usage};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Collection, Durability, Error, Revision, Store, Txn};

/// The most records that are read, moved or removed at once.
const STEP: usize = 1000;

/// A run that is over, and what it used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The run.
    #[serde(flatten)]
    pub run: Run,
    /// When it ended.
    pub ended: Timestamp,
    /// What it used.
    pub usage: Usage,
}

/// Which records are meant. A record belongs to the time at which its run *ended*, so that each belongs to exactly one
/// of several adjacent ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    kind: Option<String>,
    id: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    labels: Vec<(String, String)>,
}

impl Query {
    /// All there are.
    pub fn all() -> Query {
        Query::default()
    }

    /// Those of one kind.
    pub fn kind(kind: impl Into<String>) -> Query {
        Query { kind: Some(kind.into()), ..Query::default() }
    }

    /// Those of one subject.
    pub fn subject(subject: &Subject) -> Query {
        Query { kind: Some(subject.kind().to_owned()), id: Some(subject.id().to_owned()), ..Query::default() }
    }

    /// Of them, those that ended at `since` or later.
    pub fn since(mut self, since: Timestamp) -> Query {
        self.since = Some(since);
        self
    }

    /// Of them, those that ended before `until`.
    pub fn until(mut self, until: Timestamp) -> Query {
        self.until = Some(until);
        self
    }

    /// Of them, those with this label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Query {
        self.labels.push((name.into(), value.into()));
        self
    }

    fn matches(&self, record: &Record) -> bool {
        let (subject, labels) = (&record.run.subject, &record.run.labels);
        self.kind.as_ref().is_none_or(|kind| kind == subject.kind())
            && self.id.as_ref().is_none_or(|id| id == subject.id())
            && self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }

    /// Where the keys of the records begin that ended in the query's time, and where they end.
    fn range(&self) -> (String, String) {
        let bound = |time: Timestamp| format!("{RUNS}{}", nanoseconds(time));
        (self.since.map_or_else(|| RUNS.to_owned(), bound), self.until.map_or_else(|| RUNS_END.to_owned(), bound))
    }
}

/// What several runs used together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// How many runs they are.
    pub runs: u64,
    /// What they used.
    pub usage: Usage,
}

/// The ledger: a view of the store, cheap to make and to clone.
///
/// `meter/open/<kind>/<id>` holds runs that are being counted, `meter/run/<end>/<kind>/<id>/<start>` those that are over, in
/// the order of their ends: what is too old stands together, and going through some time reads nothing else.
#[derive(Clone, Debug)]
pub struct Ledger {
    store: Store,
    open: Collection<Accumulator>,
    runs: Collection<Record>,
    /// How many records there are up to which key, once they were counted.
    kept: Arc<Mutex<Kept>>,
}

/// Records that were counted.
#[derive(Debug)]
struct Kept {
    runs: u64,
    /// Where those begin that were not.
    next: String,
}

const OPEN: &str = "meter/open/";
const RUNS: &str = "meter/run/";
/// What the keys of all runs are less than.
const RUNS_END: &str = "meter/run0";
/// Where earlier versions kept the runs that are over, by subject.
const FORMER: &str = "meter/ended/";
const FORMER_END: &str = "meter/ended0";

/// How long the records of runs are kept, and how many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long after a run's end; `None`: for ever.
    pub age: Option<Duration>,
    /// The most of them, the newest; `None`: all.
    pub runs: Option<u64>,
}

impl Ledger {
    /// The ledger in `store`.
    pub fn new(store: &Store) -> Ledger {
        Ledger {
            store: store.clone(),
            open: Collection::new(store, OPEN),
            runs: Collection::new(store, RUNS),
            kept: Arc::new(Mutex::new(Kept { runs: 0, next: RUNS.to_owned() })),
        }
    }

    /// Saves how far runs were counted, in one relaxed transaction: cheap, and a power cut loses a second of it at
    /// most, which the next sample makes good. Returns when it is visible.
    pub async fn save(&self, counts: impl IntoIterator<Item = &Accumulator>) -> Result<(), Error> {
        let mut txn = self.store.txn().durability(Durability::Relaxed);
        for count in counts {
            txn = self.open.put_in(txn, &open_id(&count.run().subject), count)?;
        }
        if !txn.is_empty() {
            let commit = txn.commit_async();
            commit.await?;
        }
        Ok(())
    }

    /// The runs that were being counted when they were last saved: those to go on with, or to close, after a restart.
    pub fn open_runs(&self) -> Result<Vec<Accumulator>, Error> {
        Ok(self.open.list()?.into_iter().map(|item| item.value).collect())
    }

    /// Writes down a run that is over. Blocks until it is on the disk. Twice is as once.
    pub fn close(&self, record: &Record) -> Result<Revision, Error> {
        Ok(self.close_in(self.store.txn(), record)?.commit()?)
    }

    /// As [`Ledger::close`], for asynchronous tasks.
    pub async fn close_async(&self, record: &Record) -> Result<Revision, Error> {
        let commit = self.close_in(self.store.txn(), record)?.commit_async();
        Ok(commit.await?)
    }

    /// Adds the writing down to a transaction of the caller's, so that a run ends and is recorded at once.
    pub fn close_in<'a>(&self, txn: Txn<'a>, record: &Record) -> Result<Txn<'a>, Error> {
        let txn = txn.delete(self.open.key(&open_id(&record.run.subject)));
        self.runs.put_in(txn, &run_id(record), record)
    }

    /// Calls `visit` with each record that is meant, in the order in which their runs ended. However many they are, only some
    /// are in memory at a time.
    pub fn visit(&self, query: &Query, mut visit: impl FnMut(Record)) -> Result<(), Error> {
        self.settle()?;
        let (mut from, until) = query.range();
        loop {
            let some = self.store.range(&from, &until, STEP)?;
            let Some((last, _)) = some.last() else { return Ok(()) };
            from = Store::after(last);
            for (key, entry) in &some {
                let record = self.runs.decode(key, &entry.value)?;
                if query.matches(&record) {
                    visit(record);
                }
            }
        }
    }

    /// The records that are meant, in the order in which their runs ended.
    pub fn records(&self, query: &Query) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        self.visit(query, |record| records.push(record))?;
        Ok(records)
    }

    /// What the runs that are meant used together.
    pub fn totals(&self, query: &Query) -> Result<Totals, Error> {
        let mut totals = Totals::default();
        self.visit(query, |record| totals.add(&record.usage))?;
        Ok(totals)
    }

    /// What each subject used, the greatest consumer of CPU time first.
    pub fn totals_by_subject(&self, query: &Query) -> Result<Vec<(Subject, Totals)>, Error> {
        let mut groups = BTreeMap::<Subject, Totals>::new();
        self.visit(query, |record| groups.entry(record.run.subject).or_default().add(&record.usage))?;
        let mut totals: Vec<_> = groups.into_iter().collect();
        totals.sort_by_key(|(_, totals)| Reverse(totals.usage.cpu_ns));
        Ok(totals)
    }

    /// Removes the records that are not to be kept any longer, the oldest first. Returns how many they were. Costs what was
    /// written and what is removed since the last time, the first time a look at all keys. Blocks until it is on the disk;
    /// where it fails in between, it has removed some.
    pub fn retain(&self, retention: &Retention, now: Timestamp) -> Result<u64, Error> {
        self.settle()?;
        let mut removed = 0;
        // What is too old for a time is none where that reaches further back than times do.
        if let Some(before) = retention.age.and_then(|age| now.checked_sub(age).ok()) {
            removed += self.remove(&Query::all().until(before).range().1, u64::MAX)?;
        }
        if let Some(most) = retention.runs {
            let surplus = self.count()?.saturating_sub(most);
            removed += self.remove(RUNS_END, surplus)?;
        }
        Ok(removed)
    }

    /// How many records there are.
    fn count(&self) -> Result<u64, Error> {
        let mut kept = self.kept();
        let (more, last) = self.store.count(&kept.next, RUNS_END)?;
        kept.runs += more;
        if let Some(last) = last {
            kept.next = Store::after(&last);
        }
        Ok(kept.runs)
    }

    /// Removes the oldest records, `most` of them at most, whose keys are less than `until`.
    fn remove(&self, until: &str, most: u64) -> Result<u64, Error> {
        let mut removed = 0;
        while removed < most {
            let step = STEP.min(usize::try_from(most - removed).unwrap_or(STEP));
            let some = self.store.range(RUNS, until, step)?;
            if some.is_empty() {
                break;
            }
            some.iter().fold(self.store.txn(), |txn, (key, _)| txn.delete(key.as_str())).commit()?;
            removed += some.len() as u64;
            let mut kept = self.kept();
            let counted = some.iter().filter(|(key, _)| *key < kept.next).count() as u64;
            kept.runs = kept.runs.saturating_sub(counted);
        }
        Ok(removed)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked with it has changed a number at most.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what an earlier version has written to where it is looked for now, in transactions of which each moves some
    /// records whole. Where nothing is left to be brought, it costs a look.
    fn settle(&self) -> Result<(), Error> {
        loop {
            let some = self.store.range(FORMER, FORMER_END, STEP)?;
            if some.is_empty() {
                return Ok(());
            }
            let mut txn = self.store.txn();
            for (key, entry) in some {
                let record = self.runs.decode(&key, &entry.value)?;
                txn = self.runs.put_in(txn.delete(key), &run_id(&record), &record)?;
            }
            txn.commit()?;
            // Those that were brought stand among those that were counted.
            *self.kept() = Kept { runs: 0, next: RUNS.to_owned() };
        }
    }
}

impl Totals {
    /// Adds a run.
    pub fn add(&mut self, usage: &Usage) {
        self.runs += 1;
        self.usage += usage;
    }
}

fn open_id(subject: &Subject) -> String {
    format!("{}/{}", subject.kind(), subject.id())
}

fn run_id(record: &Record) -> String {
    let Run { subject, started, .. } = &record.run;
    format!("{}/{}/{}/{}", nanoseconds(record.ended), subject.kind(), subject.id(), nanoseconds(*started))
}

/// Nanoseconds since 1970, with zeros before them, so that the order of texts is that of times.
fn nanoseconds(time: Timestamp) -> String {
    format!("{:020}", time.as_nanosecond().max(0))
}

//! The records of all runs, in the store.

use crate::accumulator::Accumulator;
use crate::usage::{Run, Subject, Usage};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Query {
    /// All there are.
    pub fn all() -> Query {
        Query::default()
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

    fn means(&self, ended: Timestamp) -> bool {
        self.since.is_none_or(|since| ended >= since) && self.until.is_none_or(|until| ended < until)
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
}

const OPEN: &str = "meter/open/";
/// Where the counts are kept that nobody can read.
const ASIDE: &str = "meter/aside/";
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
        Ledger { store: store.clone(), open: Collection::new(store, OPEN), runs: Collection::new(store, RUNS) }
    }

    /// Saves how far runs were counted, in one relaxed transaction: cheap, and a power cut loses a second of it at
    /// most, which the next sample makes good. It is handed over when this is called, so that the end of a run that is
    /// recorded afterwards stands; returns when it is visible.
    pub fn save(&self, counts: &[Accumulator]) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let commit = self.counts(counts).map(|txn| (!txn.is_empty()).then(|| txn.commit_async()));
        async move {
            if let Some(commit) = commit? {
                commit.await?;
            }
            Ok(())
        }
    }

    fn counts(&self, counts: &[Accumulator]) -> Result<Txn<'_>, Error> {
        let mut txn = self.store.txn().durability(Durability::Relaxed);
        for count in counts {
            txn = self.open.put_in(txn, &open_id(&count.run().subject), count)?;
        }
        Ok(txn)
    }

    /// The runs of a kind that were being counted when they were last saved: those to go on with, or to close, after a
    /// restart. What nobody can read is told, and set aside: it keeps nobody from the others, and stays there to be looked at.
    pub fn open_runs(&self, kind: &str) -> Result<Vec<Accumulator>, Error> {
        let mut runs = Vec::new();
        for (key, entry) in self.store.list(&self.open.key(&format!("{kind}/")))?.entries {
            match self.open.decode(&key, &entry.value) {
                // Under another key than its own it would be counted again after each restart.
                Ok(count) if key == self.open.key(&open_id(&count.run().subject)) => runs.push(count),
                Ok(count) => self.set_aside(&key, entry.value, &format!("it is that of {}", count.run().subject)),
                Err(error) => self.set_aside(&key, entry.value, &error.to_string()),
            }
        }
        Ok(runs)
    }

    /// Puts a count where nothing looks for it, and nothing is put over it.
    fn set_aside(&self, key: &str, value: Vec<u8>, reason: &str) {
        let aside = format!("{ASIDE}{}", key.strip_prefix(OPEN).unwrap_or(key));
        tracing::error!(key, aside, reason, "how far a run was counted is lost, and set aside");
        if let Err(error) = self.store.txn().delete(key).put(aside, value).commit() {
            tracing::warn!(key, %error, "it stays where it is");
        }
    }

    /// Adds to `txn` that a run is over: whatever else is recorded of its end belongs into the same, so that nobody who comes
    /// between finds a run that is over and not counted, or counts it again.
    pub fn close_in<'a>(&self, txn: Txn<'a>, record: &Record) -> Result<Txn<'a>, Error> {
        let txn = txn.delete(self.open.key(&open_id(&record.run.subject)));
        self.runs.put_in(txn, &run_id(record), record)
    }

    /// Writes down a run that is over. Blocks until it is on the disk. Twice is as once.
    pub fn close(&self, record: &Record) -> Result<Revision, Error> {
        Ok(self.close_in(self.store.txn(), record)?.commit()?)
    }

    /// Writes down runs of which nobody knows how they ended, but for those that are written down with some other end. Costs a
    /// look at all records. Blocks until it is on the disk.
    pub fn close_lost(&self, records: &[Record]) -> Result<(), Error> {
        let mut lost: HashSet<_> = records.iter().map(|record| which(&record.run)).collect();
        self.visit(&Query::all(), |record| {
            lost.remove(&which(&record.run));
        })?;
        for record in records {
            match lost.contains(&which(&record.run)) {
                true => self.close(record)?,
                false => self.open.delete(&open_id(&record.run.subject))?,
            };
        }
        Ok(())
    }

    /// Calls `visit` with each record that is meant, in the order in which their runs ended; where what an earlier version has
    /// written can't be brought into that order (the disk is full), that comes first. However many they are, only some are in
    /// memory at a time.
    pub fn visit(&self, query: &Query, mut visit: impl FnMut(Record)) -> Result<(), Error> {
        // Whoever brings them after all may do so while they are read.
        let mut visited = HashSet::new();
        if !self.is_settled() {
            self.each(FORMER, FORMER_END, |_, record| {
                if query.means(record.ended) {
                    visited.insert(self.runs.key(&run_id(&record)));
                    visit(record);
                }
            })?;
        }
        let (from, until) = query.range();
        self.each(&from, &until, |key, record| {
            if !visited.contains(key) {
                visit(record);
            }
        })
    }

    /// Calls `visit` with each key from `from` to `until`, and with the record there, but for those that nobody can read.
    fn each(&self, from: &str, until: &str, mut visit: impl FnMut(&str, Record)) -> Result<(), Error> {
        let mut from = from.to_owned();
        loop {
            let some = self.store.range(&from, until, STEP)?;
            let Some((last, _)) = some.last() else { return Ok(()) };
            from = Store::after(last);
            for (key, entry) in &some {
                if let Some(record) = self.decode(key, &entry.value) {
                    visit(key, record);
                }
            }
        }
    }

    /// The record under `key`. One that is damaged keeps nobody from all the others.
    fn decode(&self, key: &str, value: &[u8]) -> Option<Record> {
        let record = self.runs.decode(key, value);
        record.inspect_err(|error| tracing::warn!(%error, "what a run used is passed over")).ok()
    }

    /// Removes the records that are not to be kept any longer, the oldest first. Returns how many they were. Costs a look at
    /// all keys. Blocks until it is on the disk; where it fails in between, it has removed some.
    pub fn retain(&self, retention: &Retention, now: Timestamp) -> Result<u64, Error> {
        // What could not be brought is kept until it can.
        self.is_settled();
        let mut removed = 0;
        // What is too old for a time is none where that reaches further back than times do.
        if let Some(before) = retention.age.and_then(|age| now.checked_sub(age).ok()) {
            removed += self.remove(&Query::all().until(before).range().1, u64::MAX)?;
        }
        if let Some(most) = retention.runs {
            let surplus = self.store.count(RUNS, RUNS_END)?.saturating_sub(most);
            removed += self.remove(RUNS_END, surplus)?;
        }
        Ok(removed)
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
        }
        Ok(removed)
    }

    /// Whether all that an earlier version has written is where it is looked for now.
    fn is_settled(&self) -> bool {
        let settled = self.settle();
        settled.inspect_err(|error| tracing::warn!(%error, "records of an earlier version stay as they are")).is_ok()
    }

    /// Brings what an earlier version has written to where it is looked for now, in transactions of which each moves some
    /// records whole. Where nothing is left to be brought, it costs a look.
    fn settle(&self) -> Result<(), Error> {
        let mut from = FORMER.to_owned();
        loop {
            let some = self.store.range(&from, FORMER_END, STEP)?;
            let Some((last, _)) = some.last() else { return Ok(()) };
            from = Store::after(last);
            let mut txn = self.store.txn();
            for (key, entry) in &some {
                if let Some(record) = self.decode(key, &entry.value) {
                    txn = self.runs.put_in(txn.delete(key.as_str()), &run_id(&record), &record)?;
                }
            }
            if !txn.is_empty() {
                txn.commit()?;
            }
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

/// What tells a run from all others.
fn which(run: &Run) -> (Subject, Timestamp) {
    (run.subject.clone(), run.started)
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

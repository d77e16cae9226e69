//! The records of all runs, in the store.

use crate::accumulator::Accumulator;
use crate::usage::{Run, Subject, Usage};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use store::{Collection, Durability, Error, Revision, Store, Txn};

/// The most records that one transaction removes.
const PRUNE: usize = 1000;

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
        let labels = &record.run.labels;
        self.since.is_none_or(|since| record.ended >= since)
            && self.until.is_none_or(|until| record.ended < until)
            && self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }

    /// The part of the records' keys that all meant ones begin with.
    fn prefix(&self) -> String {
        match (&self.kind, &self.id) {
            (Some(kind), Some(id)) => format!("{kind}/{id}/"),
            (Some(kind), None) => format!("{kind}/"),
            (None, _) => String::new(),
        }
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
/// `meter/open/<kind>/<id>` holds runs that are being counted, `meter/ended/<kind>/<id>/<start>` those that are over.
#[derive(Clone, Debug)]
pub struct Ledger {
    store: Store,
    open: Collection<Accumulator>,
    ended: Collection<Record>,
}

const OPEN: &str = "meter/open/";
const ENDED: &str = "meter/ended/";

impl Ledger {
    /// The ledger in `store`.
    pub fn new(store: &Store) -> Ledger {
        Ledger { store: store.clone(), open: Collection::new(store, OPEN), ended: Collection::new(store, ENDED) }
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
        self.ended.put_in(txn, &ended_id(&record.run), record)
    }

    /// The records that are meant, in the order in which their runs ended.
    pub fn records(&self, query: &Query) -> Result<Vec<Record>, Error> {
        let mut records: Vec<_> = self.matching(query)?.into_iter().map(|(_, record)| record).collect();
        records.sort_by(|a, b| (a.ended, &a.run.subject).cmp(&(b.ended, &b.run.subject)));
        Ok(records)
    }

    /// What the runs that are meant used together.
    pub fn totals(&self, query: &Query) -> Result<Totals, Error> {
        Ok(sum(self.matching(query)?.into_iter().map(|(_, record)| record.usage)))
    }

    /// What each subject used, the greatest consumer of CPU time first.
    pub fn totals_by_subject(&self, query: &Query) -> Result<Vec<(Subject, Totals)>, Error> {
        let records = self.matching(query)?;
        // The keys' order keeps a subject's records together.
        let groups = records.chunk_by(|(_, a), (_, b)| a.run.subject == b.run.subject);
        let mut totals: Vec<_> = groups
            .map(|group| (group[0].1.run.subject.clone(), sum(group.iter().map(|(_, record)| record.usage))))
            .collect();
        totals.sort_by_key(|(_, totals)| Reverse(totals.usage.cpu_ns));
        Ok(totals)
    }

    /// Removes the records of runs that ended before `before`. Returns how many they were. Blocks until it is on the
    /// disk; where it fails in between, it has removed some.
    pub fn prune(&self, before: Timestamp) -> Result<usize, Error> {
        let old = self.matching(&Query::all().until(before))?;
        for some in old.chunks(PRUNE) {
            some.iter().fold(self.store.txn(), |txn, (key, _)| txn.delete(key.as_str())).commit()?;
        }
        Ok(old.len())
    }

    /// The keys and records that are meant, in the keys' order.
    fn matching(&self, query: &Query) -> Result<Vec<(String, Record)>, Error> {
        let listing = self.store.list(&format!("{ENDED}{}", query.prefix()))?;
        let mut found = Vec::new();
        for (key, entry) in listing {
            let record = self.ended.decode(&key, &entry.value)?;
            if query.matches(&record) {
                found.push((key, record));
            }
        }
        Ok(found)
    }
}

fn sum(usages: impl Iterator<Item = Usage>) -> Totals {
    usages.fold(Totals::default(), |mut totals, usage| {
        totals.runs += 1;
        totals.usage += &usage;
        totals
    })
}

fn open_id(subject: &Subject) -> String {
    format!("{}/{}", subject.kind(), subject.id())
}

/// Nanoseconds, with zeros before them, so that the keys' order is that of time (from 1970 on).
fn ended_id(run: &Run) -> String {
    format!("{}/{}/{:020}", run.subject.kind(), run.subject.id(), run.started.as_nanosecond())
}

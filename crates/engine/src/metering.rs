//! What containers use is counted while they run, and kept when they end.

use std::collections::HashMap;
use std::time::Duration;

use meter::{Accumulator, Ledger, Record, Retention, Run, Sample, Subject, boot_time};
use parking_lot::Mutex;
use sandbox::cgroup::Usage;
use store::Txn;

use crate::container::LastUsage;
use crate::model::{ContainerRecord, Timestamp};
use crate::{Engine, Error, Result};

/// Between two samples of everything that runs.
const INTERVAL: Duration = Duration::from_secs(15);
/// Between two looks for records that are not kept any longer.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);
/// The kind of what is counted here: microVMs and functions are others.
const KIND: &str = "container";
/// What stands before a container's own labels among those of its run, beside its name and its image.
pub(crate) const LABEL: &str = "label/";
/// The most bytes of a container's labels that are kept with each of its runs: twice what those of compose take, so that there is
/// room for one's own, by which it is added up who pays. With that, a run takes one page of 4 KiB of the store, and with more
/// two or three.
const LABEL_BYTES: usize = 2048;

/// The counts of what runs, by container.
pub(crate) struct Metering {
    pub(crate) ledger: Ledger,
    runs: Mutex<Runs>,
    retention: Retention,
}

/// The runs that the ledger may not have. Who looks here, and then at the ledger, sees each.
#[derive(Default)]
struct Runs {
    /// Those that are being counted, by container.
    open: HashMap<String, Accumulator>,
    /// Those that are over, until the ledger has them.
    closing: Vec<Record>,
}

impl Runs {
    /// Puts one among those that are over.
    fn close(&mut self, ended: &Record) {
        self.open.remove(ended.run.subject.id());
        self.closing.push(ended.clone());
    }

    /// The ledger has it.
    fn closed(&mut self, ended: &Record) {
        self.closing.retain(|closing| closing.run != ended.run);
    }
}

/// A run that is over, on its way into the store. It is being counted again where it doesn't come there.
pub(crate) struct Closing {
    engine: Engine,
    ended: Record,
    /// What is counted again.
    count: Option<Accumulator>,
}

impl Closing {
    /// Adds it to the transaction that records the run's end.
    pub(crate) fn put_in<'a>(&self, txn: Txn<'a>) -> Result<Txn<'a>, store::Error> {
        self.engine.0.metering.ledger.close_in(txn, &self.ended)
    }

    /// The transaction is committed.
    pub(crate) fn kept(mut self) {
        self.count = None;
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let mut runs = self.engine.0.metering.runs.lock();
        runs.closed(&self.ended);
        if let Some(count) = self.count.take() {
            runs.open.insert(count.run().subject.id().to_owned(), count);
        }
    }
}

impl Metering {
    /// Takes up the counts that an earlier daemon began.
    pub(crate) fn open(store: &store::Store, retention: Retention) -> Result<Self> {
        let ledger = Ledger::new(store);
        let open = ledger.open_runs(KIND).map_err(|error| Error::step("read what is being counted", error))?;
        let open = open.into_iter().map(|count| (count.run().subject.id().to_owned(), count)).collect();
        Ok(Self { ledger, runs: Mutex::new(Runs { open, closing: Vec::new() }), retention })
    }

    /// Begins a count. Gives what is to be written down of an earlier run of the same container that an earlier daemon
    /// has left open.
    fn begin(&self, count: Accumulator) -> Option<Record> {
        let mut runs = self.runs.lock();
        let ended = runs.open.remove(count.run().subject.id()).map(as_last_seen);
        if let Some(ended) = &ended {
            runs.close(ended);
        }
        runs.open.insert(count.run().subject.id().to_owned(), count);
        ended
    }

    /// Has the ledger save how far runs were counted, those of `counts` that are not over by now.
    fn save(&self, mut counts: Vec<Accumulator>) -> impl Future<Output = Result<(), store::Error>> + Send + use<> {
        // Whoever ends one of them has it recorded after this.
        let runs = self.runs.lock();
        counts.retain(|count| runs.open.get(count.run().subject.id()).is_some_and(|open| open.run() == count.run()));
        self.ledger.save(&counts)
    }
}

/// The record of a run whose end nobody counted: it ended when it was last looked at.
fn as_last_seen(count: Accumulator) -> Record {
    let lasted = jiff::SignedDuration::try_from(Duration::from_nanos(count.usage().wall_ns)).unwrap_or_default();
    let ended = count.run().started.checked_add(lasted).unwrap_or_else(|_| Timestamp::now());
    count.finish(ended)
}

/// The record of a run that ended at `ended`, with what the kernel's counters said afterwards. While no daemon ran, that may be
/// long afterwards: the run lasted no longer for it.
fn finished(mut count: Accumulator, sample: Option<Sample>, ended: Timestamp, now: Timestamp) -> Record {
    if let Some(mut sample) = sample {
        let since = Duration::try_from(now.duration_since(ended)).unwrap_or_default();
        // Clocks may have been set meanwhile: it was there when it was last looked at.
        let seen = count.last().at.min(sample.at);
        sample.at = sample.at.saturating_sub(since).max(seen);
        count.add(&sample);
    }
    count.finish(ended)
}

/// What is kept with each run: the container's name, its image and its labels, as far as there is room for them.
fn labels(mut run: Run, record: &ContainerRecord) -> Run {
    run = run.label("name", record.name.clone()).label("image", record.config.image.clone());
    let mut room = LABEL_BYTES;
    for (name, value) in &record.config.labels {
        match room.checked_sub(name.len() + value.len()) {
            Some(left) => room = left,
            None => continue,
        }
        run = run.label(format!("{LABEL}{name}"), value.clone());
    }
    run
}

impl Engine {
    /// Takes a sample of everything that runs, now and then, for ever.
    pub(crate) async fn meter_for_ever(self) {
        self.close_lost_counts();
        let mut retained = None::<tokio::time::Instant>;
        loop {
            if retained.is_none_or(|last| last.elapsed() >= RETENTION_INTERVAL) {
                retained = Some(tokio::time::Instant::now());
                self.retain_records().await;
            }
            tokio::time::sleep(INTERVAL).await;
            let engine = self.clone();
            let counts = crate::blocking(move || Ok(engine.meter_all())).await.unwrap_or_default();
            let saved = self.0.metering.save(counts);
            if let Err(error) = saved.await {
                tracing::warn!(%error, "could not save what was counted");
            }
        }
    }

    /// Runs of which there is a count, and of which the containers say that they are over: no end of one comes to this, but
    /// those that a daemon of another version recorded may.
    fn close_lost_counts(&self) {
        let is_lost = |id: &str| {
            let container = self.0.containers.by_id(id);
            container.is_none_or(|container| !container.record().state.phase.is_live())
        };
        let mut runs = self.0.metering.runs.lock();
        let lost: Vec<String> = runs.open.keys().filter(|id| is_lost(id)).cloned().collect();
        let lost: Vec<Record> = lost.iter().filter_map(|id| runs.open.remove(id)).map(as_last_seen).collect();
        lost.iter().for_each(|ended| runs.close(ended));
        drop(runs);
        self.write_down(lost);
    }

    async fn retain_records(&self) {
        let engine = self.clone();
        let removed = crate::blocking(move || {
            let Metering { ledger, retention, .. } = &engine.0.metering;
            ledger
                .retain(retention, Timestamp::now())
                .map_err(|error| Error::step("remove old records of usage", error))
        });
        match removed.await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "records of what ended runs used are not kept any longer"),
            Err(error) => tracing::warn!(%error),
        }
    }

    /// What is being counted, up to now, and what the ledger may not have yet of what has ended.
    pub(crate) fn open_counts(&self) -> (Vec<Accumulator>, Vec<Record>) {
        self.meter_all();
        let runs = self.0.metering.runs.lock();
        (runs.open.values().cloned().collect(), runs.closing.clone())
    }

    fn meter_all(&self) -> Vec<Accumulator> {
        let records = self.0.containers.all().into_iter().map(|container| container.record());
        let mut counts = Vec::new();
        for record in records.filter(|record| record.state.phase.is_live()) {
            let Some(usage) = self.0.placements.usage(&record) else { continue };
            let sample = self.meter_sample(&record, &usage);
            if let Some(count) = self.0.metering.runs.lock().open.get_mut(record.id.as_str()) {
                count.add(&sample);
                counts.push(count.clone());
            }
        }
        counts
    }

    /// Goes on counting what ran while no daemon did; for who holds its life, so that it does not end meanwhile. A daemon that was killed soon after the start has not saved the count:
    /// the kernel's counters are the run's own, and have all of it.
    pub(crate) fn resume_count(&self, record: &ContainerRecord) {
        let is_counted = |count: &Accumulator| Some(count.run().started) == record.state.started_at;
        if self.0.metering.runs.lock().open.get(record.id.as_str()).is_none_or(|count| !is_counted(count)) {
            let ran = record.state.started_at.map(|started| Timestamp::now().duration_since(started));
            let ran = ran.and_then(|ran| Duration::try_from(ran).ok()).unwrap_or_default();
            self.count_from(record, boot_time().saturating_sub(ran));
        }
    }

    /// Begins to count a run.
    pub(crate) fn begin_count(&self, record: &ContainerRecord) {
        self.count_from(record, boot_time());
    }

    fn count_from(&self, record: &ContainerRecord, at: Duration) {
        let (Ok(subject), Some(started)) = (Subject::new(KIND, record.id.to_string()), record.state.started_at) else {
            return;
        };
        let run = labels(Run::new(subject, started), record);
        let count = Accumulator::new(run, Sample { at, ..Sample::default() });
        if let Some(ended) = self.0.metering.begin(count) {
            self.write_down(vec![ended]);
        }
    }

    /// What a run used that ended at `ended`, for the record of its end.
    pub(crate) fn close_count(&self, record: &ContainerRecord, last: &LastUsage, ended: Timestamp) -> Option<Closing> {
        let sample = last.usage.as_ref().map(|usage| self.meter_sample(record, usage));
        let mut runs = self.0.metering.runs.lock();
        let count = runs.open.remove(record.id.as_str())?;
        let ended = finished(count.clone(), sample, ended, Timestamp::now());
        runs.close(&ended);
        drop(runs);
        Some(Closing { engine: self.clone(), ended, count: Some(count) })
    }

    /// Has the ledger take those of which nothing else is to be recorded. Nobody waits for it.
    fn write_down(&self, lost: Vec<Record>) {
        if lost.is_empty() {
            return;
        }
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let Metering { ledger, runs, .. } = &engine.0.metering;
            if let Err(error) = ledger.close_lost(&lost) {
                tracing::warn!(%error, "could not keep what containers used");
            }
            let mut runs = runs.lock();
            lost.iter().for_each(|ended| runs.closed(ended));
        });
    }

    fn meter_sample(&self, record: &ContainerRecord, usage: &Usage) -> Sample {
        let io = |operation: &str| {
            usage
                .io_bytes
                .iter()
                .filter(|entry| entry.operation.eq_ignore_ascii_case(operation))
                .map(|entry| entry.value)
                .sum()
        };
        let links = record
            .net
            .as_ref()
            .and_then(|net| self.0.networks.statistics(net, process_of(record)).ok())
            .unwrap_or_default();
        Sample {
            at: boot_time(),
            cpu_ns: usage.cpu,
            memory_bytes: usage.memory,
            io_read_bytes: io("read"),
            io_write_bytes: io("write"),
            net_rx_bytes: links.iter().map(|link| link.rx_bytes).sum(),
            net_tx_bytes: links.iter().map(|link| link.tx_bytes).sum(),
        }
    }
}

/// A process that runs in the container.
pub(crate) fn process_of(record: &ContainerRecord) -> Option<u32> {
    Some(record.state.pid).filter(|pid| record.state.phase.is_live() && *pid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn at(second: u64) -> Sample {
        Sample { at: Duration::from_secs(second), ..Sample::default() }
    }

    /// A run that began at `second`, by the clock and by the time since boot, and was looked at 10 seconds later.
    fn count(second: u64) -> Accumulator {
        let run = Run::new(Subject::new(KIND, "c").unwrap(), time(second as i64));
        let mut count = Accumulator::new(run, at(second));
        count.add(&Sample { memory_bytes: 100, ..at(second + 10) });
        count
    }

    #[test]
    fn a_run_that_ended_while_nobody_looked_lasted_until_its_end() {
        let late = Some(Sample { cpu_ns: 7, memory_bytes: 100, ..at(3_600) });
        let record = finished(count(0), late, time(20), time(3_600));
        assert_eq!((record.ended, record.usage.wall_seconds(), record.usage.cpu_ns), (time(20), 20.0, 7));
        assert_eq!(record.usage.memory_byte_seconds, 500.0 + 1_000.0);
        // It was there at its last look, whatever a clock says that was set since; and its counters are its own in any case.
        let record = finished(count(0), late, time(5), time(3_600));
        assert_eq!((record.usage.wall_seconds(), record.usage.cpu_ns), (10.0, 7));
        let record = finished(count(0), late, time(4_000), time(3_600));
        assert_eq!(record.usage.wall_seconds(), 3_600.0);
        // Nothing could be read any more.
        assert_eq!(finished(count(0), None, time(20), time(3_600)).usage.wall_seconds(), 10.0);
    }

    #[tokio::test]
    async fn a_run_whose_end_was_not_counted_is_written_down_before_the_next() {
        let store = store::Store::in_memory().unwrap();
        Ledger::new(&store).save(&[count(0)]).await.unwrap();
        let metering = Metering::open(&store, Retention { age: None, runs: None }).unwrap();
        let ended = metering.begin(count(100)).expect("the run before");
        assert_eq!((ended.run.started, ended.ended), (time(0), time(10)));
        assert_eq!(metering.runs.lock().closing, [ended]);
        assert_eq!(metering.runs.lock().open["c"].run().started, time(100));
    }
}

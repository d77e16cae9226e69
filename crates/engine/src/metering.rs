//! What containers use is counted while they run, and kept when they end.

use std::collections::HashMap;
use std::time::Duration;

use meter::{Accumulator, Ledger, Record, Retention, Run, Sample, Subject, boot_time};
use parking_lot::Mutex;
use sandbox::cgroup::Usage;

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
/// The most bytes of a container's labels that are kept with each of its runs.
const LABEL_BYTES: usize = 4096;

/// The counts of what runs, by container.
pub(crate) struct Metering {
    pub(crate) ledger: Ledger,
    open: Mutex<HashMap<String, Accumulator>>,
    /// Runs that are over, on their way into the ledger. A run is here before it leaves `open`, and until the ledger has it: who
    /// looks at the three in this order sees each.
    closing: Mutex<Vec<Record>>,
    retention: Retention,
}

impl Metering {
    /// Takes up the counts that an earlier daemon began.
    pub(crate) fn open(store: &store::Store, retention: Retention) -> Result<Self> {
        let ledger = Ledger::new(store);
        let runs = ledger.open_runs().map_err(|error| Error::step("read what is being counted", error))?;
        let open = runs.into_iter().map(|count| (count.run().subject.id().to_owned(), count)).collect();
        Ok(Self { ledger, open: Mutex::new(open), closing: Mutex::default(), retention })
    }
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
            if let Err(error) = self.0.metering.ledger.save(counts.iter()).await {
                tracing::warn!(%error, "could not save what was counted");
            }
        }
    }

    /// Runs that ended, together with their containers, while their records were on the way: they end when they were last
    /// looked at.
    fn close_lost_counts(&self) {
        let is_lost = |id: &str| {
            let container = self.0.containers.by_id(id);
            container.is_none_or(|container| !container.record().state.phase.is_live())
        };
        let mut open = self.0.metering.open.lock();
        let lost: Vec<String> = open.keys().filter(|id| is_lost(id)).cloned().collect();
        for count in lost.iter().filter_map(|id| open.remove(id)) {
            let lasted =
                jiff::SignedDuration::try_from(Duration::from_nanos(count.usage().wall_ns)).unwrap_or_default();
            let ended = count.run().started.checked_add(lasted).unwrap_or_else(|_| Timestamp::now());
            self.write_down(count.finish(ended));
        }
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
        let open = self.0.metering.open.lock().values().cloned().collect();
        (open, self.0.metering.closing.lock().clone())
    }

    fn meter_all(&self) -> Vec<Accumulator> {
        let records = self.0.containers.all().into_iter().map(|container| container.record());
        let mut counts = Vec::new();
        for record in records.filter(|record| record.state.phase.is_live()) {
            let Some(usage) = self.0.placements.usage(&record) else { continue };
            let sample = self.meter_sample(&record, &usage);
            if let Some(count) = self.0.metering.open.lock().get_mut(record.id.as_str()) {
                count.add(&sample);
                counts.push(count.clone());
            }
        }
        counts
    }

    /// Goes on counting what ran while no daemon did. A daemon that was killed soon after the start has not saved the count:
    /// the kernel's counters are the run's own, and have all of it.
    pub(crate) fn resume_count(&self, record: &ContainerRecord) {
        let is_counted = |count: &Accumulator| Some(count.run().started) == record.state.started_at;
        if self.0.metering.open.lock().get(record.id.as_str()).is_none_or(|count| !is_counted(count)) {
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
        self.0.metering.open.lock().insert(record.id.to_string(), count);
    }

    /// Keeps what a run used, at its end. Nobody waits for it.
    pub(crate) fn keep_usage(&self, record: &ContainerRecord, last: &LastUsage) {
        let Some(mut count) = self.0.metering.open.lock().get(record.id.as_str()).cloned() else { return };
        if let Some(usage) = &last.usage {
            count.add(&self.meter_sample(record, usage));
        }
        self.write_down(count.finish(Timestamp::now()));
        self.0.metering.open.lock().remove(record.id.as_str());
    }

    fn write_down(&self, ended: Record) {
        let engine = self.clone();
        self.0.metering.closing.lock().push(ended.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = engine.0.metering.ledger.close(&ended) {
                tracing::warn!(%error, "could not keep what a container used");
            }
            engine.0.metering.closing.lock().retain(|closing| closing.run != ended.run);
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
        let links = record.net.as_ref().and_then(|net| self.0.networks.statistics(net).ok()).unwrap_or_default();
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

//! What containers use is counted while they run, and kept when they end.

use std::collections::HashMap;
use std::time::Duration;

use meter::{Accumulator, Ledger, Run, Sample, Subject, boot_time};
use parking_lot::Mutex;
use sandbox::cgroup::Usage;

use crate::container::LastUsage;
use crate::model::{ContainerRecord, Timestamp};
use crate::{Engine, Result};

/// Between two samples of everything that runs.
const INTERVAL: Duration = Duration::from_secs(15);

/// The counts of what runs, by container.
pub(crate) struct Metering {
    ledger: Ledger,
    open: Mutex<HashMap<String, Accumulator>>,
}

impl Metering {
    /// Takes up the counts that an earlier daemon began.
    pub(crate) fn open(store: &store::Store) -> Result<Self> {
        let ledger = Ledger::new(store);
        let runs = ledger.open_runs().map_err(|error| crate::Error::step("read what is being counted", error))?;
        let open = runs.into_iter().map(|count| (count.run().subject.id().to_owned(), count)).collect();
        Ok(Self { ledger, open: Mutex::new(open) })
    }
}

impl Engine {
    /// Takes a sample of everything that runs, now and then, for ever.
    pub(crate) async fn meter_for_ever(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let engine = self.clone();
            let counts = crate::blocking(move || Ok(engine.meter_all())).await.unwrap_or_default();
            if let Err(error) = self.0.metering.ledger.save(counts.iter()).await {
                tracing::warn!(%error, "could not save what was counted");
            }
        }
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

    /// Begins to count a run.
    pub(crate) fn begin_count(&self, record: &ContainerRecord) {
        let (Ok(subject), Some(started)) = (Subject::new("container", record.id.to_string()), record.state.started_at)
        else {
            return;
        };
        let run =
            Run::new(subject, started).label("name", record.name.clone()).label("image", record.config.image.clone());
        let count = Accumulator::new(run, Sample { at: boot_time(), ..Sample::default() });
        self.0.metering.open.lock().insert(record.id.to_string(), count);
    }

    /// Keeps what a run used, at its end. Nobody waits for it.
    pub(crate) fn keep_usage(&self, record: &ContainerRecord, last: &LastUsage) {
        let Some(mut count) = self.0.metering.open.lock().remove(record.id.as_str()) else { return };
        if let Some(usage) = &last.usage {
            count.add(&self.meter_sample(record, usage));
        }
        let (engine, ended) = (self.clone(), count.finish(Timestamp::now()));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = engine.0.metering.ledger.close(&ended) {
                tracing::warn!(%error, "could not keep what a container used");
            }
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

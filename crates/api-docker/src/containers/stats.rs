//! `GET /containers/{name}/stats`

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use engine::{CpuCounters, Engine, MemoryCounters, StatsSample};
use futures_util::stream;
use serde::Serialize;

use crate::body::{self, Response, json_line};
use crate::call::Call;
use crate::error::Result;
use crate::time::rfc3339_or_zero;

/// Between two samples, as clients expect it.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct StatsBody {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    read: String,
    preread: String,
    pids_stats: PidsBody,
    blkio_stats: BlockIoBody,
    num_procs: u32,
    storage_stats: StorageBody,
    cpu_stats: CpuBody,
    precpu_stats: CpuBody,
    memory_stats: MemoryBody,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    networks: BTreeMap<String, NetworkBody>,
}

#[derive(Serialize)]
struct PidsBody {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

/// Counters of block devices; on cgroup v2 the kernel has only the first.
#[derive(Serialize)]
struct BlockIoBody {
    io_service_bytes_recursive: Option<Vec<IoBody>>,
    io_serviced_recursive: Option<Vec<IoBody>>,
    io_queue_recursive: Option<Vec<IoBody>>,
    io_service_time_recursive: Option<Vec<IoBody>>,
    io_wait_time_recursive: Option<Vec<IoBody>>,
    io_merged_recursive: Option<Vec<IoBody>>,
    io_time_recursive: Option<Vec<IoBody>>,
    sectors_recursive: Option<Vec<IoBody>>,
}

#[derive(Clone, Serialize)]
struct IoBody {
    major: u64,
    minor: u64,
    op: String,
    value: u64,
}

/// Windows' own counters, which Linux shows empty.
#[derive(Serialize)]
struct StorageBody {}

#[derive(Default, Serialize)]
struct CpuBody {
    cpu_usage: CpuUsageBody,
    #[serde(skip_serializing_if = "is_zero")]
    system_cpu_usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    online_cpus: u64,
    throttling_data: ThrottlingBody,
}

#[derive(Default, Serialize)]
struct CpuUsageBody {
    total_usage: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_usage: Vec<u64>,
    usage_in_kernelmode: u64,
    usage_in_usermode: u64,
}

#[derive(Default, Serialize)]
struct ThrottlingBody {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

#[derive(Serialize)]
struct MemoryBody {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_usage: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stats: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    failcnt: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Serialize)]
struct NetworkBody {
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_dropped: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `GET /containers/{name}/stats`
pub(crate) async fn stats(call: Call) -> Result<Response> {
    let first = call.engine().stats(&call.name).await?;
    let follow = call.query.flag_or("stream", true);
    if !follow {
        let one_shot = call.query.flag("one-shot");
        if one_shot || first.read.is_none() {
            return body::ok_json(&StatsBody::new(&first, None));
        }
        tokio::time::sleep(INTERVAL).await;
        let second = call.engine().stats(&call.name).await?;
        return body::ok_json(&StatsBody::new(&second, Some(&first)));
    }
    let samples = Samples { engine: call.engine().clone(), id: first.id.clone(), previous: None, next: Some(first) };
    let pieces = stream::unfold(samples, |mut samples| async { samples.next().await.map(|piece| (piece, samples)) });
    Ok(body::stream_until(&call.shutdown, "application/json", pieces))
}

/// Samples of one container until it is no more.
struct Samples {
    engine: Engine,
    id: String,
    previous: Option<StatsSample>,
    next: Option<StatsSample>,
}

impl Samples {
    async fn next(&mut self) -> Option<Bytes> {
        let sample = match self.next.take() {
            Some(first) => first,
            None => {
                tokio::time::sleep(INTERVAL).await;
                self.engine.stats(&self.id).await.ok()?
            }
        };
        let line = json_line(&StatsBody::new(&sample, self.previous.as_ref())).ok()?;
        self.previous = Some(sample);
        Some(line)
    }
}

impl StatsBody {
    fn new(sample: &StatsSample, previous: Option<&StatsSample>) -> Self {
        Self {
            name: format!("/{}", sample.name),
            id: sample.id.clone(),
            read: rfc3339_or_zero(sample.read),
            preread: rfc3339_or_zero(previous.and_then(|previous| previous.read)),
            pids_stats: PidsBody { current: sample.pids.0, limit: sample.pids.1.unwrap_or_default() },
            blkio_stats: BlockIoBody::new(sample),
            num_procs: 0,
            storage_stats: StorageBody {},
            cpu_stats: CpuBody::new(sample),
            precpu_stats: previous.map(CpuBody::new).unwrap_or_default(),
            memory_stats: MemoryBody::new(&sample.memory),
            networks: sample.networks.iter().map(|link| (link.name.clone(), NetworkBody::from(link))).collect(),
        }
    }
}

impl CpuBody {
    fn new(sample: &StatsSample) -> Self {
        let cpu: &CpuCounters = &sample.cpu;
        let (periods, throttled_periods, throttled_time) = cpu.throttling;
        Self {
            cpu_usage: CpuUsageBody {
                total_usage: cpu.total,
                percpu_usage: cpu.per_cpu.clone(),
                usage_in_kernelmode: cpu.system,
                usage_in_usermode: cpu.user,
            },
            system_cpu_usage: cpu.machine,
            online_cpus: sample.online_cpus.into(),
            throttling_data: ThrottlingBody { periods, throttled_periods, throttled_time },
        }
    }
}

impl MemoryBody {
    fn new(memory: &MemoryCounters) -> Self {
        Self {
            usage: memory.usage,
            max_usage: memory.max_usage,
            stats: memory.stat.clone(),
            failcnt: memory.failures,
            limit: memory.limit,
        }
    }
}

impl BlockIoBody {
    fn new(sample: &StatsSample) -> Self {
        let bodies = |entries: &[(u64, u64, String, u64)]| -> Vec<IoBody> {
            let body = |(major, minor, op, value): &(u64, u64, String, u64)| IoBody {
                major: *major,
                minor: *minor,
                op: op.clone(),
                value: *value,
            };
            entries.iter().map(body).collect()
        };
        let running = sample.read.is_some();
        let only_v1 = (running && !sample.unified).then(Vec::new);
        let operations = bodies(&sample.block_io.operations);
        Self {
            io_service_bytes_recursive: running.then(|| bodies(&sample.block_io.bytes)),
            io_serviced_recursive: if operations.is_empty() { only_v1.clone() } else { Some(operations) },
            io_queue_recursive: only_v1.clone(),
            io_service_time_recursive: only_v1.clone(),
            io_wait_time_recursive: only_v1.clone(),
            io_merged_recursive: only_v1.clone(),
            io_time_recursive: only_v1.clone(),
            sectors_recursive: only_v1,
        }
    }
}

impl From<&net::LinkStatistics> for NetworkBody {
    fn from(link: &net::LinkStatistics) -> Self {
        Self {
            rx_bytes: link.rx_bytes,
            rx_packets: link.rx_packets,
            rx_errors: link.rx_errors,
            rx_dropped: link.rx_dropped,
            tx_bytes: link.tx_bytes,
            tx_packets: link.tx_packets,
            tx_errors: link.tx_errors,
            tx_dropped: link.tx_dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_run_uses_nothing() {
        let sample = StatsSample { id: "1".to_owned(), name: "web".to_owned(), ..StatsSample::default() };
        let body = serde_json::to_value(StatsBody::new(&sample, None)).expect("JSON");
        assert_eq!((&body["name"], &body["read"]), (&"/web".into(), &"0001-01-01T00:00:00Z".into()));
        assert_eq!((&body["memory_stats"], &body["pids_stats"]), (&serde_json::json!({}), &serde_json::json!({})));
        assert!(body["blkio_stats"]["io_service_bytes_recursive"].is_null());
    }

    #[test]
    fn the_sample_before_is_told_with_it() {
        let at = |total| StatsSample {
            read: "2024-03-01T10:20:30Z".parse().ok(),
            cpu: CpuCounters { total, machine: total * 2, ..CpuCounters::default() },
            online_cpus: 2,
            ..StatsSample::default()
        };
        let body = serde_json::to_value(StatsBody::new(&at(20), Some(&at(10)))).expect("JSON");
        assert_eq!(body["cpu_stats"]["cpu_usage"]["total_usage"], 20);
        assert_eq!(body["precpu_stats"]["cpu_usage"]["total_usage"], 10);
        assert_eq!(
            (&body["precpu_stats"]["system_cpu_usage"], &body["cpu_stats"]["online_cpus"]),
            (&20.into(), &2.into())
        );
    }
}

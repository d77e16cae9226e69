//! `stratus stats`

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value;

use super::attach::asked_to_end;
use super::error::{Error, Result};
use super::output::{self, Format};
use super::request::Request;
use super::table::Table;
use super::{Context, containers, human, terminal};

/// Show what containers use, as it changes
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Also those that do not run
    #[arg(long, short)]
    all: bool,
    /// Show it once, and end
    #[arg(long)]
    no_stream: bool,
    /// Don't cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Containers, by name or id [default: all that run]
    containers: Vec<String>,
}

#[derive(Deserialize)]
struct Sample {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    #[serde(default)]
    memory_stats: Memory,
    #[serde(default)]
    networks: BTreeMap<String, Network>,
    #[serde(default)]
    blkio_stats: BlockIo,
    #[serde(default)]
    pids_stats: Pids,
}

#[derive(Deserialize)]
struct Cpu {
    cpu_usage: CpuUsage,
    #[serde(default)]
    system_cpu_usage: u64,
    #[serde(default)]
    online_cpus: u32,
}

#[derive(Deserialize)]
struct CpuUsage {
    total_usage: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    usage: u64,
    limit: u64,
    stats: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Network {
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BlockIo {
    io_service_bytes_recursive: Option<Vec<Bytes>>,
}

#[derive(Deserialize)]
struct Bytes {
    op: String,
    value: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pids {
    current: u64,
}

impl Sample {
    /// The share of one processor, in per cent: what it used of what passed, times their number.
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    fn processor(&self) -> f64 {
        let used = self.cpu_stats.cpu_usage.total_usage.saturating_sub(self.precpu_stats.cpu_usage.total_usage);
        let passed = self.cpu_stats.system_cpu_usage.saturating_sub(self.precpu_stats.system_cpu_usage);
        match (used, passed) {
            (0, _) | (_, 0) => 0.0,
            (used, passed) => used as f64 / passed as f64 * f64::from(self.cpu_stats.online_cpus.max(1)) * 100.0,
        }
    }

    /// Memory without the page cache that can be given back at any time.
    fn memory(&self) -> u64 {
        let stats = &self.memory_stats.stats;
        // The first is cgroup v1's name, the second v2's.
        let cache = stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied().unwrap_or(0);
        self.memory_stats.usage.saturating_sub(cache)
    }

    fn block(&self, operation: &str) -> u64 {
        let entries = self.blkio_stats.io_service_bytes_recursive.iter().flatten();
        entries.filter(|entry| entry.op.eq_ignore_ascii_case(operation)).map(|entry| entry.value).sum()
    }
}

/// `stratus stats`
pub(super) async fn stats(context: &Context, args: StatsArgs) -> Result<ExitCode> {
    let live = !args.no_stream && context.format == Format::Table && io::stdout().is_terminal();
    let rounds = async {
        loop {
            let samples = round(context, &args).await?;
            match context.format {
                Format::Json if args.no_stream => output::document(&samples)?,
                Format::Json => samples.iter().try_for_each(output::document_line)?,
                Format::Table => {
                    let table = table(&samples, &args)?;
                    if live {
                        terminal::clear(io::stdout().lock()).map_err(output::written)?;
                    }
                    output::table(&table)?;
                }
            }
            if args.no_stream {
                return Ok(ExitCode::SUCCESS);
            }
            if samples.is_empty() {
                // The samples' own second passes only where there are some.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    };
    tokio::select! {
        end = rounds => end,
        signal = asked_to_end() => match signal? {
            // The way in which people end it.
            2 => Ok(ExitCode::SUCCESS),
            signal => Err(Error::Signal(signal)),
        },
    }
}

/// One sample of each container, which takes the daemon a second.
async fn round(context: &Context, args: &StatsArgs) -> Result<Vec<Value>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Listed {
        id: String,
    }
    let names = match args.containers.is_empty() {
        false => args.containers.clone(),
        true => {
            let request = Request::get("/containers/json").flag("all", args.all);
            let listed: Vec<Listed> = context.daemon.read(request).await?;
            listed.into_iter().map(|one| one.id).collect()
        }
    };
    let sample =
        |name: &String| context.daemon.document(Request::get(containers::path(name, "stats")).query("stream", "0"));
    let mut samples = Vec::new();
    for outcome in join_all(names.iter().map(sample)).await {
        match outcome {
            Ok(sample) => samples.push(sample),
            // One that was listed has gone meanwhile.
            Err(error) if error.is_not_found() && args.containers.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(samples)
}

#[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
fn table(samples: &[Value], args: &StatsArgs) -> Result<Table> {
    let mut table = Table::new([
        "ID",
        "NAME",
        "CPU %",
        "MEMORY / LIMIT",
        "MEMORY %",
        "NET IN / OUT",
        "DISK READ / WRITTEN",
        "PIDS",
    ]);
    for sample in samples {
        let sample = Sample::deserialize(sample)?;
        let (memory, limit) = (sample.memory(), sample.memory_stats.limit);
        let (received, sent) = sample.networks.values().fold((0_u64, 0_u64), |(received, sent), network| {
            (received.saturating_add(network.rx_bytes), sent.saturating_add(network.tx_bytes))
        });
        let share = if limit == 0 { 0.0 } else { memory as f64 / limit as f64 * 100.0 };
        table.row([
            if args.no_trunc { sample.id.as_str() } else { human::short(&sample.id) }.into(),
            sample.name.trim_start_matches('/').into(),
            format!("{:.2}%", sample.processor()).into(),
            format!("{} / {}", human::binary(memory), human::binary(limit)).into(),
            format!("{share:.2}%").into(),
            format!("{} / {}", human::decimal(received), human::decimal(sent)).into(),
            format!("{} / {}", human::decimal(sample.block("read")), human::decimal(sample.block("write"))).into(),
            sample.pids_stats.current.to_string().into(),
        ]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_one_processor() {
        let sample = serde_json::json!({
            "cpu_stats": { "cpu_usage": { "total_usage": 600 }, "system_cpu_usage": 3000, "online_cpus": 2 },
            "precpu_stats": { "cpu_usage": { "total_usage": 100 }, "system_cpu_usage": 1000 },
            "memory_stats": { "usage": 100, "limit": 1000, "stats": { "inactive_file": 40 } },
        });
        let sample = Sample::deserialize(&sample).expect("a sample");
        assert!((sample.processor() - 50.0).abs() < 1e-9);
        assert_eq!(sample.memory(), 60);
    }
}

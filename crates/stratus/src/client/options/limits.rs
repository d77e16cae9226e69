//! How much of the machine a container may use.

use clap::Args;
use serde_json::{Value, json};

use super::super::human::parse_bytes;

/// What stands above these flags in the help.
pub(super) const HEADING: &str = "Limits";

/// The flags of limits.
#[derive(Args, Debug)]
#[command(next_help_heading = HEADING)]
pub(super) struct LimitArgs {
    #[command(flatten)]
    share: Share,
    /// Share of the disks' time, beside other containers': 10 to 1000, or 0 for the default
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// The same for one disk; repeats
    #[arg(long, value_name = "DEVICE:WEIGHT", value_parser = weight)]
    blkio_weight_device: Vec<Value>,
    /// Cgroup below which the container's is
    #[arg(long, value_name = "CGROUP")]
    cgroup_parent: Option<String>,
    /// Period of the real-time scheduler, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<i64>,
    /// Time for real-time processes in each of its periods, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_runtime: Option<i64>,
    /// Number of processors, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = nano_cpus)]
    cpus: Option<i64>,
    /// Most that is read from a disk in a second, such as /dev/sda:10m; repeats
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = bytes_per_second)]
    device_read_bps: Vec<Value>,
    /// Most reads of a disk in a second; repeats
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = times_per_second)]
    device_read_iops: Vec<Value>,
    /// Most that is written to a disk in a second; repeats
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = bytes_per_second)]
    device_write_bps: Vec<Value>,
    /// Most writes to a disk in a second; repeats
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = times_per_second)]
    device_write_iops: Vec<Value>,
    /// Memory that it is pressed back to when memory is short
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_reservation: Option<i64>,
    /// How readily its memory is swapped out, 0 to 100
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
    /// Don't let the kernel kill its processes when memory is out
    #[arg(long)]
    oom_kill_disable: bool,
    /// How readily the kernel kills it, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    shm_size: Option<i64>,
    /// Limit of its processes, NAME=SOFT[:HARD]; repeats
    #[arg(long, value_name = "LIMIT", value_parser = ulimit)]
    ulimit: Vec<Value>,
}

impl LimitArgs {
    /// As the API has them.
    pub(super) fn settings(&self) -> Value {
        json!({
            "BlkioWeight": self.blkio_weight,
            "BlkioWeightDevice": self.blkio_weight_device,
            "BlkioDeviceReadBps": self.device_read_bps,
            "BlkioDeviceReadIOps": self.device_read_iops,
            "BlkioDeviceWriteBps": self.device_write_bps,
            "BlkioDeviceWriteIOps": self.device_write_iops,
            "CpuShares": self.share.cpu_shares,
            "CpuRealtimePeriod": self.cpu_rt_period,
            "CpuRealtimeRuntime": self.cpu_rt_runtime,
            "Memory": self.share.memory,
            "MemoryReservation": self.memory_reservation,
            "MemorySwap": self.share.memory_swap,
            "MemorySwappiness": self.memory_swappiness,
            "NanoCpus": self.cpus,
            "CpuPeriod": self.share.cpu_period,
            "CpuQuota": self.share.cpu_quota,
            "CpusetCpus": self.share.cpuset_cpus,
            "CpusetMems": self.share.cpuset_mems,
            "PidsLimit": self.pids_limit,
            "Ulimits": self.ulimit,
            "ShmSize": self.shm_size,
            "OomScoreAdj": self.oom_score_adj,
            "OomKillDisable": self.oom_kill_disable,
            "CgroupParent": self.cgroup_parent,
        })
    }
}

/// Limits of a container that those of a build's commands and of a container that is there have as well.
#[derive(Args, Debug)]
pub(in super::super) struct Share {
    /// Share of processor time, beside other containers'
    #[arg(long, short = 'c', value_name = "WEIGHT")]
    pub(in super::super) cpu_shares: Option<i64>,
    /// Period of the scheduler's quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(in super::super) cpu_period: Option<i64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(in super::super) cpu_quota: Option<i64>,
    /// Processors to run on, such as 0-3,6
    #[arg(long, value_name = "LIST")]
    pub(in super::super) cpuset_cpus: Option<String>,
    /// Memory nodes to use, such as 0,1
    #[arg(long, value_name = "LIST")]
    pub(in super::super) cpuset_mems: Option<String>,
    /// Most memory, such as 512m
    #[arg(long, short, value_name = "SIZE", value_parser = parse_bytes)]
    pub(in super::super) memory: Option<i64>,
    /// Most memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, allow_hyphen_values = true)]
    pub(in super::super) memory_swap: Option<i64>,
}

/// A number of processors, in billionths.
pub(in super::super) fn nano_cpus(text: &str) -> Result<i64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=1e6).contains(number));
    #[allow(clippy::cast_possible_truncation, reason = "checked above")]
    number.map(|number| (number * 1e9).round() as i64).ok_or_else(|| format!("{text:?} is no number of processors"))
}

/// A limit, as the API has it.
pub(in super::super) fn ulimit(text: &str) -> Result<Value, String> {
    let bad = || format!("{text:?} is no limit: give NAME=SOFT[:HARD], such as nofile=1024:4096");
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| if text == "unlimited" { Ok(-1) } else { text.parse::<i64>().map_err(|_| bad()) };
    Ok(json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? }))
}

/// `DEVICE:VALUE`, of what is in `/dev`.
fn of_device<'a>(text: &'a str, what: &str) -> Result<(&'a str, &'a str), String> {
    text.rsplit_once(':')
        .filter(|(path, _)| path.starts_with("/dev/"))
        .ok_or_else(|| format!("{text:?} names no {what} of a device: give one such as /dev/sda:{}", example(what)))
}

fn example(what: &str) -> &'static str {
    match what {
        "weight" => "500",
        _ => "10m",
    }
}

fn weight(text: &str) -> Result<Value, String> {
    let (path, weight) = of_device(text, "weight")?;
    let number = weight.parse::<u16>().map_err(|_| format!("{weight:?} is no weight: give 10 to 1000, or 0"))?;
    Ok(json!({ "Path": path, "Weight": number }))
}

fn bytes_per_second(text: &str) -> Result<Value, String> {
    let (path, rate) = of_device(text, "rate")?;
    let rate = u64::try_from(parse_bytes(rate)?).map_err(|_| format!("{rate:?} is no size"))?;
    Ok(json!({ "Path": path, "Rate": rate }))
}

fn times_per_second(text: &str) -> Result<Value, String> {
    let (path, rate) = of_device(text, "rate")?;
    let number = rate.parse::<u64>().map_err(|_| format!("{rate:?} is no number"))?;
    Ok(json!({ "Path": path, "Rate": number }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_weights_and_rates() {
        assert_eq!(weight("/dev/sda:500"), Ok(json!({ "Path": "/dev/sda", "Weight": 500 })));
        assert_eq!(
            bytes_per_second("/dev/disk/by-path/a:b:1m"),
            Ok(json!({ "Path": "/dev/disk/by-path/a:b", "Rate": 1 << 20 }))
        );
        assert_eq!(times_per_second("/dev/sda:7"), Ok(json!({ "Path": "/dev/sda", "Rate": 7 })));
        let said = bytes_per_second("sda:1m").unwrap_err();
        assert!(said.contains("such as /dev/sda:10m"), "{said}");
        for wrong in ["/dev/sda", "/dev/sda:", "/dev/sda:-1", "/dev/sda:x", ":1m", ""] {
            assert!(
                weight(wrong).is_err() && bytes_per_second(wrong).is_err() && times_per_second(wrong).is_err(),
                "{wrong}"
            );
        }
    }
}

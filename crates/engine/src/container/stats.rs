//! `stats`: what a container uses now.

use std::collections::BTreeMap;
use std::time::Duration;

use guest_protocol::message::{Reply, Request};
use guest_protocol::observe::{FAULTS, MEMORY_COUNTERS, MachineStats, MemoryDetails};

use super::Container;
use super::member::Inside;
use crate::guest_files::unfit;
use crate::model::{ContainerRecord, Phase, Timestamp};
use crate::{Engine, Error, Result};

/// How long an agent may take to say what its container uses: samples come by the second.
const PATIENCE: Duration = Duration::from_secs(2);
/// As many processes as a kernel can have (proc_sys_kernel(5), `pid_max`).
const PIDS: u64 = 1 << 22;

/// What a guest tells of memory, by name: a container's, of which there may be `most` bytes, as control groups of version 2 call it, and its machine's.
fn counters(inside: &MachineStats, details: Option<&MemoryDetails>, most: u64) -> BTreeMap<String, u64> {
    let [total, free, available] = inside.machine_memory;
    let machine = [("total", total), ("free", free.min(total)), ("available", available.min(total))];
    let mut stat: BTreeMap<_, _> =
        machine.into_iter().map(|(name, bytes)| (format!("machine_{name}"), bytes)).collect();
    if let Some(details) = details {
        stat.insert("machine_cached".to_owned(), details.machine_cached.min(total));
        for (name, number) in MEMORY_COUNTERS.into_iter().zip(details.counters) {
            stat.insert(name.to_owned(), if FAULTS.contains(&name) { number } else { number.min(most) });
        }
    }
    // Of the moment at which the whole was told, so that it is none of more than that.
    stat.insert("inactive_file".to_owned(), inside.inactive_file.min(inside.memory).min(most));
    stat
}

/// What a container uses at one moment. Counters are since its start.
#[derive(Clone, Debug, Default)]
pub struct StatsSample {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When; `None`: it does not run.
    pub read: Option<Timestamp>,
    /// Processor time.
    pub cpu: CpuCounters,
    /// Memory.
    pub memory: MemoryCounters,
    /// Processes and threads, and how many there may be.
    pub pids: (u64, Option<u64>),
    /// Block devices.
    pub block_io: BlockIoCounters,
    /// Links by name.
    pub networks: Vec<net::LinkStatistics>,
    /// CPUs of this machine.
    pub online_cpus: u32,
    /// Whether the numbers are of cgroup v2.
    pub unified: bool,
}

/// Processor time in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct CpuCounters {
    /// In all.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// By CPU; empty where the kernel does not tell.
    pub per_cpu: Vec<u64>,
    /// Of the whole machine.
    pub machine: u64,
    /// Periods of the quota, those in which it ran out, and the time waited for the next.
    pub throttling: (u64, u64, u64),
}

/// Memory in bytes.
#[derive(Clone, Debug, Default)]
pub struct MemoryCounters {
    /// In use, the page cache included.
    pub usage: u64,
    /// The most so far.
    pub max_usage: u64,
    /// The limit; that of the machine where there is none.
    pub limit: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// The kernel's own counters.
    pub stat: BTreeMap<String, u64>,
}

/// Block devices: bytes and operations, as (major, minor, operation, count).
#[derive(Clone, Debug, Default)]
pub struct BlockIoCounters {
    /// Bytes.
    pub bytes: Vec<(u64, u64, String, u64)>,
    /// Operations.
    pub operations: Vec<(u64, u64, String, u64)>,
}

impl Engine {
    /// What a container uses now. One that does not run uses nothing.
    pub async fn stats(&self, reference: &str) -> Result<StatsSample> {
        let container = self.0.containers.find(reference)?;
        let engine = self.clone();
        crate::blocking(move || engine.sample(&container)).await
    }

    fn sample(&self, container: &Container) -> Result<StatsSample> {
        let record = container.record();
        let empty = StatsSample { id: record.id.to_string(), name: record.name.clone(), ..StatsSample::default() };
        if !record.state.phase.is_live() {
            return Ok(empty);
        }
        // It may end in this moment: then it uses nothing.
        let Ok(stats) = self
            .0
            .placements
            .cgroup(&record)
            .and_then(|cgroup| cgroup.stats().map_err(|error| Error::system(error.to_string())))
        else {
            return Ok(empty);
        };
        let io = |entries: &[sandbox::cgroup::IoEntry]| {
            entries.iter().map(|entry| (entry.major, entry.minor, entry.operation.clone(), entry.value)).collect()
        };
        let memory_of_machine = crate::system::total_memory();
        let sample = StatsSample {
            read: Some(Timestamp::now()),
            cpu: CpuCounters {
                total: stats.cpu.usage,
                user: stats.cpu.user,
                system: stats.cpu.system,
                per_cpu: stats.cpu.per_cpu.clone(),
                machine: crate::system::machine_cpu_nanoseconds(),
                throttling: (stats.cpu.periods, stats.cpu.throttled_periods, stats.cpu.throttled),
            },
            memory: MemoryCounters {
                usage: stats.memory.usage,
                max_usage: stats.memory.max_usage,
                limit: stats.memory.limit.filter(|limit| *limit < memory_of_machine).unwrap_or(memory_of_machine),
                failures: stats.memory.failures,
                stat: stats.memory.stat.clone(),
            },
            pids: (stats.pids.current, stats.pids.limit),
            block_io: BlockIoCounters { bytes: io(&stats.io_bytes), operations: io(&stats.io_operations) },
            networks: self.link_statistics(&record),
            online_cpus: crate::system::online_cpus(),
            unified: self.0.placements.is_pure_v2(),
            ..empty
        };
        // The machine of one that is paused answers nobody, unless it is another one's.
        let answers = record.state.phase == Phase::Running
            || (record.state.phase == Phase::Paused && record.state.within.is_some());
        Ok(match record.is_machine() && answers {
            true => self.sample_inside(&record, sample),
            false => sample,
        })
    }

    /// Puts memory and processes within a machine over those of its process on the host. Processor time and disk traffic stay what the host has spent on it, which is
    /// what is paid for and what a guest can say nothing about. One that does not answer in time shows the host's.
    fn sample_inside(&self, record: &ContainerRecord, mut sample: StatsSample) -> StatsSample {
        let limit = u64::try_from(record.host.resources.memory).ok().filter(|limit| *limit > 0);
        // What the container may have, whatever the machine has for that by now; else the machine, as it is or was when it was saved.
        let size = limit.unwrap_or_else(|| {
            let owner = self.0.containers.find(Inside::of(record).owner.as_str()).map(|owner| owner.record());
            let owner = owner.as_deref().unwrap_or(record);
            if let Some(limit) = u64::try_from(owner.host.resources.memory).ok().filter(|limit| *limit > 0) {
                return limit;
            }
            let origin = owner.state.origin.as_ref().and_then(|origin| self.0.snapshots.hold(origin).ok());
            let machine = origin.map(|origin| origin.record().memory).or_else(|| microvm::container::memory(None).ok());
            machine.map_or(sample.memory.limit, |size| size.bytes())
        });
        sample.memory.limit = size;
        let (inside, details) = match self.asked_what_it_uses(record) {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(container = %record.id.short(), %error, "its agent does not say what it uses");
                return sample;
            }
        };
        // A stranger's numbers: none is more than the machine has.
        let within = |bytes: u64| bytes.min(size);
        let mut stat = counters(&inside, details.as_deref(), size);
        if !sample.unified {
            // By what clients take away what could be had again, where the host has version 1.
            stat.insert("total_inactive_file".to_owned(), stat["inactive_file"]);
        }
        if record.state.within.is_none() {
            stat.insert("machine_host".to_owned(), sample.memory.usage);
        }
        sample.memory = MemoryCounters {
            usage: within(inside.memory),
            max_usage: within(inside.memory_peak),
            limit: size,
            failures: inside.oom_kills,
            stat,
        };
        let pids_limit = record.host.resources.pids_limit.and_then(|limit| u64::try_from(limit).ok());
        sample.pids = (inside.pids.min(PIDS), pids_limit.filter(|limit| *limit > 0));
        sample
    }

    /// What a container in a machine uses, and what its memory is in, where its agent is new enough to tell.
    fn asked_what_it_uses(&self, record: &ContainerRecord) -> Result<(MachineStats, Option<Box<MemoryDetails>>)> {
        let Inside { owner, number } = self.inside(record)?;
        let mut machine = self.patient_connection(&owner, PATIENCE)?;
        let mut ask = |request| machine.ask(request).map_err(|error| Error::system(error.to_string()));
        let inside = match ask(Request::Stats { container: number })? {
            Ok(Reply::Stats(inside)) => *inside,
            Ok(_) => return Err(unfit()),
            Err(failure) => return Err(Error::system(failure.to_string())),
        };
        match ask(Request::Memory { container: number })? {
            Ok(Reply::Memory(details)) => Ok((inside, Some(details))),
            Ok(_) => Err(unfit()),
            Err(_) => Ok((inside, None)),
        }
    }

    fn link_statistics(&self, record: &ContainerRecord) -> Vec<net::LinkStatistics> {
        let statistics =
            record.net.as_ref().map(|net| self.0.networks.statistics(net, crate::metering::process_of(record)));
        match statistics {
            Some(Ok(statistics)) => statistics,
            Some(Err(error)) => {
                tracing::debug!(container = %record.id.short(), %error, "could not read its links' counters");
                Vec::new()
            }
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_guest_has_more_memory_than_its_machine() {
        let inside = MachineStats {
            memory: 900,
            inactive_file: u64::MAX,
            machine_memory: [1000, u64::MAX, 500],
            ..MachineStats::default()
        };
        let told = counters(&inside, None, 800);
        assert_eq!((told["machine_total"], told["machine_free"], told["machine_available"]), (1000, 1000, 500));
        assert_eq!(told["inactive_file"], 800);
        assert_eq!(told.get("anon"), None);
        let details = MemoryDetails { counters: [u64::MAX; MEMORY_COUNTERS.len()], machine_cached: u64::MAX };
        let told = counters(&inside, Some(&details), 800);
        assert_eq!((told["anon"], told["machine_cached"], told["pgfault"]), (800, 1000, u64::MAX));
        assert_eq!(told["inactive_file"], 800);
    }
}

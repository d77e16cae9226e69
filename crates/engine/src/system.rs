//! The machine, and what this instance keeps on it.

use std::path::Path;

use crate::container::ContainerSize;
use crate::limits::Limits;
use crate::volumes::VolumeUsage;
use crate::{Engine, Result};

/// What `info` shows beyond what a door knows by itself.
#[derive(Clone, Debug, Default)]
pub struct SystemInfo {
    /// Identifier of this instance.
    pub id: String,
    /// Containers: all, running, paused, not running.
    pub containers: (usize, usize, usize, usize),
    /// Images.
    pub images: usize,
    /// Kernel's release.
    pub kernel: String,
    /// Name of the operating system.
    pub operating_system: String,
    /// Its version.
    pub os_version: String,
    /// Architecture as the kernel names it.
    pub architecture: String,
    /// CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Where data is kept.
    pub data_dir: String,
    /// Host name.
    pub name: String,
    /// Labels of this daemon.
    pub labels: Vec<String>,
    /// `1` or `2`
    pub cgroup_version: &'static str,
    /// Whether containers are confined by AppArmor.
    pub apparmor: bool,
    /// By what microVMs are run; `None`: nothing here can.
    pub microvm_driver: Option<String>,
    /// Why that is not so by which they were to be run.
    pub no_microvm_driver: Option<String>,
    /// How containers are run that do not say.
    pub runtime: String,
    /// Default log driver.
    pub log_driver: String,
    /// Version of stratus.
    pub version: String,
    /// Registries that are reached without TLS.
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub, as they were configured.
    pub mirrors: Vec<String>,
    /// What the kernel can limit.
    pub limits: Limits,
    /// Why what needs the keeper waits, where it does not answer.
    pub silent_keeper: Option<String>,
    /// The nftables table that holds this instance's rules; of family `inet`.
    pub firewall_table: String,
    /// Pools of addresses that were configured.
    pub address_pools: Vec<net::AddressPool>,
    /// Name of the file system under root file systems.
    pub backing_filesystem: &'static str,
    /// Open files of this process, its threads, and listeners of events.
    pub resources: (usize, usize),
}

/// What this instance keeps on disk.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Containers, with the bytes of their files.
    pub containers: Vec<(std::sync::Arc<crate::model::ContainerRecord>, ContainerSize)>,
    /// Volumes.
    pub volumes: Vec<VolumeUsage>,
}

impl Engine {
    /// What `info` shows.
    pub fn info(&self) -> SystemInfo {
        use crate::model::Phase;
        let records: Vec<_> = self.0.containers.all().iter().map(|container| container.record()).collect();
        let count = |phase: Phase| records.iter().filter(|record| record.state.phase == phase).count();
        let (running, paused) = (count(Phase::Running), count(Phase::Paused));
        let uname = rustix::system::uname();
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        SystemInfo {
            id: self.0.instance_id.clone(),
            containers: (records.len(), running, paused, records.len() - running - paused),
            images: self.image_count(),
            kernel: uname.release().to_string_lossy().into_owned(),
            operating_system: os_release(&release, "PRETTY_NAME"),
            os_version: os_release(&release, "VERSION_ID"),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpus: online_cpus(),
            memory: total_memory(),
            data_dir: self.0.config.data_dir.to_string_lossy().into_owned(),
            name: host_name(),
            labels: self.0.config.labels.clone(),
            cgroup_version: if self.0.placements.is_pure_v2() { "2" } else { "1" },
            apparmor: self.0.confinement.is_there(),
            microvm_driver: self.driver_of_machines().ok().map(ToString::to_string),
            no_microvm_driver: self
                .driver_of_machines()
                .err()
                .filter(|lack| lack.is_of_what_was_asked_for())
                .map(ToString::to_string),
            runtime: self.0.config.runtime.clone(),
            log_driver: self.0.config.log.driver.clone(),
            version: self.0.config.version.clone(),
            insecure_registries: self.insecure_registries(),
            mirrors: self.mirrors(),
            limits: Limits::look(self.0.placements.layout()),
            silent_keeper: self.silent_keeper(),
            firewall_table: self.0.networks.table(),
            address_pools: self.0.config.net.address_pools.clone(),
            backing_filesystem: filesystem(&self.0.config.data_dir),
            resources: (entries("/proc/self/fd"), entries("/proc/self/task")),
        }
    }

    /// What containers and volumes keep on disk.
    pub async fn disk_usage(&self, containers: bool, volumes: bool) -> Result<DiskUsage> {
        let mut usage = DiskUsage::default();
        if containers {
            for container in self.0.containers.all() {
                let record = container.record();
                let size = self.size_of(&record).await;
                usage.containers.push((record, size));
            }
        }
        if volumes {
            usage.volumes = self.volume_usage().await;
        }
        Ok(usage)
    }
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

/// A value of `/etc/os-release` (os-release(5)), without its quotes.
fn os_release(text: &str, key: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

/// Name of the host.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Bytes of memory of this machine.
pub(crate) fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

/// CPUs of this machine.
pub(crate) fn online_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// Processor time of the whole machine, idle time included, in nanoseconds: the first line of `/proc/stat` (proc(5)),
/// whose ticks are hundredths of a second.
pub(crate) fn machine_cpu_nanoseconds() -> u64 {
    const TICK: u64 = 10_000_000;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: u64 = first.split_whitespace().skip(1).take(8).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks.saturating_mul(TICK)
}

/// First identifier and length of the range that user namespaces map: root's or stratus' line of `/etc/subuid`
/// (subuid(5)), else a range above all users'.
pub(crate) fn id_range() -> (u32, u32) {
    const DEFAULT: (u32, u32) = (1_000_000, 65_536);
    let text = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("stratus:").or_else(|| line.strip_prefix("root:")));
    let parsed = line
        .and_then(|line| line.split_once(':'))
        .and_then(|(first, count)| Some((first.trim().parse().ok()?, count.trim().parse().ok()?)));
    parsed.unwrap_or(DEFAULT)
}

/// The name of the file system at `path`, as Docker has it (magic numbers: statfs(2)).
pub(crate) fn filesystem(path: &Path) -> &'static str {
    match rustix::fs::statfs(path).map(|found| found.f_type) {
        Ok(0xef53) => "extfs",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0xf2f5_2010) => "f2fs",
        Ok(0x2fc1_2fc1) => "zfs",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x794c_7630) => "overlayfs",
        _ => "<unknown>",
    }
}

/// Bytes of a directory's files, each counted once, as `du` counts them.
pub(crate) fn directory_size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut total = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                left.push(entry.path());
            } else if meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.len().min(meta.blocks() * 512 + 4096);
            }
        }
    }
    total
}

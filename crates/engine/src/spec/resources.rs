//! Limits become the specification's resources.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

use super::defaults;
use crate::model::{HostConfig, Resources, ThrottleDevice};
use crate::{Error, Result};

/// The limits of `resources`, without device rules: what `update` changes while it runs.
pub(crate) fn limits(resources: &Resources) -> Result<LinuxResources> {
    let mut out = LinuxResources::default();
    out.set_cpu(Some(cpu(resources))).set_memory(Some(memory(resources))).set_block_io(Some(block_io(resources)?));
    if let Some(limit) = resources.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limit <= 0 { -1 } else { limit });
        out.set_pids(Some(pids));
    }
    Ok(out)
}

fn positive<T: Copy + Default + PartialOrd>(value: T) -> Option<T> {
    (value > T::default()).then_some(value)
}

fn cpu(resources: &Resources) -> LinuxCpu {
    const PERIOD: i64 = 100_000;
    let (period, quota) = match positive(resources.nano_cpus) {
        Some(nano) => (Some(PERIOD), Some(nano / 10_000)),
        None => (positive(resources.cpu_period), (resources.cpu_quota != 0).then_some(resources.cpu_quota)),
    };
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive(resources.cpu_shares).map(|shares| shares as u64))
        .set_period(period.map(|period| period as u64))
        .set_quota(quota)
        .set_realtime_period(positive(resources.cpu_realtime_period).map(|period| period as u64))
        .set_realtime_runtime(positive(resources.cpu_realtime_runtime))
        .set_cpus(text(&resources.cpuset_cpus))
        .set_mems(text(&resources.cpuset_mems));
    cpu
}

fn memory(resources: &Resources) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(positive(resources.memory))
        .set_reservation(positive(resources.memory_reservation))
        .set_swap((resources.memory_swap != 0).then_some(resources.memory_swap))
        .set_swappiness(resources.memory_swappiness.filter(|value| *value >= 0).map(|value| value as u64))
        .set_disable_oom_killer(resources.oom_kill_disable.filter(|disabled| *disabled));
    memory
}

fn block_io(resources: &Resources) -> Result<LinuxBlockIo> {
    let throttles = |devices: &[ThrottleDevice]| -> Result<Option<Vec<LinuxThrottleDevice>>> {
        let list: Result<Vec<_>> = devices.iter().map(throttle).collect();
        Ok(Some(list?).filter(|list| !list.is_empty()))
    };
    let weights: Result<Vec<_>> = resources
        .blkio_weight_device
        .iter()
        .map(|device| {
            let (major, minor) = numbers(&device.path)?;
            let weight = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(device.weight);
            weight.build().map_err(|error| Error::invalid(format!("{}: {error}", device.path)))
        })
        .collect();
    let mut out = LinuxBlockIo::default();
    out.set_weight(positive(resources.blkio_weight))
        .set_weight_device(Some(weights?).filter(|list| !list.is_empty()))
        .set_throttle_read_bps_device(throttles(&resources.blkio_read_bps)?)
        .set_throttle_write_bps_device(throttles(&resources.blkio_write_bps)?)
        .set_throttle_read_iops_device(throttles(&resources.blkio_read_iops)?)
        .set_throttle_write_iops_device(throttles(&resources.blkio_write_iops)?);
    Ok(out)
}

fn throttle(device: &ThrottleDevice) -> Result<LinuxThrottleDevice> {
    let (major, minor) = numbers(&device.path)?;
    let throttle = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(device.rate);
    throttle.build().map_err(|error| Error::invalid(format!("{}: {error}", device.path)))
}

/// Major and minor number of the device at `path` on the host.
fn numbers(path: &str) -> Result<(i64, i64)> {
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(format!("stat {path}: no such file or directory")),
        _ => Error::invalid(format!("stat {path}: {error}")),
    };
    let meta = std::fs::metadata(path).map_err(missing)?;
    if !meta.file_type().is_block_device() {
        return Err(Error::invalid(format!("{path} is not a block device")));
    }
    Ok((rustix::fs::major(meta.rdev()).into(), rustix::fs::minor(meta.rdev()).into()))
}

/// The rules of the devices controller.
pub(crate) fn device_rules(host: &HostConfig, devices: &[super::devices::Device]) -> Result<Vec<LinuxDeviceCgroup>> {
    if host.privileged {
        return Ok(vec![rule(true, 'a', None, None, "rwm")]);
    }
    let mut rules = vec![rule(false, 'a', None, None, "rwm")];
    rules.extend(
        defaults::DEVICE_RULES.iter().map(|(kind, major, minor, access)| rule(true, *kind, *major, *minor, access)),
    );
    rules.extend(
        devices
            .iter()
            .map(|device| rule(true, device.kind, Some(device.major), Some(device.minor), &device.permissions)),
    );
    for text in &host.resources.device_cgroup_rules {
        rules.push(
            parse_rule(text).ok_or_else(|| Error::invalid(format!("invalid device cgroup rule format: '{text}'")))?,
        );
    }
    Ok(rules)
}

fn rule(allow: bool, kind: char, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let kind = match kind {
        'a' => LinuxDeviceType::A,
        'b' => LinuxDeviceType::B,
        _ => LinuxDeviceType::C,
    };
    let mut out = LinuxDeviceCgroup::default();
    out.set_allow(allow).set_typ(Some(kind)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    out
}

/// `c 1:3 rwm`, with `*` for any number.
fn parse_rule(text: &str) -> Option<LinuxDeviceCgroup> {
    let mut parts = text.split(' ');
    let (kind, numbers, access) = (parts.next()?, parts.next()?, parts.next()?);
    let (major, minor) = numbers.split_once(':')?;
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
    let known = matches!(kind, "a" | "b" | "c") && !access.is_empty() && access.bytes().all(|b| b"rwm".contains(&b));
    (known && parts.next().is_none())
        .then(|| Some(rule(true, kind.chars().next()?, number(major)?, number(minor)?, access)))?
}

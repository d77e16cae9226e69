//! Limits: the part of `HostConfig` that `update` takes too.

use std::collections::BTreeMap;

use engine::model::{DeviceMapping, DeviceRequest, Resources, ThrottleDevice, Ulimit, WeightDevice};
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Result};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "WeightDevice", rename_all = "PascalCase")]
pub(crate) struct WeightBody {
    path: String,
    weight: u16,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "ThrottleDevice", rename_all = "PascalCase")]
pub(crate) struct ThrottleBody {
    path: String,
    rate: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "DeviceMapping", rename_all = "PascalCase")]
pub(crate) struct DeviceBody {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "DeviceRequest", rename_all = "PascalCase")]
pub(crate) struct DeviceRequestBody {
    driver: String,
    count: i64,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<Vec<String>>,
    capabilities: Option<Vec<Vec<String>>>,
    options: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "Ulimit", rename_all = "PascalCase")]
pub(crate) struct UlimitBody {
    name: String,
    hard: i64,
    soft: i64,
}

/// Fields of several structs with one meaning: serde's `flatten` would lose Go's way of reading them.
macro_rules! with_resources {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident {
        before { $($(#[$before_attribute:meta])* $before:ident: $before_type:ty,)* }
        after { $($(#[$after_attribute:meta])* $after:ident: $after_type:ty,)* }
    }) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$before_attribute])* pub(super) $before: $before_type,)*
            cpu_shares: i64,
            memory: i64,
            nano_cpus: i64,
            cgroup_parent: String,
            blkio_weight: u16,
            blkio_weight_device: Option<Vec<WeightBody>>,
            blkio_device_read_bps: Option<Vec<ThrottleBody>>,
            blkio_device_write_bps: Option<Vec<ThrottleBody>>,
            #[serde(rename = "BlkioDeviceReadIOps")]
            blkio_device_read_iops: Option<Vec<ThrottleBody>>,
            #[serde(rename = "BlkioDeviceWriteIOps")]
            blkio_device_write_iops: Option<Vec<ThrottleBody>>,
            cpu_period: i64,
            cpu_quota: i64,
            cpu_realtime_period: i64,
            cpu_realtime_runtime: i64,
            cpuset_cpus: String,
            cpuset_mems: String,
            devices: Option<Vec<DeviceBody>>,
            device_cgroup_rules: Option<Vec<String>>,
            device_requests: Option<Vec<DeviceRequestBody>>,
            memory_reservation: i64,
            memory_swap: i64,
            memory_swappiness: Option<i64>,
            oom_kill_disable: Option<bool>,
            pids_limit: Option<i64>,
            ulimits: Option<Vec<UlimitBody>>,
            cpu_count: i64,
            cpu_percent: i64,
            #[serde(rename = "IOMaximumIOps")]
            io_maximum_iops: u64,
            #[serde(rename = "IOMaximumBandwidth")]
            io_maximum_bandwidth: u64,
            $($(#[$after_attribute])* pub(super) $after: $after_type,)*
        }

        impl $name {
            /// The limits, taken out.
            pub(super) fn take_resources(&mut self) -> $crate::error::Result<engine::model::Resources> {
                use std::mem::take;
                use $crate::containers::resources as r;
                r::refuse_windows(self.cpu_count, self.cpu_percent, self.io_maximum_iops, self.io_maximum_bandwidth)?;
                Ok(engine::model::Resources {
                    cpu_shares: self.cpu_shares,
                    nano_cpus: self.nano_cpus,
                    cpu_period: self.cpu_period,
                    cpu_quota: self.cpu_quota,
                    cpu_realtime_period: self.cpu_realtime_period,
                    cpu_realtime_runtime: self.cpu_realtime_runtime,
                    cpuset_cpus: take(&mut self.cpuset_cpus),
                    cpuset_mems: take(&mut self.cpuset_mems),
                    memory: self.memory,
                    memory_reservation: self.memory_reservation,
                    memory_swap: self.memory_swap,
                    memory_swappiness: self.memory_swappiness.filter(|given| *given != -1),
                    oom_kill_disable: self.oom_kill_disable,
                    pids_limit: self.pids_limit,
                    blkio_weight: self.blkio_weight,
                    blkio_weight_device: r::weights(self.blkio_weight_device.take()),
                    blkio_read_bps: r::throttles(self.blkio_device_read_bps.take()),
                    blkio_write_bps: r::throttles(self.blkio_device_write_bps.take()),
                    blkio_read_iops: r::throttles(self.blkio_device_read_iops.take()),
                    blkio_write_iops: r::throttles(self.blkio_device_write_iops.take()),
                    cgroup_parent: take(&mut self.cgroup_parent),
                    devices: r::devices(self.devices.take()),
                    device_cgroup_rules: self.device_cgroup_rules.take().unwrap_or_default(),
                    device_requests: r::device_requests(self.device_requests.take()),
                    ulimits: r::ulimits(self.ulimits.take()),
                })
            }
        }
    };
}
pub(super) use with_resources;

/// The way back, for the structs that show limits.
macro_rules! shows_resources {
    ($name:ident) => {
        impl $name {
            /// Shows limits.
            pub(super) fn set_resources(&mut self, resources: &engine::model::Resources) {
                use $crate::containers::resources as r;
                let shown = r::Shown::new(resources);
                self.cpu_shares = resources.cpu_shares;
                self.memory = resources.memory;
                self.nano_cpus = resources.nano_cpus;
                self.cgroup_parent = resources.cgroup_parent.clone();
                self.blkio_weight = resources.blkio_weight;
                self.blkio_weight_device = Some(shown.weights);
                self.blkio_device_read_bps = Some(r::throttle_bodies(&resources.blkio_read_bps));
                self.blkio_device_write_bps = Some(r::throttle_bodies(&resources.blkio_write_bps));
                self.blkio_device_read_iops = Some(r::throttle_bodies(&resources.blkio_read_iops));
                self.blkio_device_write_iops = Some(r::throttle_bodies(&resources.blkio_write_iops));
                self.cpu_period = resources.cpu_period;
                self.cpu_quota = resources.cpu_quota;
                self.cpu_realtime_period = resources.cpu_realtime_period;
                self.cpu_realtime_runtime = resources.cpu_realtime_runtime;
                self.cpuset_cpus = resources.cpuset_cpus.clone();
                self.cpuset_mems = resources.cpuset_mems.clone();
                self.devices = Some(shown.devices);
                self.device_cgroup_rules = r::null_if_empty(&resources.device_cgroup_rules);
                self.device_requests = shown.device_requests;
                self.memory_reservation = resources.memory_reservation;
                self.memory_swap = resources.memory_swap;
                self.memory_swappiness = resources.memory_swappiness;
                self.oom_kill_disable = resources.oom_kill_disable;
                self.pids_limit = resources.pids_limit.filter(|limit| *limit > 0);
                self.ulimits = Some(shown.ulimits);
            }
        }
    };
}
pub(super) use shows_resources;

/// Limits that only Windows knows are refused, as on every Linux daemon.
pub(super) fn refuse_windows(cpu_count: i64, cpu_percent: i64, iops: u64, bandwidth: u64) -> Result<()> {
    let given = [
        ("CPU count", cpu_count != 0),
        ("CPU percent", cpu_percent != 0),
        ("maximum IOps", iops != 0),
        ("maximum bandwidth", bandwidth != 0),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(ApiError::bad_request(format!("invalid option: {name} is not supported on Linux"))),
        None => Ok(()),
    }
}

pub(super) fn weights(bodies: Option<Vec<WeightBody>>) -> Vec<WeightDevice> {
    let device = |body: WeightBody| WeightDevice { path: body.path, weight: body.weight };
    bodies.unwrap_or_default().into_iter().map(device).collect()
}

pub(super) fn throttles(bodies: Option<Vec<ThrottleBody>>) -> Vec<ThrottleDevice> {
    let device = |body: ThrottleBody| ThrottleDevice { path: body.path, rate: body.rate };
    bodies.unwrap_or_default().into_iter().map(device).collect()
}

pub(super) fn throttle_bodies(devices: &[ThrottleDevice]) -> Vec<ThrottleBody> {
    devices.iter().map(|device| ThrottleBody { path: device.path.clone(), rate: device.rate }).collect()
}

pub(super) fn devices(bodies: Option<Vec<DeviceBody>>) -> Vec<DeviceMapping> {
    let device = |body: DeviceBody| DeviceMapping {
        host_path: body.path_on_host,
        container_path: body.path_in_container,
        permissions: body.cgroup_permissions,
    };
    bodies.unwrap_or_default().into_iter().map(device).collect()
}

pub(super) fn device_requests(bodies: Option<Vec<DeviceRequestBody>>) -> Vec<DeviceRequest> {
    let request = |body: DeviceRequestBody| DeviceRequest {
        driver: body.driver,
        count: body.count,
        device_ids: body.device_ids.unwrap_or_default(),
        capabilities: body.capabilities.unwrap_or_default(),
        options: body.options.unwrap_or_default(),
    };
    bodies.unwrap_or_default().into_iter().map(request).collect()
}

pub(crate) fn ulimits(bodies: Option<Vec<UlimitBody>>) -> Vec<Ulimit> {
    let limit = |body: UlimitBody| Ulimit { name: body.name, soft: body.soft, hard: body.hard };
    bodies.unwrap_or_default().into_iter().map(limit).collect()
}

/// Lists that clients send as `null` when nothing was given.
pub(super) fn null_if_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// The lists of limits as they are shown.
pub(super) struct Shown {
    pub(super) weights: Vec<WeightBody>,
    pub(super) devices: Vec<DeviceBody>,
    pub(super) device_requests: Option<Vec<DeviceRequestBody>>,
    pub(super) ulimits: Vec<UlimitBody>,
}

impl Shown {
    pub(super) fn new(resources: &Resources) -> Self {
        let weight = |device: &WeightDevice| WeightBody { path: device.path.clone(), weight: device.weight };
        let device = |device: &DeviceMapping| DeviceBody {
            path_on_host: device.host_path.clone(),
            path_in_container: device.container_path.clone(),
            cgroup_permissions: device.permissions.clone(),
        };
        let request = |request: &DeviceRequest| DeviceRequestBody {
            driver: request.driver.clone(),
            count: request.count,
            device_ids: null_if_empty(&request.device_ids),
            capabilities: null_if_empty(&request.capabilities),
            options: Some(request.options.clone()),
        };
        let ulimit = |limit: &Ulimit| UlimitBody { name: limit.name.clone(), hard: limit.hard, soft: limit.soft };
        let requests: Vec<_> = resources.device_requests.iter().map(request).collect();
        Self {
            weights: resources.blkio_weight_device.iter().map(weight).collect(),
            devices: resources.devices.iter().map(device).collect(),
            device_requests: (!requests.is_empty()).then_some(requests),
            ulimits: resources.ulimits.iter().map(ulimit).collect(),
        }
    }
}

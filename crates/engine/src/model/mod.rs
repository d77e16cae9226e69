//! What the engine keeps about containers: plain data, stored as it is.
//!
//! These are the engine's own types. Doors translate their protocol's shapes into them; nothing in here is named for
//! a client.

mod config;
mod filter;
mod host;
mod id;
mod network;
mod record;
mod snapshot;
mod state;

pub use config::{ContainerConfig, ExposedPort, HealthTest, Healthcheck, Protocol};
pub use filter::{Filters, Patterns};
pub use host::{
    BindOptions, CgroupNamespace, DeviceMapping, DeviceRequest, HostConfig, IpcMode, LogConfig, MICROVM, MountKind,
    MountRequest, NetworkMode, PidMode, PortBinding, Resources, RestartPolicy, ThrottleDevice, TmpfsOptions, Ulimit,
    UsernsMode, UtsMode, VolumeOptions, WeightDevice,
};
pub use id::{ContainerId, IdError};
pub use network::{EndpointRequest, EndpointSettings};
pub use record::{BeforeStart, ContainerRecord, MountPoint, MountPointKind};
pub use snapshot::{CardPlaces, SnapshotId, SnapshotRecord};
pub use state::{Halting, Health, HealthResult, HealthStatus, Phase, State, Within};

/// A point in time, UTC, with nanoseconds.
pub type Timestamp = jiff::Timestamp;

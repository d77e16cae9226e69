//! How a container runs on this machine: limits, mounts, namespaces, ports, policies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::config::ExposedPort;

/// What asks for a microVM, as a runtime and as an isolation.
pub const MICROVM: &str = "microvm";

/// How a container runs on this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `source:target[:options]`, as the client wrote them.
    pub binds: Vec<String>,
    /// Mounts in the long form.
    pub mounts: Vec<MountRequest>,
    /// Target to tmpfs options, in the short form.
    pub tmpfs: BTreeMap<String, String>,
    /// Containers whose volumes are mounted as well: `name[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Driver of volumes made on the way.
    pub volume_driver: String,
    /// File on the client's side that holds the identifier; carried along.
    pub container_id_file: String,
    /// Where the output goes.
    pub log: LogConfig,
    /// Which network.
    pub network_mode: NetworkMode,
    /// Published ports. An exposed port may have several bindings.
    pub port_bindings: BTreeMap<ExposedPort, Vec<PortBinding>>,
    /// Publish every exposed port on a free host port.
    pub publish_all_ports: bool,
    /// `container[:alias]`, on the default bridge.
    pub links: Vec<String>,
    /// DNS servers.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `name:address`, into `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// Remove the container when it ends.
    pub auto_remove: bool,
    /// Rows and columns of the terminal at the start.
    pub console_size: Option<(u16, u16)>,
    /// Passed into the runtime specification.
    pub annotations: BTreeMap<String, String>,
    /// Capabilities beyond the default; `ALL` for all.
    pub cap_add: Vec<String>,
    /// Capabilities taken away; `ALL` for all.
    pub cap_drop: Vec<String>,
    /// Additional groups, names or numbers.
    pub group_add: Vec<String>,
    /// cgroup namespace.
    pub cgroup_namespace: CgroupNamespace,
    /// IPC namespace.
    pub ipc_mode: IpcMode,
    /// PID namespace.
    pub pid_mode: PidMode,
    /// UTS namespace.
    pub uts_mode: UtsMode,
    /// User namespace.
    pub userns_mode: UsernsMode,
    /// Everything the host may do, the container may do.
    pub privileged: bool,
    /// Root file system without writing.
    pub readonly_rootfs: bool,
    /// `no-new-privileges`, `seccomp=…`, `apparmor=…`, `label=…`, `systempaths=unconfined`.
    pub security_opt: Vec<String>,
    /// Options of the storage driver (`size=…`).
    pub storage_opt: BTreeMap<String, String>,
    /// Bytes of `/dev/shm`; 0: 64 MiB.
    pub shm_size: u64,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Name of the runtime; empty: the default.
    pub runtime: String,
    /// `container` or `microvm`; empty: the default.
    pub isolation: String,
    /// Adjustment of the OOM killer's choice, -1000 to 1000.
    pub oom_score_adj: i32,
    /// A tiny init as PID 1 that reaps and forwards signals; `None`: the daemon's default.
    pub init: Option<bool>,
    /// Paths hidden from the container; `None`: the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths shown read-only; `None`: the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Limits.
    pub resources: Resources,
}

/// Limits of a container. Zero, an empty text or `None` mean: no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period.
    pub cpu_quota: i64,
    /// Microseconds of real-time scheduling's period.
    pub cpu_realtime_period: i64,
    /// Microseconds of real-time scheduling per period.
    pub cpu_realtime_runtime: i64,
    /// CPUs it may use: `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes it may use.
    pub cpuset_mems: String,
    /// Bytes.
    pub memory: i64,
    /// Bytes, soft limit.
    pub memory_reservation: i64,
    /// Bytes of memory and swap together; -1: without limit.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// The kernel pauses it instead of killing (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// Processes and threads; 0 or -1: no limit.
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: u16,
    /// Weights by device.
    pub blkio_weight_device: Vec<WeightDevice>,
    /// Bytes read a second by device.
    pub blkio_read_bps: Vec<ThrottleDevice>,
    /// Bytes written a second by device.
    pub blkio_write_bps: Vec<ThrottleDevice>,
    /// Reads a second by device.
    pub blkio_read_iops: Vec<ThrottleDevice>,
    /// Writes a second by device.
    pub blkio_write_iops: Vec<ThrottleDevice>,
    /// Parent of the container's cgroup.
    pub cgroup_parent: String,
    /// Host devices shown in the container.
    pub devices: Vec<DeviceMapping>,
    /// Rules as the devices controller writes them: `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// Devices asked for by capability (GPUs).
    pub device_requests: Vec<DeviceRequest>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
}

/// A device's relative weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightDevice {
    /// Path of the block device.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// A device's limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleDevice {
    /// Path of the block device.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A host device shown in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Path on the host: a device, or a directory of devices.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// Devices asked for by what they can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// Driver's name.
    pub driver: String,
    /// How many; -1: all.
    pub count: i64,
    /// Which.
    pub device_ids: Vec<String>,
    /// Alternatives of capabilities that must all be there.
    pub capabilities: Vec<Vec<String>>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// A resource limit of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// -1: no limit.
    pub soft: i64,
    /// -1: no limit.
    pub hard: i64,
}

/// Where the output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `json-file`, `local`, `none`; empty: the daemon's default.
    pub driver: String,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// Which network a container starts on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Default,
    /// The default bridge, by its name.
    Bridge,
    /// Loopback only.
    None,
    /// The host's own namespace.
    Host,
    /// Another container's namespace: its name or identifier.
    Container(String),
    /// A network by name or identifier.
    Network(String),
}

impl NetworkMode {
    /// The mode as clients write it.
    pub fn parse(text: &str) -> Self {
        match text {
            "" | "default" => Self::Default,
            "bridge" => Self::Bridge,
            "none" => Self::None,
            "host" => Self::Host,
            other => match other.strip_prefix("container:") {
                Some(name) => Self::Container(name.to_owned()),
                None => Self::Network(other.to_owned()),
            },
        }
    }
}

impl std::fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Bridge => f.write_str("bridge"),
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "container:{name}"),
            Self::Network(name) => f.write_str(name),
        }
    }
}

/// A host port that leads to a container's port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// Address on the host; `None`: all.
    pub host_ip: Option<IpAddr>,
    /// First and last host port; `None`: a free one.
    pub host_ports: Option<(u16, u16)>,
}

/// What happens when a container ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It starts again.
    Always,
    /// It starts again unless somebody stopped it.
    UnlessStopped,
    /// It starts again when it failed, this many times at most (0: without end).
    OnFailure {
        /// 0: without end.
        retries: u32,
    },
}

/// cgroup namespace of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupNamespace {
    /// The daemon's choice: private on v2, the host's on v1.
    #[default]
    Default,
    /// Its own.
    Private,
    /// The host's.
    Host,
}

/// IPC namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpcMode {
    /// Its own.
    #[default]
    Private,
    /// Its own, that others may join.
    Shareable,
    /// Its own, with no `/dev/shm`.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// PID namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// UTS namespace of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UtsMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
}

/// User namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsernsMode {
    /// The daemon's choice.
    #[default]
    Default,
    /// The host's.
    Host,
    /// Its own, with a range of identifiers of its own.
    Private,
}

/// A mount in the long form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// What is mounted, and how.
    pub kind: MountKind,
    /// Absolute path in the container.
    pub target: String,
    /// Without writing.
    pub read_only: bool,
    /// Carried along.
    pub consistency: String,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A path of the host.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// How it is bound.
        options: BindOptions,
    },
    /// A volume; without a name: an anonymous one.
    Volume {
        /// The volume's name.
        name: Option<String>,
        /// How it is made and mounted.
        options: VolumeOptions,
    },
    /// Memory.
    Tmpfs(TmpfsOptions),
    /// An image's file system.
    Image {
        /// The image's reference.
        source: String,
        /// Part of the image's tree.
        subpath: String,
    },
}

/// How a path of the host is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    /// `rprivate` (default), `private`, `rshared`, `shared`, `rslave`, `slave`.
    pub propagation: String,
    /// Only the top mount.
    pub non_recursive: bool,
    /// Make the source where it is missing.
    pub create_mountpoint: bool,
    /// Read-only leaves mounts below writable.
    pub read_only_non_recursive: bool,
    /// Refuse where read-only cannot be made recursive.
    pub read_only_force_recursive: bool,
}

/// How a volume is made and mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// Do not copy the image's files into a fresh volume.
    pub no_copy: bool,
    /// Labels of a fresh volume.
    pub labels: BTreeMap<String, String>,
    /// Driver of a fresh volume.
    pub driver: String,
    /// The driver's options.
    pub driver_options: BTreeMap<String, String>,
    /// Part of the volume's tree.
    pub subpath: String,
}

/// How memory is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Bytes; 0: the kernel's default.
    pub size: u64,
    /// Mode of its root.
    pub mode: Option<u32>,
    /// More options, `name` or `name=value`.
    pub options: Vec<Vec<String>>,
}

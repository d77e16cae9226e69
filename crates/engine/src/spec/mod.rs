//! A container's record becomes an OCI runtime specification (runtime-spec 1.2).

mod capabilities;
mod defaults;
mod devices;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod security;
mod users;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Root, Spec};
use sandbox::SeccompFilter;

use crate::model::{CgroupNamespace, ContainerRecord, HostConfig, IpcMode, PidMode, UtsMode};
use crate::{Error, Result};

pub(crate) use defaults::{READONLY_PATHS, SHM_SIZE, masked_paths};
pub(crate) use process::{ExecRequest, exec_process};
pub(crate) use resources::limits;
pub(crate) use security::SecurityOptions;
pub(crate) use users::{Identity, UserDatabase};

/// What a specification needs to know beyond the container's record.
pub(crate) struct SpecContext<'a> {
    /// The cgroup's path below the hierarchies' roots.
    pub(crate) cgroup: &'a str,
    /// Network namespace to join; `None`: a new one, or the host's.
    pub(crate) network_namespace: Option<&'a Path>,
    /// It shares the host's network namespace.
    pub(crate) joins_host_network: bool,
    /// IPC namespace to join.
    pub(crate) ipc_namespace: Option<PathBuf>,
    /// PID namespace to join.
    pub(crate) pid_namespace: Option<PathBuf>,
    /// First host identifier and length of the range of its own user namespace, if it has one.
    pub(crate) user_namespace: Option<(u32, u32)>,
    /// Files that stratus writes for it.
    pub(crate) files: &'a ContainerFiles,
    /// `/dev/shm` shared with others.
    pub(crate) shared_shm: Option<&'a Path>,
    /// Where volumes are, by target, where the record does not tell.
    pub(crate) sources: BTreeMap<String, String>,
    /// Variables of its links.
    pub(crate) links: Vec<String>,
    /// Who its process is.
    pub(crate) identity: &'a Identity,
    /// AppArmor profile of its process.
    pub(crate) apparmor: Option<String>,
    /// Whether the host's cgroups are v2 alone, where a private cgroup namespace is the default.
    pub(crate) pure_cgroup_v2: bool,
}

/// Files that stratus writes for a container and mounts over the image's.
#[derive(Clone, Debug)]
pub(crate) struct ContainerFiles {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) hosts: PathBuf,
}

impl ContainerFiles {
    /// Below the container's own directory.
    pub(crate) fn below(directory: &Path) -> Self {
        Self {
            resolv_conf: directory.join("resolv.conf"),
            hostname: directory.join("hostname"),
            hosts: directory.join("hosts"),
        }
    }

    fn named(&self) -> [(&Path, &'static str); 3] {
        [(&self.resolv_conf, "/etc/resolv.conf"), (&self.hostname, "/etc/hostname"), (&self.hosts, "/etc/hosts")]
    }
}

/// The seccomp filter of `record`, where its specification has no profile, as it is the default one.
pub(crate) fn default_filter(record: &ContainerRecord) -> Result<Option<SeccompFilter>> {
    let security = SecurityOptions::parse(&record.host.security_opt)?;
    security.default_filter(record.host.privileged, &capabilities::effective(&record.host)?)
}

/// The specification of `record`.
pub(crate) fn build(record: &ContainerRecord, context: &SpecContext<'_>) -> Result<Spec> {
    let security = SecurityOptions::parse(&record.host.security_opt)?;
    let caps = capabilities::effective(&record.host)?;
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(record.host.readonly_rootfs));

    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_hostname(hostname(record))
        .set_domainname(Some(record.config.domainname.clone()).filter(|name| !name.is_empty()))
        .set_mounts(Some(mounts::all(record, context)))
        .set_annotations(Some(record.host.annotations.clone().into_iter().collect::<HashMap<_, _>>()))
        .set_process(Some(process::of(record, context, &security, caps.clone())?))
        .set_linux(Some(linux(record, context, &security, &caps)?))
        .set_hooks(None);
    Ok(spec)
}

fn hostname(record: &ContainerRecord) -> Option<String> {
    (record.host.uts_mode == UtsMode::Private).then(|| record.config.hostname.clone()).filter(|name| !name.is_empty())
}

fn linux(
    record: &ContainerRecord,
    context: &SpecContext<'_>,
    security: &SecurityOptions,
    caps: &std::collections::HashSet<oci_spec::runtime::Capability>,
) -> Result<Linux> {
    let host = &record.host;
    // Behind a hypervisor a privileged one may do all that its own kernel lets it, and that has no device of the host.
    let of_devices = HostConfig { privileged: host.privileged && !record.is_machine(), ..host.clone() };
    let devices = devices::requested(&of_devices)?;
    let mut limits = limits(&host.resources)?;
    limits.set_devices(Some(resources::device_rules(&of_devices, &devices)?));
    let open = host.privileged || security.system_paths_unconfined;
    let paths = |given: &Option<Vec<String>>, default: fn() -> Vec<String>| match (given, open) {
        (Some(given), _) => given.clone(),
        (None, true) => Vec::new(),
        (None, false) => default(),
    };
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(record, context)))
        .set_cgroups_path(Some(PathBuf::from(context.cgroup)))
        .set_resources(Some(limits))
        .set_devices(Some(devices.iter().map(devices::Device::to_spec).collect()))
        .set_masked_paths(Some(paths(&host.masked_paths, masked_paths)))
        .set_readonly_paths(Some(paths(&host.readonly_paths, || READONLY_PATHS.map(str::to_owned).to_vec())))
        .set_sysctl(Some(sysctls(record)))
        .set_seccomp(security.own_profile(caps)?)
        .set_mount_label(None)
        .set_rootfs_propagation(propagation(record));
    if let Some((first, count)) = context.user_namespace {
        let map = LinuxIdMappingBuilder::default().container_id(0u32).host_id(first).size(count).build();
        let map = map.map_err(|error| Error::system(format!("the range of identifiers: {error}")))?;
        linux.set_uid_mappings(Some(vec![map])).set_gid_mappings(Some(vec![map]));
    }
    Ok(linux)
}

/// A container that wants to see the host's later mounts needs a root that hears of them.
fn propagation(record: &ContainerRecord) -> Option<String> {
    let wants = |kind: &str| record.mounts.iter().any(|mount| mount.propagation.ends_with(kind));
    match (wants("shared"), wants("slave")) {
        (true, _) => Some("shared".to_owned()),
        (false, true) => Some("rslave".to_owned()),
        (false, false) => None,
    }
}

fn sysctls(record: &ContainerRecord) -> HashMap<String, String> {
    let mut sysctls: HashMap<String, String> =
        record.host.sysctls.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    // As dockerd since 20.10: an unprivileged process may bind port 80 and send pings in a network namespace of its own.
    let own_network =
        !matches!(record.host.network_mode, crate::model::NetworkMode::Host | crate::model::NetworkMode::Container(_));
    if own_network && !record.host.privileged {
        sysctls.entry("net.ipv4.ip_unprivileged_port_start".to_owned()).or_insert_with(|| "0".to_owned());
        if record.host.userns_mode != crate::model::UsernsMode::Private {
            sysctls.entry("net.ipv4.ping_group_range".to_owned()).or_insert_with(|| "0 2147483647".to_owned());
        }
    }
    sysctls
}

fn namespaces(record: &ContainerRecord, context: &SpecContext<'_>) -> Vec<LinuxNamespace> {
    let namespace = |kind: LinuxNamespaceType, path: Option<&Path>| {
        let mut out = LinuxNamespace::default();
        out.set_typ(kind).set_path(path.map(Path::to_path_buf));
        out
    };
    let host = &record.host;
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)];
    match (&host.pid_mode, &context.pid_namespace) {
        (PidMode::Host, _) => {}
        (_, path) => list.push(namespace(LinuxNamespaceType::Pid, path.as_deref())),
    }
    match (&host.ipc_mode, &context.ipc_namespace) {
        (IpcMode::Host, _) => {}
        (_, path) => list.push(namespace(LinuxNamespaceType::Ipc, path.as_deref())),
    }
    if host.uts_mode == UtsMode::Private {
        list.push(namespace(LinuxNamespaceType::Uts, None));
    }
    if !context.joins_host_network {
        list.push(namespace(LinuxNamespaceType::Network, context.network_namespace));
    }
    let private_cgroup = match host.cgroup_namespace {
        CgroupNamespace::Private => true,
        CgroupNamespace::Host => false,
        CgroupNamespace::Default => context.pure_cgroup_v2 && !host.privileged,
    };
    if private_cgroup {
        list.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    if context.user_namespace.is_some() {
        list.push(namespace(LinuxNamespaceType::User, None));
    }
    list
}

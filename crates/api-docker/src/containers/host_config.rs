//! How a container runs on its host: `HostConfig` in API documents.

use std::collections::BTreeMap;

use engine::ContainerDetails;
use engine::model::{
    CgroupNamespace, HostConfig, IpcMode, LogConfig, NetworkMode, PidMode, RestartPolicy, UsernsMode, UtsMode,
};
use serde::{Deserialize, Serialize};

use super::config::{Words, is_zero};
use super::mounts::MountBody;
use super::ports::{self, PortMap};
use super::resources::{
    DeviceBody, DeviceRequestBody, ThrottleBody, UlimitBody, WeightBody, null_if_empty, shows_resources, with_resources,
};
use crate::error::{ApiError, Result};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "LogConfig", rename_all = "PascalCase")]
pub(crate) struct LogBody {
    #[serde(rename = "Type")]
    driver: String,
    config: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "RestartPolicy", rename_all = "PascalCase")]
pub(crate) struct RestartBody {
    name: String,
    maximum_retry_count: i64,
}

with_resources! {
    /// `HostConfig`
    #[derive(Clone, Debug, Default, Serialize, Deserialize)]
    #[serde(default, rename = "HostConfig", rename_all = "PascalCase")]
    pub(crate) struct HostConfigBody {
        before {
            binds: Option<Vec<String>>,
            #[serde(rename = "ContainerIDFile")]
            container_id_file: String,
            log_config: LogBody,
            network_mode: String,
            port_bindings: PortMap,
            restart_policy: RestartBody,
            auto_remove: bool,
            volume_driver: String,
            volumes_from: Option<Vec<String>>,
            console_size: [u32; 2],
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            annotations: BTreeMap<String, String>,
            cap_add: Option<Words>,
            cap_drop: Option<Words>,
            cgroupns_mode: String,
            dns: Vec<String>,
            dns_options: Vec<String>,
            dns_search: Vec<String>,
            extra_hosts: Option<Vec<String>>,
            group_add: Option<Vec<String>>,
            ipc_mode: String,
            cgroup: String,
            links: Option<Vec<String>>,
            oom_score_adj: i32,
            pid_mode: String,
            privileged: bool,
            publish_all_ports: bool,
            readonly_rootfs: bool,
            security_opt: Option<Vec<String>>,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            storage_opt: BTreeMap<String, String>,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            tmpfs: BTreeMap<String, String>,
            #[serde(rename = "UTSMode")]
            uts_mode: String,
            userns_mode: String,
            shm_size: i64,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            sysctls: BTreeMap<String, String>,
            #[serde(skip_serializing_if = "String::is_empty")]
            runtime: String,
            isolation: String,
        }
        after {
            #[serde(skip_serializing_if = "is_zero")]
            kernel_memory: i64,
            #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
            kernel_memory_tcp: i64,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            mounts: Vec<MountBody>,
            masked_paths: Option<Vec<String>>,
            readonly_paths: Option<Vec<String>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            init: Option<bool>,
        }
    }
}

shows_resources!(HostConfigBody);

impl HostConfigBody {
    /// The engine's form of it.
    ///
    /// # Errors
    /// 400 in dockerd's words for everything that the engine's types have no place for.
    pub(crate) fn into_model(mut self) -> Result<HostConfig> {
        let resources = self.take_resources()?;
        let mounts = self.mounts.into_iter().map(MountBody::into_model).collect::<Result<_>>()?;
        let shm_size = u64::try_from(self.shm_size);
        Ok(HostConfig {
            binds: self.binds.unwrap_or_default(),
            mounts,
            tmpfs: self.tmpfs,
            volumes_from: self.volumes_from.unwrap_or_default(),
            volume_driver: self.volume_driver,
            container_id_file: self.container_id_file,
            log: LogConfig { driver: self.log_config.driver, options: self.log_config.config },
            network_mode: NetworkMode::parse(&self.network_mode),
            port_bindings: ports::bindings(self.port_bindings)?,
            publish_all_ports: self.publish_all_ports,
            links: self.links.unwrap_or_default(),
            dns: self.dns,
            dns_options: self.dns_options,
            dns_search: self.dns_search,
            extra_hosts: self.extra_hosts.unwrap_or_default(),
            restart: self.restart_policy.into_model()?,
            auto_remove: self.auto_remove,
            console_size: console_size(self.console_size)?,
            annotations: self.annotations,
            cap_add: words(self.cap_add),
            cap_drop: words(self.cap_drop),
            group_add: self.group_add.unwrap_or_default(),
            cgroup_namespace: cgroup_namespace(&self.cgroupns_mode)?,
            ipc_mode: ipc_mode(&self.ipc_mode)?,
            pid_mode: pid_mode(&self.pid_mode)?,
            uts_mode: uts_mode(&self.uts_mode)?,
            userns_mode: userns_mode(&self.userns_mode)?,
            privileged: self.privileged,
            readonly_rootfs: self.readonly_rootfs,
            security_opt: self.security_opt.unwrap_or_default(),
            storage_opt: self.storage_opt,
            shm_size: shm_size.map_err(|_| ApiError::bad_request("SHM size can not be less than 0"))?,
            sysctls: self.sysctls,
            runtime: self.runtime,
            isolation: if self.isolation == "default" { String::new() } else { self.isolation },
            oom_score_adj: self.oom_score_adj,
            init: self.init,
            masked_paths: self.masked_paths,
            readonly_paths: self.readonly_paths,
            resources,
        })
    }
}

impl HostConfigBody {
    /// As a container has it: with links by the names of both ends.
    pub(crate) fn of_container(details: &ContainerDetails) -> Self {
        let link = |(other, alias): &(String, String)| format!("/{other}:/{}/{alias}", details.record.name);
        let links = Some(details.links.iter().map(link).collect()).filter(|links: &Vec<_>| !links.is_empty());
        Self { links, ..Self::from(&details.record.host) }
    }
}

impl From<&HostConfig> for HostConfigBody {
    fn from(host: &HostConfig) -> Self {
        let mut body = Self {
            binds: null_if_empty(&host.binds),
            container_id_file: host.container_id_file.clone(),
            log_config: LogBody { driver: host.log.driver.clone(), config: host.log.options.clone() },
            network_mode: network_mode_text(&host.network_mode),
            port_bindings: ports::port_map(&host.port_bindings),
            restart_policy: RestartBody::from(&host.restart),
            auto_remove: host.auto_remove,
            volume_driver: host.volume_driver.clone(),
            volumes_from: null_if_empty(&host.volumes_from),
            console_size: host.console_size.map_or([0, 0], |(rows, columns)| [rows.into(), columns.into()]),
            annotations: host.annotations.clone(),
            cap_add: null_if_empty(&host.cap_add).map(Words),
            cap_drop: null_if_empty(&host.cap_drop).map(Words),
            cgroupns_mode: cgroup_namespace_text(host.cgroup_namespace).to_owned(),
            dns: host.dns.clone(),
            dns_options: host.dns_options.clone(),
            dns_search: host.dns_search.clone(),
            extra_hosts: null_if_empty(&host.extra_hosts),
            group_add: null_if_empty(&host.group_add),
            ipc_mode: ipc_mode_text(&host.ipc_mode),
            links: null_if_empty(&host.links),
            oom_score_adj: host.oom_score_adj,
            pid_mode: pid_mode_text(&host.pid_mode),
            privileged: host.privileged,
            publish_all_ports: host.publish_all_ports,
            readonly_rootfs: host.readonly_rootfs,
            security_opt: null_if_empty(&host.security_opt),
            storage_opt: host.storage_opt.clone(),
            tmpfs: host.tmpfs.clone(),
            uts_mode: if host.uts_mode == UtsMode::Host { "host" } else { "" }.to_owned(),
            userns_mode: userns_mode_text(&host.userns_mode).to_owned(),
            shm_size: i64::try_from(host.shm_size).unwrap_or(i64::MAX),
            sysctls: host.sysctls.clone(),
            runtime: host.runtime.clone(),
            isolation: host.isolation.clone(),
            mounts: host.mounts.iter().map(MountBody::from).collect(),
            masked_paths: host.masked_paths.clone(),
            readonly_paths: host.readonly_paths.clone(),
            init: host.init,
            ..Self::default()
        };
        body.set_resources(&host.resources);
        body
    }
}

impl RestartBody {
    /// The policy; an empty name is "no".
    ///
    /// # Errors
    /// 400 in dockerd's words.
    pub(crate) fn into_model(self) -> Result<RestartPolicy> {
        let refuse = |reason: &str| ApiError::bad_request(format!("invalid restart policy: {reason}"));
        let retries = u32::try_from(self.maximum_retry_count);
        let policy = match (self.name.as_str(), retries) {
            ("on-failure", Ok(retries)) => return Ok(RestartPolicy::OnFailure { retries }),
            ("on-failure", Err(_)) => return Err(refuse("maximum retry count cannot be negative")),
            ("" | "no", _) => RestartPolicy::No,
            ("always", _) => RestartPolicy::Always,
            ("unless-stopped", _) => RestartPolicy::UnlessStopped,
            (other, _) => {
                let known = "use one of 'no', 'always', 'on-failure', or 'unless-stopped'";
                return Err(refuse(&format!("unknown policy '{other}'; {known}")));
            }
        };
        match self.maximum_retry_count {
            0 => Ok(policy),
            ..0 => Err(refuse("maximum retry count can only be used with 'on-failure' and cannot be negative")),
            _ => Err(refuse("maximum retry count can only be used with 'on-failure'")),
        }
    }

    /// Whether a policy is named at all: an `update` without a name leaves it as it is.
    pub(crate) fn is_given(&self) -> bool {
        !self.name.is_empty()
    }
}

impl From<&RestartPolicy> for RestartBody {
    fn from(policy: &RestartPolicy) -> Self {
        let (name, retries) = match policy {
            RestartPolicy::No => ("no", 0),
            RestartPolicy::Always => ("always", 0),
            RestartPolicy::UnlessStopped => ("unless-stopped", 0),
            RestartPolicy::OnFailure { retries } => ("on-failure", *retries),
        };
        Self { name: name.to_owned(), maximum_retry_count: i64::from(retries) }
    }
}

/// The network mode as it is shown: the default is a bridge, and says so.
pub(crate) fn network_mode_text(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => NetworkMode::Bridge.to_string(),
        other => other.to_string(),
    }
}

/// Rows and columns; a terminal without size takes the size that it has.
pub(crate) fn console_size(size: [u32; 2]) -> Result<Option<(u16, u16)>> {
    let of = |number: u32| {
        u16::try_from(number).map_err(|_| ApiError::bad_request(format!("a terminal can't have a side of {number}")))
    };
    match size {
        [0, 0] => Ok(None),
        [rows, columns] => Ok(Some((of(rows)?, of(columns)?))),
    }
}

fn words(given: Option<Words>) -> Vec<String> {
    given.unwrap_or_default().0
}

fn cgroup_namespace(text: &str) -> Result<CgroupNamespace> {
    match text {
        "" => Ok(CgroupNamespace::Default),
        "private" => Ok(CgroupNamespace::Private),
        "host" => Ok(CgroupNamespace::Host),
        other => Err(ApiError::bad_request(format!("invalid cgroup namespace mode: {other}"))),
    }
}

fn cgroup_namespace_text(mode: CgroupNamespace) -> &'static str {
    match mode {
        CgroupNamespace::Default => "",
        CgroupNamespace::Private => "private",
        CgroupNamespace::Host => "host",
    }
}

fn ipc_mode(text: &str) -> Result<IpcMode> {
    match text {
        "" | "private" => Ok(IpcMode::Private),
        "shareable" => Ok(IpcMode::Shareable),
        "none" => Ok(IpcMode::None),
        "host" => Ok(IpcMode::Host),
        other => match container(other) {
            Some(name) => Ok(IpcMode::Container(name)),
            None => Err(ApiError::bad_request(format!("invalid IPC mode: {other}"))),
        },
    }
}

fn ipc_mode_text(mode: &IpcMode) -> String {
    match mode {
        IpcMode::Private => "private".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::None => "none".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(name) => format!("container:{name}"),
    }
}

fn pid_mode(text: &str) -> Result<PidMode> {
    match text {
        "" => Ok(PidMode::Private),
        "host" => Ok(PidMode::Host),
        other => match container(other) {
            Some(name) => Ok(PidMode::Container(name)),
            None => Err(ApiError::bad_request(format!("invalid PID mode: {other}"))),
        },
    }
}

fn pid_mode_text(mode: &PidMode) -> String {
    match mode {
        PidMode::Private => String::new(),
        PidMode::Host => "host".to_owned(),
        PidMode::Container(name) => format!("container:{name}"),
    }
}

fn uts_mode(text: &str) -> Result<UtsMode> {
    match text {
        "" => Ok(UtsMode::Private),
        "host" => Ok(UtsMode::Host),
        other => Err(ApiError::bad_request(format!("invalid UTS mode: {other}"))),
    }
}

fn userns_mode(text: &str) -> Result<UsernsMode> {
    match text {
        "" => Ok(UsernsMode::Default),
        "host" => Ok(UsernsMode::Host),
        "private" => Ok(UsernsMode::Private),
        other => Err(ApiError::bad_request(format!("invalid user namespace mode: {other}"))),
    }
}

fn userns_mode_text(mode: &UsernsMode) -> &'static str {
    match mode {
        UsernsMode::Default => "",
        UsernsMode::Host => "host",
        UsernsMode::Private => "private",
    }
}

/// The name in `container:NAME`.
fn container(text: &str) -> Option<String> {
    text.strip_prefix("container:").filter(|name| !name.is_empty()).map(str::to_owned)
}

//! `ps` and `inspect`

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{ContainerRecord, Filters, HealthStatus, NetworkMode, Phase};
use crate::{Engine, Error, Result};

/// Which containers are listed.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Those that do not run as well.
    pub all: bool,
    /// The newest so many, running or not.
    pub limit: Option<usize>,
    /// `ancestor`, `before`, `expose`, `exited`, `health`, `id`, `label`, `name`, `network`, `publish`, `since`,
    /// `status`, `volume`, …
    pub filters: Filters,
    /// With the bytes of their files.
    pub size: bool,
}

/// Bytes of a container's files; `None`: they can't be told, as it is being removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerSize {
    /// What it wrote.
    pub rw: Option<u64>,
    /// With its image.
    pub root_fs: Option<u64>,
}

/// A container in a list.
#[derive(Clone, Debug)]
pub struct ListedContainer {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// Bytes of its files, where asked for.
    pub size: Option<ContainerSize>,
    /// The name that it was made from stands for another image by now, or for none.
    pub image_moved: bool,
}

/// Directories of a root file system on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphDirs {
    /// Read-only layers, top first.
    pub lower: Vec<PathBuf>,
    /// What the container wrote.
    pub upper: PathBuf,
    /// overlayfs' own.
    pub work: PathBuf,
    /// Where the whole is seen: in the container's own mount namespace only.
    pub merged: PathBuf,
}

/// Everything about a container.
#[derive(Clone, Debug)]
pub struct ContainerDetails {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// AppArmor profile that confines it; empty where the machine has no AppArmor.
    pub apparmor: String,
    /// Execs that have not ended.
    pub exec_ids: Vec<String>,
    /// Its links on the default bridge: the name of each container, as it is now, and its alias.
    pub links: Vec<(String, String)>,
    /// Bytes of its files, where asked for.
    pub size: Option<ContainerSize>,
    /// Its log; empty: it has no file.
    pub log_path: PathBuf,
    /// `/etc/resolv.conf` on the host.
    pub resolv_conf_path: PathBuf,
    /// `/etc/hostname` on the host.
    pub hostname_path: PathBuf,
    /// `/etc/hosts` on the host.
    pub hosts_path: PathBuf,
    /// Identifier of its network sandbox; empty while not running.
    pub sandbox_id: String,
    /// Path of its network namespace; empty while not running.
    pub sandbox_key: PathBuf,
    /// Its root file system's directories.
    pub layers: Option<GraphDirs>,
}

/// What lists of containers can be filtered by.
pub const CONTAINER_FILTERS: [&str; 19] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "container",
    "image",
    "runtime",
];

/// What `status` is one of.
pub const CONTAINER_STATES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];

impl Engine {
    /// Containers, the newest first.
    pub async fn list(&self, options: &ListOptions) -> Result<Vec<ListedContainer>> {
        let filters = &options.filters;
        filters.only(&CONTAINER_FILTERS)?;
        check_values(filters)?;
        let bounds = Bounds { since: self.created_of(filters, "since")?, before: self.created_of(filters, "before")? };
        let all = options.all || options.limit.is_some() || filters.has("status") || filters.has("exited");
        let ancestors = self.ancestors(filters)?;
        let mut records: Vec<Arc<ContainerRecord>> = self.0.containers.all().iter().map(|c| c.record()).collect();
        records.sort_by_key(|record| Reverse(record.created));
        let names = filters.patterns("name");
        // With and without the slash that clients see before a name.
        let named = |name: &str| names.matches(name) || names.matches(&format!("/{name}"));
        let wanted = |record: &ContainerRecord| {
            (all || record.state.phase.is_live() || record.state.phase == Phase::Restarting)
                && bounds.hold(record)
                && ancestors.as_ref().is_none_or(|images| images.contains(&record.image_id))
                && named(&record.name)
                && matches(record, filters)
        };
        let chosen = records.into_iter().filter(|record| wanted(record)).take(options.limit.unwrap_or(usize::MAX));
        let mut listed = Vec::new();
        for record in chosen {
            let size = if options.size { Some(self.size_of(&record).await) } else { None };
            let image_moved = self.image_moved(&record);
            listed.push(ListedContainer { record, size, image_moved });
        }
        Ok(listed)
    }

    /// Everything about a container.
    pub async fn inspect(&self, reference: &str, size: bool) -> Result<ContainerDetails> {
        let container = self.0.containers.find(reference)?;
        let record = container.record();
        let files = self.container_files(&record);
        let live = record.state.phase.is_live();
        let written = |path: PathBuf| if record.state.has_run { path } else { PathBuf::new() };
        Ok(ContainerDetails {
            apparmor: self.0.confinement.shown(&record),
            exec_ids: self.0.execs.of(&container.id),
            links: self.legacy_links(&record),
            size: if size { Some(self.size_of(&record).await) } else { None },
            log_path: self.log_path(&record).filter(|_| record.state.has_run).unwrap_or_default(),
            resolv_conf_path: written(files.resolv_conf),
            hostname_path: written(files.hostname),
            hosts_path: written(files.hosts),
            sandbox_id: if live && record.net.is_some() { record.id.to_string() } else { String::new() },
            sandbox_key: match live && record.net.is_some() {
                true => PathBuf::from(format!("/proc/{}/ns/net", record.state.pid)),
                false => PathBuf::new(),
            },
            layers: self.graph_dirs(&container.id),
            record,
        })
    }

    /// Links on the default bridge; those of other networks belong to its endpoints there.
    fn legacy_links(&self, record: &ContainerRecord) -> Vec<(String, String)> {
        if matches!(record.host.network_mode, NetworkMode::Network(_)) {
            return Vec::new();
        }
        let link = |text: &String| {
            let (name, alias) = text.split_once(':').unwrap_or((text, text));
            let other = self.0.containers.find(name).map(|other| other.record().name.clone());
            (
                other.unwrap_or_else(|_| name.trim_start_matches('/').to_owned()),
                alias.trim_start_matches('/').to_owned(),
            )
        };
        record.host.links.iter().map(link).collect()
    }

    fn created_of(&self, filters: &Filters, key: &str) -> Result<Option<crate::model::Timestamp>> {
        match filters.values(key).next() {
            None => Ok(None),
            Some(reference) => Ok(Some(self.0.containers.find(reference)?.record().created)),
        }
    }
}

struct Bounds {
    since: Option<crate::model::Timestamp>,
    before: Option<crate::model::Timestamp>,
}

impl Bounds {
    fn hold(&self, record: &ContainerRecord) -> bool {
        self.since.is_none_or(|since| record.created > since)
            && self.before.is_none_or(|before| record.created < before)
    }
}

/// Values that could never match are mistakes.
fn check_values(filters: &Filters) -> Result<()> {
    const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];
    if filters.values("status").any(|status| !CONTAINER_STATES.contains(&status)) {
        return Err(filters.invalid("status"));
    }
    if let Some(unknown) = filters.values("health").find(|health| !HEALTH.contains(health)) {
        return Err(Error::invalid(format!("unrecognised filter value for health: {unknown}")));
    }
    filters.flag("is-task")?;
    if filters.values("exited").any(|code| code.parse::<i32>().is_err()) {
        return Err(filters.invalid("exited"));
    }
    for key in ["publish", "expose"] {
        if filters.values(key).any(|port| port_range(port).is_none()) {
            return Err(filters.invalid(key));
        }
    }
    Ok(())
}

fn matches(record: &ContainerRecord, filters: &Filters) -> bool {
    let state = &record.state;
    let health = state.health.as_ref().map_or("none", |health| match health.status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    });
    let on_network = |wanted: &str| {
        record.networks.iter().any(|(name, endpoint)| {
            name == wanted || (!endpoint.network_id.is_empty() && endpoint.network_id.starts_with(wanted))
        })
    };
    let has_volume = |wanted: &str| {
        record
            .mounts
            .iter()
            .any(|mount| mount.name.as_deref() == Some(wanted) || mount.source == wanted || mount.target == wanted)
    };
    let is_exposed = |wanted: &str| {
        port_range(wanted).is_some_and(|(protocol, first, last)| {
            let mut ports = record.config.exposed_ports.iter().chain(record.ports.keys());
            ports.any(|port| port.protocol.name() == protocol && (first..=last).contains(&port.port))
        })
    };
    let is_published = |wanted: &str| {
        port_range(wanted).is_some_and(|(protocol, first, last)| {
            let here = |ports: (u16, u16)| ports.0 <= last && first <= ports.1;
            record
                .ports
                .iter()
                .filter(|(port, _)| port.protocol.name() == protocol)
                .any(|(_, bindings)| bindings.iter().filter_map(|binding| binding.host_ports).any(here))
        })
    };
    let ended = state.finished_at.is_some() && !state.phase.is_live();
    filters.any("id", |id| record.id.as_str().starts_with(id))
        && filters.any("status", |status| status == state.phase.name())
        && filters.any("exited", |code| ended && code.parse() == Ok(state.exit_code))
        && filters.any("health", |wanted| wanted == health)
        && filters.any("network", on_network)
        && filters.any("volume", has_volume)
        && filters.any("publish", is_published)
        && filters.any("expose", is_exposed)
        && filters.any("is-task", |flag| matches!(flag, "false" | "0"))
        && filters.labels_match(&record.config.labels)
}

/// `80`, `80/udp`, `8000-8010/tcp`
fn port_range(text: &str) -> Option<(&str, u16, u16)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    Some((protocol, first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_filters() {
        assert_eq!(port_range("8000-8010/udp"), Some(("udp", 8000, 8010)));
        assert_eq!(port_range("x"), None);
    }
}

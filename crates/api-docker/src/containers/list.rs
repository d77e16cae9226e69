//! `GET /containers/json`

use std::collections::BTreeMap;

use engine::model::{ContainerRecord, ExposedPort, HealthStatus, Phase, PortBinding, Timestamp};
use engine::{ListOptions, ListedContainer};
use serde::Serialize;

use super::host_config::network_mode_text;
use super::mounts::{MountPointBody, mount_points};
use super::network_settings::{EndpointBody, endpoints};
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;
use crate::filters;
use crate::query::parse_integer;
use crate::version::ApiVersion;

/// A container in a list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SummaryBody {
    id: String,
    names: Vec<String>,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    ports: Vec<PortBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<i64>,
    labels: BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: HostBody,
    network_settings: NetworksBody,
    mounts: Vec<MountPointBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostBody {
    network_mode: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworksBody {
    networks: BTreeMap<String, EndpointBody>,
}

/// Bytes as clients read them: -1 where they can't be told.
pub(super) fn bytes(size: Option<u64>) -> i64 {
    size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX))
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PortBody {
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    ip: String,
    #[serde(rename = "PrivatePort")]
    private: u16,
    #[serde(rename = "PublicPort", skip_serializing_if = "Option::is_none")]
    public: Option<u16>,
    #[serde(rename = "Type")]
    protocol: &'static str,
}

/// `GET /containers/json`
pub(crate) async fn list(call: Call) -> Result<Response> {
    let limit = call
        .query
        .given("limit")
        .map(|limit| parse_integer("Atoi", limit))
        .transpose()?
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|limit| *limit > 0);
    let options = ListOptions {
        all: call.query.flag("all"),
        limit,
        filters: filters::from_query(&call.query)?,
        size: call.query.flag("size"),
    };
    let listed = call.engine().list(&options).await?;
    let now = Timestamp::now();
    let bodies: Vec<SummaryBody> = listed.iter().map(|one| SummaryBody::shown(one, call.version, now)).collect();
    body::ok_json(&bodies)
}

impl SummaryBody {
    /// A container as `version` shows it.
    pub(crate) fn shown(listed: &ListedContainer, version: ApiVersion, now: Timestamp) -> Self {
        let record: &ContainerRecord = &listed.record;
        let host = HostBody {
            network_mode: network_mode_text(&record.host.network_mode),
            annotations: if version.at_least(46) { record.host.annotations.clone() } else { BTreeMap::new() },
        };
        Self {
            id: record.id.to_string(),
            names: vec![format!("/{}", record.name)],
            // Where the name has gone to another image, the identifier is what tells the truth.
            image: if listed.image_moved { record.image_id.clone() } else { record.config.image.clone() },
            image_id: record.image_id.clone(),
            command: command(&record.argv()),
            created: record.created.as_second(),
            ports: ports(record),
            size_rw: listed.size.map(|size| bytes(size.rw)),
            size_root_fs: listed.size.map(|size| bytes(size.root_fs)),
            labels: record.config.labels.clone(),
            state: record.state.phase.name(),
            status: status(record, now),
            host_config: host,
            network_settings: NetworksBody { networks: endpoints(record, version) },
            mounts: mount_points(record),
        }
    }
}

/// The command in one line; arguments with spaces are quoted.
fn command(argv: &[String]) -> String {
    let word = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    let mut words = argv.iter();
    let program = words.next().cloned().unwrap_or_default();
    std::iter::once(program).chain(words.map(word)).collect::<Vec<_>>().join(" ")
}

fn ports(record: &ContainerRecord) -> Vec<PortBody> {
    if !record.state.phase.is_live() {
        return Vec::new();
    }
    let unpublished = record.config.exposed_ports.iter().filter(|port| !record.ports.contains_key(port));
    let unpublished = unpublished.map(|port| PortBody::of(*port, None));
    let published = record
        .ports
        .iter()
        .flat_map(|(port, bindings)| bindings.iter().map(|binding| PortBody::of(*port, Some(binding))));
    unpublished.chain(published).collect()
}

impl PortBody {
    fn of(port: ExposedPort, binding: Option<&PortBinding>) -> Self {
        Self {
            ip: binding.and_then(|binding| binding.host_ip).map(|ip| ip.to_string()).unwrap_or_default(),
            private: port.port,
            public: binding.and_then(|binding| binding.host_ports).map(|(first, _)| first),
            protocol: port.protocol.name(),
        }
    }
}

/// `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`, …
fn status(record: &ContainerRecord, now: Timestamp) -> String {
    let state = &record.state;
    let since = |time: Option<Timestamp>| human_duration(time.map_or(0, |time| now.as_second() - time.as_second()));
    let health = match state.health.as_ref().map(|health| health.status) {
        None => "",
        Some(HealthStatus::Starting) => " (health: starting)",
        Some(HealthStatus::Healthy) => " (healthy)",
        Some(HealthStatus::Unhealthy) => " (unhealthy)",
    };
    match state.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => format!("Up {}{health}", since(state.started_at)),
        Phase::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Phase::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at)),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Exited | Phase::Due => {
            let suspended = if state.suspended.is_some() { " (Suspended)" } else { "" };
            format!("Exited ({}) {} ago{suspended}", state.exit_code, since(state.finished_at))
        }
        Phase::Dead => "Dead".to_owned(),
    }
}

/// A duration in the roundest words, as clients print it.
fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (..1, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., ..48) => format!("{hours} hours"),
        (.., ..336) => format!("{} days", hours / 24),
        (.., ..1440) => format!("{} weeks", hours / 24 / 7),
        (.., ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_clients_print_them() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (125, "2 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (5_184_000, "2 months"),
            (63_072_000, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn arguments_with_spaces_are_quoted() {
        let argv = ["sh", "-c", "echo hello"].map(str::to_owned);
        assert_eq!(command(&argv), "sh -c 'echo hello'");
    }
}

//! `GET /containers/{name}/json`

use std::path::Path;

use engine::ContainerDetails;
use engine::model::{ContainerRecord, Health, Phase, State};
use serde::Serialize;

use super::config::ConfigBody;
use super::host_config::HostConfigBody;
use super::list::bytes;
use super::mounts::{MountPointBody, mount_points};
use super::network_settings::NetworkSettingsBody;
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;
use crate::time::{rfc3339, rfc3339_or_zero};
use crate::version::ApiVersion;

/// The storage driver's name that clients know for layers over one another.
pub(crate) const STORAGE_DRIVER: &str = "overlay2";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InspectBody {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: StateBody,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: String,
    mount_label: &'static str,
    process_label: &'static str,
    app_armor_profile: String,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    host_config: HostConfigBody,
    graph_driver: GraphDriverBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<i64>,
    mounts: Vec<MountPointBody>,
    config: ConfigBody,
    network_settings: NetworkSettingsBody,
}

/// `State`
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateBody {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<HealthBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthBody {
    status: &'static str,
    failing_streak: u32,
    log: Vec<HealthResultBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthResultBody {
    start: String,
    end: String,
    exit_code: i32,
    output: String,
}

/// `GraphDriver`
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GraphDriverBody {
    pub(crate) data: Option<GraphDirsBody>,
    pub(crate) name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GraphDirsBody {
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) lower_dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) merged_dir: String,
    pub(crate) upper_dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) work_dir: String,
}

/// `GET /containers/{name}/json`
pub(crate) async fn inspect(call: Call) -> Result<Response> {
    let details = call.engine().inspect(&call.name, call.query.flag("size")).await?;
    body::ok_json(&InspectBody::shown(&details, call.version))
}

impl InspectBody {
    fn shown(details: &ContainerDetails, version: ApiVersion) -> Self {
        let record: &ContainerRecord = &details.record;
        let mut argv = record.argv().into_iter();
        let text = |path: &Path| path.display().to_string();
        Self {
            id: record.id.to_string(),
            created: rfc3339(record.created),
            path: argv.next().unwrap_or_default(),
            args: argv.collect(),
            state: StateBody::from(&record.state),
            image: record.image_id.clone(),
            resolv_conf_path: text(&details.resolv_conf_path),
            hostname_path: text(&details.hostname_path),
            hosts_path: text(&details.hosts_path),
            log_path: text(&details.log_path),
            name: format!("/{}", record.name),
            restart_count: record.state.restart_count,
            driver: STORAGE_DRIVER,
            platform: record.platform.clone(),
            mount_label: "",
            process_label: "",
            app_armor_profile: details.apparmor.clone(),
            exec_ids: Some(details.exec_ids.clone()).filter(|ids| !ids.is_empty()),
            host_config: HostConfigBody::of_container(details),
            graph_driver: graph_driver(details),
            size_rw: details.size.map(|size| bytes(size.rw)),
            size_root_fs: details.size.map(|size| bytes(size.root_fs)),
            mounts: mount_points(record),
            config: ConfigBody::from(&record.config),
            network_settings: NetworkSettingsBody::shown(details, version),
        }
    }
}

fn graph_driver(details: &ContainerDetails) -> GraphDriverBody {
    let dirs = details.layers.as_ref().map(|layers| {
        let lower: Vec<String> = layers.lower.iter().map(|path| path.display().to_string()).collect();
        GraphDirsBody {
            id: details.record.id.to_string(),
            lower_dir: lower.join(":"),
            merged_dir: layers.merged.display().to_string(),
            upper_dir: layers.upper.display().to_string(),
            work_dir: layers.work.display().to_string(),
        }
    });
    GraphDriverBody { data: dirs, name: STORAGE_DRIVER }
}

impl From<&State> for StateBody {
    fn from(state: &State) -> Self {
        let is = |phase| state.phase == phase;
        Self {
            status: state.phase.name(),
            // A container between two runs counts as running, as clients wait for it to end.
            running: state.phase.is_live() || is(Phase::Restarting),
            paused: is(Phase::Paused),
            restarting: is(Phase::Restarting),
            oom_killed: state.oom_killed,
            dead: is(Phase::Dead),
            pid: state.pid,
            exit_code: state.exit_code,
            error: state.error.clone(),
            started_at: rfc3339_or_zero(state.started_at),
            finished_at: rfc3339_or_zero(state.finished_at),
            health: state.health.as_ref().map(HealthBody::from),
        }
    }
}

impl From<&Health> for HealthBody {
    fn from(health: &Health) -> Self {
        let result = |result: &engine::model::HealthResult| HealthResultBody {
            start: rfc3339(result.start),
            end: rfc3339(result.end),
            exit_code: result.exit_code,
            output: result.output.clone(),
        };
        Self {
            status: health.status.name(),
            failing_streak: health.failing_streak,
            log: health.log.iter().map(result).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::model::HealthStatus;

    use super::*;

    fn shown(state: &State) -> serde_json::Value {
        serde_json::to_value(StateBody::from(state)).expect("JSON")
    }

    #[test]
    fn a_container_that_never_ran_has_gos_zero_times() {
        let state = shown(&State::default());
        assert_eq!((&state["Status"], &state["StartedAt"]), (&"created".into(), &"0001-01-01T00:00:00Z".into()));
        assert_eq!(state.get("Health"), None);
    }

    #[test]
    fn a_paused_container_runs_too() {
        let state = shown(&State { phase: Phase::Paused, pid: 7, ..State::default() });
        assert_eq!((state["Running"].as_bool(), state["Paused"].as_bool()), (Some(true), Some(true)));
    }

    #[test]
    fn health_is_shown_where_there_is_a_check() {
        let health = Health { status: HealthStatus::Starting, failing_streak: 0, log: [].into() };
        let state = shown(&State { health: Some(health), ..State::default() });
        assert_eq!(state["Health"], serde_json::json!({"Status": "starting", "FailingStreak": 0, "Log": []}));
    }
}

//! Volumes: everything below `/volumes`.

use std::collections::BTreeMap;

use engine::model::Filters;
use engine::{Volume, VolumeCreate};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;
use crate::filters;
use crate::time::rfc3339_seconds;
use crate::version::ApiVersion;

/// A volume as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct VolumeBody {
    created_at: String,
    driver: String,
    labels: Option<BTreeMap<String, String>>,
    mountpoint: String,
    name: String,
    options: Option<BTreeMap<String, String>>,
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage_data: Option<UsageBody>,
}

/// What a volume holds; -1 where that is not known.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UsageBody {
    pub(crate) ref_count: i64,
    pub(crate) size: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListBody {
    volumes: Vec<VolumeBody>,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "CreateOptions", rename_all = "PascalCase")]
struct CreateBody {
    cluster_volume_spec: Option<serde_json::Value>,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneBody {
    volumes_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

impl From<&Volume> for VolumeBody {
    fn from(volume: &Volume) -> Self {
        let some = |map: &BTreeMap<String, String>| Some(map.clone()).filter(|map| !map.is_empty());
        Self {
            created_at: rfc3339_seconds(volume.created),
            driver: volume.driver.clone(),
            labels: some(&volume.labels),
            mountpoint: volume.mountpoint.display().to_string(),
            name: volume.name.clone(),
            options: some(&volume.options),
            scope: "local",
            usage_data: None,
        }
    }
}

/// `GET /volumes`
pub(crate) async fn list(call: Call) -> Result<Response> {
    let volumes = call.engine().volumes(&filters::from_query(&call.query)?)?;
    body::ok_json(&ListBody { volumes: volumes.iter().map(VolumeBody::from).collect(), warnings: None })
}

/// `GET /volumes/{name}`
pub(crate) async fn inspect(call: Call) -> Result<Response> {
    body::ok_json(&VolumeBody::from(&call.engine().volume_inspect(&call.name)?))
}

/// `POST /volumes/create`
pub(crate) async fn create(mut call: Call) -> Result<Response> {
    let request: CreateBody = call.json_or_default().await?;
    if request.cluster_volume_spec.is_some() {
        return crate::swarm::not_a_manager(call).await;
    }
    let request = VolumeCreate {
        name: request.name,
        driver: request.driver,
        options: request.driver_opts,
        labels: request.labels,
    };
    let volume = call.engine().volume_create(request).await?;
    body::json(StatusCode::CREATED, &VolumeBody::from(&volume))
}

/// `DELETE /volumes/{name}`
pub(crate) async fn remove(call: Call) -> Result<Response> {
    call.engine().volume_remove(&call.name, call.query.flag("force")).await?;
    Ok(body::no_content())
}

/// `POST /volumes/prune`
pub(crate) async fn prune(call: Call) -> Result<Response> {
    let filters = prune_filters(call.query.text("filters"), call.version)?;
    let report = call.engine().prune_volumes(&filters).await?;
    let deleted = Some(report.deleted).filter(|deleted| !deleted.is_empty());
    body::ok_json(&PruneBody { volumes_deleted: deleted, space_reclaimed: report.reclaimed })
}

/// Before 1.42 named volumes went too, as there was no filter to say so.
fn prune_filters(text: &str, version: ApiVersion) -> Result<Filters> {
    let mut filters = filters::parse_map(text)?;
    if version.before(42) {
        filters.entry("all".to_owned()).or_insert_with(|| ["true".to_owned()].into());
    }
    Ok(Filters::new(filters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_clients_prune_named_volumes_too() {
        let all = |text: &str, minor| {
            prune_filters(text, ApiVersion::new(1, minor)).expect(text).flag("all").expect("a flag")
        };
        for text in ["", "null", "{}", r#"{"label":["a"]}"#, r#"{"label":{"a":true}}"#] {
            assert_eq!((all(text, 41), all(text, 42)), (Some(true), None), "{text}");
        }
        assert_eq!(all(r#"{"all":["false"]}"#, 41), Some(false));
    }
}

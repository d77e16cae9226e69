//! What only a container with a kernel of its own can do: snapshots, and what goes on from them. Docker has nothing like it.

use engine::model::SnapshotRecord;
use serde::{Deserialize, Serialize};

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;
use crate::time::rfc3339;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SnapshotBody<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    created: String,
    /// Bytes of its own files.
    size: u64,
    /// What it is a difference to.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
}

impl<'a> From<&'a SnapshotRecord> for SnapshotBody<'a> {
    fn from(record: &'a SnapshotRecord) -> Self {
        Self {
            id: record.id.as_str(),
            name: record.name.as_deref().unwrap_or_default(),
            created: rfc3339(record.created),
            size: record.size,
            parent: record.parent.as_ref().map(|parent| parent.as_str()),
        }
    }
}

/// `POST /stratus/containers/{name}/snapshots`; with `name`, under that.
pub(crate) async fn create(call: Call) -> Result<Response> {
    let made = call.engine().snapshot(&call.name, call.query.given("name")).await?;
    body::json(http::StatusCode::CREATED, &SnapshotBody::from(&made))
}

/// `GET /stratus/containers/{name}/snapshots`, the oldest first.
pub(crate) async fn list(call: Call) -> Result<Response> {
    let all = call.engine().snapshots(&call.name)?;
    body::ok_json(&all.iter().map(|record| SnapshotBody::from(&**record)).collect::<Vec<_>>())
}

/// `DELETE /stratus/containers/{name}/snapshots?name=`
pub(crate) async fn remove(call: Call) -> Result<Response> {
    call.engine().remove_snapshot(&call.name, call.query.text("name")).await?;
    Ok(body::no_content())
}

/// `POST /stratus/containers/{name}/rollback`; with `name`, to that snapshot, else to the newest.
pub(crate) async fn rollback(call: Call) -> Result<Response> {
    call.microvms().rollback_container(&call.name, call.query.given("name")).await?;
    Ok(body::no_content())
}

/// `POST /stratus/containers/{name}/suspend`
pub(crate) async fn suspend(call: Call) -> Result<Response> {
    call.microvms().suspend_container(&call.name).await?;
    Ok(body::no_content())
}

/// `POST /stratus/containers/{name}/resume`
pub(crate) async fn resume(call: Call) -> Result<Response> {
    call.microvms().resume_container(&call.name).await?;
    Ok(body::no_content())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct ForkBody {
    /// How many copies; 0: one, or as many as there are names.
    count: u32,
    /// Their names; those beyond get the container's, with a number.
    names: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CopyBody {
    id: String,
    name: String,
    warnings: Vec<String>,
}

/// `POST /stratus/containers/{name}/fork`
pub(crate) async fn fork(mut call: Call) -> Result<Response> {
    let ForkBody { count, names } = call.json_or_default().await?;
    let count = match count {
        0 => u32::try_from(names.len()).unwrap_or(u32::MAX).max(1),
        count => count,
    };
    let copies = call.microvms().fork_container(&call.name, count, &names).await?;
    let shown =
        copies.into_iter().map(|copy| CopyBody { id: copy.id.to_string(), name: copy.name, warnings: copy.warnings });
    body::json(http::StatusCode::CREATED, &shown.collect::<Vec<_>>())
}

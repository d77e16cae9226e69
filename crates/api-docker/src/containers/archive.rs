//! Files of a container: `cp` both ways, `export`, `diff`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use engine::ArchiveStat;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::time::rfc3339;

const STAT_HEADER: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// What a path is; the names are those of the header's JSON.
#[derive(Serialize)]
struct StatBody {
    name: String,
    size: i64,
    mode: u32,
    mtime: String,
    #[serde(rename = "linkTarget")]
    link_target: String,
}

/// `HEAD /containers/{name}/archive`
pub(crate) async fn stat(call: Call) -> Result<Response> {
    let stat = call.engine().archive_stat(&call.name, path(&call)?).await?;
    with_stat(body::empty(StatusCode::OK), stat)
}

/// `GET /containers/{name}/archive`
pub(crate) async fn get(call: Call) -> Result<Response> {
    let (stat, bytes) = call.engine().archive_get(&call.name, path(&call)?).await?;
    with_stat(body::archive("application/x-tar", bytes), stat)
}

/// `PUT /containers/{name}/archive`
pub(crate) async fn put(call: Call) -> Result<Response> {
    let path = path(&call)?.to_owned();
    let keep_kinds = call.query.flag("noOverwriteDirNonDir");
    let keep_owners = call.query.flag("copyUIDGID");
    let (engine, name) = (call.engine().clone(), call.name.clone());
    let (archive, was_read) = call.into_upload();
    let put = engine.archive_put(&name, &path, keep_kinds, keep_owners, archive).await;
    was_read.await;
    put?;
    Ok(body::empty(StatusCode::OK))
}

/// `GET /containers/{name}/export`
pub(crate) async fn export(call: Call) -> Result<Response> {
    Ok(body::archive("application/octet-stream", call.engine().export(&call.name).await?))
}

fn path(call: &Call) -> Result<&str> {
    call.query.given("path").ok_or_else(|| ApiError::bad_request("bad parameter: path cannot be empty"))
}

fn with_stat(mut response: Response, stat: ArchiveStat) -> Result<Response> {
    let body = StatBody {
        name: stat.name,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: go_mode(stat.mode),
        mtime: rfc3339(stat.mtime),
        link_target: stat.link_target,
    };
    let json = serde_json::to_vec(&body).map_err(|error| ApiError::internal(error.to_string()))?;
    let value = HeaderValue::from_str(&BASE64_STANDARD.encode(json));
    response.headers_mut().insert(STAT_HEADER, value.map_err(|error| ApiError::internal(error.to_string()))?);
    Ok(response)
}

/// The bits of Go's `os.FileMode` for those of `st_mode` (inode(7)).
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    special.iter().filter(|(bit, _)| mode & bit != 0).fold(kind | (mode & 0o777), |all, (_, go)| all | go)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeBody {
    kind: u8,
    path: String,
}

/// `GET /containers/{name}/changes`
pub(crate) async fn changes(call: Call) -> Result<Response> {
    let changes = call.engine().changes(&call.name).await?;
    let bodies: Vec<ChangeBody> = changes.into_iter().map(ChangeBody::from).collect();
    body::ok_json(&Some(bodies).filter(|bodies| !bodies.is_empty()))
}

impl From<image::Change> for ChangeBody {
    fn from(change: image::Change) -> Self {
        let kind = match change.kind {
            image::ChangeKind::Modified => 0,
            image::ChangeKind::Added => 1,
            image::ChangeKind::Deleted => 2,
        };
        Self { kind, path: change.path.display().to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_gos_bits() {
        assert_eq!(go_mode(0o040_755), 0x8000_01ed);
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o120_777), 1 << 27 | 0o777);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o041_777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o020_666), 1 << 26 | 1 << 21 | 0o666);
    }
}

//! Images' names and their end: `tag`, `DELETE`, `prune`.

use http::StatusCode;
use image::Removed;
use serde::Serialize;

use super::platform_of;
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::filters;

/// One step of a removal.
#[derive(Debug, PartialEq, Eq, Serialize)]
enum RemovedBody {
    Untagged(String),
    Deleted(String),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneBody {
    images_deleted: Option<Vec<RemovedBody>>,
    space_reclaimed: u64,
}

/// `POST /images/{name}/tag`
pub(crate) async fn tag(call: Call) -> Result<Response> {
    call.engine().image_tag(&call.name, call.query.text("repo"), call.query.text("tag")).await?;
    Ok(body::empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`
pub(crate) async fn remove(call: Call) -> Result<Response> {
    if call.name.trim().is_empty() {
        return Err(ApiError::bad_request("image name cannot be blank"));
    }
    if let Some(platform) = one_platform(&call)? {
        call.engine().image_runs_on(&call.name, &platform)?;
    }
    let (force, prune) = (call.query.flag("force"), !call.query.flag("noprune"));
    let removed = call.engine().image_remove(&call.name, force, prune).await?;
    body::ok_json(&removed.into_iter().map(RemovedBody::from).collect::<Vec<_>>())
}

/// The platform whose image is to go, where one is named. An image has one platform here, as with dockerd's graph drivers,
/// so whoever names it has all of the image removed.
///
/// # Errors
/// 400 in dockerd's words for what is no platform, and for several.
fn one_platform(call: &Call) -> Result<Option<String>> {
    let named = if call.version.at_least(50) { call.query.all("platforms") } else { Vec::new() };
    let mut platforms = named.iter().map(|text| platform_of(text)).collect::<Result<Vec<_>>>()?;
    match platforms.len() {
        0 | 1 => Ok(platforms.pop()),
        _ => Err(ApiError::bad_request("multiple platforms are not supported")),
    }
}

/// `POST /images/prune`
pub(crate) async fn prune(call: Call) -> Result<Response> {
    let report = call.engine().image_prune(&filters::from_query(&call.query)?).await?;
    let removed: Vec<RemovedBody> = report.removed.into_iter().map(RemovedBody::from).collect();
    body::ok_json(&PruneBody {
        images_deleted: Some(removed).filter(|removed| !removed.is_empty()),
        space_reclaimed: report.reclaimed,
    })
}

impl From<Removed> for RemovedBody {
    fn from(removed: Removed) -> Self {
        match removed {
            Removed::Untagged(name) => Self::Untagged(name.familiar()),
            Removed::Deleted(id) => Self::Deleted(id.to_string()),
            Removed::LayerDeleted(chain) => Self::Deleted(chain.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_objects_with_one_field() {
        let steps = [RemovedBody::Untagged("app:1".to_owned()), RemovedBody::Deleted("sha256:1".to_owned())];
        let json = serde_json::to_string(&steps).expect("JSON");
        assert_eq!(json, r#"[{"Untagged":"app:1"},{"Deleted":"sha256:1"}]"#);
    }
}

//! The build cache: `POST /build/prune`, and what `GET /system/df` says of it.

use ::build::{CachedStep, PruneOptions};
use serde::Serialize;

use super::refused;
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::filters;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PrunedBody {
    caches_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

/// A step, as `docker system df -v` shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CachedBody {
    #[serde(rename = "ID")]
    id: String,
    r#type: &'static str,
    description: String,
    in_use: bool,
    shared: bool,
    size: u64,
    created_at: String,
    last_used_at: String,
    usage_count: u64,
}

impl From<CachedStep> for CachedBody {
    fn from(step: CachedStep) -> CachedBody {
        CachedBody {
            id: step.key.hex(),
            r#type: "regular",
            description: step.record.what,
            // In use means: by a build, which no step is that can be listed.
            in_use: false,
            shared: step.in_use,
            size: step.record.size,
            created_at: step.record.made.to_string(),
            last_used_at: step.record.used.to_string(),
            usage_count: step.record.uses,
        }
    }
}

impl CachedBody {
    /// Bytes in its layer's files.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// All steps that may be found again.
pub(crate) fn listed(call: &Call) -> Result<Vec<CachedBody>> {
    let steps = call.door.builder.cached().map_err(refused)?;
    Ok(steps.into_iter().map(CachedBody::from).collect())
}

/// `POST /build/prune`
pub(crate) async fn prune(call: Call) -> Result<Response> {
    let query = &call.query;
    let filters = filters::from_query(query)?;
    let mut options = PruneOptions { all: query.flag("all"), ..PruneOptions::default() };
    // What it was called until 1.48, and from then on.
    for name in ["keep-storage", "reserved-space"] {
        if let Some(text) = query.given(name) {
            let bytes = crate::query::parse_integer("ParseInt", text)?;
            options.keep =
                u64::try_from(bytes).map_err(|_| ApiError::bad_request(format!("{name} is negative: {bytes}")))?;
        }
    }
    filters.only(&["until", "label", "label!"])?;
    options.unused_since = engine::until(&filters)?;
    if filters.has("label") {
        // "docker system prune" says it to everybody. No step has a label.
        return body::ok_json(&PrunedBody { caches_deleted: None, space_reclaimed: 0 });
    }
    let pruned = call.door.builder.prune(options).await.map_err(refused)?;
    let keys: Vec<String> = pruned.keys.iter().map(image::Digest::hex).collect();
    body::ok_json(&PrunedBody {
        caches_deleted: Some(keys).filter(|keys| !keys.is_empty()),
        space_reclaimed: pruned.reclaimed,
    })
}

//! Building images, which this door does not do yet.

use serde::Serialize;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CachePruned {
    caches_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

/// `POST /build`, `POST /build/cancel`
pub(crate) async fn build(_: Call) -> Result<Response> {
    Err(ApiError::not_implemented(
        "stratus does not build images yet: build elsewhere, then \"docker pull\" or \"docker load\" the image here",
    ))
}

/// `POST /session`
pub(crate) async fn session(_: Call) -> Result<Response> {
    Err(ApiError::not_implemented("stratus has no BuildKit: build elsewhere, then \"docker pull\" or \"docker load\""))
}

/// `POST /build/prune`: there is no build cache to prune; `docker system prune` asks all the same.
pub(crate) async fn prune(_: Call) -> Result<Response> {
    body::ok_json(&CachePruned { caches_deleted: None, space_reclaimed: 0 })
}

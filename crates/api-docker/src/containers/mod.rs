//! Containers: everything below `/containers`, `/exec` and `/commit`.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod commit;
mod config;
pub(crate) mod create;
pub(crate) mod exec;
mod host_config;
pub(crate) mod inspect;
pub(crate) mod life;
pub(crate) mod list;
pub(crate) mod logs;
mod mounts;
mod network_settings;
mod ports;
pub(crate) mod resources;
pub(crate) mod stats;
pub(crate) mod update;
pub(crate) mod websocket;

pub(crate) use network_settings::EndpointBody;

use http::StatusCode;

use crate::body::Response;
use crate::call::Call;
use crate::error::{ApiError, Result};

/// Checkpoints: stratus has none, and says what dockerd says that is not experimental.
pub(crate) async fn no_checkpoints(_: Call) -> Result<Response> {
    let message = "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in \
                   order to enable it.";
    Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, message))
}

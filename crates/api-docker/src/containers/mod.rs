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

use crate::body::Response;
use crate::call::Call;
use crate::error::{ApiError, Result};

/// Checkpoints: stratus has none. The status is that of a dockerd without its experimental features; its advice to start it with
/// them would lead nowhere here.
pub(crate) async fn no_checkpoints(_: Call) -> Result<Response> {
    Err(ApiError::not_implemented("stratus does not support checkpoints: pause freezes a container in memory"))
}

//! What dockerd answers where Swarm is not active and no plugin is installed.

use http::StatusCode;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};

/// The answer to everything that takes a manager of a swarm.
pub(crate) const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect \
                                        this node to swarm and try again.";

/// Everything that takes a manager of a swarm.
pub(crate) async fn not_a_manager(_: Call) -> Result<Response> {
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NOT_A_MANAGER))
}

/// Everything that takes a member of a swarm.
pub(crate) async fn not_a_member(_: Call) -> Result<Response> {
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm"))
}

/// Making or joining a swarm.
pub(crate) async fn no_swarm(_: Call) -> Result<Response> {
    Err(ApiError::not_implemented("stratus has no Swarm mode: run it under Kubernetes where one machine is not enough"))
}

/// `GET /plugins`
pub(crate) async fn plugins(_: Call) -> Result<Response> {
    body::ok_json::<[(); 0]>(&[])
}

/// Anything about one plugin.
pub(crate) async fn no_such_plugin(call: Call) -> Result<Response> {
    Err(ApiError::not_found(format!("plugin {:?} not found", call.name)))
}

/// Installing plugins.
pub(crate) async fn no_plugins(_: Call) -> Result<Response> {
    Err(ApiError::not_implemented("stratus takes no plugins"))
}

//! Dockerfile-like instructions, as `docker commit --change` and `docker import --change` take them.

use thiserror::Error;

/// An instruction that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ChangeError(pub String);

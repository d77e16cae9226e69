//! Handing a filter's notifications to the agent that the spec names.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{ContainerProcessState, ContainerState, SECCOMP_FD_NAME, Spec};
use rustix::net::SocketType;

use super::create::connect;
use super::state::Container;
use super::{Result, RuntimeError};
use crate::sync;

/// Sends the listener with the process's state to `listenerPath`.
pub(super) fn hand_over(container: &Container, spec: &Spec, listener: OwnedFd, pid: i32) -> Result<()> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some((profile, path)) = profile.and_then(|p| p.listener_path().as_ref().map(|path| (p, path))) else {
        return Err(RuntimeError::Usage("the seccomp filter notifies, but the spec has no listenerPath".into()));
    };
    let state = container.oci_state(
        if pid == container.saved.pid { ContainerState::Creating } else { ContainerState::Running },
        Some(container.saved.pid),
    );
    let mut message = ContainerProcessState::default();
    message
        .set_version(container.saved.oci_version.clone())
        .set_fds(vec![SECCOMP_FD_NAME.to_owned()])
        .set_pid(pid)
        .set_metadata(profile.listener_metadata().clone())
        .set_state(state);
    let bytes = serde_json::to_vec(&message).map_err(RuntimeError::json(path))?;
    let agent = connect(path, SocketType::STREAM)?;
    sync::send_raw(agent.as_fd(), &bytes, &[listener.as_fd()])
        .map_err(|errno| RuntimeError::file("send the seccomp listener to", path)(errno.into()))
}

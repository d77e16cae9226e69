//! Handing a filter's notifications to the agent that the spec names (`SCMP_ACT_NOTIFY`, `listenerPath`).

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerProcessState, ContainerState, SECCOMP_FD_NAME, Spec, State};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::sync;

/// Who decides about the system calls that a filter asks about, and what it is told of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompAgent {
    path: PathBuf,
    metadata: Option<String>,
    oci_version: String,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
}

/// The process whose filter asks.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The container's identifier.
    pub container: &'a str,
    /// The container's first process.
    pub init: i32,
    /// The process itself.
    pub pid: i32,
}

/// Why an agent has not got the notifications.
#[derive(Debug)]
pub struct AgentError {
    tried: &'static str,
    path: PathBuf,
    /// What the system said.
    pub errno: Errno,
}

impl fmt::Display for AgentError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, path, errno } = self;
        write!(out, "cannot {tried} the seccomp agent at {} (listenerPath of the profile): {errno}", path.display())
    }
}

impl std::error::Error for AgentError {}

impl SeccompAgent {
    /// The agent that a spec names.
    pub(crate) fn of(spec: &Spec, bundle: &Path) -> Option<Self> {
        let profile = spec.linux().as_ref()?.seccomp().as_ref()?;
        Some(Self {
            path: profile.listener_path().clone()?,
            metadata: profile.listener_metadata().clone(),
            oci_version: spec.version().clone(),
            bundle: bundle.to_owned(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        })
    }

    /// Sends the listener with the process's state. Waits for nobody: an agent whose queue is full is as good as none.
    pub fn hand_over(&self, listener: &OwnedFd, asking: Asking<'_>) -> Result<(), AgentError> {
        let failed = |tried| move |errno| AgentError { tried, path: self.path.clone(), errno };
        let message =
            serde_json::to_vec(&self.message(asking)).map_err(|_| failed("describe the process to")(Errno::INVAL))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let agent = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed("make a socket for"))?;
        let (address, _held) = address(&self.path).map_err(failed("name"))?;
        rustix::net::connect(&agent, &address).map_err(failed("connect to"))?;
        sync::send_raw(agent.as_fd(), &message, &[listener.as_fd()]).map_err(failed("send the listener to"))
    }

    fn message(&self, asking: Asking<'_>) -> ContainerProcessState {
        // The first process asks before it runs its program.
        let is_first = asking.pid == asking.init;
        let mut state = State::default();
        state
            .set_version(self.oci_version.clone())
            .set_id(asking.container.to_owned())
            .set_status(if is_first { ContainerState::Creating } else { ContainerState::Running })
            .set_pid(Some(asking.init))
            .set_bundle(self.bundle.clone())
            .set_annotations((!self.annotations.is_empty()).then(|| self.annotations.clone()));
        let mut message = ContainerProcessState::default();
        message
            .set_version(self.oci_version.clone())
            .set_fds(vec![SECCOMP_FD_NAME.to_owned()])
            .set_pid(asking.pid)
            .set_metadata(self.metadata.clone())
            .set_state(state);
        message
    }
}

/// The address of a socket, with what has to stay open while it is used: a path that is too long for one goes by way of a descriptor.
pub(crate) fn address(path: &Path) -> Result<(SocketAddrUnix, Option<OwnedFd>), Errno> {
    use std::os::fd::AsRawFd;
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok((address, None));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let open = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = format!("/proc/self/fd/{}/", open.as_raw_fd());
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    Ok((SocketAddrUnix::new([short.as_bytes(), name].concat())?, Some(open)))
}

//! Hooks that run outside of the container.

use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};

use oci_spec::runtime::{ContainerState, Hook, Hooks, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::log::Log;
use super::state::Container;
use super::{Result, RuntimeError};

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Prestart,
    CreateRuntime,
    Poststart,
    Poststop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    #[allow(deprecated)]
    fn list(self, hooks: &Hooks) -> &Option<Vec<Hook>> {
        match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        }
    }
}

/// A file with the container's state, from its beginning.
pub(super) fn state(container: &Container, status: ContainerState) -> Result<OwnedFd> {
    let pid = (status != ContainerState::Stopped).then_some(container.saved.pid);
    let bytes =
        serde_json::to_vec(&container.oci_state(status, pid)).map_err(RuntimeError::json(&container.directory))?;
    let memory = rustix::fs::memfd_create(c"state", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(RuntimeError::system("create a file for the state"))?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&bytes).and_then(|()| file.rewind()).map_err(RuntimeError::file("write", "state".as_ref()))?;
    Ok(file.into())
}

/// Runs all hooks of a kind; the first failure ends it.
pub(super) fn run(kind: Kind, spec: &Spec, container: &Container, status: ContainerState, log: &Log) -> Result<()> {
    let hooks = spec.hooks().as_ref().and_then(|hooks| kind.list(hooks).as_ref());
    for (index, hook) in hooks.into_iter().flatten().enumerate() {
        log.debug(&format!("running {} hook {}", kind.name(), hook.path().display()));
        let failed = |reason: String| RuntimeError::Hook { kind: kind.name(), index, reason };
        let state = state(container, status)?;
        let ended = execute(hook, state, container).map_err(|error| failed(error.to_string()))?;
        match ended {
            None => return Err(failed(format!("{} took longer than its timeout", hook.path().display()))),
            Some((status, output)) if !status.success() => {
                return Err(failed(format!("{status}, stdout and stderr: {}", output.trim_end())));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// For hooks whose failure the spec wants logged and otherwise ignored.
pub(super) fn run_all_the_same(kind: Kind, spec: &Spec, container: &Container, status: ContainerState, log: &Log) {
    if let Err(error) = run(kind, spec, container, status, log) {
        log.warning(&error.to_string());
    }
}

/// `None`: the time was up, and it was killed.
fn execute(hook: &Hook, state: OwnedFd, container: &Container) -> std::io::Result<Option<(ExitStatus, String)>> {
    let mut command = Command::new(hook.path());
    command.env_clear().current_dir(&container.saved.bundle).stdin(Stdio::from(state));
    if let Some((first, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(first).args(rest);
    }
    for entry in hook.env().iter().flatten() {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(key, value);
    }
    // Into a file, not a pipe: what the hook leaves running must not keep us waiting for an end of the stream.
    let output = rustix::fs::memfd_create(c"hook", rustix::fs::MemfdFlags::CLOEXEC)?;
    command.stdout(output.try_clone()?).stderr(output.try_clone()?);
    let mut child = command.spawn()?;
    if let Some(seconds) = hook.timeout() {
        let pid = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let timeout = Timespec { tv_sec: seconds.max(1), tv_nsec: 0 };
        let mut poll = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        if rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&timeout)))? == 0 {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
    let status = child.wait()?;
    let mut file = std::fs::File::from(output);
    file.rewind()?;
    let mut text = String::new();
    use std::io::Read;
    // Whatever is no text is of no use in a message.
    let _ = file.take(8192).read_to_string(&mut text);
    Ok(Some((status, text)))
}

//! What is known of a container between two commands: a directory with its state and its spec.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerState, Spec, State};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::rdt::Group;
use super::{Result, RuntimeError};
use crate::cgroup::Cgroup;
use crate::process::start_time_of_living;

/// The directory of all containers' states.
pub(super) struct Store {
    root: PathBuf,
}

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) pid: i32,
    /// When the process started, in clock ticks since boot: with the pid, the process beyond doubt.
    pub(super) start_time: u64,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) created: String,
    pub(super) cgroup: String,
    /// Whether systemd manages the cgroup.
    #[serde(default)]
    pub(super) systemd: bool,
    /// Its group of `resctrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) intel_rdt: Option<Group>,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(super) annotations: HashMap<String, String>,
}

/// One container's directory.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) directory: PathBuf,
    pub(super) saved: Saved,
}

/// Created, running, paused or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl Store {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Claims an id: the directory is made by exactly one of several that try.
    pub(super) fn claim(&self, id: &str) -> Result<PathBuf> {
        valid(id)?;
        let directory = self.root.join(id);
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o711);
        match builder.create(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                builder.recursive(true).create(&self.root).map_err(RuntimeError::file("create", &self.root))?;
                builder.recursive(false).create(&directory)
            }
            other => other,
        }
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => RuntimeError::Exists,
            _ => RuntimeError::file("create", &directory)(error),
        })?;
        Ok(directory)
    }

    pub(super) fn open(&self, id: &str) -> Result<Container> {
        valid(id)?;
        let directory = self.root.join(id);
        let path = directory.join("state.json");
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => RuntimeError::NotFound,
            _ => RuntimeError::file("read", &path)(error),
        })?;
        let saved = serde_json::from_slice(&bytes).map_err(RuntimeError::json(&path))?;
        Ok(Container { directory, saved })
    }

    /// The directory of a container whose creation did not get as far as a state, if there is one.
    pub(super) fn remains(&self, id: &str) -> Option<PathBuf> {
        valid(id).ok()?;
        let directory = self.root.join(id);
        (directory.is_dir() && !directory.join("state.json").exists()).then_some(directory)
    }

    /// Every container, by id.
    pub(super) fn all(&self) -> Result<Vec<Container>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RuntimeError::file("read", &self.root)(error)),
        };
        let mut ids: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort();
        // One that is being made, or being removed, is not there.
        Ok(ids.iter().filter_map(|id| self.open(id).ok()).collect())
    }
}

fn valid(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > 1024 || matches!(id, "." | "..") || !id.chars().all(allowed) {
        return Err(RuntimeError::Id(id.to_owned()));
    }
    Ok(())
}

/// Writes a file so that it is either the old one or the new one.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, path)
}

impl Container {
    pub(super) fn save(&self) -> Result<()> {
        let path = self.directory.join("state.json");
        let bytes = serde_json::to_vec(&self.saved).map_err(RuntimeError::json(&path))?;
        write_atomically(&path, &bytes).map_err(RuntimeError::file("write", &path))
    }

    /// Where the start comes in; there as long as the program has not been started.
    pub(super) fn gate(&self) -> PathBuf {
        self.directory.join("start.sock")
    }

    pub(super) fn cgroup(&self) -> Result<Cgroup> {
        Ok(Cgroup::new(&self.saved.cgroup)?)
    }

    pub(super) fn is_alive(&self) -> bool {
        start_time_of_living(self.saved.pid) == Some(self.saved.start_time)
    }

    pub(super) fn status(&self) -> Status {
        if !self.is_alive() {
            return Status::Stopped;
        }
        if self.cgroup().is_ok_and(|cgroup| cgroup.is_frozen()) {
            return Status::Paused;
        }
        if self.gate().exists() { Status::Created } else { Status::Running }
    }

    /// A descriptor of the first process; an error once it has ended.
    pub(super) fn pidfd(&self) -> Result<OwnedFd> {
        let stopped = || RuntimeError::State("container not running".into());
        let pid = Pid::from_raw(self.saved.pid).ok_or_else(stopped)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| stopped())?;
        // Only now is it certain that the descriptor is not that of a later process with the same number.
        if self.is_alive() { Ok(pidfd) } else { Err(stopped()) }
    }

    /// The spec that the container was created from.
    pub(super) fn spec(&self) -> Result<Spec> {
        load(&self.directory.join("config.json")).map(|(_, spec)| spec)
    }

    /// The state as the runtime spec has it, for hooks and agents.
    pub(super) fn oci_state(&self, status: ContainerState, pid: Option<i32>) -> State {
        let mut state = State::default();
        state
            .set_version(self.saved.oci_version.clone())
            .set_id(self.saved.id.clone())
            .set_status(status)
            .set_pid(pid)
            .set_bundle(self.saved.bundle.clone())
            .set_annotations((!self.saved.annotations.is_empty()).then(|| self.saved.annotations.clone()));
        state
    }
}

/// Reads a spec; the bytes as well, to be kept as they are.
pub(super) fn load(path: &Path) -> Result<(Vec<u8>, Spec)> {
    let bytes = fs::read(path).map_err(RuntimeError::file("read", path))?;
    let spec = serde_json::from_slice(&bytes).map_err(RuntimeError::json(path))?;
    Ok((bytes, spec))
}

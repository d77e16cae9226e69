//! The OCI runtime command: `create`, `start`, `run`, `exec`, `state`, `kill`, `delete` and the rest, with runc's flags
//! and formats.

mod cli;
mod clock;
mod create;
mod events;
mod exec;
mod features;
mod foreground;
mod hooks;
mod lifecycle;
mod list;
mod log;
mod net_devices;
mod rdt;
mod spec;
mod state;
mod systemd;
mod update;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::cgroup::CgroupError;
use crate::plan::PlanError;
use crate::spawn::SpawnError;
use crate::sync::Failure;

/// Why a command failed. The text is what engines look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// No such container.
    #[error("container does not exist")]
    NotFound,
    /// An id that is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// An id that is none.
    #[error("invalid container ID {0:?}: use letters, digits, '_', '+', '-' and '.'")]
    Id(String),
    /// A command that the container's state does not allow.
    #[error("{0}")]
    State(String),
    /// A wrong argument.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read, written or understood.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A hook failed.
    #[error("error running {kind} hook #{index}: {reason}")]
    Hook {
        /// The hook's kind, by its name in the spec.
        kind: &'static str,
        /// Its place in the list.
        index: usize,
        /// What happened.
        reason: String,
    },
    /// The new process could not set itself up.
    #[error("unable to start container process: {0}")]
    Start(#[from] Failure),
    /// The new process was killed while it set itself up.
    #[error("the container process was killed during its set-up")]
    Vanished,
    /// A plan could not be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The process could not be cloned.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The program can't be put out of containers' reach, so it does not go near them.
    #[error("cannot execute from a read-only mount, where no container can write to the program: {0}")]
    Unsealed(rustix::io::Errno),
    /// A cgroup could not be made or used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call failed.
    #[error("{0}: {1}")]
    System(&'static str, rustix::io::Errno),
}

type Result<T> = std::result::Result<T, RuntimeError>;

impl RuntimeError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }

    fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { what: "parse", path, source: io::Error::new(io::ErrorKind::InvalidData, error) }
    }

    fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System(what, errno)
    }
}

/// Runs the command. `args` start with the program's name, as `std::env::args_os` gives them.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match cli::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 1 } else { 0 };
            // A closed standard output is nobody's error.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let log = log::Log::new(&cli.global);
    match cli::dispatch(&cli, &log) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error(&error.to_string());
            let code = match &error {
                RuntimeError::Start(failure) if cli.command.starts_a_process() => failure.exit_code().unwrap_or(1),
                _ => 1,
            };
            ExitCode::from(if matches!(cli.command, cli::Command::Exec(_)) && code == 1 { 255 } else { code })
        }
    }
}

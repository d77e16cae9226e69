//! Starting the keeper.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

use super::connection::{process, upgrade};
use super::{Client, ClientError};

/// How to start a keeper.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The program; as a rule `/proc/self/exe`'s own path.
    pub program: PathBuf,
    /// Its first arguments: what makes it a keeper.
    pub arguments: Vec<OsString>,
    /// The run directory, which must be there.
    pub run_dir: PathBuf,
    /// Directories of cgroups that the keeper moves itself into, one for each hierarchy. They must be there.
    pub cgroups: Vec<PathBuf>,
}

impl StartOptions {
    /// `PROGRAM keeper --run-dir RUN_DIR`.
    pub fn new(program: PathBuf, run_dir: PathBuf) -> StartOptions {
        StartOptions { program, arguments: vec!["keeper".into()], run_dir, cgroups: Vec::new() }
    }
}

/// Connects to the run directory's keeper, after starting it if none is there.
pub fn start_or_connect(options: &StartOptions) -> Result<Client, ClientError> {
    ensure_running(options)?;
    Client::connect(&options.run_dir)
}

/// Starts the run directory's keeper if none is there, and returns when it listens. Safe to call from a program with many threads,
/// and from several programs at once.
///
/// The keeper leaves the caller's session and is not its child: the started process forks once it is alone, and its parent ends as
/// soon as the child listens.
pub fn ensure_running(options: &StartOptions) -> Result<(), ClientError> {
    if listens(options)? {
        return Ok(());
    }
    let _one_at_a_time = lock(options)?;
    if listens(options)? {
        return Ok(());
    }
    let mut command = Command::new(&options.program);
    command.args(&options.arguments).arg("--detach").arg("--run-dir").arg(&options.run_dir);
    for cgroup in &options.cgroups {
        command.arg("--cgroup").arg(cgroup);
    }
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(ClientError::system("execute", &options.program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ClientError::DidNotStart(if said.is_empty() { output.status.to_string() } else { said }))
}

/// Has the run directory's keeper go on as the options' program, with everything it holds, where it is of another one: as a rule a
/// newer program has been installed since it began. Returns whether that was so. A keeper that does not go on as the new program goes
/// on as the old one, and the error says why.
pub fn bring_up_to_date(options: &StartOptions) -> Result<bool, ClientError> {
    if is_program_of(process(&options.run_dir)?, &options.program)? {
        return Ok(false);
    }
    upgrade(&options.run_dir, &options.program).map(|_| true)
}

/// Whether a process executes this very file, rather than one that was in its place before.
fn is_program_of(process: u32, program: &Path) -> Result<bool, ClientError> {
    let executed = PathBuf::from(format!("/proc/{process}/exe"));
    let file = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino())),
        Err(error) => Err(ClientError::system("look at", path)(error)),
    };
    Ok(file(&executed)? == file(program)?)
}

fn listens(options: &StartOptions) -> Result<bool, ClientError> {
    match Client::connect(&options.run_dir) {
        // A keeper of another version listens too.
        Ok(_) | Err(ClientError::Refused { .. }) => Ok(true),
        Err(ClientError::NotRunning { .. } | ClientError::Disconnected) => Ok(false),
        Err(error) => Err(error),
    }
}

fn lock(options: &StartOptions) -> Result<File, ClientError> {
    let path = options.run_dir.join("keeper.start");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(ClientError::system("open", &path))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|errno| ClientError::system("lock", &path)(errno.into()))?;
    Ok(file)
}

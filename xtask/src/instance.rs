//! A daemon with directories of its own, as a person at a terminal starts and stops it.

use crate::http::Connection;
use crate::memory::{self, Process};
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a daemon may take to begin or to end. Both take milliseconds; a disk may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// One instance of stratus: what it is run from, and where it keeps its things.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) program: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
}

/// What a daemon that was started does first.
enum First {
    Ready,
    Ended(ExitStatus),
}

impl Instance {
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("docker.sock")
    }

    /// The socket as `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.data_dir.join("daemon.log")
    }

    pub(crate) fn connect(&self) -> Result<Connection<UnixStream>> {
        Connection::open(&self.socket())
    }

    /// `stratus`, talking to this instance.
    pub(crate) fn client(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("DOCKER_HOST", self.host());
        command
    }

    /// The daemon's process, if somebody listens on its socket.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        let stream = UnixStream::connect(self.socket()).ok()?;
        socket_peercred(&stream).ok().map(|peer| peer.pid)
    }

    /// Whether the daemon that runs is of the program as it is now, rather than of one that was built before.
    pub(crate) fn is_current(&self, daemon: Pid) -> bool {
        let running = fs::read_link(format!("/proc/{}/exe", daemon.as_raw_nonzero()));
        running.is_ok_and(|running| Some(running) == fs::canonicalize(&self.program).ok())
    }

    /// The processes that the instance consists of: the daemon, the keeper and the port forwarder, by their role.
    pub(crate) fn own_processes(&self) -> Result<Vec<(String, Process)>> {
        let run_dir = self.run_dir.to_string_lossy();
        let own = memory::processes()?.into_iter().filter(|process| {
            process.command.first().is_some_and(|name| name.ends_with("stratus"))
                && process.command.iter().any(|word| *word == run_dir)
        });
        Ok(own.map(|process| (process.command.get(1).cloned().unwrap_or_default(), process)).collect())
    }

    /// The command that runs the daemon, in a session of its own so that it outlives the terminal.
    pub(crate) fn daemon_command(&self) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("cannot write {}", self.log().display()))?;
        let mut command = Command::new("setsid");
        command.arg(&self.program).arg("daemon");
        command.arg("--data-dir").arg(&self.data_dir).arg("--run-dir").arg(&self.run_dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Starts the daemon in the background and waits until it says that it is ready (sd_notify(3)).
    pub(crate) fn start(&self) -> Result<()> {
        self.make_directories()?;
        self.start_with(self.daemon_command()?)
    }

    /// Starts it by what [`Self::daemon_command`] gave, with more flags.
    pub(crate) fn start_with(&self, command: Command) -> Result<()> {
        start_and_wait(command, &self.run_dir.join("starting.sock"), &self.log())
    }

    /// The directories that the daemon would make itself, for what must be in them before.
    pub(crate) fn make_directories(&self) -> Result<()> {
        for directory in [&self.data_dir, &self.run_dir] {
            fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(())
    }

    /// Ends the daemon and waits for its end. What runs in its containers runs on. Tells whether there was one.
    pub(crate) fn stop(&self) -> Result<bool> {
        match self.daemon() {
            Some(daemon) => end(daemon, Signal::TERM).map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends everything that the instance runs and takes it out of the kernel. The data directory stays.
    pub(crate) fn clean(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["daemon", "--clean", "--data-dir"]).arg(&self.data_dir).arg("--run-dir").arg(&self.run_dir);
        let output = command.output().with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        match fs::remove_dir_all(&self.run_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.run_dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// An instance that is taken down, with its directories, when it is dropped.
pub(crate) struct Running(pub(crate) Instance);

impl Drop for Running {
    fn drop(&mut self) {
        let down = self.0.stop().and_then(|_| self.0.clean());
        let removed = fs::remove_dir_all(&self.0.data_dir);
        if let Err(error) = down.and(removed.context("its data directory stays")) {
            eprintln!("stratus could not be taken down: {error:#}");
        }
    }
}

/// Starts a daemon and waits until it says on a socket, which is made for that, that it is ready (sd_notify(3)).
pub(crate) fn start_and_wait(mut command: Command, notify: &Path, log: &Path) -> Result<()> {
    let _ = fs::remove_file(notify);
    let socket = UnixDatagram::bind(notify).with_context(|| format!("cannot listen on {}", notify.display()))?;
    let child = command.env("NOTIFY_SOCKET", notify).spawn().context("cannot run setsid")?;
    let first = first_word(child, socket);
    let _ = fs::remove_file(notify);
    match first {
        Ok(First::Ready) => Ok(()),
        Ok(First::Ended(status)) => bail!("the daemon ended ({status}): {}", last_words(log)),
        Err(_) => bail!("the daemon is not ready after {PATIENCE:?}: see {}", log.display()),
    }
}

fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    format!("{} (from {})", lines.into_iter().rev().collect::<Vec<_>>().join(" / "), log.display())
}

/// Sends a signal to a process and waits until it has ended.
pub(crate) fn end(pid: Pid, signal: Signal) -> Result<()> {
    let name = pid.as_raw_nonzero();
    let process = pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("cannot watch process {name}"))?;
    pidfd_send_signal(&process, signal).with_context(|| format!("cannot signal process {name}"))?;
    let patience = rustix::time::Timespec::try_from(PATIENCE).context("a minute is too long")?;
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)) {
        Ok(0) => bail!("process {name} does not end: look at it, or end it with: kill -9 {name}"),
        Ok(_) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot wait for process {name}")),
    }
}

/// Whether this runs as root, which namespaces, mounts and networks need.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn first_word(mut child: Child, socket: UnixDatagram) -> Result<First, mpsc::RecvTimeoutError> {
    let (sender, receiver) = mpsc::channel();
    let ready = sender.clone();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok(length) = socket.recv(&mut message) {
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                let _ = ready.send(First::Ready);
                return;
            }
        }
    });
    std::thread::spawn(move || {
        if let Ok(status) = child.wait() {
            let _ = sender.send(First::Ended(status));
        }
    });
    receiver.recv_timeout(PATIENCE)
}

/// The program that `cargo build --release` made.
pub(crate) fn release_program(target_directory: &Path) -> Result<PathBuf> {
    built_program(target_directory, "release")
}

/// The program that `cargo build` made with a profile.
pub(crate) fn built_program(target_directory: &Path, profile: &str) -> Result<PathBuf> {
    // The one whose directory is not called as it is.
    let directory = if profile == "dev" { "debug" } else { profile };
    let program = target_directory.join(directory).join("stratus");
    if !program.is_file() {
        bail!("{} is not there: build it with: cargo build --profile {profile}", program.display());
    }
    Ok(program)
}

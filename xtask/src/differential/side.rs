//! One of the two sides: a daemon that nobody but its scenarios talks to, and what came of each command.
//!
//! A side has a network, a mount and a process namespace to itself. So the two give away the same addresses and ports,
//! neither meets the rules of the other or of the machine, and the kernel takes down all of it with its first process,
//! however that ends.

use super::script::{Command as Line, Scenario};
use crate::instance::{Instance, Running};
use crate::peers::{Dockerd, REGISTRY, Registry};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;

/// The image that every scenario begins with.
pub(super) const ARCHIVE: &str = "busybox.tar";
/// The directory of what Dockerfiles of projects begin with.
pub(super) const BASES: &str = "bases";
/// No command of a scenario takes nearly as long, on the slowest machine: one that does hangs.
const DEADLINE: &str = "300";
const BRIDGE: &str = "172.31.0.1/24";
const POOL: &str = "172.31.0.0/16";
/// What is asked for, so that both answer in the same shapes: the newest that dockerd 20.10 knows.
const API_VERSION: &str = "1.41";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dockerd,
    Stratus,
    /// stratus, by whom every container gets a kernel of its own.
    Machines,
}

/// A scenario, and what came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Transcript {
    pub(super) scenario: String,
    pub(super) answers: Vec<Answer>,
}

/// What came of one command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) line: usize,
    pub(super) command: String,
    /// Its exit code, or 128 and the signal.
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Dockerd => "dockerd",
            Self::Stratus => "stratus",
            Self::Machines => "microvm",
        })
    }
}

impl FromStr for Side {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Dockerd, Self::Stratus, Self::Machines]
            .into_iter()
            .find(|side| side.to_string() == name)
            .with_context(|| format!("there is no side {name:?}"))
    }
}

impl Side {
    /// The command that runs `xtask`, with these arguments, in namespaces of the side's own. They end when it does, and
    /// it ends when the caller does.
    pub(super) fn command(arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"]);
        command.args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        // The first process of a process namespace inherits all orphans: a shell that waits takes leave of them.
        command.args(["sh", "-c", "\"$@\"; exit $?", "sh"]);
        command.arg(std::env::current_exe().context("cannot find this program")?).args(arguments);
        Ok(command)
    }

    /// Everything of this side is below this directory.
    pub(super) fn directory(self, of_all: &Path) -> PathBuf {
        of_all.join(self.to_string())
    }

    /// Takes down what a side left whose processes were killed.
    pub(super) fn sweep(self, of_all: &Path, program: &Path) -> Result<()> {
        let directory = self.directory(of_all);
        match self {
            Self::Dockerd => {
                // It has the number of a process in a namespace that is gone.
                let _ = fs::remove_file(directory.join("daemon/pid"));
                drop(Dockerd::new(directory.join("daemon"))?);
            }
            Self::Stratus | Self::Machines => instance(&directory, program).clean()?,
        }
        Ok(())
    }

    /// Starts the daemon, runs the scenarios, and takes everything down. To be called in namespaces of its own.
    pub(super) fn play(self, of_all: &Path, program: &Path, files: &Path, all: &[Scenario]) -> Result<Vec<Transcript>> {
        let directory = self.directory(of_all);
        fs::create_dir_all(directory.join("home")).with_context(|| format!("cannot create {}", directory.display()))?;
        if !Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?.success() {
            bail!("the loopback interface could not be brought up");
        }
        let _registry = Registry::start(directory.join("registry"))?;
        let stage = Stage { side: self, files: files.to_owned(), of_all: of_all.to_owned(), directory };
        let _daemon = stage.start(program)?;
        stage.must("clean_up")?;
        all.iter().map(|scenario| stage.play(scenario)).collect()
    }
}

/// What is taken down at the end.
enum Daemon {
    Dockerd { _daemon: Dockerd },
    Stratus { _daemon: Running },
}

struct Stage {
    side: Side,
    /// tests/differential.
    files: PathBuf,
    /// What both sides have.
    of_all: PathBuf,
    directory: PathBuf,
}

fn instance(directory: &Path, program: &Path) -> Instance {
    Instance { program: program.to_owned(), data_dir: directory.join("data"), run_dir: directory.join("run") }
}

impl Stage {
    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("docker.sock")
    }

    fn start(&self, program: &Path) -> Result<Daemon> {
        match self.side {
            Side::Dockerd => {
                let daemon = Dockerd::new(self.directory.join("daemon"))?;
                let mut command = daemon.command()?;
                command.args(["--host", &self.host(), "--bip", BRIDGE]);
                command.args(["--default-address-pool", &format!("base={POOL},size=24")]);
                // Not what an administrator has configured for the machine's own.
                let config = self.directory.join("daemon.json");
                fs::write(&config, "{}").with_context(|| format!("cannot write {}", config.display()))?;
                command.arg("--config-file").arg(config);
                daemon.start_with(command)?;
                Ok(Daemon::Dockerd { _daemon: daemon })
            }
            Side::Stratus | Side::Machines => {
                let running = Running(instance(&self.directory, program));
                running.0.make_directories()?;
                let mut command = running.0.daemon_command()?;
                let own = format!("unix://{}", running.0.socket().display());
                command.args(["--host", &self.host(), "--host", &own, "--bridge", "docker0"]);
                command.args(["--default-address-pool", &format!("{POOL},size=24")]);
                // dockerd fetches from wherever a Dockerfile says.
                command.args(["--build-allow-address", "127.0.0.1"]);
                if self.side == Side::Machines {
                    command.args(["--default-runtime", "microvm"]);
                    self.prepare_kernel(program, &running.0)?;
                }
                running.0.start_with(command)?;
                Ok(Daemon::Stratus { _daemon: running })
            }
        }
    }

    /// What machines boot, of the files that were fetched before: a side has no network to fetch them by.
    fn prepare_kernel(&self, program: &Path, instance: &Instance) -> Result<()> {
        let (vmlinuz, modules) = e2e::kernel_as_packaged();
        let mut command = Command::new(program);
        command.args(["microvm", "kernel", "--use"]).arg(vmlinuz).arg("--modules").arg(modules);
        let status = command.arg("--data-dir").arg(&instance.data_dir).stdout(Stdio::null()).status();
        match status.context("cannot run stratus")?.success() {
            true => Ok(()),
            false => bail!("the kernel for microVMs could not be prepared"),
        }
    }

    fn play(&self, scenario: &Scenario) -> Result<Transcript> {
        let work = self.directory.join("work").join(&scenario.name);
        fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        let answers = scenario.commands.iter().map(|line| self.answer(&work, line)).collect::<Result<_>>();
        self.must("clean_up").with_context(|| format!("after {}", scenario.name))?;
        Ok(Transcript { scenario: scenario.name.clone(), answers: answers? })
    }

    fn answer(&self, work: &Path, line: &Line) -> Result<Answer> {
        // Files, not pipes: what a command leaves running in the background would hold those open.
        let (out, err) = (self.directory.join("stdout"), self.directory.join("stderr"));
        for file in [&out, &err] {
            let _ = fs::remove_file(file);
        }
        let status = self
            .shell(work, &line.text)
            .stdout(File::create(&out).context("cannot keep a command's output")?)
            .stderr(File::create(&err).context("cannot keep a command's output")?)
            .status()
            .context("cannot run timeout")?;
        let read = |file: &Path| fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Answer {
            line: line.line,
            command: line.text.clone(),
            code: code(status),
            stdout: read(&out).context("cannot read a command's output")?,
            stderr: read(&err).context("cannot read a command's output")?,
        })
    }

    /// What is no part of a scenario, and has to succeed.
    fn must(&self, command: &str) -> Result<()> {
        let output = self.shell(&self.directory, command).output().context("cannot run timeout")?;
        if !output.status.success() {
            bail!("{}: {command}: {}", self.side, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn shell(&self, work: &Path, text: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", DEADLINE, "sh", "-c"]);
        command
            .arg(format!(". {}\n{text}", self.files.join("words.sh").display()))
            .current_dir(work)
            .stdin(Stdio::null());
        for (name, value) in [
            ("HOME", self.directory.join("home")),
            ("SOCKET", self.socket()),
            ("IMAGE", self.of_all.join(ARCHIVE)),
            ("BASES", self.of_all.join(BASES)),
            ("SOURCES", self.files.join("../..")),
        ] {
            command.env(name, value);
        }
        for (name, value) in [
            ("DOCKER_HOST", self.host().as_str()),
            ("DOCKER_API_VERSION", API_VERSION),
            ("DOCKER_CLI_HINTS", "false"),
            ("REGISTRY", REGISTRY),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("TERM", "dumb"),
        ] {
            command.env(name, value);
        }
        for name in ["DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
            command.env_remove(name);
        }
        command
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

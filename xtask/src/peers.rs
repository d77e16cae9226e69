//! Whom stratus is held against: Debian's dockerd, with directories, containerd and cgroups of its own; its buildah; and a registry.

use crate::http::Connection;
use crate::instance::{end, start_and_wait};
use crate::memory::{Process, processes};
use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal};
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A dockerd that ends, and leaves nothing, when it is dropped.
pub(crate) struct Dockerd {
    directory: PathBuf,
    /// Parent of its containers' cgroups: named after the directory and the one around it, so that no two share it.
    cgroup: String,
}

impl Dockerd {
    /// Where it will be; it does not run yet.
    pub(crate) fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let names: Vec<_> = directory.iter().rev().take(2).map(|name| name.to_string_lossy()).collect();
        let cgroup = format!("/{}", names.into_iter().rev().collect::<Vec<_>>().join("-"));
        Ok(Self { directory, cgroup })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("docker.sock")
    }

    pub(crate) fn connect(&self) -> Result<Connection<UnixStream>> {
        Connection::open(&self.socket())
    }

    pub(crate) fn command(&self) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let path = |name: &str| self.directory.join(name);
        let mut command = Command::new("setsid");
        command.args(["dockerd", "--storage-driver=overlay2", "--cgroup-parent", &self.cgroup]);
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid")).arg("--host").arg(format!("unix://{}", self.socket().display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    pub(crate) fn start(&self) -> Result<()> {
        self.start_with(self.command()?)
    }

    /// Starts it by what [`Self::command`] gave, with more flags.
    pub(crate) fn start_with(&self, command: Command) -> Result<()> {
        start_and_wait(command, &self.directory.join("notify.sock"), &self.directory.join("log"))
    }

    pub(crate) fn stop(&self) -> Result<()> {
        let pid = fs::read_to_string(self.directory.join("pid"))
            .ok()
            .and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
        pid.map_or(Ok(()), |pid| end(pid, Signal::TERM))
    }

    /// It, its containerd, and the shims of its containers: whoever is told of its directory.
    pub(crate) fn own_processes(&self) -> Result<Vec<Process>> {
        let name = self.directory.to_string_lossy().into_owned();
        let mut all = processes()?;
        all.retain(|process| process.command.iter().any(|word| word.contains(&name)));
        Ok(all)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("dockerd could not be taken down: {error:#}");
        }
        unmount_all_below(&self.directory);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroups(&hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
        remove_cgroups(Path::new(&format!("/sys/fs/cgroup{}", self.cgroup)));
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// A cgroup and those of containers in it that were killed together with their dockerd.
fn remove_cgroups(cgroup: &Path) {
    for inner in fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroups(&inner.path());
    }
    // What is not there need not go, and what is in use stays.
    let _ = fs::remove_dir(cgroup);
}

/// Debian's buildah, with a store of its own that goes when it is dropped.
pub(crate) struct Buildah {
    directory: PathBuf,
}

impl Buildah {
    /// Has the image of a root file system by this name.
    pub(crate) fn start(directory: PathBuf, rootfs: &Path, image: &str) -> Result<Self> {
        let context = directory.join("base");
        fs::create_dir_all(&context).with_context(|| format!("cannot create {}", context.display()))?;
        let buildah = Self { directory };
        fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY rootfs /\n")?;
        let copied = Command::new("cp").arg("-a").arg(rootfs).arg(context.join("rootfs")).status();
        if !copied.context("cannot run cp")?.success() {
            bail!("{} could not be copied", rootfs.display());
        }
        let output = buildah.build(image, &context, &[]).output().context("cannot run buildah: install it")?;
        if !output.status.success() {
            bail!("buildah: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(buildah)
    }

    /// A build with its cache. It runs commands with runc, as crun refuses some machines' cgroups.
    pub(crate) fn build(&self, name: &str, context: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.directory.join("store")).arg("--runroot").arg(self.directory.join("run"));
        command.args(["--storage-driver", "overlay", "build", "--layers", "--runtime", "runc", "--tag", name]);
        command.args(flags).arg(context);
        command
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        unmount_all_below(&self.directory);
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

fn unmount_all_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
        if Path::new(target).starts_with(directory) {
            let _ = unmount(target, UnmountFlags::DETACH);
        }
    }
}

/// Debian's docker-registry on loopback, empty. It ends, with what it holds, when it is dropped.
pub(crate) struct Registry {
    process: Child,
    directory: PathBuf,
}

/// Where it listens. Each has a network namespace to itself.
pub(crate) const REGISTRY: &str = "127.0.0.1:5000";

impl Registry {
    pub(crate) fn start(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let config = directory.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{REGISTRY}\"}}\n",
            directory.join("data").display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut registry = Self { process: command.spawn().context("cannot run docker-registry")?, directory };
        let began = Instant::now();
        while TcpStream::connect(REGISTRY).is_err() {
            if registry.process.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(30) {
                bail!("docker-registry does not listen on {REGISTRY}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

//! Where it is measured: directories, a root file system of busybox, the same image for everybody.

use crate::http::{Connection, Payload};
use crate::instance::{Instance, Running};
use crate::peers::Dockerd;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// On the disk that daemons use, not on a tmpfs that /tmp may be.
const PLACE: &str = "/var/lib";
const PREFIX: &str = "stratus-bench-";
const BUSYBOX: &str = "/bin/busybox";
const NAMES: [&str; 4] = ["sh", "sleep", "true", "cat"];
pub(super) const IMAGE: &str = "bench:latest";

/// Removed with everything in it when it is dropped.
pub(super) struct Arena {
    pub(super) program: PathBuf,
    directory: PathBuf,
}

impl Arena {
    pub(super) fn new(program: PathBuf) -> Result<Self> {
        take_down_interrupted(&program);
        let directory = Path::new(PLACE).join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let arena = Self { program, directory };
        if !Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?.success() {
            bail!("the loopback interface could not be brought up");
        }
        Ok(arena)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// An instance of stratus with directories of its own. It ends when the guard is dropped.
    pub(super) fn instance(&self, name: &str) -> Running {
        Running(Instance {
            program: self.program.clone(),
            data_dir: self.path(&format!("{name}/data")),
            run_dir: self.path(&format!("{name}/run")),
        })
    }

    /// A bundle of the OCI runtime specification that runs `/bin/true` in namespaces of its own.
    pub(super) fn bundle(&self) -> Result<PathBuf> {
        let bundle = self.path("bundle");
        root_file_system(&bundle.join("rootfs"))?;
        let output = Command::new("runc").arg("spec").current_dir(&bundle).output().context("cannot run runc")?;
        if !output.status.success() {
            bail!("runc spec: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/true"]);
        fs::write(&path, config.to_string())?;
        Ok(bundle)
    }

    /// Gives a daemon the image that everybody runs: busybox, one layer.
    pub(super) fn import(&self, api: &mut Connection<UnixStream>) -> Result<()> {
        let rootfs = self.path("rootfs");
        if !rootfs.exists() {
            root_file_system(&rootfs)?;
        }
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        archive.append_dir_all(".", &rootfs)?;
        let path = "/images/create?fromSrc=-&repo=bench&tag=latest&changes=CMD%20sh";
        api.ask("POST", path, Payload::Tar(&archive.into_inner()?)).map(drop)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Takes down what a bench left that was killed: its daemons run in a namespace that nobody sees, but their sockets are
/// found by path.
fn take_down_interrupted(program: &Path) {
    for entry in fs::read_dir(PLACE).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new("/proc").join(pid.to_string()).exists() {
            continue;
        }
        eprintln!("Taking down what an interrupted bench left in {}.", entry.path().display());
        for part in fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|part| part.path()) {
            let (data_dir, run_dir) = (part.join("data"), part.join("run"));
            if run_dir.exists() {
                drop(Running(Instance { program: program.to_owned(), data_dir, run_dir }));
            } else if part.join("exec").exists() {
                drop(Dockerd::new(part));
            }
        }
        remove(&entry.path());
    }
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        eprintln!("cannot remove {}: {error}", directory.display());
    }
}

fn root_file_system(rootfs: &Path) -> Result<()> {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    fs::copy(BUSYBOX, rootfs.join("bin/busybox"))
        .with_context(|| format!("cannot copy {BUSYBOX}: install the package busybox-static"))?;
    for name in NAMES {
        symlink("busybox", rootfs.join("bin").join(name))?;
    }
    Ok(())
}

//! A place for programs that start containers by themselves, with stratus as their OCI runtime: its own processes, mounts and
//! network, so that ending its first process ends everything in it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon::{BASE, IMPORT, stratus};
use crate::machine::DEADLINE;
use crate::{Outcome, Waiting};

/// Namespaces of a test's own, a directory, and a shell in both.
///
/// `$RUNTIME` in the shell is a program that is called as runc is, `$CGROUP` a name for a cgroup that is removed at the end.
pub struct World {
    directory: PathBuf,
    name: String,
    /// Outside; it dies with us, and its child, the first process inside, with it.
    process: Child,
    first: u32,
}

impl World {
    /// Makes an empty one.
    ///
    /// # Panics
    /// When the kernel does not let us.
    pub fn start() -> Self {
        let all = std::env::temp_dir().join("stratus-e2e");
        fs::create_dir_all(&all).expect("create the directory of all tests");
        // Short, as sockets' paths have to be.
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let name = format!("world-{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let directory = all.join(&name);
        fs::create_dir(&directory).expect("create a directory");
        // The first process reaps what loses its parent, as an init does.
        let mut process = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", "ip link set lo up && echo ready && while :; do sleep 1000 & wait; done"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare");
        let mut said = [0; 6];
        process.stdout.as_mut().expect("its output").read_exact(&mut said).expect("a world begins");
        let outside = process.id();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).expect("its children");
        let first = children.trim().parse().expect("the first process");
        let world = Self { directory, name, process, first };
        let runtime = format!("#!/bin/sh\nexec {} runtime \"$@\"\n", stratus().display());
        fs::write(world.work().join("runtime"), runtime).expect("write the runtime");
        // podman takes it for an error if docker's configuration is not there.
        world.sh("chmod +x runtime && echo '{}' > config.json").ok();
        world
    }

    /// What one types into a shell in this world's directory.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    pub fn sh(&self, command: &str) -> Outcome {
        let seconds = DEADLINE.as_secs().to_string();
        let output = self
            .inside(&["timeout", "-k", "1", &seconds, "sh", "-c", command])
            .output()
            .unwrap_or_else(|error| panic!("run {command}: {error}"));
        let outcome = Outcome::new(command, output);
        assert!(outcome.code() != 124, "hangs: {outcome}");
        outcome
    }

    /// Starts a program that goes on, and waits until `ready` holds; what it says is in the file `log`.
    ///
    /// # Panics
    /// When it ends, or is not ready within a minute.
    #[track_caller]
    pub fn starts(&self, log: &str, command: &str, ready: impl Fn(&Self) -> bool) {
        let log = fs::File::create(self.work().join(log)).expect("create a log");
        let mut shell = self.inside(&["sh", "-c", &format!("exec {command}")]);
        let mut process = shell.stdout(log.try_clone().expect("the log")).stderr(log).spawn().expect("start a program");
        let mut waiting = Waiting::for_what("a program to be ready");
        while !ready(self) {
            if let Some(status) = process.try_wait().expect("look at it") {
                panic!("{command} ended with {status}");
            }
            waiting.look_again();
        }
        // It ends with its world, and its parent does not wait for it.
        drop(process);
    }

    /// Has `docker` make the image `busybox`.
    ///
    /// # Panics
    /// When nobody serves it.
    pub fn has_busybox(&self) {
        self.has_base();
        self.sh(IMPORT).ok();
    }

    /// Makes the root file system of the image `busybox`, in the directory `base`.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn has_base(&self) {
        self.sh(BASE).ok();
    }

    /// The directory that the shell works in.
    pub fn work(&self) -> &Path {
        &self.directory
    }

    fn inside(&self, command: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["--target", &self.first.to_string(), "--mount", "--net", "--pid"])
            .arg(format!("--wdns={}", self.directory.display()))
            .args(command)
            .env("RUNTIME", self.directory.join("runtime"))
            .env("CGROUP", &self.name)
            .env("DOCKER_HOST", format!("unix://{}/docker.sock", self.directory.display()))
            .env("DOCKER_CONFIG", &self.directory)
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
        nsenter
    }

    /// Removes the cgroups that were made here, from the deepest on; the names of those that stay.
    fn remove_cgroups(&self) -> Vec<String> {
        let mut stay = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_tree(&hierarchy.path().join(&self.name), &mut stay);
        }
        remove_tree(&Path::new("/sys/fs/cgroup").join(&self.name), &mut stay);
        stay
    }
}

fn remove_tree(cgroup: &Path, stay: &mut Vec<String>) {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_tree(&child.path(), stay);
        }
    }
    if cgroup.is_dir() && fs::remove_dir(cgroup).is_err() {
        stay.push(cgroup.display().to_string());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if log.extension().is_some_and(|extension| extension == "log") {
                    eprintln!("--- {}:\n{}---", log.display(), fs::read_to_string(&log).unwrap_or_default());
                }
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let mut waiting = Waiting::for_what("the end of a world");
        while Path::new(&format!("/proc/{}", self.first)).exists() || !self.remove_cgroups().is_empty() {
            // To panic twice would hide why.
            if std::thread::panicking() && waiting.is_over() {
                eprintln!("--- left behind: {:#?}", self.remove_cgroups());
                return;
            }
            waiting.look_again();
        }
        fs::remove_dir_all(&self.directory).expect("remove the world's directory");
    }
}

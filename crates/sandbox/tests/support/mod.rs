//! Bundles to run in tests, and what a person at a terminal would type.

#![allow(dead_code, unreachable_pub)] // Each test file uses a part of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A program of this crate's examples, built along with the tests.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    let target = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    target.join("examples").join(name)
}

/// A root file system with busybox in it.
pub fn busybox_rootfs(rootfs: &Path) {
    const APPLETS: &[&str] = &[
        "cat", "chmod", "chown", "cut", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ln",
        "ls", "mkdir", "mount", "nproc", "ps", "pwd", "readlink", "rm", "sh", "sleep", "stat", "stty", "tail", "touch",
        "tr", "true", "tty", "ulimit", "umask", "umount", "wc", "yes", "nice", "seq", "sort",
    ];
    fs::create_dir_all(rootfs.join("bin")).unwrap();
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

/// One container: its bundle, and the runtime's state directory, gone with the value.
pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub spec: Value,
    pub id: String,
}

impl Bundle {
    /// A container that runs a shell script.
    pub fn new(script: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("sandbox-test-").tempdir().unwrap();
        let id = dir.path().file_name().unwrap().to_string_lossy().replace("sandbox-test-.", "t");
        busybox_rootfs(&dir.path().join("rootfs"));
        let made = Command::new(example("runtime")).arg("spec").current_dir(dir.path()).status().unwrap();
        assert!(made.success());
        let config = fs::read(dir.path().join("config.json")).unwrap();
        let mut spec: Value = serde_json::from_slice(&config).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sh", "-c", script]);
        spec["root"]["readonly"] = json!(false);
        spec["linux"]["cgroupsPath"] = json!(format!("/sandbox-test-{id}"));
        Self { dir, spec, id }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mount(&mut self, destination: &str, kind: &str, source: &Path, options: &[&str]) {
        let mount = json!({ "destination": destination, "type": kind, "source": source, "options": options });
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub fn namespace(&mut self, kind: &str) {
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        if !namespaces.iter().any(|namespace| namespace["type"] == kind) {
            namespaces.push(json!({ "type": kind }));
        }
    }

    /// The same container with a user namespace whose root is 100000 outside.
    pub fn with_user_namespace(&mut self) {
        self.namespace("user");
        let maps = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        self.spec["linux"]["uidMappings"] = maps.clone();
        self.spec["linux"]["gidMappings"] = maps;
        // The temporary directory is the test's own; its files belong to the container's root.
        let status = Command::new("chown").args(["-R", "100000:100000"]).arg(self.rootfs()).status().unwrap();
        assert!(status.success());
    }

    pub fn save(&self) {
        fs::write(self.path("config.json"), serde_json::to_vec(&self.spec).unwrap()).unwrap();
    }

    /// The runtime with arguments, ready to be executed.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(example("runtime"));
        command.arg("--root").arg(self.path("state")).args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn runtime(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Output of a command that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Error text of a command that must fail.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        assert!(!output.status.success(), "{args:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs the container to its end. Its output must be that of a success.
    #[track_caller]
    pub fn run(&self) -> String {
        self.save();
        self.ok(&["run", &self.id])
    }

    /// Runs it to its end, whatever it is.
    pub fn run_any(&self) -> Output {
        self.save();
        self.runtime(&["run", &self.id])
    }

    /// `create`, with streams that nobody waits for.
    #[track_caller]
    pub fn create(&self) {
        self.save();
        let log = fs::File::create(self.path("output")).unwrap();
        let errors = fs::File::create(self.path("errors")).unwrap();
        let status = self.command(&["create", &self.id]).stdout(log).stderr(errors).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(self.path("errors")).unwrap());
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap() as i32
    }

    /// Waits for the end of the first process.
    pub fn wait(&self, pid: i32) {
        use rustix::event::{PollFd, PollFlags};
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        }
    }

    /// Waits until the container has said something.
    pub fn wait_for_output(&self, text: &str) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !self.output().contains(text) {
            assert!(std::time::Instant::now() < until, "waited in vain for {text:?} in {:?}", self.output());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.runtime(&["delete", "--force", &self.id]);
    }
}

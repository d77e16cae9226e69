//! A daemon of a test's own.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::machine::DEADLINE;
use crate::slot::Slot;
use crate::{Outcome, Session, Waiting, holdings, leftovers, machines};

/// Makes the root file system of the image `busybox` in the directory `base`.
pub(crate) const BASE: &str = "mkdir -p base/bin base/etc base/tmp base/root base/dev base/proc base/sys \
    && cp $(which busybox) base/bin/busybox && chroot base /bin/busybox --install -s /bin \
    && chmod 1777 base/tmp \
    && printf 'root:x:0:0:root:/root:/bin/sh\\nnobody:x:65534:65534:nobody:/:/bin/sh\\n' > base/etc/passwd \
    && printf 'root:x:0:\\ntty:x:5:\\nstaff:x:50:nobody\\nnogroup:x:65534:\\n' > base/etc/group";
/// Makes the image of that.
pub(crate) const IMPORT: &str =
    "tar -C base -c . | docker import -c 'ENV PATH=/bin' -c 'CMD [\"sh\"]' - busybox && rm -r base";

/// A daemon with a data directory, addresses and ports of its own, and a shell whose `docker` talks to it.
///
/// When it is dropped, everything is taken down, and what is left in the kernel then fails the test.
pub struct Daemon {
    slot: Slot,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    /// The daemon's, where it is not the test's own.
    umask: Option<&'static str>,
    process: Option<Child>,
    program: PathBuf,
    /// Part of the names of everything that it puts into the kernel.
    instance: String,
}

impl Daemon {
    /// Starts a daemon that has the image `busybox`.
    ///
    /// # Panics
    /// When it does not start: `cargo build -p stratus` comes before these tests.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a daemon with more flags.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(flags: &[&str]) -> Self {
        let slot = Slot::take();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut daemon = Self {
            slot,
            flags,
            variables: Vec::new(),
            umask: None,
            process: None,
            program: stratus(),
            instance: String::new(),
        };
        daemon.clean();
        for directory in ["client", "work"] {
            let path = daemon.path(directory);
            fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        }
        machines::prepare(&daemon.data());
        daemon.restart();
        let bridge = "docker network inspect bridge -f '{{index .Options \"com.docker.network.bridge.name\"}}'";
        daemon.instance = daemon.sh(bridge).text().trim_start_matches("st").to_owned();
        daemon.import_busybox();
        daemon
    }

    /// What one types into a shell in the test's own working directory, where `docker` talks to this daemon. `$PORT` is
    /// the first of twenty ports that nobody else uses, `$STRATUS` the program under test.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    pub fn sh(&self, command: &str) -> Outcome {
        run_in(self.shell("timeout"), *DEADLINE, command)
    }

    /// As [`sh`](Self::sh), for what fetches and compiles packages: it has ten times as long.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    pub fn slowly(&self, command: &str) -> Outcome {
        run_in(self.shell("timeout"), *DEADLINE * 10, command)
    }

    /// A command that goes on in the background.
    pub fn session(&self, command: &str) -> Session {
        let mut shell = self.shell("sh");
        // The shell makes way, so that signals reach the command.
        shell.args(["-c", &format!("exec {command}")]);
        Session::start(command, shell)
    }

    /// A command in the background, on a terminal of its own of 24 rows and 80 columns.
    pub fn terminal(&self, command: &str) -> Session {
        let mut script = self.shell("script");
        script.args(["-qefc", &format!("stty rows 24 cols 80; exec {command}"), "/dev/null"]);
        Session::start(command, script)
    }

    /// The first of twenty ports of the host that no other test uses; `$PORT` in the shell.
    pub fn port(&self) -> u16 {
        self.slot.first_port()
    }

    /// The network that this daemon's addresses come from, and no other's: `10.N.0.0/16`.
    pub fn addresses(&self) -> String {
        self.slot.addresses()
    }

    /// The directory that the shell works in.
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// Writes files into a directory below the one that the shell works in, with the directories that they are in.
    ///
    /// # Panics
    /// When one can't be written.
    pub fn write(&self, directory: &str, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = self.work().join(directory).join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory for it");
            fs::write(path, text).expect("the file");
        }
    }

    /// Writes a Dockerfile and files beside it into the directory `app`.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn project(&self, dockerfile: &str, files: &[(&str, &str)]) {
        self.write("app", &[("Dockerfile", dockerfile)]);
        self.write("app", files);
    }

    /// Kills the daemon as a crash would, and waits for its end. What runs goes on.
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.kill().expect("kill the daemon");
        process.wait().expect("wait for the daemon");
    }

    /// Ends the daemon as an administrator would, and waits for its end. What runs goes on.
    ///
    /// # Panics
    /// When it does not end with success.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        self.sh(&format!("kill {}", process.id())).ok();
        let mut waiting = Waiting::for_what("the daemon to end");
        loop {
            match process.try_wait().expect("look at the daemon") {
                Some(status) => return assert!(status.success(), "the daemon ended with {status}"),
                None => waiting.look_again(),
            }
        }
    }

    /// Starts the daemon again with other flags than before, as [`Self::restart`]. Where one of them is `--config`, the file
    /// names the daemon's directories and its addresses.
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart();
    }

    /// Starts the daemon again with these variables in its environment, as [`Self::restart`].
    pub fn restart_in(&mut self, variables: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.variables = variables.iter().map(owned).collect();
        self.restart();
    }

    /// Starts the daemon again with this umask, as [`Self::restart`].
    pub fn restart_with_umask(&mut self, umask: &'static str) {
        self.umask = Some(umask);
        self.restart();
    }

    /// The directory of the daemon's socket.
    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// Starts the daemon, after it was stopped where it runs, and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        if self.process.is_some() {
            self.stop();
        }
        let log = File::options().create(true).append(true).open(self.path("log")).expect("open the daemon's log");
        let process = self
            .start_command()
            .args(&self.flags)
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}: run `cargo build -p stratus`", self.program.display()));
        let socket = self.socket();
        let process = self.process.insert(process);
        let mut waiting = Waiting::for_what("the daemon to answer");
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = process.try_wait().expect("look at the daemon") {
                panic!("the daemon ended with {status}");
            }
            waiting.look_again();
        }
    }

    /// Starts the daemon anew, as a program that was installed over the one before. Returns where that is.
    ///
    /// # Panics
    /// As [`Self::restart`].
    pub fn upgrade(&mut self) -> PathBuf {
        let program = self.path("stratus");
        fs::copy(stratus(), &program).expect("copy the program");
        self.program.clone_from(&program);
        self.restart();
        program
    }

    /// What a start of the daemon says that comes to nothing.
    ///
    /// # Panics
    /// When it starts.
    #[track_caller]
    pub fn fails_to_start(&self) -> Outcome {
        assert!(self.process.is_none(), "the daemon runs");
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", &DEADLINE.as_secs().to_string()]).arg(stratus()).arg("daemon");
        let output = command.args(self.directories()).output().expect("run stratus daemon");
        let outcome = Outcome::new("stratus daemon", output);
        assert!(!matches!(outcome.code(), 0 | 137), "it started: {outcome}");
        outcome
    }

    /// Moves all that the daemon keeps to a disk of its own, with so many bytes.
    ///
    /// # Panics
    /// When the kernel does not let us, or it does not fit.
    pub fn move_to_disk(&mut self, bytes: u64) {
        self.move_to(&format!("mount -t tmpfs -o size={bytes},mode=700 tmpfs"));
    }

    /// Moves all that the daemon keeps to a file system on which files can have the same blocks.
    ///
    /// # Panics
    /// When the kernel does not let us.
    pub fn move_to_xfs(&mut self) {
        self.move_to_file_system("mkfs.xfs -q -m reflink=1");
    }

    /// Moves all that the daemon keeps to a file system of its own, which this command makes in a file.
    ///
    /// # Panics
    /// As [`Self::move_to_xfs`].
    pub fn move_to_file_system(&mut self, make: &str) {
        self.sh(&format!("truncate -s 1G disk && {make} disk")).ok();
        self.move_to(&format!("mount -o loop {}/disk", self.work().display()));
    }

    pub(crate) fn move_to(&mut self, mount: &str) {
        self.stop();
        let data = self.data();
        let data = data.display();
        self.sh(&format!(
            "mv {data} {data}.before && mkdir {data} && {mount} {data} && cp -a {data}.before/. {data}/ && rm -r {data}.before"
        ))
        .ok();
        self.restart();
    }

    /// The process of the keeper, which holds what the containers need while no daemon runs.
    ///
    /// # Panics
    /// When there is none.
    pub fn keeper(&self) -> u32 {
        self.process_that_stays("keeper")
    }

    /// The process that keeps the published ports.
    ///
    /// # Panics
    /// When there is none.
    pub fn forwarder(&self) -> u32 {
        self.process_that_stays("forward")
    }

    #[track_caller]
    fn process_that_stays(&self, role: &str) -> u32 {
        let pattern = format!("^[^ ]*stratus {role} .*{}/run", self.slot.directory().display());
        let found = self.sh(&format!("pgrep -f '{pattern}' | xargs -r ps -o pid=,ppid= -p"));
        let numbers: Vec<u32> = found.stdout().split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let processes: Vec<_> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        // What it has just cloned of itself, to execute something else, still has its name.
        let is_clone = |parent: u32| processes.iter().any(|(pid, _)| *pid == parent);
        let staying: Vec<_> = processes.iter().filter(|(_, parent)| !is_clone(*parent)).collect();
        match staying[..] {
            [(pid, _)] => *pid,
            _ => panic!("expected one {role}: {found}"),
        }
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").id()
    }

    /// Whether the daemon has not ended by itself.
    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().expect("look at the daemon").is_none())
    }

    /// Where the daemon keeps everything that has to last.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// All that the daemon has on the disk and in the kernel, a line each: what goes leaves no line behind.
    pub fn holdings(&self) -> Vec<String> {
        holdings::list(&self.instance, self.slot.directory())
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn import_busybox(&self) {
        self.sh(&format!("{BASE} && {IMPORT}")).ok();
    }

    fn shell(&self, program: &str) -> Command {
        let mut shell = Command::new(program);
        shell
            .current_dir(self.work())
            .env("DOCKER_HOST", format!("unix://{}/run/docker.sock", self.slot.directory().display()))
            .env("DOCKER_CONFIG", self.path("client"))
            .env("DOCKER_CLI_HINTS", "false")
            .env("TERM", "dumb")
            .env("STRATUS", stratus())
            .env("PORT", self.port().to_string());
        shell
    }

    /// The daemon ends with the test, also where that is killed.
    fn start_command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(umask) = self.umask {
            command.args(["sh", "-c", "umask \"$0\"; exec \"$@\"", umask]);
        }
        command.arg(&self.program).arg("daemon");
        // A configuration file says all of it.
        if !self.flags.iter().any(|flag| flag == "--config") {
            let pool = format!("{},size=24", self.slot.addresses());
            command.args(self.directories()).args(["--default-address-pool", &pool]);
            command.args(machines::flags());
        }
        command
    }

    /// Takes down whatever of a daemon is in the kernel; killed where it hangs.
    fn clean_command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", &DEADLINE.as_secs().to_string()]).arg(stratus());
        command.arg("daemon").args(self.directories()).arg("--clean");
        command
    }

    fn directories(&self) -> [PathBuf; 4] {
        ["--data-dir".into(), self.path("data"), "--run-dir".into(), self.path("run")]
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.path("run/docker.sock")
    }

    /// Takes away what [`Self::move_to_disk`] and its like mounted; nothing, where they did not.
    fn unmount_disk(&self) {
        for mounted in [self.data(), self.disks()] {
            let _ = Command::new("umount").arg("-l").arg(mounted).stderr(Stdio::null()).status();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.slot.directory().join(name)
    }

    /// Takes down whatever is in the daemon's place, and removes its directory.
    fn clean(&self) {
        if !self.slot.directory().exists() {
            return;
        }
        let output = self.clean_command().output().expect("run stratus daemon --clean");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "stratus daemon --clean: {said}");
        self.unmount_disk();
        fs::remove_dir_all(self.slot.directory()).expect("remove the daemon's directory");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- what the daemon logged:\n{}---", self.log());
        }
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself; the test has failed then.
            let _ = process.kill();
            let _ = process.wait();
        }
        let output = self.clean_command().output().expect("run stratus daemon --clean");
        self.unmount_disk();
        let cleaned = output.status.success();
        let said = String::from_utf8_lossy(&output.stderr);
        let left = self.what_stays();
        if cleaned && left.is_empty() {
            fs::remove_dir_all(self.slot.directory()).expect("remove the daemon's directory");
        } else if failed {
            eprintln!("--- left behind: {left:#?} {said}");
        } else {
            panic!("left behind: {left:#?} {said}");
        }
    }
}

impl Daemon {
    /// What is still in the kernel once it had the time to take things down, which it does in its own.
    fn what_stays(&self) -> Vec<String> {
        let until = std::time::Instant::now() + *DEADLINE / 6;
        loop {
            let left = leftovers::find(&self.instance, self.slot.directory());
            if left.is_empty() || self.instance.is_empty() || std::time::Instant::now() > until {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What comes of a command in a shell that `timeout` watches.
#[track_caller]
pub(crate) fn run_in(mut timeout: Command, deadline: Duration, command: &str) -> Outcome {
    let output = timeout
        .args(["-s", "KILL", &deadline.as_secs().to_string(), "sh", "-c", command])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("run {command}: {error}"));
    // With all that the shell started, and that holds on to its output, `timeout` kills itself.
    let hangs = output.status.signal().is_some();
    let outcome = Outcome::new(command, output);
    assert!(!hangs, "hangs: {outcome}");
    outcome
}

/// The program under test: `STRATUS_BIN`, or what cargo built beside this program.
pub(crate) fn stratus() -> PathBuf {
    if let Some(path) = std::env::var_os("STRATUS_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("find this program's own file");
    // target/PROFILE/deps/TEST
    let profile = own.ancestors().skip(1).find(|directory| !directory.ends_with("deps"));
    profile.expect("a program is in a directory").join("stratus")
}

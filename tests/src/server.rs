//! stratus as a service of the machine itself, installed as README says. Only for a machine that is made for that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::machine::DEADLINE;
use crate::{Outcome, daemon};

/// A word on the kernel's command line: this machine may be changed.
const PERMISSION: &str = "stratus.tests";

/// stratus, installed on this machine and not yet started, and a shell whose `docker` talks to it.
///
/// When it is dropped, it is taken down and its data removed, and what is left in the kernel then fails the test.
pub struct Server {
    work: PathBuf,
    /// One test at a time has the machine.
    _lock: File,
}

impl Server {
    /// Installs the program under test.
    ///
    /// # Panics
    /// On any machine but those that `cargo xtask server` boots.
    pub fn install() -> Self {
        assert!(Self::is_here(), "this would change the machine that it runs on: run it by cargo xtask server");
        let lock = File::create(std::env::temp_dir().join("stratus-server.lock")).expect("create a lock");
        lock.lock().expect("wait for the machine");
        let work = std::env::temp_dir().join("stratus-server");
        // What a test that was killed left there.
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).expect("create a directory to work in");
        let server = Self { work, _lock: lock };
        server.sh("$CONTRIB/install.sh $STRATUS").mentions("systemctl enable --now stratus");
        server
    }

    /// Whether this machine is one that `cargo xtask server` boots.
    ///
    /// # Panics
    /// Where there is no procfs.
    pub fn is_here() -> bool {
        let kernel = fs::read_to_string("/proc/cmdline").expect("read the kernel's command line");
        kernel.split_whitespace().any(|word| word == PERMISSION)
    }

    /// What one types into a shell as root. `$STRATUS` is the program under test, `$CONTRIB` the directory that has what
    /// installs it.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    pub fn sh(&self, command: &str) -> Outcome {
        daemon::run_in(self.shell("timeout"), *DEADLINE, command)
    }

    /// Makes the image `busybox`. The daemon is started by that, where it was not before.
    pub fn import_busybox(&self) {
        self.make_base();
        self.sh(daemon::IMPORT).ok();
    }

    /// Makes the root file system of that image, in the directory `base`.
    pub fn make_base(&self) {
        self.sh(daemon::BASE).ok();
    }

    /// What systemd knows of the service under this name.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.sh(&format!("systemctl show --value --property={name} stratus")).text().to_owned()
    }

    fn shell(&self, program: &str) -> Command {
        let contrib = std::env::var_os("STRATUS_CONTRIB").map_or_else(beside_the_tests, PathBuf::from);
        let mut shell = Command::new(program);
        shell
            .current_dir(&self.work)
            .env("DOCKER_HOST", "unix:///run/stratus/docker.sock")
            .env("DOCKER_CONFIG", self.work.join("client"))
            .env("DOCKER_CLI_HINTS", "false")
            .env("STRATUS", daemon::stratus())
            .env("CONTRIB", contrib);
        shell
    }
}

fn beside_the_tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("contrib")
}

/// Everything that a daemon may have put into the kernel; this machine has no links, tables or such of its own.
const WHAT_STAYS: &str = "ls /sys/class/net | grep -vx lo; nft list tables; ls -d /sys/fs/cgroup/stratus-* 2>/dev/null; \
                          grep -E ' /(run|var/lib)/stratus/' /proc/self/mountinfo; \
                          pgrep -af '^[^ ]*stratus (daemon|keeper|forward)'; true";

impl Drop for Server {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            let journal = self.sh("journalctl --no-pager --output=cat --unit=stratus --unit=stratus.socket");
            eprintln!("--- what the service logged:\n{}---", journal.stdout());
        }
        let taken_down = self.sh("systemctl disable --now stratus.service stratus.socket && systemctl reset-failed \
             && stratus daemon --clean && rm -rf /var/lib/stratus /run/stratus");
        let mut left = self.sh(WHAT_STAYS);
        let until = Instant::now() + *DEADLINE / 6;
        while !left.stdout().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            left = self.sh(WHAT_STAYS);
        }
        let is_clean = taken_down.code() == 0 && left.stdout().is_empty();
        if failed && !is_clean {
            eprintln!("--- left behind: {left} {taken_down}");
        } else {
            assert!(is_clean, "left behind: {left} {taken_down}");
        }
    }
}

//! What `make` asks for before it builds (contrib/require*.sh), on machines that have only some of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A machine with these programs of its own, and besides them with what the scripts are written in.
struct Machine {
    programs: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine { programs: tempfile::tempdir().unwrap() };
        for name in ["cut", "dirname", "grep", "head", "sed", "sh", "sort"] {
            let found = ["/usr/bin", "/bin"].map(|directory| Path::new(directory).join(name));
            let found = found.iter().find(|path| path.exists()).unwrap();
            symlink(found, machine.path().join(name)).unwrap();
        }
        machine
    }

    /// Debian as its installer leaves it: apt has never asked its archive, which has `packages`.
    fn fresh(user: u32, packages: &str) -> Machine {
        let machine = Machine::new();
        machine.has("id", &format!("echo {user}"));
        machine.has(
            "dpkg-query",
            "for package; do :; done; grep -qx \"$package\" $0.installed 2>/dev/null && echo installed",
        );
        machine.has(
            "apt-cache",
            &format!(
                "[ -e $0.lists ] || exit 0
                case $1 in
                madison) echo \"$2 | 1 | archive\" ;;
                policy) case ' {packages} ' in *\" $2 \"*) echo '  Candidate: 1' ;; *) echo '  Candidate: (none)' ;; esac ;;
                esac"
            ),
        );
        machine.has(
            "apt-get",
            "echo \"apt-get $*\" >> $0.log
            here=$(dirname $0)
            case $1 in
            update) : > $here/apt-cache.lists ;;
            install) [ -e $here/apt-cache.lists ] || exit 100
                for word; do case $word in -*|install) ;; *) echo $word >> $here/dpkg-query.installed ;; esac; done ;;
            esac",
        );
        machine
    }

    /// Whatever rustup is asked for, the compiler is this one afterwards.
    fn with_rustup(self, version: &str) -> Machine {
        self.has("rustc", "exit 1");
        self.has("rustup", &format!("echo \"rustup $*\" >> $0.log; echo 'echo rustc {version}' > $(dirname $0)/rustc"));
        self
    }

    fn path(&self) -> &Path {
        self.programs.path()
    }

    fn has(&self, name: &str, script: &str) {
        let path = self.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        let script = root().join("contrib").join(script);
        Command::new(script).args(arguments).env_clear().env("PATH", self.path()).output().unwrap()
    }

    /// What a program was asked for so far.
    fn log_of(&self, program: &str) -> String {
        fs::read_to_string(self.path().join(format!("{program}.log"))).unwrap_or_default()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// What it says to people when it fails.
#[track_caller]
fn fails(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_fresh_machine_gets_what_is_missing_at_the_first_try() {
    let machine = Machine::fresh(0, "gcc curl");
    succeeds(&machine.run("require.sh", &["gcc", "curl"]));
    let install = "apt-get install --quiet --quiet --yes --no-install-recommends";
    assert_eq!(machine.log_of("apt-get"), format!("apt-get update --quiet --quiet\n{install} gcc curl\n"));
    succeeds(&machine.run("require.sh", &["gcc", "curl"]));
    assert_eq!(machine.log_of("apt-get").lines().count(), 2, "what is there is not asked for again");
}

#[test]
fn what_only_some_distributions_have_is_found_on_a_fresh_machine_too() {
    let machine = Machine::fresh(0, "rustup");
    succeeds(&machine.run("require.sh", &["rustup~", "docker-cli~"]));
    assert!(machine.log_of("apt-get").ends_with(" rustup\n"), "{}", machine.log_of("apt-get"));
}

#[test]
fn who_is_not_root_is_told_the_one_command() {
    let machine = Machine::fresh(1000, "gcc");
    let said = fails(&machine.run("require.sh", &["gcc", "rustup~"]));
    assert!(said.contains("    sudo apt-get install --no-install-recommends gcc\n"), "{said}");
    assert_eq!(machine.log_of("apt-get"), "");
}

#[test]
fn a_distribution_with_rustup_gets_the_toolchain() {
    let machine = Machine::fresh(0, "rustup").with_rustup("1.999.0");
    succeeds(&machine.run("require-rust.sh", &[]));
    // Ubuntu 24.04's rustup fails after its work where it may try to renew itself.
    assert!(machine.log_of("rustup").contains("toolchain install --no-self-update"), "{}", machine.log_of("rustup"));
}

#[test]
fn where_there_is_no_rustup_the_one_command_is_said() {
    let machine = Machine::fresh(0, "gcc");
    for compiler in ["exit 127", "echo 'rustc 1.63.0 (4b91a6ea7)'"] {
        machine.has("rustc", compiler);
        let said = fails(&machine.run("require-rust.sh", &[]));
        assert!(said.contains("    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"), "{said}");
    }
}

#[test]
fn a_compiler_that_is_new_enough_is_taken_as_it_is() {
    let machine = Machine::fresh(0, "rustup");
    machine.has("rustc", "echo 'rustc 1.100.0 (0123abcd 2026-11-01)'");
    succeeds(&machine.run("require-rust.sh", &[]));
    assert_eq!(machine.log_of("apt-get"), "");
}

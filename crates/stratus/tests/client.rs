//! `stratus` at a terminal, against a daemon of its own.

#[path = "../../../tests/cloud_kernel.rs"]
mod cloud_kernel;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Generous: it only bounds how long a broken daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with directories and addresses of its own, that leaves nothing behind.
struct Daemon {
    directory: tempfile::TempDir,
    process: Child,
}

impl Daemon {
    /// Starts one with an image `busybox`. `pool` tells its addresses from other tests'.
    fn start(pool: u8) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory");
        let process = command(&directory, &["daemon", "--default-address-pool", &format!("10.{pool}.0.0/16,size=24")])
            .args(["--data-dir".into(), directory.path().join("data")])
            .args(["--run-dir".into(), directory.path().join("run")])
            .stderr(Stdio::null())
            .spawn()
            .expect("a daemon");
        let daemon = Daemon { directory, process };
        let begin = Instant::now();
        while !daemon.run(&["info"]).status.success() {
            assert!(begin.elapsed() < PATIENCE, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon.ok(&["image", "bootstrap", "busybox"]);
        daemon
    }

    /// Where the command finds the daemon, and no configuration of the user's.
    fn environment(&self) -> [(&str, OsString); 2] {
        let mut host = OsString::from("unix://");
        host.push(self.path("run/docker.sock"));
        [("DOCKER_HOST", host), ("DOCKER_CONFIG", self.directory.path().into())]
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.directory, arguments);
        command.envs(self.environment()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command runs")
    }

    /// What a command that works prints.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        text(output.stdout).trim_end().to_owned()
    }

    /// The exit status and the words of a command that fails.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} was to fail");
        (output.status.code().expect("an exit status"), text(output.stderr))
    }

    /// A command on a terminal of 33 rows and 99 columns, at which something is typed: its exit status, and what the
    /// terminal shows.
    fn at_terminal(&self, line: &str, typed: &str) -> (i32, String) {
        let line = format!("stty rows 33 cols 99; {} {line}", env!("CARGO_BIN_EXE_stratus"));
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).envs(self.environment()).current_dir(&self.directory);
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut script = script.expect("script(1), of package bsdutils, runs");
        // Held open: the end of it would be typed as well.
        let mut keyboard = script.stdin.take().expect("a pipe");
        keyboard.write_all(typed.as_bytes()).expect("typed");
        let output = script.wait_with_output().expect("an end");
        drop(keyboard);
        (output.status.code().expect("an exit status"), text(output.stdout))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let clean = command(&self.directory, &["daemon", "--clean"])
            .args(["--data-dir".into(), self.path("data")])
            .args(["--run-dir".into(), self.path("run")])
            .output();
        if let Ok(output) = clean
            && !output.status.success()
        {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

fn command(directory: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stratus"));
    command.args(arguments).current_dir(directory).env("NO_COLOR", "1");
    command
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn containers_run_and_end() {
    let daemon = Daemon::start(131);
    // Output, errors and exit statuses are the container's.
    let output =
        daemon.run(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((text(output.stdout), text(output.stderr)), ("out\n".into(), "err\n".into()));
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");

    // What comes from a pipe ends with it.
    let mut piped = daemon
        .command(&["run", "-i", "--rm", "--network", "none", "busybox", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command runs");
    piped.stdin.take().expect("a pipe").write_all(&[b'x'; 100_000]).expect("written");
    assert_eq!(text(piped.wait_with_output().expect("an end").stdout).trim(), "100000");

    // One in the background.
    let id = daemon.ok(&["run", "-d", "--name", "web", "-e", "A=b", "-l", "x=y", "busybox", "sleep", "1000"]);
    let list = daemon.ok(&["ps"]);
    assert!(
        list.starts_with("ID ") && list.contains(&id[..12]) && list.contains("sleep 1000") && list.contains("web"),
        "{list}"
    );
    assert_eq!(daemon.ok(&["exec", "-w", "/tmp", "-e", "C=d", "web", "sh", "-c", "echo $A $C $PWD"]), "b d /tmp");
    assert_eq!(daemon.run(&["exec", "web", "sh", "-c", "exit 3"]).status.code(), Some(3));
    assert!(daemon.ok(&["top", "web"]).contains("sleep 1000"));
    assert!(daemon.ok(&["stats", "--no-stream"]).contains("web"));
    let inspected = daemon.ok(&["inspect", "web"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!((&inspected[0]["Id"], &inspected[0]["Config"]["Labels"]["x"]), (&id.as_str().into(), &"y".into()));

    // Its life.
    daemon.ok(&["pause", "web"]);
    assert!(daemon.ok(&["ps"]).contains("(Paused)"));
    daemon.ok(&["unpause", "web"]);
    daemon.ok(&["rename", "web", "site"]);
    daemon.ok(&["update", "--memory", "64m", "--memory-swap", "64m", "site"]);
    assert_eq!(daemon.ok(&["kill", "-s", "KILL", "site"]), "site");
    assert_eq!(daemon.ok(&["wait", "site"]), "137");
    daemon.ok(&["start", "site"]);
    daemon.ok(&["restart", "-t", "0", "site"]);
    let (code, words) = daemon.fails(&["rm", "site", "nobody"]);
    assert!(code == 1 && words.contains("site") && words.contains("No such container: nobody"), "{words}");
    assert_eq!(daemon.ok(&["rm", "-f", "site"]), "site");
}

#[test]
fn logs_copies_and_events() {
    let daemon = Daemon::start(132);
    daemon.ok(&[
        "run",
        "--name",
        "talk",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo one; echo two; echo three >&2; mkdir /d; echo f >/d/f",
    ]);
    assert_eq!(daemon.ok(&["logs", "-n", "2", "talk"]), "two");
    assert_eq!(daemon.ok(&["logs", "-f", "talk"]), "one\ntwo");

    // Out of the container under another name, into a directory, and as an archive.
    daemon.ok(&["cp", "talk:/d/f", "g"]);
    assert_eq!(std::fs::read_to_string(daemon.path("g")).expect("a file"), "f\n");
    daemon.ok(&["cp", "talk:/d", "new"]);
    daemon.ok(&["cp", "talk:/d/.", "."]);
    assert!(daemon.path("new/f").exists() && daemon.path("f").exists());
    assert!(daemon.run(&["cp", "talk:/d", "-"]).stdout.len() >= 1024);
    // And back.
    std::fs::write(daemon.path("new/h"), "h\n").expect("a file");
    daemon.ok(&["cp", "new", "talk:/back"]);
    daemon.ok(&["cp", "new/h", "talk:/d/i"]);
    daemon.ok(&["cp", "talk:/back/h", "h"]);
    daemon.ok(&["cp", "talk:/d/i", "i"]);
    assert_eq!(std::fs::read_to_string(daemon.path("i")).expect("a file"), "h\n");
    let (_, words) = daemon.fails(&["cp", "talk:/nothing", "."]);
    assert!(words.contains("nothing"), "{words}");

    let events = daemon.ok(&["events", "--since", "1h", "--until", "0s", "-f", "container=talk", "--output", "json"]);
    let actions: Vec<String> = events
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["Action"].as_str().expect("a word").into()
        })
        .collect();
    assert!(actions.starts_with(&["create".into()]) && actions.contains(&"die".into()), "{actions:?}");
}

#[test]
fn images_networks_and_volumes() {
    let daemon = Daemon::start(133);
    assert!(daemon.ok(&["images"]).contains("busybox"));
    daemon.ok(&["image", "tag", "busybox", "mine:1"]);
    daemon.ok(&["image", "save", "-o", "mine.tar", "mine:1"]);
    assert!(daemon.ok(&["image", "rm", "mine:1"]).contains("Untagged: mine:1"));
    assert!(daemon.ok(&["image", "load", "-i", "mine.tar"]).contains("Loaded image: mine:1"));
    assert!(daemon.ok(&["image", "history", "mine:1"]).contains("bootstrap busybox"));
    let images: serde_json::Value = serde_json::from_str(&daemon.ok(&["images", "--output", "json"])).expect("JSON");
    assert_eq!(images.as_array().map(Vec::len), Some(1));
    let (_, words) = daemon.fails(&["image", "load", "-i", "nothing.tar"]);
    assert!(words.contains("opening nothing.tar"), "{words}");

    let subnet = "10.133.200.0/24";
    daemon.ok(&["network", "create", "--subnet", subnet, "net"]);
    assert!(daemon.ok(&["network", "ls"]).contains(subnet));
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "db",
        "--network",
        "net",
        "--ip",
        "10.133.200.9",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sleep",
        "1000",
    ]);
    assert!(daemon.ok(&["port", "db"]).starts_with("80/tcp -> 127.0.0.1:"));
    assert!(daemon.ok(&["run", "--rm", "--network", "net", "busybox", "nslookup", "db"]).contains("10.133.200.9"));
    daemon.ok(&["network", "connect", "bridge", "db"]);
    daemon.ok(&["network", "disconnect", "bridge", "db"]);

    daemon.ok(&["volume", "create", "data"]);
    daemon.ok(&["run", "--rm", "--network", "none", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/f"]);
    let mount =
        ["run", "--rm", "--network", "none", "--mount", "source=data,target=/e,readonly", "busybox", "cat", "/e/f"];
    assert_eq!(daemon.ok(&mount), "kept");
    assert!(daemon.ok(&["system", "df"]).contains("volumes"));
    daemon.ok(&["rm", "-f", "db"]);
    assert!(daemon.ok(&["network", "prune", "-f"]).contains("net"));
    assert!(daemon.ok(&["volume", "prune", "-af"]).contains("data"));
    let id = daemon.ok(&["create", "mine:1"]);
    assert!(daemon.ok(&["system", "prune", "-f"]).contains(&id));
}

#[test]
fn failures_say_what_to_do() {
    let daemon = Daemon::start(134);
    let (code, words) = daemon.fails(&["run", "--rm", "--network", "none", "busybox", "nope"]);
    assert_eq!(code, 127, "{words}");
    let (code, words) = daemon.fails(&["run", "--rm", "--network", "none", "busybox", "/etc"]);
    assert_eq!(code, 126, "{words}");
    let (code, words) = daemon.fails(&["run", "--pull", "never", "nobody/nothing"]);
    assert!(code == 125 && words.contains("No such image"), "{words}");
    let (code, words) = daemon.fails(&["volume", "prune"]);
    assert!(code == 2 && words.contains("--force"), "{words}");
    let (_, words) = daemon.fails(&["--host", "unix:///nowhere/docker.sock", "ps"]);
    assert!(words.contains("stratus daemon") && words.contains("--host"), "{words}");
    let (code, words) = daemon.fails(&["ps", "--host", "nonsense"]);
    assert!(code == 2 && words.contains("unix:///PATH"), "{words}");
    // These need no daemon.
    assert!(daemon.ok(&["completions", "bash", "--host", "unix:///nowhere"]).contains("_stratus"));
    daemon.ok(&["man", "man"]);
    assert!(daemon.path("man/stratus-image-bootstrap.1").exists());
}

#[test]
fn terminals_are_the_containers() {
    let daemon = Daemon::start(135);
    let (code, shown) = daemon.at_terminal("run --rm -it --network none busybox sh", "stty size; exit 5\r");
    assert!(code == 5 && shown.contains("33 99"), "{code}: {shown}");
    let (code, shown) = daemon.at_terminal("run -it --name term --network none --detach-keys x,y busybox sh", "xy");
    assert!(code == 0 && shown.contains("stratus attach"), "{code}: {shown}");
    let (code, shown) = daemon.at_terminal("exec -it term sh", "tty; exit 6\r");
    assert!(code == 6 && shown.contains("/dev/pts/1"), "{code}: {shown}");
    let (code, _) = daemon.at_terminal("attach term", "exit 4\r");
    assert_eq!((code, daemon.ok(&["ps", "-q"])), (4, String::new()));
    // Without a terminal there is none to give.
    let (code, words) = daemon.fails(&["run", "--rm", "-it", "busybox"]);
    assert!(words.contains("Leave out -t"), "{code}: {words}");
}

#[test]
fn the_kernel_of_microvms_is_chosen_and_shown() {
    // It needs no daemon.
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data").display().to_string();
    let run = |arguments: &[&str]| {
        let whole = [&["microvm", "kernel", "--data-dir", &data], arguments].concat();
        let output = command(&directory, &whole).output().expect("the command runs");
        (output.status.code().expect("an exit status"), text(output.stdout) + &text(output.stderr))
    };
    let (code, words) = run(&[]);
    assert!(code == 1 && words.contains("has been prepared") && words.contains("--fetch"), "{words}");
    let (vmlinuz, modules) = cloud_kernel::packaged(cloud_kernel::Of::Here);
    let (vmlinuz, version) = (vmlinuz.display().to_string(), modules.file_name().unwrap().to_str().unwrap());
    let modules = modules.display().to_string();
    let (code, words) = run(&["--use", "/bin/true", "--modules", &modules]);
    assert!(code == 1 && words.contains("the kernel /bin/true has no PVH entry"), "{words}");
    assert_eq!(run(&["--use", &vmlinuz]).0, 2);
    assert_eq!(run(&["--fetch", "--installed"]).0, 2);
    let (code, words) = run(&["--use", &vmlinuz, "--modules", &modules]);
    assert!(code == 0 && words.contains(&format!("Version:   {version}\nFrom:      {vmlinuz}\n")), "{words}");
    let (code, words) = run(&["--output", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&words).expect("a document");
    assert_eq!((code, shown["Version"].as_str()), (0, Some(version)));
    // It is unpacked, so that machines share its pages and none unpacks it.
    let kernel = std::fs::read(shown["Kernel"].as_str().expect("a path")).expect("a kernel");
    assert!(kernel.starts_with(b"\x7fELF") && kernel.len() > 20 << 20);
    assert!(std::fs::read(shown["Initramfs"].as_str().expect("a path")).expect("an archive").starts_with(b"070701"));
}

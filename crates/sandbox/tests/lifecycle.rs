//! A person (or an engine) takes a container through its life.

mod support;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use serde_json::{Value, json};
use support::Bundle;

#[test]
fn created_started_killed_deleted() {
    let bundle = Bundle::new("echo started; exec sleep 1000");
    bundle.create();
    assert_eq!(bundle.status(), "created");
    assert_eq!(bundle.output(), "", "the program does not run yet");
    let pid = bundle.pid();
    bundle.ok(&["start", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    assert!(bundle.fails(&["start", &bundle.id]).contains("cannot start an already running container"));
    assert!(bundle.fails(&["delete", &bundle.id]).contains("not stopped"));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait(pid);
    let state = bundle.state();
    assert_eq!((state["status"].as_str(), state["pid"].as_i64()), (Some("stopped"), Some(0)));
    assert!(bundle.fails(&["kill", &bundle.id, "0"]).contains("container not running"));
    bundle.ok(&["delete", &bundle.id]);
    assert!(bundle.fails(&["state", &bundle.id]).contains("container does not exist"));
    bundle.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn a_missing_program_is_told_at_create_and_leaves_nothing() {
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["args"] = json!(["nosuch"]);
    bundle.save();
    let text = bundle.fails(&["create", &bundle.id]);
    assert!(text.contains("executable file not found in $PATH"), "{text}");
    assert!(bundle.fails(&["state", &bundle.id]).contains("does not exist"));
}

#[test]
fn an_id_can_be_used_once_at_a_time_and_not_to_leave_the_directory() {
    let bundle = Bundle::new("sleep 1000");
    bundle.create();
    assert!(bundle.fails(&["create", &bundle.id]).contains("already exists"));
    assert_eq!(bundle.status(), "created", "the first is unharmed");
    for id in ["../x", ".", "a/b", ""] {
        assert!(bundle.fails(&["create", id]).contains("invalid container ID"), "{id}");
    }
}

#[test]
fn an_engine_reads_the_log_in_json() {
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["args"] = json!(["/nosuch"]);
    bundle.save();
    let log = bundle.path("log.json");
    bundle.fails(&["--log", log.to_str().unwrap(), "--log-format", "json", "create", &bundle.id]);
    let text = std::fs::read_to_string(log).unwrap();
    let entry: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(entry["level"], "error");
    assert!(entry["msg"].as_str().unwrap().contains("stat /nosuch: no such file or directory"), "{entry}");
}

#[test]
fn further_processes_join_with_their_own_user_environment_and_status() {
    let bundle = Bundle::new("hostname inside; exec sleep 1000");
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let id = bundle.id.as_str();
    assert_eq!(bundle.ok(&["exec", id, "id", "-u"]), "0\n");
    assert_eq!(
        bundle.ok(&["exec", "-u", "5:6", "-e", "X=y", "--cwd", "/bin", id, "sh", "-c", "id -u; id -g; echo $X; pwd"]),
        "5\n6\ny\n/bin\n"
    );
    assert!(bundle.ok(&["exec", id, "ps"]).contains("sleep 1000"));
    assert_eq!(bundle.runtime(&["exec", id, "sh", "-c", "exit 9"]).status.code(), Some(9));
    assert_eq!(bundle.runtime(&["exec", id, "nosuch"]).status.code(), Some(127));
    let process = json!({ "args": ["sh", "-c", "echo from file; grep CapEff /proc/self/status"], "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"] });
    std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
    let path = bundle.path("process.json");
    assert_eq!(bundle.ok(&["exec", "--process", path.to_str().unwrap(), id]), "from file\nCapEff:\t0000000000000000\n");
    let pid_file = bundle.path("exec.pid");
    let mut detached = bundle.command(&["exec", "-d", "--pid-file", pid_file.to_str().unwrap(), id, "sleep", "1001"]);
    // It would hold a pipe of ours open.
    assert!(detached.stdout(std::process::Stdio::null()).status().unwrap().success());
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&format!("/sandbox-test-{id}")), "{groups}");
    let pids: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "-f", "json", id])).unwrap();
    assert!(pids.contains(&pid.parse().unwrap()) && pids.contains(&bundle.pid()), "{pids:?}");
}

#[test]
fn a_further_process_runs_on_the_cpus_that_are_named() {
    let mut bundle = Bundle::new("exec sleep 1000");
    bundle.spec["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "1" });
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let allowed = ["exec", bundle.id.as_str(), "grep", "Cpus_allowed_list", "/proc/self/status"];
    assert_eq!(bundle.ok(&allowed), "Cpus_allowed_list:\t1\n");
    let own = bundle.ok(&["exec", bundle.id.as_str(), "grep", "Cpus_allowed_list", "/proc/1/status"]);
    assert_ne!(own, "Cpus_allowed_list:\t1\n", "the container itself may use all");
}

#[test]
fn paused_processes_stand_still_until_they_are_resumed() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.fails(&["exec", &bundle.id, "true"]).contains("paused"));
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    bundle.ok(&["pause", &bundle.id]);
    bundle.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn containers_are_listed() {
    let bundle = Bundle::new("sleep 1000");
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    bundle.create();
    assert_eq!(bundle.ok(&["list", "-q"]), format!("{}\n", bundle.id));
    let table = bundle.ok(&["list"]);
    assert!(table.starts_with("ID ") && table.contains("created") && table.contains("root"), "{table}");
    let rows: Value = serde_json::from_str(&bundle.ok(&["list", "-f", "json"])).unwrap();
    assert_eq!(rows[0]["id"], bundle.id.as_str());
}

fn receive(listener: &OwnedFd) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let connection = rustix::net::accept(listener).unwrap();
    let mut bytes = [0u8; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [rustix::io::IoSliceMut::new(&mut bytes)];
    rustix::net::recvmsg(&connection, &mut slices, &mut control, RecvFlags::empty()).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    fds.expect("a descriptor comes")
}

fn listen(path: &std::path::Path) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
    socket
}

fn read_all(master: OwnedFd) -> String {
    let mut bytes = Vec::new();
    // Ends with EIO when the last user of the terminal has gone.
    let _ = std::fs::File::from(master).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_terminal_comes_over_the_console_socket() {
    let mut bundle = Bundle::new("tty; stty size; test -c /dev/console && echo console");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    bundle.save();
    let path = bundle.path("console.sock");
    let listener = listen(&path);
    bundle.ok(&["create", "--console-socket", path.to_str().unwrap(), &bundle.id]);
    let master = receive(&listener);
    bundle.ok(&["start", &bundle.id]);
    assert_eq!(read_all(master), "/dev/pts/0\r\n33 77\r\nconsole\r\n");
}

#[test]
fn a_further_process_gets_a_terminal_too() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let path = bundle.path("console.sock");
    let listener = listen(&path);
    bundle.ok(&[
        "exec",
        "-t",
        "-d",
        "--console-socket",
        path.to_str().unwrap(),
        &bundle.id,
        "sh",
        "-c",
        "tty; echo done",
    ]);
    assert_eq!(read_all(receive(&listener)), "/dev/pts/0\r\ndone\r\n");
}

#[test]
fn run_with_a_terminal_copies_it_both_ways() {
    let mut bundle = Bundle::new("read line; echo got $line; tty >/dev/null && exit 5");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.save();
    let mut child = bundle.command(&["run", &bundle.id]);
    child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("got hello"), "{output:?}");
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn the_seccomp_agent_gets_the_listener_and_the_state() {
    let mut bundle = Bundle::new("mkdir /x; echo done");
    let path = bundle.path("agent.sock");
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "mine",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
    });
    let listener = listen(&path);
    bundle.create();
    let agent = std::thread::spawn(move || {
        let notifications = receive(&listener);
        // Without an agent that answers, closing the listener fails the call with ENOSYS.
        rustix::fs::fstat(notifications.as_fd()).is_ok()
    });
    let pid = bundle.pid();
    bundle.ok(&["start", &bundle.id]);
    assert!(agent.join().unwrap());
    bundle.wait(pid);
    assert!(bundle.output().contains("done"));
    assert!(!bundle.rootfs().join("x").exists());
}

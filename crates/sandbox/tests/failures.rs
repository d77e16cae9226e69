//! What is told to have failed does not run on, and what is told to have gone is gone.

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::json;
use support::Bundle;

fn started(script: &str) -> Bundle {
    let bundle = Bundle::new(script);
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    bundle
}

/// The command with the first of these calls answered as if its process were gone.
fn with_gone(bundle: &Bundle, call: &str, args: &[&str]) -> Output {
    let runtime = bundle.command(args);
    let inject = format!("inject={call}:error=ESRCH:when=1");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    strace.arg(runtime.get_program()).args(runtime.get_args()).current_dir(bundle.dir.path());
    strace.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_further_process_whose_number_cannot_be_written_down() {
    let bundle = started("exec sleep 1000");
    let mut exec = bundle.command(&["exec", "-d", "--pid-file", "/nosuch/pid", &bundle.id, "sleep", "1001"]);
    // It would hold a pipe of ours open.
    assert!(!exec.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let left = bundle.ok(&["exec", &bundle.id, "ps"]);
    assert!(left.contains("sleep 1000") && !left.contains("sleep 1001"), "{left}");
}

#[test]
fn a_start_whose_agent_is_gone() {
    let mut bundle = Bundle::new("exec sleep 1000");
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": bundle.path("nosuch.sock"),
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }],
    });
    bundle.create();
    let pid = bundle.pid();
    let text = bundle.fails(&["start", &bundle.id]);
    assert!(text.contains("listenerPath"), "{text}");
    bundle.wait(pid);
    assert_eq!(bundle.status(), "stopped");
}

#[test]
fn a_container_that_ends_in_the_moment_of_its_deletion() {
    let bundle = started("exec sleep 1000");
    let killed = with_gone(&bundle, "pidfd_send_signal", &["kill", &bundle.id, "TERM"]);
    let text = String::from_utf8_lossy(&killed.stderr);
    assert!(!killed.status.success() && text.contains("container not running"), "{text}");
    let deleted = with_gone(&bundle, "pidfd_send_signal", &["delete", "--force", &bundle.id]);
    assert!(deleted.status.success(), "{deleted:?}");
    assert!(bundle.fails(&["state", &bundle.id]).contains("does not exist"));
}

/// Typed faster than the program reads, while what it writes is more than its terminal holds.
#[test]
fn a_terminal_whose_two_ways_are_both_full() {
    let mut bundle = Bundle::new("stty -echo; cat; exit 5");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.save();
    let run = bundle.command(&["run", &bundle.id]);
    let mut child = Command::new("timeout");
    child.args(["-s", "KILL", "60"]).arg(run.get_program()).args(run.get_args()).current_dir(bundle.dir.path());
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let typing = std::thread::spawn(move || {
        for line in 0..20_000 {
            writeln!(input, "line {line} of many").unwrap();
        }
        // The end of a terminal's input.
        input.write_all(b"\x04").unwrap();
    });
    let output = child.wait_with_output().unwrap();
    typing.join().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stdout).contains("line 19999 of many"));
}

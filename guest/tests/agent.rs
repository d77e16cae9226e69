//! What a person does with processes in a machine: runs them, types at them, looks at what they write, and is cut off meanwhile.

mod support;

use guest_protocol::configuration::{File, Machine as Configuration};
use guest_protocol::message::{Blob, End, Failure, Reply, Request, Status, Stream, Streams, TerminalSize};
use serde_json::json;
use support::{BOX, Machine, Outcome, further, init, spec, terminal};

#[test]
fn a_program_writes_and_ends() {
    let mut machine = Machine::with_box();
    let outcome = machine.run(&["sh", "-c", "echo hello; echo oh no >&2; exit 7"]);
    let (stdout, stderr) = ("hello\n".to_owned(), "oh no\n".to_owned());
    assert_eq!(outcome, Outcome { stdout, stderr, status: Status::Code(7) });
    // Again, in the same container.
    assert_eq!(machine.run(&["echo", "again"]).stdout, "again\n");
    assert!(machine.shut_down(End::PowerOff));
}

#[test]
fn it_is_the_first_process_of_a_container() {
    let mut machine = Machine::with_box();
    let shell = machine.start(&["sh", "-c", "echo $$; ls /; cat"]);
    machine.shows(shell, "tmp\n");
    assert!(machine.output(shell, Stream::Stdout).starts_with("1\nbin\ndev\n"));
    machine.sh("echo kept >/tmp/file");
    assert_eq!(machine.sh("cat /tmp/file; [ -d /proc/1 ] && echo first"), "kept\nfirst\n");
    machine.host.close_stdin(shell);
    assert_eq!(machine.outcome(shell).status, Status::Code(0));
}

#[test]
fn what_is_typed_arrives_all_of_it() {
    let mut machine = Machine::with_box();
    let counting = machine.start(&["md5sum"]);
    let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
    let mut rest = &sent[..];
    machine.until("it is all typed", |machine| {
        rest = &rest[machine.host.write_stdin(counting, rest)..];
        rest.is_empty()
    });
    machine.host.close_stdin(counting);
    let expected = {
        let file = machine.dir.path().join("sent");
        std::fs::write(&file, &sent).unwrap();
        String::from_utf8(std::process::Command::new("md5sum").arg(file).output().unwrap().stdout).unwrap()
    };
    assert_eq!(machine.outcome(counting).stdout.split(' ').next(), expected.split(' ').next());
}

#[test]
fn a_program_that_is_not_there() {
    let mut machine = Machine::with_box();
    let start = machine.begin(init(&spec(&["nothing"])), Streams::Pipes { stdin: false });
    match machine.started(start) {
        Err(Failure::Program { errno: 2, text }) => assert!(text.contains("executable file not found"), "{text}"),
        other => panic!("{other:?}"),
    }
    // Nothing of it stands in the way.
    assert_eq!(machine.run(&["true"]).status, Status::Code(0));
    // And there is nothing to run a second process in.
    let start = machine.begin(further(&spec(&["true"])), Streams::Pipes { stdin: false });
    assert_eq!(machine.started(start), Err(Failure::Refused { why: "container 1 does not run".into() }));
}

#[test]
fn a_terminal() {
    let mut machine = Machine::with_box();
    let mut spec = spec(&["sh"]);
    spec["process"]["terminal"] = json!(true);
    let start = machine.begin(init(&spec), terminal(24, 80));
    let shell = machine.started(start).unwrap();
    machine.host.write_stdin(shell, b"tty; stty size\n");
    machine.shows(shell, "24 80\r\n");
    assert!(machine.output(shell, Stream::Stdout).contains("/dev/pts/0"));
    machine.ask(Request::Resize { process: shell, size: TerminalSize { rows: 50, columns: 132 } }).unwrap();
    machine.host.write_stdin(shell, b"stty size\n");
    machine.shows(shell, "50 132\r\n");
    machine.host.write_stdin(shell, b"exit 3\n");
    assert_eq!(machine.outcome(shell).status, Status::Code(3));
}

#[test]
fn signals() {
    let mut machine = Machine::with_box();
    let main = machine.start(&["sh", "-c", "trap 'echo hangup' HUP; echo ready; while :; do sleep 0.1; done"]);
    machine.shows(main, "ready");
    machine.signal(main, libc::SIGHUP);
    machine.shows(main, "hangup");
    let other = machine.exec(&["sleep", "1000"]);
    machine.signal(other, libc::SIGTERM);
    assert_eq!(machine.outcome(other).status, Status::Signal(15));
    let other = machine.exec(&["sleep", "1000"]);
    machine.ask(Request::Signal { process: main, signal: libc::SIGKILL, everyone: true }).unwrap();
    assert_eq!(machine.outcome(main).status, Status::Signal(9));
    assert_eq!(machine.outcome(other).status, Status::Signal(9));
    let gone = Request::Signal { process: main, signal: libc::SIGTERM, everyone: false };
    assert_eq!(machine.ask(gone), Err(Failure::Unknown { what: "process 1".into() }));
}

#[test]
fn the_connection_breaks_and_nothing_is_lost() {
    let mut machine = Machine::with_box();
    let numbers = machine.start(&["sh", "-c", "seq 1 300000; echo done >&2; cat"]);
    for part in 1..6 {
        machine.until("more has come", |machine| machine.output(numbers, Stream::Stdout).len() > part * 200_000);
        machine.host.write_stdin(numbers, format!("typed {part}\n").as_bytes());
        machine.hang_up();
        machine.accept();
    }
    machine.host.close_stdin(numbers);
    let outcome = machine.outcome(numbers);
    let typed = (1..6).map(|part| format!("typed {part}\n"));
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).chain(typed).collect();
    assert!(outcome.stdout == expected, "{} bytes, not {}", outcome.stdout.len(), expected.len());
    assert_eq!((outcome.stderr.as_str(), outcome.status), ("done\n", Status::Code(0)));
    assert_eq!(machine.hello.as_ref().unwrap().conversation, 6);
}

#[test]
fn another_host_goes_on_where_the_first_one_was() {
    let mut machine = Machine::with_box();
    let shell = machine.start(&["sh", "-c", "echo one; read line; echo two $line; exit 4"]);
    machine.shows(shell, "one\n");
    // That it was taken is told with the next that is sent.
    machine.ask(Request::Freeze { container: BOX, frozen: false }).unwrap();
    machine.another_host();
    machine.accept();
    let hello = machine.hello.clone().unwrap();
    assert!(hello.configured);
    assert_eq!((hello.processes.len(), hello.processes[0].process, hello.processes[0].exit), (1, shell, None));
    machine.host.write_stdin(shell, b"and a half\n");
    let outcome = machine.outcome(shell);
    assert!(outcome.stdout.ends_with("two and a half\n"), "{outcome:?}");
    assert_eq!(outcome.status, Status::Code(4));
}

#[test]
fn it_ends_while_nobody_listens() {
    let mut machine = Machine::with_box();
    let shell = machine.start(&["sh", "-c", "read line; echo last words; exit 9"]);
    machine.host.write_stdin(shell, b"\n");
    machine.step();
    machine.hang_up();
    std::thread::sleep(std::time::Duration::from_millis(200));
    machine.accept();
    let outcome = machine.outcome(shell);
    assert_eq!((outcome.stdout.as_str(), outcome.status), ("last words\n", Status::Code(9)));
}

#[test]
fn a_start_is_asked_for_again() {
    let mut machine = Machine::with_box();
    let start = machine.begin(init(&spec(&["sh", "-c", "echo once; exit 2"])), Streams::Pipes { stdin: true });
    machine.host.request(Request::Start(Box::new(start.clone()))).unwrap();
    machine.step();
    machine.hang_up();
    machine.accept();
    let process = machine.started(start).unwrap();
    let outcome = machine.outcome(process);
    assert_eq!((outcome.stdout.as_str(), outcome.status), ("once\n", Status::Code(2)));
}

#[test]
fn who_is_not_listened_to_waits_and_others_go_on() {
    let mut machine = Machine::with_box();
    let main = machine.start(&["sh", "-c", "seq 1 400000; sleep 1000"]);
    machine.ignored.insert(main);
    assert_eq!(machine.sh("seq 1 100000 | tail -n 1"), "100000\n");
    let state = "ps | grep -v grep | grep -q 'seq 1 400000' && echo waits";
    assert_eq!(machine.sh(state), "waits\n");
    // It is listened to, in another conversation: what had come before comes no second time.
    machine.hang_up();
    machine.accept();
    machine.listen();
    machine.shows(main, "\n400000\n");
    let all: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    assert!(machine.output(main, Stream::Stdout) == all);
}

#[test]
fn orphans_are_reaped_and_output_that_others_hold_goes_on() {
    let mut machine = Machine::with_box();
    let main = machine.start(&["sh", "-c", "sleep 1000"]);
    let parent = machine.exec(&["sh", "-c", "(read line </proc/1/fd/0; echo late) & echo early"]);
    machine.until("its parent ends", |machine| machine.exits.contains_key(&parent));
    machine.host.write_stdin(main, b"\n");
    assert_eq!(machine.outcome(parent).stdout, "early\nlate\n");
    assert!(machine.shut_down(End::PowerOff));
}

#[test]
fn hostname_files_and_limits() {
    let mut machine = Machine::new();
    let mut configuration = Configuration::default();
    configuration.identity.hostname = Some("first".into());
    let file = |contents: &str| File { name: "motd".into(), mode: 0o644, contents: Blob(contents.into()) };
    configuration.identity.files.push(file("hello\n"));
    configuration.sysctls.push(("net/ipv4/ip_forward".into(), "1".into()));
    machine.configure(configuration);
    machine.make_box();
    let mut spec = spec(&["sh", "-c", "hostname; cat /etc/motd /proc/sys/net/ipv4/ip_forward; cat"]);
    spec["hostname"] = json!("container");
    let motd =
        json!({ "destination": "/etc/motd", "type": "bind", "source": "/run/files/motd", "options": ["bind", "ro"] });
    spec["mounts"].as_array_mut().unwrap().push(motd);
    let start = machine.begin(init(&spec), Streams::Pipes { stdin: true });
    let main = machine.started(start).unwrap();
    machine.shows(main, "container\nhello\n1\n");
    // Another one, after going on from a snapshot.
    let identity = guest_protocol::configuration::Identity {
        hostname: Some("second".into()),
        files: vec![file("other\n")],
        ..Default::default()
    };
    assert_eq!(machine.ask(Request::Renew(Box::new(identity))), Ok(Reply::Done));
    assert_eq!(machine.sh("hostname; cat /etc/motd"), "second\nother\n");
}

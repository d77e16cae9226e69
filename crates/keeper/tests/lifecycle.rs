//! What runs, how it ends, and what is told of it.

mod support;

use std::time::{Duration, Instant};

use keeper::client::{ClientError, Create, Inspect, List, Start, Stats};
use keeper::protocol::{Event, ExitStatus, Failure, LogConfig, Request, State};
use support::*;

#[test]
fn a_program_runs_and_its_exit_status_is_known() {
    let (_keeper, mut client) = Keeper::start();
    for code in [0, 1, 3, 255] {
        let status = run(&mut client, shell("job", &format!("exit {code}")));
        assert_eq!(status, ExitStatus::Code(code));
    }
}

/// Whoever is in a container with CAP_SYS_PTRACE can look at a process that is on its way into it.
#[test]
fn a_new_process_has_nothing_of_the_keepers_and_of_others() {
    let (keeper, mut client) = Keeper::start();
    for number in 0..20 {
        let id = format!("other-{number}");
        client.call(Create { log: keeper.log(&id), ..shell(&id, "sleep 1000") }).unwrap();
    }
    let create = Create { log: keeper.log("job"), ..waiting_shell("job", "true") };
    let created = client.call(create).unwrap();
    let mut open = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", created.pid)).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = std::fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned();
        if number > 2 {
            open.push(target);
        }
    }
    let pipes = open.iter().filter(|target| target.starts_with("pipe:")).count();
    let sockets = open.iter().filter(|target| target.starts_with("socket:")).count();
    // Its own ends of two pipes, and of its talk with the keeper.
    assert!(pipes == 2 && sockets == 1, "{open:#?}");
    // /proc is the host's too, for what can't be set elsewhere.
    let own = ["/proc", "/dev", "/tmp", "/dev/null"];
    let foreign = open.iter().filter(|target| !own.contains(&target.as_str())).count() - pipes - sockets;
    assert_eq!(foreign, 0, "{open:#?}");
}

fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// As all that runs would end with it.
#[test]
fn the_keeper_is_the_last_to_go_when_memory_runs_out() {
    let (keeper, mut client) = Keeper::start();
    let score = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    // A root without CAP_SYS_RESOURCE may not, and goes on all the same.
    let may = capabilities() >> 24 & 1 == 1;
    assert_eq!(score(keeper.pid.cast_signed()).trim(), if may { "-999" } else { "0" });
    let created = client.call(shell("job", "sleep 1000")).unwrap();
    // As its plan says.
    assert_eq!(score(created.pid.cast_signed()).trim(), "0");
}

#[test]
fn signals_are_sent_and_reported() {
    let (_keeper, mut client) = Keeper::start();
    let create = shell("job", "trap 'exit 42' TERM; echo; while :; do sleep 0.01; done");
    let (create, stream) = attached(create, false, keeper::protocol::Framing::Raw);
    client.call(create).unwrap();
    // The first process of a sandbox ignores signals that it has set no trap for.
    std::io::Read::read_exact(&mut &stream, &mut [0]).unwrap();
    client.call(Request::Signal { id: "job".into(), signal: 15 }).unwrap();
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(42));
    client.call(shell("other", "sleep 1000")).unwrap();
    client.call(Request::Signal { id: "other".into(), signal: 9 }).unwrap();
    let exit = wait_exit(&mut client, "other");
    assert_eq!(exit.status, ExitStatus::Signal { signal: 9, core: false });
    assert_eq!(exit.status.shell_code(), 137);
    let again = client.call(Request::Signal { id: "other".into(), signal: 9 });
    assert!(matches!(again, Err(ClientError::Failed(Failure::WrongState { state: State::Exited, .. }))));
    let nonsense = client.call(Request::Signal { id: "other".into(), signal: 0 });
    assert!(matches!(nonsense, Err(ClientError::Failed(Failure::Invalid { .. }))));
}

#[test]
fn a_missing_program_is_told_from_one_that_may_not_be_executed() {
    let (_keeper, mut client) = Keeper::start();
    let missing = client.call(program_of("job", &["/no/such/program"])).unwrap_err();
    match missing {
        ClientError::Failed(Failure::Program { errno, text }) => {
            assert_eq!(errno, 2);
            assert!(text.contains("no such file or directory"), "{text}");
        }
        other => panic!("{other}"),
    }
    match client.call(program_of("job", &["/etc"])).unwrap_err() {
        ClientError::Failed(Failure::Program { errno, .. }) => assert_eq!(errno, 13),
        other => panic!("{other}"),
    }
    assert!(client.call(List).unwrap().is_empty(), "nothing of it remains");
    assert_eq!(run(&mut client, shell("job", "true")), ExitStatus::Code(0));
}

#[test]
fn a_created_sandbox_waits_for_its_start() {
    let (keeper, mut client) = Keeper::start();
    let created = client.call(Create { log: keeper.log("job"), ..waiting_shell("job", "echo runs") }).unwrap();
    let entry = client.call(Inspect { id: "job".into() }).unwrap();
    assert_eq!((entry.state, entry.pid, entry.started), (State::Created, created.pid, None));
    assert!(keeper.logged("job").is_empty());
    client.call(Start { id: "job".into() }).unwrap();
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(0));
    assert_eq!(keeper.logged("job"), [("stdout".into(), "runs\n".into())]);
    let again = client.call(Start { id: "job".into() }).unwrap_err();
    assert_eq!(again.to_string(), "job is exited, so it cannot start");
}

#[test]
fn a_program_that_is_none_is_found_out_at_the_start() {
    let (_keeper, mut client) = Keeper::start();
    client.call(waiting("job", &["/bin/garbage"])).unwrap();
    let failure = client.call(Start { id: "job".into() }).unwrap_err();
    assert!(matches!(failure, ClientError::Failed(Failure::Program { errno: 8, .. })), "{failure}");
    assert!(client.call(List).unwrap().is_empty());
}

#[test]
fn a_created_sandbox_can_be_killed_or_forgotten() {
    let (_keeper, mut client) = Keeper::start();
    client.call(waiting_shell("killed", "true")).unwrap();
    client.call(Request::Signal { id: "killed".into(), signal: 9 }).unwrap();
    assert_eq!(wait_exit(&mut client, "killed").status, ExitStatus::Signal { signal: 9, core: false });
    let created = client.call(waiting_shell("forgotten", "true")).unwrap();
    let process = pidfd(created.pid);
    client.call(Request::Forget { id: "forgotten".into() }).unwrap();
    wait_for_end(&process);
    let ids: Vec<String> = client.call(List).unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, ["killed"]);
}

#[test]
fn another_process_runs_in_a_sandbox() {
    let (_keeper, mut client) = Keeper::start();
    client.call(shell("box", "sleep 1000")).unwrap();
    client.call(exec_shell("box", "probe", "exit 7")).unwrap();
    assert_eq!(wait_exit(&mut client, "probe").status, ExitStatus::Code(7));
    assert_eq!(client.call(Inspect { id: "probe".into() }).unwrap().sandbox.as_deref(), Some("box"));
    let stats = client.call(Stats).unwrap();
    assert_eq!((stats.sandboxes, stats.execs, stats.running), (1, 1, 1));
    client.call(Request::Signal { id: "box".into(), signal: 9 }).unwrap();
    wait_exit(&mut client, "box");
    let late = client.call(exec_shell("box", "late", "true")).unwrap_err();
    assert_eq!(late.to_string(), "box is exited, so it cannot run another process");
}

#[test]
fn ids_are_checked() {
    let (_keeper, mut client) = Keeper::start();
    for id in ["", "a/b", "../x", "a b", &"x".repeat(129)] {
        let refused = client.call(shell(id, "true"));
        assert!(matches!(refused, Err(ClientError::Failed(Failure::InvalidId { .. }))), "{id}");
    }
    client.call(shell("job", "sleep 1000")).unwrap();
    let taken = client.call(shell("job", "true")).unwrap_err();
    assert_eq!(taken.to_string(), "job is already in use; forget it first");
    let running = client.call(Request::Forget { id: "job".into() }).unwrap_err();
    assert_eq!(running.to_string(), "job is running, so it cannot be forgotten");
    let unknown = client.call(Request::CloseStdin { id: "nobody".into() }).unwrap_err();
    assert_eq!(unknown.to_string(), "the keeper holds nothing named nobody");
    client.call(Request::Forget { id: "nobody".into() }).unwrap();
}

#[test]
fn what_cannot_be_logged_does_not_start() {
    let (_keeper, mut client) = Keeper::start();
    let path = "/no/such/directory/log".into();
    let log = LogConfig::JsonFile { path, rotation: None, attributes: Vec::new() };
    let failure = client.call(Create { log, ..shell("job", "true") }).unwrap_err();
    assert_eq!(failure.to_string(), "open the log /no/such/directory/log: No such file or directory");
    assert!(client.call(List).unwrap().is_empty());
}

#[test]
fn a_plan_that_is_none_is_refused() {
    let (_keeper, mut client) = Keeper::start();
    let refused = client.call(Create { plan: vec![0xff; 40], ..shell("job", "true") });
    assert!(matches!(refused, Err(ClientError::Failed(Failure::Invalid { .. }))));
    let disagrees = client.call(Create { start: false, ..shell("job", "true") });
    assert!(matches!(disagrees, Err(ClientError::Failed(Failure::Invalid { .. }))));
}

#[test]
fn every_daemon_hears_of_an_end() {
    let (keeper, mut first) = Keeper::start();
    let mut second = keeper.connect();
    first.call(shell("job", "exit 5")).unwrap();
    for client in [&mut first, &mut second] {
        assert_eq!(wait_exit(client, "job").status, ExitStatus::Code(5));
    }
}

#[test]
fn an_end_is_remembered_until_it_is_forgotten() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "exit 5")).unwrap();
    let exit = wait_exit(&mut client, "job");
    drop(client);
    let mut client = keeper.connect();
    let entry = client.call(Inspect { id: "job".into() }).unwrap();
    assert_eq!((entry.state, entry.exit), (State::Exited, Some(exit)));
    assert!(entry.started.is_some_and(|started| started >= entry.created && started <= exit.at));
    client.call(Request::Forget { id: "job".into() }).unwrap();
    assert!(client.call(List).unwrap().is_empty());
}

#[test]
fn the_keeper_ends_only_when_nothing_runs() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "sleep 1000")).unwrap();
    let busy = client.call(Request::Shutdown { kill: false }).unwrap_err();
    assert!(matches!(busy, ClientError::Failed(Failure::Busy { running: 1 })));
    let process = pidfd(keeper.pid);
    client.call(Request::Shutdown { kill: true }).unwrap();
    wait_for_end(&process);
    assert!(matches!(client.call(List), Err(ClientError::Disconnected)));
    assert!(!keeper.run_dir().join("keeper.sock").exists());
}

#[test]
fn a_terminated_keeper_waits_for_what_runs() {
    let (keeper, mut client) = Keeper::start();
    client.call(with_stdin(shell("job", "read line; exit 4"), false)).unwrap();
    let process = pidfd(keeper.pid);
    rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM).unwrap();
    client.call(Request::CloseStdin { id: "job".into() }).unwrap();
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(4));
    wait_for_end(&process);
}

#[test]
fn orphans_of_a_sandbox_are_reaped() {
    let (keeper, mut client) = Keeper::start();
    // The shell ends before its background process does, which so becomes the keeper's child.
    let script = "(echo alive; read -r line < /proc/self/fd/3; exit 9) 3<&0 < /dev/null & exit 0";
    let create = sharing_shell("job", script, &Sharing { processes: true, ..Sharing::default() });
    let (create, stream) = attached(with_stdin(create, false), true, keeper::protocol::Framing::Raw);
    let created = client.call(create).unwrap();
    let open = wait_event(&mut client, |event| match event {
        Event::Exited { output_open, .. } => Some(*output_open),
        _ => None,
    });
    drop(created.stdin);
    if open {
        wait_event(&mut client, |event| matches!(event, Event::OutputEnded { .. }).then_some(()));
    }
    assert_eq!(read_all(stream), "alive\n");
    let children = format!("/proc/{0}/task/{0}/children", keeper.pid);
    // A process closes its output before it is dead, and only the dead are reaped.
    let until = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&children).unwrap().is_empty() {
        assert!(Instant::now() < until, "an orphan is not reaped");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn waiting(id: &str, argv: &[&str]) -> Create {
    let mut create = waiting_shell(id, "");
    create.plan = plan_waiting(argv);
    create
}

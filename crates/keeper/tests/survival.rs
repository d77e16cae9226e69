//! Daemons that vanish, keepers that are killed, and keepers that become other programs.

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use keeper::client::{
    Attach, Client, ClientError, Create, Exec, Inspect, List, Start, Stats, recover_orphans, start_or_connect, upgrade,
};
use keeper::protocol::{Event, ExitStatus, Framing, Recovery, Request, State};
use rustix::process::Signal;
use support::*;

#[test]
fn one_keeper_serves_a_run_directory() {
    let (keeper, client) = Keeper::start();
    let again = start_or_connect(&options(keeper.run_dir())).unwrap();
    assert_eq!(again.welcome(), client.welcome());
    let second = std::process::Command::new(program()).arg("--run-dir").arg(keeper.run_dir()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another keeper already serves"), "{said}");
    let mode = std::fs::metadata(keeper.run_dir().join("keeper.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn many_starters_at_once_get_one_keeper() {
    let dir = tempfile::tempdir().unwrap();
    let pids: Vec<u32> = std::thread::scope(|scope| {
        let starters: Vec<_> =
            (0..8).map(|_| scope.spawn(|| start_or_connect(&options(dir.path())).unwrap().welcome().pid)).collect();
        starters.into_iter().map(|starter| starter.join().unwrap()).collect()
    });
    let _keeper = Keeper { pid: pids[0], dir };
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

#[test]
fn a_keeper_belongs_to_no_session_of_its_starter() {
    let (keeper, _client) = Keeper::start();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", keeper.pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    let (parent, group, session) = (fields[1], fields[2], fields[3]);
    assert_ne!(parent, std::process::id().to_string());
    assert_eq!((group, session), (keeper.pid.to_string().as_str(), keeper.pid.to_string().as_str()));
}

#[test]
fn a_keeper_that_cannot_begin_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = start_or_connect(&options(&dir.path().join("missing"))).unwrap_err();
    assert!(matches!(error, ClientError::System { .. }), "{error}");
    let cgroups = vec![dir.path().join("no-cgroup")];
    let error = start_or_connect(&keeper::client::StartOptions { cgroups, ..options(dir.path()) }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("move the keeper into") && text.contains("no-cgroup"), "{text}");
}

#[test]
fn a_vanished_daemon_changes_nothing() {
    let (keeper, mut client) = Keeper::start();
    let script = "echo one; read line; echo two; exit 4";
    let create = with_stdin(Create { log: keeper.log("job"), ..shell("job", script) }, false);
    let (create, stream) = attached(create, true, Framing::Raw);
    client.call(create).unwrap();
    drop((client, stream));
    let mut client = keeper.connect();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let attach = Attach { id: "job".into(), options: everything(true, Framing::Raw), sink: theirs.into() };
    let input = client.call(attach).unwrap().stdin.unwrap();
    rustix::io::write(&input, b"\n").unwrap();
    assert!(read_all(ours).ends_with("two\n"));
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(4));
    let lines: Vec<String> = keeper.logged("job").into_iter().map(|line| line.1).collect();
    assert_eq!(lines, ["one\n", "two\n"]);
}

#[test]
fn what_is_bound_to_a_daemon_ends_with_that_and_with_no_other() {
    let (keeper, mut client) = Keeper::start();
    let bound = |id: &str, script: &str| Create { bound: true, ..shell(id, script) };
    let step = client.call(bound("step", "exec sleep 1000")).unwrap();
    let waiting = client.call(Create { bound: true, ..waiting_shell("waiting", "exec sleep 1000") }).unwrap();
    client.call(shell("lasting", "exec sleep 1000")).unwrap();
    let mut other = keeper.connect();
    other.call(bound("others", "exec sleep 1000")).unwrap();
    // The next program knows as well whose they are.
    upgrade(keeper.run_dir(), &program()).unwrap();
    let processes = [pidfd(step.pid), pidfd(waiting.pid)];
    drop(client);
    processes.iter().for_each(wait_for_end);
    assert_eq!(wait_exit(&mut other, "step").status, ExitStatus::Signal { signal: 9, core: false });
    for id in ["lasting", "others"] {
        assert_eq!(other.call(Inspect { id: id.into() }).unwrap().state, State::Running, "{id}");
    }
}

#[test]
fn a_bound_process_takes_along_what_is_in_its_cgroup() {
    let cgroup = Cgroup::new("bound");
    let (keeper, mut client) = Keeper::start();
    let procs = cgroup.0.join("cgroup.procs");
    let script = format!("echo $$ > {}; sleep 1000 & echo $!; wait", procs.display());
    let sharing = Sharing { processes: true, directory: Some(cgroup.0.clone()), ..Sharing::default() };
    let recovery = Recovery { cgroups: vec![cgroup.0.clone()] };
    let create = Create { recovery, bound: true, ..sharing_shell("step", &script, &sharing) };
    let (create, mut stream) = attached(create, false, Framing::Raw);
    client.call(create).unwrap();
    let mut said = [0; 16];
    let length = stream.read(&mut said).unwrap();
    let background = pidfd(std::str::from_utf8(&said[..length]).unwrap().trim().parse().unwrap());
    drop(client);
    wait_for_end(&background);
    assert!(!keeper.connect().call(List).unwrap().is_empty(), "it is known until it is forgotten");
}

#[test]
fn what_a_killed_keeper_held_is_found_and_killed() {
    let (keeper, mut client) = Keeper::start();
    let alive = client.call(shell("alive", "sleep 1000")).unwrap();
    client.call(shell("ended", "exit 6")).unwrap();
    let exit = wait_exit(&mut client, "ended");
    run(&mut client, shell("forgotten", "true"));
    assert!(recover_orphans(keeper.run_dir()).is_err(), "nothing is orphaned while the keeper lives");
    keeper.kill();
    assert!(matches!(client.call(List), Err(ClientError::Disconnected)));
    assert!(matches!(Client::connect(keeper.run_dir()), Err(ClientError::NotRunning { .. })));
    let orphans = recover_orphans(keeper.run_dir()).unwrap();
    let told: Vec<_> = orphans.iter().map(|orphan| (orphan.id.as_str(), orphan.exit, orphan.is_alive())).collect();
    assert_eq!(told, [("alive", None, true), ("ended", Some(exit), false)]);
    let process = pidfd(alive.pid);
    for orphan in &orphans {
        orphan.kill().unwrap();
    }
    wait_for_end(&process);
}

/// A cgroup of the test's own; in the first hierarchy that there is, as any will do for killing.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new(name: &str) -> Cgroup {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        let root = roots.iter().find(|root| std::path::Path::new(root).join("cgroup.procs").exists()).unwrap();
        let dir = std::path::Path::new(root).join(format!("keeper-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Cgroup(dir)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Killed processes leave their cgroup a moment after they have ended.
        while std::fs::remove_dir(&self.0).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_a_killed_keepers_sandboxes_have_started_is_killed_with_their_cgroup() {
    let cgroup = Cgroup::new("orphans");
    let (keeper, mut client) = Keeper::start();
    let procs = cgroup.0.join("cgroup.procs");
    let script = format!("echo $$ > {}; sleep 1000 & echo $!; wait", procs.display());
    let recovery = Recovery { cgroups: vec![cgroup.0.clone()] };
    let sharing = Sharing { processes: true, directory: Some(cgroup.0.clone()), ..Sharing::default() };
    let create = Create { recovery, ..sharing_shell("job", &script, &sharing) };
    let (create, mut stream) = attached(create, false, Framing::Raw);
    client.call(create).unwrap();
    let mut said = [0; 16];
    let length = stream.read(&mut said).unwrap();
    let background = pidfd(std::str::from_utf8(&said[..length]).unwrap().trim().parse().unwrap());
    keeper.kill();
    for orphan in recover_orphans(keeper.run_dir()).unwrap() {
        orphan.kill().unwrap();
    }
    wait_for_end(&background);
}

#[test]
fn a_new_keeper_tells_of_what_the_killed_one_held() {
    let (mut keeper, mut client) = Keeper::start();
    client.call(shell("alive", "sleep 1000")).unwrap();
    client.call(shell("ended", "exit 6")).unwrap();
    let exit = wait_exit(&mut client, "ended");
    keeper.kill();
    let mut client = start_or_connect(&options(keeper.run_dir())).unwrap();
    keeper.pid = client.welcome().pid;
    let entry = client.call(Inspect { id: "ended".into() }).unwrap();
    assert_eq!((entry.state, entry.exit), (State::Exited, Some(exit)));
    let entry = client.call(Inspect { id: "alive".into() }).unwrap();
    assert_eq!((entry.state, entry.exit, entry.output_open), (State::Orphaned, None, false));
    client.call(Request::Signal { id: "alive".into(), signal: 9 }).unwrap();
    assert_eq!(wait_exit(&mut client, "alive").status, ExitStatus::Unknown);
    for id in ["alive", "ended"] {
        client.call(Request::Forget { id: id.into() }).unwrap();
    }
    assert!(client.call(List).unwrap().is_empty());
}

#[test]
fn a_keeper_becomes_another_program_and_loses_nothing() {
    let (keeper, mut client) = Keeper::start();
    // Output without a break, on both streams, through attachment and log; and half a line at the time of the upgrade.
    let busy = "i=0; while [ $i -lt 30000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 5";
    let create = Create { log: keeper.log("busy"), ..shell("busy", busy) };
    let (create, busy_stream) = attached(create, false, Framing::Framed);
    client.call(create).unwrap();
    let reader = std::thread::spawn(move || read_frames(busy_stream));
    let create = Create { log: keeper.log("half"), ..shell("half", "printf ha; read line; echo lf; exit 6") };
    let (create, mut half_stream) = attached(with_stdin(create, false), true, Framing::Raw);
    let input = client.call(create).unwrap().stdin.unwrap();
    half_stream.read_exact(&mut [0; 2]).unwrap();
    client.call(waiting_shell("waiting", "exit 7")).unwrap();
    client.call(shell("ended", "exit 8")).unwrap();
    // In whatever order they end: what is busy may be done first.
    let mut exits = std::collections::BTreeMap::new();
    let hear = |client: &mut Client, exits: &mut std::collections::BTreeMap<String, ExitStatus>| {
        let (id, exit) = wait_event(client, |event| match event {
            Event::Exited { id, exit, .. } => Some((id.clone(), exit.status)),
            _ => None,
        });
        exits.insert(id, exit);
    };
    while !exits.contains_key("ended") {
        hear(&mut client, &mut exits);
    }

    let new = keeper.run_dir().join("new-program");
    std::fs::copy(program(), &new).unwrap();
    for round in 1..=5 {
        let welcome = upgrade(keeper.run_dir(), &new).unwrap();
        assert_eq!(welcome.pid, keeper.pid);
        assert_eq!(client.call(Stats).unwrap().upgrades, round);
    }
    let running = std::fs::read_link(format!("/proc/{}/exe", keeper.pid)).unwrap();
    assert_eq!(running, new);

    rustix::io::write(&input, b"\n").unwrap();
    client.call(Start { id: "waiting".into() }).unwrap();
    while exits.len() < 4 {
        hear(&mut client, &mut exits);
    }
    let expected = [("busy", 5), ("ended", 8), ("half", 6), ("waiting", 7)];
    assert_eq!(exits, expected.map(|(id, code)| (id.to_owned(), ExitStatus::Code(code))).into());
    assert_eq!(client.call(Inspect { id: "ended".into() }).unwrap().exit.unwrap().status, ExitStatus::Code(8));
    assert_eq!(keeper.logged("half"), [("stdout".to_owned(), "half\n".to_owned())]);
    let frames = reader.join().unwrap();
    for (stream, word) in [(keeper::protocol::Stream::Stdout, "out"), (keeper::protocol::Stream::Stderr, "err")] {
        let expected: String = (0..30_000).map(|number| format!("{word} {number}\n")).collect();
        assert!(text_of(&frames, stream) == expected, "{word} was not delivered whole");
        let logged = keeper.logged("busy").into_iter().filter(|line| line.0 == stream.name());
        assert!(logged.map(|line| line.1).collect::<String>() == expected, "{word} was not logged whole");
    }
}

/// As on a full disk: what runs is not to end with a keeper that can't write its records.
#[test]
fn an_upgrade_whose_records_cannot_be_written_loses_nothing() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "exec sleep 1000")).unwrap();
    let records = keeper.run_dir().join("keeper");
    std::fs::create_dir(records.join("records.new")).unwrap();
    assert_eq!(upgrade(keeper.run_dir(), &program()).unwrap().pid, keeper.pid);
    assert!(client.call(Stats).unwrap().record_errors > 0);
    // Nor with one whose records somebody took away.
    std::fs::remove_file(records.join("records")).unwrap();
    assert_eq!(upgrade(keeper.run_dir(), &program()).unwrap().pid, keeper.pid);
    // As soon as they can be written, they are.
    std::fs::remove_dir(records.join("records.new")).unwrap();
    upgrade(keeper.run_dir(), &program()).unwrap();
    keeper.kill();
    assert_eq!(recover_orphans(keeper.run_dir()).unwrap().iter().filter(|orphan| orphan.is_alive()).count(), 1);
}

#[test]
fn whose_a_process_is_is_told_to_the_next_daemon() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "exec sleep 1000")).unwrap();
    // By its name, one is as good as the other.
    client.call(exec_shell("job", "own-1", "exec sleep 1000")).unwrap();
    client.call(Exec { own: true, ..exec_shell("job", "check", "exec sleep 1000") }).unwrap();
    upgrade(keeper.run_dir(), &program()).unwrap();
    let mut entries = keeper.connect().call(List).unwrap();
    entries.sort_by(|one, other| one.id.cmp(&other.id));
    let own: Vec<_> = entries.iter().map(|entry| (entry.id.as_str(), entry.own)).collect();
    assert_eq!(own, [("check", true), ("job", false), ("own-1", false)]);
}

#[test]
fn a_killed_keeper_of_any_release_leaves_orphans() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "sleep 1000")).unwrap();
    keeper::client::kill(keeper.run_dir()).unwrap();
    let orphans = recover_orphans(keeper.run_dir()).unwrap();
    assert_eq!(orphans.iter().map(|orphan| orphan.id.as_str()).collect::<Vec<_>>(), ["job"]);
    assert!(matches!(keeper::client::kill(keeper.run_dir()), Err(ClientError::NotRunning { .. })));
}

/// As one is whose disk hangs, or that somebody has stopped.
#[test]
fn a_keeper_that_does_not_answer_is_not_waited_for_for_ever_and_can_be_killed() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "sleep 1000")).unwrap();
    let pid = rustix::process::Pid::from_raw(keeper.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    // It has one thread. The signal may take a moment to reach it.
    while !std::fs::read_to_string(format!("/proc/{}/status", keeper.pid)).unwrap().contains("State:\tT") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let within = std::time::Duration::from_millis(10);
    let is_silent = |error: &ClientError| matches!(error, ClientError::Silent { pid, .. } if *pid == keeper.pid);
    let error = Client::connect_within(keeper.run_dir(), within).unwrap_err();
    assert!(is_silent(&error), "{error}");
    let error = client.call_within(List, within).unwrap_err();
    assert!(is_silent(&error) && error.to_string().contains(&format!("kill -CONT {}", keeper.pid)), "{error}");
    // Until no connection is let in any more.
    let mut waiting = Vec::new();
    let address = keeper.run_dir().join("keeper.sock");
    loop {
        let flags = rustix::net::SocketFlags::NONBLOCK;
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
        let socket = rustix::net::socket_with(family, kind, flags, None).unwrap();
        match rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(&address).unwrap()) {
            Ok(()) => waiting.push(socket),
            Err(errno) => break assert_eq!(errno, rustix::io::Errno::AGAIN),
        }
    }
    let error = Client::connect_within(keeper.run_dir(), within).unwrap_err();
    assert!(is_silent(&error), "{error}");
    keeper::client::kill(keeper.run_dir()).unwrap();
    let orphans = recover_orphans(keeper.run_dir()).unwrap();
    assert_eq!(orphans.iter().map(|orphan| orphan.id.as_str()).collect::<Vec<_>>(), ["job"]);
}

#[test]
fn a_program_that_is_no_keeper_is_not_gone_on_with() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "sleep 1000")).unwrap();
    for (program, said) in [("/bin/false", "does not understand"), ("/etc/passwd", "does not understand")] {
        let error = upgrade(keeper.run_dir(), program.as_ref()).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    assert_eq!(client.call(Inspect { id: "job".into() }).unwrap().state, State::Running);
    assert_eq!(client.call(Stats).unwrap().upgrades, 0);
}

#[test]
fn an_upgrade_finds_its_moment_under_load() {
    let (keeper, mut client) = Keeper::start();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for loader in 0..2 {
            let mut client = keeper.connect();
            let over = &over;
            scope.spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(run(&mut client, shell(&format!("job{loader}"), "exit 3")), ExitStatus::Code(3));
                }
            });
        }
        for _ in 0..10 {
            upgrade(keeper.run_dir(), &program()).unwrap();
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(client.call(Stats).unwrap().upgrades, 10);
}

/// A process that is held still between its creation and its start, as one would be by a file system that does not answer.
#[test]
fn a_start_that_hangs_does_not_hold_an_upgrade_for_ever() {
    let (keeper, mut client) = Keeper::start();
    let pid = client.call(waiting_shell("stuck", "exit 7")).unwrap().pid;
    let stuck = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(stuck, Signal::STOP).unwrap();
    client.post(Start { id: "stuck".into() }).unwrap();
    assert_eq!(client.call(Inspect { id: "stuck".into() }).unwrap().state, State::Starting);
    let error = upgrade(keeper.run_dir(), &program()).unwrap_err();
    assert!(error.to_string().contains(&format!("stuck (process {pid}) has not come to its start within")), "{error}");
    assert!(error.to_string().contains(&format!("`kill -9 {pid}`")), "{error}");
    // Everybody is served again, and the next upgrade finds its moment.
    assert_eq!(run(&mut client, shell("other", "exit 3")), ExitStatus::Code(3));
    rustix::process::kill_process(stuck, Signal::CONT).unwrap();
    assert_eq!(wait_exit(&mut client, "stuck").status, ExitStatus::Code(7));
    upgrade(keeper.run_dir(), &program()).unwrap();
    assert_eq!(client.call(Stats).unwrap().upgrades, 1);
}

#[test]
fn processes_that_end_during_an_upgrade_are_not_missed() {
    let (keeper, mut client) = Keeper::start();
    for number in 0..30 {
        client.call(shell(&format!("job{number}"), &format!("sleep 0.0{number:02}; exit {number}"))).unwrap();
    }
    for _ in 0..5 {
        upgrade(keeper.run_dir(), &program()).unwrap();
    }
    let mut ended = std::collections::BTreeSet::new();
    for entry in client.call(List).unwrap() {
        if let Some(exit) = entry.exit {
            ended.insert((entry.id, exit.status.shell_code()));
        }
    }
    while ended.len() < 30 {
        let end = wait_event(&mut client, |event| match event {
            Event::Exited { id, exit, .. } => Some((id.clone(), exit.status.shell_code())),
            _ => None,
        });
        ended.insert(end);
    }
    assert_eq!(ended, (0..30).map(|number| (format!("job{number}"), number)).collect());
}

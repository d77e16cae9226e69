//! Calls of the keeper that the kernel refuses, each in turn: whatever is refused, it serves on, and nothing is left behind.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio as Stream};
use std::time::{Duration, Instant};

use keeper::client::{Client, ClientError, Create, Exec, List, Stats};
use keeper::protocol::{EntryInfo, Event, Framing, LogConfig, Request, Stdio, TerminalSize};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use support::*;

/// What can fail for want of memory, of descriptors, or of a disk.
const CALLS: &str = "accept4,pipe2,fcntl,ioctl,clone3,openat,socketpair,epoll_ctl,sendmsg,recvmsg,memfd_create,pread64,pwrite64,\
                     prlimit64,write,writev,fstat,newfstatat,statx,setns,pidfd_send_signal,ftruncate";

/// `strace` on a keeper.
struct Tracer(Child);

impl Tracer {
    fn attach(keeper: u32, flags: &[&str]) -> Tracer {
        let mut child = Command::new("strace")
            .args(["-p", &keeper.to_string()])
            .args(flags)
            .stdin(Stream::null())
            .stderr(Stream::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "strace says {line:?}");
        Tracer(child)
    }

    fn detach(mut self) {
        rustix::process::kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A sandbox with input, output and a log, another process in it, and a sandbox on a terminal, from their beginnings to their
/// ends, as far as they come.
fn lives(run_dir: &Path, log: LogConfig) -> Result<(), ClientError> {
    let mut client = Client::connect(run_dir)?;
    let create = with_stdin(shell("job", "read line; echo $line; exit 3"), true);
    let (create, output) = attached(Create { log, ..create }, true, Framing::Framed);
    let created = client.call(create);
    let (sink, more) = std::os::unix::net::UnixStream::pair().unwrap();
    let stdio = Stdio::Pipes { stdin: false, stdin_once: false };
    let attach = vec![(everything(false, Framing::Raw), sink.into())];
    let executed = client.call(Exec { stdio, attach, ..exec_shell("job", "more", "echo more; exit 4") });
    drop(more);
    if let Some(input) = created.as_ref().ok().and_then(|created| created.stdin.as_ref()) {
        // It may have ended.
        _ = rustix::io::write(input, b"x\n");
    }
    drop(output);
    let terminal = client.call(terminal_shell("terminal", "exit 5", TerminalSize { rows: 24, columns: 80 }));
    let mut left = Vec::new();
    left.extend(executed.ok().map(|_| "more"));
    left.extend(created.ok().map(|_| "job"));
    left.extend(terminal.ok().map(|_| "terminal"));
    while !left.is_empty() {
        if let Some(Event::Exited { id, .. }) = client.next_event(None)? {
            left.retain(|wanted| *wanted != id);
        }
    }
    for id in ["more", "job", "terminal"] {
        client.call(Request::Forget { id: id.into() })?;
    }
    Ok(())
}

/// Ends what was left as a daemon does that comes next.
fn cleaned(keeper: &Keeper) {
    let mut client = keeper.connect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<EntryInfo> = client.call(List).unwrap();
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", keeper.pid)).unwrap();
        if left.is_empty() && children.is_empty() {
            assert_eq!(client.call(Stats).unwrap().running, 0);
            return;
        }
        assert!(Instant::now() < deadline, "left: {left:#?}, children: {children}");
        for entry in left {
            _ = client.call(Request::Signal { id: entry.id.clone(), signal: 9 });
            _ = client.call(Request::Forget { id: entry.id });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the keeper has open once nobody is connected any more.
fn descriptors(keeper: &Keeper) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.pid)).unwrap().flatten();
        let name =
            |link: std::path::PathBuf| link.display().to_string().split('[').next().unwrap_or_default().to_owned();
        let mut open: Vec<String> = open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).map(name).collect();
        open.sort();
        // The one at which it listens.
        if open.iter().filter(|name| name.starts_with("socket:")).count() == 1 {
            return open;
        }
        assert!(Instant::now() < deadline, "sockets stay: {open:#?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn whatever_call_is_refused_the_keeper_serves_on_and_leaves_nothing_behind() {
    let (keeper, client) = Keeper::start();
    drop(client);
    let live = || lives(keeper.run_dir(), keeper.log("job"));
    for _ in 0..2 {
        live().unwrap();
        cleaned(&keeper);
    }
    let record = keeper.run_dir().join("trace");
    let tracer = Tracer::attach(keeper.pid, &["-e", &format!("trace={CALLS}"), "-o", &record.display().to_string()]);
    live().unwrap();
    tracer.detach();
    let mut calls = BTreeMap::<String, u32>::new();
    for line in std::fs::read_to_string(&record).unwrap().lines() {
        let name = line.split('(').next().unwrap_or_default();
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    cleaned(&keeper);
    let before = descriptors(&keeper);
    for (name, count) in calls {
        for nth in 1..=count {
            let inject = format!("inject={name}:error=ENOMEM:when={nth}");
            let tracer =
                Tracer::attach(keeper.pid, &["-e", &format!("trace={name}"), "-e", &inject, "-o", "/dev/null"]);
            let (sender, came) = std::sync::mpsc::channel();
            let (run_dir, log) = (keeper.run_dir().to_owned(), keeper.log("job"));
            let living = std::thread::spawn(move || sender.send(lives(&run_dir, log)));
            let outcome = came.recv_timeout(PATIENCE);
            tracer.detach();
            assert!(outcome.is_ok(), "{name} number {nth} is refused, and somebody waits for ever");
            living.join().unwrap().unwrap();
            cleaned(&keeper);
            assert_eq!(descriptors(&keeper), before, "{name} number {nth} is refused, and descriptors stay");
        }
    }
}

/// However many descriptors are left: what is told to have begun has its terminal, and what has none is told to have failed.
#[test]
fn a_terminal_that_finds_no_room_fails_its_start() {
    let (keeper, mut client) = Keeper::start();
    let pid = Pid::from_raw(keeper.pid.cast_signed());
    // The keeper's own, which raised what it may to the most.
    let before = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = |current| {
        let limit = Rlimit { current, maximum: before };
        rustix::process::prlimit(pid, Resource::Nofile, limit).unwrap();
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.pid)).unwrap().count() as u64;
    let mut begun = 0;
    for room in 0..16 {
        limit(Some(open + room));
        let size = TerminalSize { rows: 24, columns: 80 };
        let (create, output) = attached(terminal_shell("job", "echo here; exit 3", size), false, Framing::Raw);
        let created = client.call(create);
        if created.is_ok() {
            assert_eq!(wait_exit(&mut client, "job").status.shell_code(), 3, "{room}");
            assert_eq!(read_all(output), "here\r\n", "{room}");
            client.call(Request::Forget { id: "job".into() }).unwrap();
            begun += 1;
        }
        limit(before);
    }
    assert!((1..16).contains(&begun), "{begun}");
}

/// A further process is begun from within its container's PID namespace. What comes next is not.
#[test]
fn a_keeper_that_cannot_return_begins_nothing_in_the_wrong_place() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "exec sleep 1000")).unwrap();
    let whereabouts = |client: &mut Client| {
        wait_event(client, |event| match event {
            Event::Whereabouts { away_from } => Some(away_from.clone()),
            _ => None,
        })
    };
    // It enters, and does not come out.
    let refused = |when: &str| {
        let inject = format!("inject=setns:error=ENOMEM:when={when}");
        Tracer::attach(keeper.pid, &["-e", "trace=setns", "-e", &inject, "-o", "/dev/null"])
    };
    let tracer = refused("2");
    client.call(exec_shell("job", "first", "exit 3")).unwrap();
    assert_eq!(whereabouts(&mut client).as_deref(), Some("pid"));
    assert_eq!(wait_exit(&mut client, "first").status.shell_code(), 3, "what was begun is where it belongs");
    tracer.detach();
    let tracer = refused("1+");
    let error = client.call(shell("other", "exit 0")).unwrap_err().to_string();
    assert!(error.contains("the keeper can't return to its own pid namespace"), "{error}");
    let error = keeper::client::upgrade(keeper.run_dir(), &program()).unwrap_err().to_string();
    assert!(error.contains("the keeper can't return to its own pid namespace"), "{error}");
    // Who connects now is told, too.
    assert_eq!(whereabouts(&mut keeper.connect()).as_deref(), Some("pid"));
    tracer.detach();
    // The return fails, and the entrance does not: what belongs there may begin.
    let tracer = refused("1");
    client.call(exec_shell("job", "second", "exit 4")).unwrap();
    assert_eq!(whereabouts(&mut client), None);
    assert_eq!(wait_exit(&mut client, "second").status.shell_code(), 4);
    tracer.detach();
    let pid = client.call(shell("other", "exec sleep 1000")).unwrap().pid;
    let namespace = |pid: u32, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    assert_ne!(namespace(pid, "pid"), namespace(keeper.pid, "pid"));
    assert_eq!(namespace(keeper.pid, "pid_for_children"), namespace(keeper.pid, "pid"));
    client.call(Request::Signal { id: "other".into(), signal: 9 }).unwrap();
    client.call(Request::Signal { id: "job".into(), signal: 9 }).unwrap();
}

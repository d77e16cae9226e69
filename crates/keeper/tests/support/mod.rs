//! A keeper of the test's own, and what a daemon does with it.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own, and uses a part of this")]

mod plan;

pub use plan::Sharing;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keeper::client::{Client, Create, Created, Exec, StartOptions, recover_orphans, start_or_connect};
use keeper::protocol::{
    AttachOptions, Event, Exit, ExitStatus, Framing, LogConfig, Recovery, Request, Stdio, Stream, TerminalSize,
};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};

/// No test waits longer for an event; it only bounds how long a failure takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The keeper's program, which cargo builds beside the tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/keeper");
    assert!(program.exists(), "{} is missing: build it by `cargo build -p keeper --examples`", program.display());
    program
}

/// A keeper in a directory of its own. What it holds is killed and the directory removed at the end, however the test ends.
pub struct Keeper {
    pub dir: tempfile::TempDir,
    pub pid: u32,
}

impl Keeper {
    pub fn start() -> (Keeper, Client) {
        let dir = tempfile::Builder::new().prefix("keeper-test-").tempdir().unwrap();
        let client = start_or_connect(&options(dir.path())).unwrap();
        let pid = client.welcome().pid;
        (Keeper { dir, pid }, client)
    }

    pub fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.run_dir()).unwrap()
    }

    /// `kill -9`, and wait until it is gone.
    pub fn kill(&self) {
        let pidfd = pidfd(self.pid);
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
        wait_for_end(&pidfd);
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.run_dir().join(format!("{id}-json.log"))
    }

    /// A `json-file` log without rotation.
    pub fn log(&self, id: &str) -> LogConfig {
        LogConfig::JsonFile { path: self.log_path(id), rotation: None, attributes: Vec::new() }
    }

    /// What a log says: the stream and the text of each line.
    pub fn logged(&self, id: &str) -> Vec<(String, String)> {
        logged(&self.log_path(id))
    }

    /// The keeper's proportional set size in KiB.
    pub fn pss(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(self.dir.path()) {
            let pidfd = pidfd(client.welcome().pid);
            for entry in client.call(keeper::client::List).unwrap_or_default() {
                if entry.exit.is_none() {
                    _ = client.call(Request::Signal { id: entry.id, signal: 9 });
                }
            }
            _ = client.call(Request::Shutdown { kill: true });
            wait_for_end(&pidfd);
        }
        for orphan in recover_orphans(self.dir.path()).unwrap_or_default() {
            _ = orphan.kill();
        }
    }
}

pub fn options(run_dir: &Path) -> StartOptions {
    StartOptions { arguments: Vec::new(), ..StartOptions::new(program(), run_dir.to_owned()) }
}

pub fn pidfd(pid: u32) -> OwnedFd {
    rustix::process::pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap()
}

pub fn wait_for_end(pidfd: &OwnedFd) {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let timeout = PATIENCE.try_into().unwrap();
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1), "the process does not end");
}

pub fn logged(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["stream"].as_str().unwrap().to_owned(), line["log"].as_str().unwrap().to_owned())
        })
        .collect()
}

/// `sh -c SCRIPT`, started at once, without standard input, log or attachments.
pub fn shell(id: &str, script: &str) -> Create {
    program_of(id, &["/bin/sh", "-c", script])
}

pub fn program_of(id: &str, argv: &[&str]) -> Create {
    Create {
        id: id.to_owned(),
        plan: plan::init(argv, false, false, &Sharing::default()),
        plan_descriptors: Vec::new(),
        stdio: Stdio::Pipes { stdin: false, stdin_once: false },
        log: LogConfig::None,
        attach: Vec::new(),
        recovery: Recovery::default(),
        start: true,
        bound: false,
    }
}

/// The same, in a sandbox that shares something with the host.
pub fn sharing_shell(id: &str, script: &str, sharing: &Sharing) -> Create {
    Create { plan: plan::init(&["/bin/sh", "-c", script], false, false, sharing), ..shell(id, script) }
}

/// The same, which waits for its start.
pub fn waiting_shell(id: &str, script: &str) -> Create {
    Create { plan: plan_waiting(&["/bin/sh", "-c", script]), start: false, ..shell(id, script) }
}

/// The same, on a terminal.
pub fn terminal_shell(id: &str, script: &str, size: TerminalSize) -> Create {
    Create {
        // It waits until the terminal has its size.
        plan: plan::init(&["/bin/sh", "-c", script], true, true, &Sharing::default()),
        stdio: Stdio::Terminal { size },
        ..shell(id, script)
    }
}

pub fn exec_shell(sandbox: &str, id: &str, script: &str) -> Exec {
    Exec {
        sandbox: sandbox.to_owned(),
        id: id.to_owned(),
        plan: plan::exec(&["/bin/sh", "-c", script], false),
        plan_descriptors: Vec::new(),
        stdio: Stdio::Pipes { stdin: false, stdin_once: false },
        attach: Vec::new(),
        own: false,
    }
}

/// With an attachment to everything, framed unless told otherwise.
pub fn attached(create: Create, stdin: bool, framing: Framing) -> (Create, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = everything(stdin, framing);
    (Create { attach: vec![(options, theirs.into())], ..create }, ours)
}

pub fn everything(stdin: bool, framing: Framing) -> AttachOptions {
    AttachOptions { stdin, stdout: true, stderr: true, framing }
}

pub fn with_stdin(create: Create, once: bool) -> Create {
    Create { stdio: Stdio::Pipes { stdin: true, stdin_once: once }, ..create }
}

/// Waits until something has ended.
pub fn wait_exit(client: &mut Client, id: &str) -> Exit {
    loop {
        match client.next_event(Some(PATIENCE)).unwrap() {
            Some(Event::Exited { id: ended, exit, .. }) if ended == id => return exit,
            Some(_) => {}
            None => panic!("{id} does not end"),
        }
    }
}

/// Waits for an event that fits.
pub fn wait_event<T>(client: &mut Client, mut fits: impl FnMut(&Event) -> Option<T>) -> T {
    loop {
        match client.next_event(Some(PATIENCE)).unwrap() {
            Some(event) => {
                if let Some(found) = fits(&event) {
                    return found;
                }
            }
            None => panic!("the event does not come"),
        }
    }
}

/// Creates, starts, waits, and lets go.
pub fn run(client: &mut Client, create: Create) -> ExitStatus {
    let id = create.id.clone();
    let _created: Created = client.call(create).unwrap();
    let exit = wait_exit(client, &id);
    client.call(Request::Forget { id }).unwrap();
    exit.status
}

/// Reads frames to the end of the stream.
pub fn read_frames(mut stream: UnixStream) -> Vec<(Stream, Vec<u8>)> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<8>() {
        let stream = match header[0] {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            other => panic!("stream {other}"),
        };
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        frames.push((stream, after[..length].to_vec()));
        rest = &after[length..];
    }
    assert!(rest.is_empty(), "half a frame");
    frames
}

pub fn text_of(frames: &[(Stream, Vec<u8>)], stream: Stream) -> String {
    let bytes: Vec<u8> = frames.iter().filter(|frame| frame.0 == stream).flat_map(|frame| frame.1.clone()).collect();
    String::from_utf8(bytes).unwrap()
}

pub fn read_all(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A plan whose process waits for its start.
pub fn plan_waiting(argv: &[&str]) -> Vec<u8> {
    plan::init(argv, false, true, &Sharing::default())
}

//! A machine to type at: the agent as the first process of namespaces of its own, or of a virtual machine.

#![allow(dead_code, unreachable_pub)] // Each test file uses a part of it.

#[path = "../../../tests/guest_spec.rs"]
mod guest_spec;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use guest_protocol::configuration::{Lower, Machine as Configuration, Root, Upper};
use guest_protocol::files::{FileReply, FileRequest};
use guest_protocol::host::{Event, Host};
use guest_protocol::message::{
    Blob, ContainerId, End, Exit, Failure, Hello, Plan, ProcessId, Reply, Request, Start, Status, Stream, Streams,
    TerminalSize,
};
use guest_protocol::place;
pub(crate) use guest_spec::spec;
use oci_spec::runtime::{Process, Spec};
use sandbox::cgroup::Placement;
use sandbox::{CompileOptions, ExecOptions, ExecPlan, InitPlan, RootFs};
use serde_json::Value;

/// Nothing takes as long; what hangs is told.
const PATIENCE: Duration = Duration::from_secs(120);
/// The container that most tests have.
pub const BOX: ContainerId = ContainerId(1);
const WINDOW: u32 = 64 << 10;

/// What came of a process.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: Status,
}

/// What is there, gone with the value.
pub struct Machine {
    pub dir: tempfile::TempDir,
    child: Child,
    cgroup: Option<PathBuf>,
    listener: UnixListener,
    stream: Option<UnixStream>,
    pub host: Host,
    pub hello: Option<Hello>,
    answers: BTreeMap<u64, Result<Reply, Failure>>,
    unanswered: BTreeSet<u64>,
    output: BTreeMap<(ProcessId, Stream), Vec<u8>>,
    ended: BTreeSet<(ProcessId, Stream)>,
    pub exits: BTreeMap<ProcessId, Exit>,
    pub names: VecDeque<(u64, bool, Vec<u8>)>,
    /// What these write is kept, and not taken.
    pub ignored: BTreeSet<ProcessId>,
    untaken: BTreeMap<(ProcessId, Stream), usize>,
    next: u32,
    /// Its stream is a port that knows no connections.
    is_port: bool,
}

impl Machine {
    /// The agent in namespaces, with a directory as its disk.
    pub fn new() -> Self {
        Self::with("")
    }

    /// As [`Machine::new`]; `prepare` is done by a shell in the namespaces before the agent starts.
    pub fn with(prepare: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("guest-test-").tempdir().unwrap();
        busybox(&dir.path().join("rootfs"));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = unified().join(format!("guest-test-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let socket = dir.path().join("host");
        let listener = UnixListener::bind(&socket).unwrap();
        let (agent, host) = (env!("CARGO_BIN_EXE_guest"), socket.display());
        let inside = format!(
            "mount -t proc proc /proc; mount -t tmpfs run /run; mount -t cgroup2 cgroup2 /sys/fs/cgroup; {prepare}
            exec {agent} unix:{host}"
        );
        let script = format!(
            "echo $$ >{}/cgroup.procs; exec unshare --pid --mount --net --uts --ipc --cgroup --fork --kill-child sh -ec '{inside}'",
            cgroup.display()
        );
        let child = Command::new("sh").args(["-ec", &script]).stdin(Stdio::null()).spawn().unwrap();
        let mut machine = Self::listening(dir, child, Some(cgroup), listener);
        machine.accept();
        machine
    }

    pub fn listening(dir: tempfile::TempDir, child: Child, cgroup: Option<PathBuf>, listener: UnixListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        Self {
            dir,
            child,
            cgroup,
            listener,
            stream: None,
            host: Host::new(WINDOW),
            hello: None,
            answers: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            output: BTreeMap::new(),
            ended: BTreeSet::new(),
            exits: BTreeMap::new(),
            names: VecDeque::new(),
            ignored: BTreeSet::new(),
            untaken: BTreeMap::new(),
            next: 0,
            is_port: false,
        }
    }

    /// What was ignored is taken, and what comes from now on.
    pub fn listen(&mut self) {
        self.ignored.clear();
        for ((process, stream), bytes) in std::mem::take(&mut self.untaken) {
            self.host.taken(process, stream, bytes);
        }
    }

    /// Its stream is a port of virtio-serial.
    pub fn by_port(mut self) -> Self {
        self.is_port = true;
        self
    }

    /// A machine whose agent was told of `BOX`, made of the directory.
    pub fn with_box() -> Self {
        let mut machine = Self::new();
        machine.configure(Configuration::default());
        machine.make_box();
        machine
    }

    pub fn configure(&mut self, configuration: Configuration) {
        self.ask(Request::Configure(Box::new(configuration))).unwrap();
    }

    pub fn box_root(&self) -> Root {
        Root {
            container: BOX,
            lower: Lower::Directory(self.dir.path().join("rootfs").display().to_string()),
            upper: Upper::Memory { size: 64 << 20 },
            volumes: Vec::new(),
            files: Vec::new(),
            limits: Vec::new(),
        }
    }

    pub fn make_box(&mut self) {
        let root = self.box_root();
        self.ask(Request::MakeRoot(Box::new(root))).unwrap();
    }

    /// Waits for the agent's hello.
    pub fn accept(&mut self) {
        self.hello = None;
        let end = Instant::now() + PATIENCE;
        while self.stream.is_none() {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true).unwrap();
                    self.stream = Some(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("accept: {error}"),
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the machine ended: {status}: {}", self.console());
            }
            assert!(Instant::now() < end, "no agent connects");
        }
        let mut called = Instant::now();
        self.until("the agent says hello", |machine| {
            if machine.is_port && called.elapsed() > Duration::from_millis(50) {
                machine.host.call();
                called = Instant::now();
            }
            machine.hello.is_some()
        });
    }

    /// The connection breaks.
    pub fn hang_up(&mut self) {
        self.stream = None;
        self.host.reconnect();
        self.events();
    }

    /// Another host takes over, which knows nothing.
    pub fn another_host(&mut self) {
        self.stream = None;
        self.host = Host::new(WINDOW);
        (self.output, self.ended, self.exits) = Default::default();
    }

    /// Goes on until something is so.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            if !self.step() {
                if let Some(status) = self.child.try_wait().unwrap() {
                    panic!("{what}: the machine ended: {status}: {}", self.console());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(Instant::now() < end, "{what}: it does not come to that: {}", self.console());
        }
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    /// Reads and writes what goes now; `false`: nothing.
    pub fn step(&mut self) -> bool {
        let mut moved = false;
        let Some(stream) = &mut self.stream else { return false };
        let out = self.host.output();
        if !out.is_empty() {
            match stream.write(out) {
                Ok(count) => {
                    self.host.sent(count);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        let mut bytes = [0; 16 << 10];
        match stream.read(&mut bytes) {
            Ok(0) => {
                self.hang_up();
                return false;
            }
            Ok(count) => {
                self.host.receive(&bytes[..count]).unwrap();
                moved = true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                self.hang_up();
                return false;
            }
        }
        self.events();
        moved
    }

    fn events(&mut self) {
        while let Some(event) = self.host.event() {
            match event {
                Event::Connected(hello) => self.hello = Some(*hello),
                Event::Answer { number, result } => {
                    self.answers.insert(number, result);
                }
                Event::Unanswered { number } => {
                    self.unanswered.insert(number);
                }
                Event::Output { process, stream, bytes } => {
                    match self.ignored.contains(&process) {
                        true => *self.untaken.entry((process, stream)).or_default() += bytes.len(),
                        false => self.host.taken(process, stream, bytes.len()),
                    }
                    self.output.entry((process, stream)).or_default().extend(bytes);
                }
                Event::OutputEnd { process, stream } => {
                    self.ended.insert((process, stream));
                }
                Event::Exited { process, exit } => {
                    assert!(self.exits.insert(process, exit).is_none(), "process {process} ended twice");
                }
                Event::Name { number, tcp, query } => self.names.push_back((number, tcp, query)),
            }
        }
    }

    /// Makes a request, and waits for the answer.
    #[track_caller]
    pub fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        let number = self.host.request(request).unwrap();
        self.until("the answer", |machine| {
            machine.answers.contains_key(&number) || machine.unanswered.contains(&number)
        });
        self.answers.remove(&number).expect("the conversation goes on")
    }

    #[track_caller]
    pub fn file(&mut self, request: FileRequest) -> Result<FileReply, Failure> {
        match self.ask(Request::File { container: BOX, request })? {
            Reply::File(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    /// Processes are numbered from here on: others were begun by another host.
    pub fn carry_on_after(&mut self, process: ProcessId) {
        self.next = process.get();
    }

    pub fn next_process(&mut self) -> ProcessId {
        self.next += 1;
        ProcessId::new(self.next).unwrap()
    }

    /// A start that was not sent.
    pub fn begin(&mut self, plan: Plan, streams: Streams) -> Start {
        Start { process: self.next_process(), container: BOX, plan, streams, window: WINDOW, kept: 256 << 10 }
    }

    /// Starts the container's own process.
    #[track_caller]
    pub fn start(&mut self, args: &[&str]) -> ProcessId {
        let plan = init(&spec(args));
        let start = self.begin(plan, Streams::Pipes { stdin: true });
        self.started(start).unwrap()
    }

    /// Runs the container's own process to its end.
    #[track_caller]
    pub fn run(&mut self, args: &[&str]) -> Outcome {
        let process = self.start(args);
        self.host.close_stdin(process);
        self.outcome(process)
    }

    #[track_caller]
    pub fn started(&mut self, start: Start) -> Result<ProcessId, Failure> {
        let process = start.process;
        self.ask(Request::Start(Box::new(start))).map(|reply| {
            assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
            process
        })
    }

    /// Starts another process in the container.
    #[track_caller]
    pub fn exec(&mut self, args: &[&str]) -> ProcessId {
        let start = self.begin(further(&spec(args)), Streams::Pipes { stdin: false });
        self.started(start).unwrap()
    }

    /// Runs a shell's line in the container.
    #[track_caller]
    pub fn sh(&mut self, line: &str) -> String {
        let process = self.exec(&["sh", "-c", line]);
        let outcome = self.outcome(process);
        assert_eq!(outcome.status, Status::Code(0), "{line}: {outcome:?}");
        outcome.stdout
    }

    /// How a process ends, with all that it writes.
    #[track_caller]
    pub fn outcome(&mut self, process: ProcessId) -> Outcome {
        self.until("the process ends, and its output", |machine| {
            let ended = |stream| machine.ended.contains(&(process, stream));
            machine.exits.contains_key(&process) && ended(Stream::Stdout) && ended(Stream::Stderr)
        });
        let status = self.exits[&process].status;
        let (stdout, stderr) = (self.output(process, Stream::Stdout), self.output(process, Stream::Stderr));
        self.ask(Request::Forget { process }).unwrap();
        Outcome { stdout, stderr, status }
    }

    /// What has come of an output so far.
    pub fn output(&self, process: ProcessId, stream: Stream) -> String {
        let bytes = self.output.get(&(process, stream)).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Waits until a process has written something.
    #[track_caller]
    pub fn shows(&mut self, process: ProcessId, text: &str) {
        self.until(text, |machine| machine.output(process, Stream::Stdout).contains(text));
    }

    #[track_caller]
    pub fn signal(&mut self, process: ProcessId, signal: i32) {
        self.ask(Request::Signal { process, signal, everyone: false }).unwrap();
    }

    /// Shuts it down, and waits for its end.
    #[track_caller]
    pub fn shut_down(mut self, how: End) -> bool {
        self.ask(Request::Shutdown { how }).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let Some(cgroup) = &self.cgroup else { return };
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        let end = Instant::now() + Duration::from_secs(10);
        while remove_cgroups(cgroup).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn remove_cgroups(cgroup: &Path) -> std::io::Result<()> {
    for below in fs::read_dir(cgroup)?.flatten().filter(|below| below.path().is_dir()) {
        remove_cgroups(&below.path())?;
    }
    fs::remove_dir(cgroup)
}

/// Where the host has its unified hierarchy.
fn unified() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(fields[1]))
    };
    mounts.lines().find_map(of_line).expect("cgroup2 is mounted somewhere")
}

/// A root file system of busybox.
pub fn busybox(rootfs: &Path) {
    let applets = Command::new("/bin/busybox").arg("--list").output().expect("busybox-static is installed");
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "run", "mnt"] {
        fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

/// What the host plans for a container's own process.
pub fn init(spec: &Value) -> Plan {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let options = CompileOptions {
        rootfs: Some(RootFs::Path(place::root(BOX).into())),
        cgroup: Some(Placement::unified_at(Path::new(&place::cgroup(BOX))).unwrap()),
        ..CompileOptions::default()
    };
    let plan = InitPlan::compile(&spec, Path::new("/"), &options).unwrap();
    Plan::Init(Blob(plan.to_bytes().unwrap()))
}

/// What the host plans for a further one.
pub fn further(spec: &Value) -> Plan {
    let process: Process = serde_json::from_value(spec["process"].clone()).unwrap();
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let options = ExecOptions {
        cgroup: Some(Placement::unified_at(Path::new(&place::cgroup(BOX))).unwrap()),
        ..ExecOptions::default()
    };
    Plan::Exec(Blob(ExecPlan::compile(&process, &spec, &options).unwrap().to_bytes().unwrap()))
}

/// The streams of a terminal.
pub fn terminal(rows: u16, columns: u16) -> Streams {
    Streams::Terminal { size: TerminalSize { rows, columns } }
}

//! Containers in machines, each as one process, as whoever holds it sees it: by our own hypervisor where the host's KVM runs kernels, else by QEMU,
//! which emulates them.

#[path = "../../../tests/cloud_kernel.rs"]
mod cloud_kernel;

use cloud_kernel::Of;
#[path = "../../../tests/guest_spec.rs"]
mod guest_spec;
#[allow(dead_code, reason = "others use the rest of it")]
#[path = "../../vmm/tests/small/mod.rs"]
mod small;

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use guest_image::Modules;
use guest_protocol::configuration::{Disk, Lower, Machine as Configuration, Root, Upper};
use guest_protocol::message::{Blob, ContainerId, Reply, Request};
use guest_protocol::place;
use guest_spec::spec;
use microvm::control::Connection;
use microvm::driver::{Accelerator, Choice, Driver, Extent};
use microvm::{
    Card, Contained, DiskLimits, ExecRequest, Hardware, Limits, MachinePlan, Origin, Rate, SnapshotFiles, Workload,
};
use oci_spec::runtime::{Process, Spec};
use sandbox::cgroup::Placement;
use sandbox::{CompileOptions, ExecOptions, ExecPlan, InitPlan, RootFs};
use vmm::{Backing, MemorySize, Processor, VcpuCount};

const BOX: ContainerId = ContainerId(1);

/// What a machine is booted with.
fn initramfs(directory: &Path) {
    let (_, modules) = cloud_kernel::packaged(Of::Here);
    let file = File::create(directory.join("initramfs")).unwrap();
    guest_image::write_initramfs(&Modules::pick(&modules).unwrap(), BufWriter::new(file)).unwrap();
}

/// Two layers: busybox, and a file above it.
fn layers(directory: &Path) -> Vec<PathBuf> {
    let bin = directory.join("base/bin");
    fs::create_dir_all(&bin).unwrap();
    for empty in ["proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir(directory.join("base").join(empty)).unwrap();
    }
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    let names = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8(names.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
    }
    fs::create_dir_all(directory.join("upper/etc")).unwrap();
    fs::write(directory.join("upper/etc/layer"), "the upper one\n").unwrap();
    ["base", "upper"]
        .map(|name| {
            let image = directory.join(format!("{name}.erofs"));
            let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(directory.join(name)).output();
            let made = made.expect("erofs-utils is installed");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            image
        })
        .into()
}

/// A process that stands for another one in a machine.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn new(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        Self { child, stdin, stdout: BufReader::new(stdout), stderr: BufReader::new(stderr) }
    }

    /// Waits for a line of its report.
    fn reports(&mut self, line: &str) {
        let mut told = String::new();
        while self.stderr.read_line(&mut told).unwrap() > 0 {
            if told.ends_with(&format!("{line}\n")) {
                return;
            }
        }
        panic!("{line} is not reported: {told}");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn write(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Its end, with the rest of what it writes.
    fn end(mut self) -> (ExitStatus, String, String) {
        self.stdin = None;
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap(), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has no PID namespace here that would end QEMU with it.
        let list = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = match self.child.try_wait() {
            Ok(None) => fs::read_to_string(list).unwrap_or_default(),
            // Its number may be somebody else's by now.
            _ => String::new(),
        };
        let _ = self.child.kill();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// A directory with all that a machine needs.
struct Place {
    directory: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("microvm-").tempdir().unwrap();
        initramfs(directory.path());
        let layers = layers(directory.path());
        Self { directory, layers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn plan(&self, args: &[&str]) -> MachinePlan {
        let spec = spec(args);
        let options = CompileOptions {
            rootfs: Some(RootFs::Path(place::root(BOX).into())),
            cgroup: Some(Placement::unified_at(Path::new(&place::cgroup(BOX))).unwrap()),
            ..CompileOptions::default()
        };
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let plan = InitPlan::compile(&spec, Path::new("/"), &options).unwrap().to_bytes().unwrap();
        let scratch = self.path("scratch");
        fs::create_dir_all(&scratch).unwrap();
        MachinePlan {
            driver: driver(),
            hardware: Hardware {
                vcpus: VcpuCount::new(1).unwrap(),
                processor: Processor::Host,
                memory: MemorySize::from_mib(256).unwrap(),
                most_memory: MemorySize::from_mib(1024).unwrap(),
                kernel: cloud_kernel::directory(Of::Here).join("vmlinuz"),
                initramfs: self.path("initramfs"),
                layers: self.layers.clone(),
                upper: None,
                limits: DiskLimits::default(),
                cards: microvm::places([]),
                volumes: None,
                files_place: true,
                console: false,
            },
            origin: None,
            backing: Backing::Mapped,
            container: Some(Contained {
                configuration: Configuration::default(),
                root: Root {
                    container: BOX,
                    lower: Lower::Layers { disk: Disk::Serial(String::new()), layers: Vec::new() },
                    upper: Upper::Memory { size: 64 << 20 },
                    volumes: Vec::new(),
                    files: Vec::new(),
                    limits: Vec::new(),
                },
                workload: Some(Workload { plan: Blob(plan), terminal: false, stdin: true }),
                memory: MemorySize::from_mib(256).unwrap(),
            }),
            start_timeout: None,
            control: self.path("control"),
            scratch,
        }
    }

    fn run(&self, plan: &MachinePlan) -> Running {
        fs::write(self.path("plan"), plan.to_bytes().unwrap()).unwrap();
        Running::new(Command::new(example()).arg("run").arg(self.path("plan")))
    }

    fn exec(&self, args: &[&str]) -> Running {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let spec = spec(args);
        let process: Process = serde_json::from_value(spec["process"].clone()).unwrap();
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let options = ExecOptions {
            cgroup: Some(Placement::unified_at(Path::new(&place::cgroup(BOX))).unwrap()),
            ..ExecOptions::default()
        };
        let plan = ExecPlan::compile(&process, &spec, &options).unwrap().to_bytes().unwrap();
        let request = ExecRequest {
            control: self.path("control"),
            container: BOX,
            plan: Blob(plan),
            terminal: false,
            stdin: true,
        };
        let file = self.path(&format!("exec{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        fs::write(&file, request.to_bytes().unwrap()).unwrap();
        Running::new(Command::new(example()).arg("exec").arg(file))
    }

    fn sh(&self, line: &str) -> String {
        let (status, stdout, stderr) = self.exec(&["sh", "-c", line]).end();
        assert!(status.success(), "{line}: {status} {stdout}{stderr}");
        stdout
    }
}

/// What a daemon would take here.
fn driver() -> Driver {
    Choice::Auto.driver().expect("a KVM that runs kernels, or QEMU")
}

/// For what QEMU alone does, or says so.
fn qemu() -> Driver {
    Driver::Qemu { program: "qemu-system-x86_64".into(), accelerator: Accelerator::Emulation }
}

/// The program of a sandbox, which is built with the tests.
fn example() -> PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/machine");
    assert!(program.exists(), "{} is not there: cargo build -p microvm --examples", program.display());
    program
}

#[test]
fn a_machine_behaves_as_the_process_that_it_runs() {
    use nix::sys::signal::Signal;
    let place = Place::new();
    let script = "cat /etc/layer; echo to standard error >&2; trap 'echo told to end; exit 7' TERM; echo ready; while read line; do echo \"got $line\"; done; echo end; while :; do sleep 0.1; done";
    let mut main = place.run(&place.plan(&["sh", "-c", script]));
    main.reports("machine: started");
    assert_eq!((main.line(), main.line()), ("the upper one".to_owned(), "ready".to_owned()));
    main.write("a line\n");
    assert_eq!(main.line(), "got a line");

    // Further processes, with streams, an exit status and signals of their own.
    assert_eq!(place.sh("echo changed >/etc/layer; cat /etc/layer; ps | grep -c [r]eady"), "changed\n1\n");
    let mut other = place.exec(&["sh", "-c", "read line; echo $line; echo bad >&2; exit 3"]);
    other.reports("machine: started");
    other.write("typed\n");
    let (status, stdout, stderr) = other.end();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(3), "typed\n", "bad\n"));
    let mut killed = place.exec(&["sleep", "1000"]);
    killed.reports("machine: started");
    killed.signal(Signal::SIGUSR1);
    assert_eq!(killed.end().0.code(), Some(128 + Signal::SIGUSR1 as i32));
    let (status, _, stderr) = place.exec(&["nosuch"]).end();
    let told = "machine: failed with Some(127): exec: \"nosuch\": executable file not found in $PATH\n";
    assert_eq!((status.success(), stderr.as_str()), (false, told));
    // One whose process on the host is killed goes with it.
    let mut lost = place.exec(&["sleep", "1234"]);
    lost.reports("machine: started");
    drop(lost);
    while place.sh("ps").contains("sleep 1234") {}

    // Somebody who asks.
    let mut asking = Connection::open(&place.path("control")).unwrap();
    let Ok(Reply::Processes(processes)) = asking.ask(Request::Processes { container: BOX }).unwrap() else { panic!() };
    assert!(
        processes.iter().any(|process| process.inner == 1 && process.command.starts_with("sh -c")),
        "{processes:?}"
    );
    assert!(matches!(asking.ask(Request::Stats { container: BOX }).unwrap(), Ok(Reply::Stats(_))));

    // Much in both directions at once, and the end of an input.
    let mut much = place.exec(&["cat"]);
    much.reports("machine: started");
    let bytes: Vec<u8> = (0..4u32 << 20).map(|at| (at % 251) as u8).collect();
    let (mut stdin, written) = (much.stdin.take().unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&written).unwrap());
    let mut back = Vec::new();
    much.stdout.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == bytes, "{} bytes came back", back.len());
    assert_eq!(much.end().0.code(), Some(0));

    main.stdin = None;
    assert_eq!(main.line(), "end");
    main.signal(Signal::SIGTERM);
    let (status, stdout, stderr) = main.end();
    assert_eq!((status.code(), status.signal()), (Some(7), None), "{stdout}{stderr}");
    assert_eq!((stdout.as_str(), stderr.as_str()), ("told to end\n", "to standard error\n"));
}

/// Saves a machine into a new directory; it rests while the connection is there.
fn save(place: &Place, name: &str) -> (Origin, Connection) {
    let directory = place.path(name);
    fs::create_dir(&directory).unwrap();
    let mut connection = Connection::open(&place.path("control")).unwrap();
    let saved = connection.save(&SnapshotFiles::create(&directory).unwrap()).unwrap().unwrap();
    assert_eq!(saved.extent, Extent::Whole);
    (Origin::Snapshot { snapshots: vec![directory], outputs: saved.outputs }, connection)
}

#[test]
fn a_machine_goes_on_from_where_it_was_saved_as_often_as_one_likes_and_as_another_one() {
    let place = Place::new();
    let script = "echo begun; n=0; while read line; do n=$((n + 1)); echo $n $line $(hostname); done; echo end";
    let plan = place.plan(&["sh", "-c", script]);
    let mut first = place.run(&plan);
    first.reports("machine: started");
    assert_eq!(first.line(), "begun");
    first.write("one\n");
    assert!(first.line().starts_with("1 one"));
    place.sh("echo kept >/etc/kept");
    let mut beside = place.exec(&["sh", "-c", "read line; echo beside $line"]);
    beside.reports("machine: started");

    // It goes on as if nothing had been, once whoever had it saved is gone.
    let (snapshot, saving) = save(&place, "snapshot");
    drop(saving);
    first.write("two\n");
    assert!(first.line().starts_with("2 two"));
    beside.write("it\n");
    assert_eq!(beside.end().1, "beside it\n");
    let (later, saving) = save(&place, "later");
    // It ends where it was.
    drop((first, saving));

    // Two go on from the first one at once, with their streams, files and names of their own.
    let copy = |name: &str, origin: &Origin| {
        let mut plan = plan.clone();
        plan.origin = Some(origin.clone());
        let identity = &mut plan.container.as_mut().unwrap().configuration.identity;
        identity.hostname = Some(name.to_owned());
        identity.entropy = Blob(name.as_bytes().to_vec());
        let own = Place { directory: tempfile::tempdir().unwrap(), layers: place.layers.clone() };
        (plan.control, plan.scratch) = (own.path("control"), own.path("scratch"));
        fs::create_dir(&plan.scratch).unwrap();
        let mut copy = own.run(&plan);
        copy.reports("machine: started");
        (own, copy)
    };
    let mut copies = ["red", "blue"].map(|name| copy(name, &snapshot));
    for ((own, copy), name) in copies.iter_mut().zip(["red", "blue"]) {
        copy.write("again\n");
        assert_eq!(copy.line(), format!("2 again {name}"));
        assert_eq!(own.sh("cat /etc/kept"), "kept\n");
        // What nobody is attached to has an end of its input.
        while own.sh("ps").contains("echo beside") {}
    }
    let (_own, mut last) = copy("green", &later);
    last.write("three\n");
    assert_eq!(last.line(), "3 three green");
    for copy in copies.map(|(_, copy)| copy).into_iter().chain([last]) {
        let (status, stdout, stderr) = copy.end();
        assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "end\n", ""));
    }
}

#[test]
fn a_machine_whose_disk_is_limited_reads_it_and_goes_on_from_a_snapshot() {
    let place = Place::new();
    let mut plan = place.plan(&["sh", "-c", "read line; cat /etc/layer; md5sum < /bin/busybox; read line"]);
    let rate = |per_second, burst| Some(Rate { per_second: std::num::NonZeroU64::new(per_second).unwrap(), burst });
    plan.hardware.limits.layers = Limits { bytes: rate(64 << 20, 0), operations: rate(10_000, 20_000) };
    let mut first = place.run(&plan);
    first.reports("machine: started");
    let (snapshot, saving) = save(&place, "snapshot");
    drop((first, saving));
    plan.origin = Some(snapshot);
    fs::remove_dir_all(&plan.scratch).unwrap();
    fs::create_dir(&plan.scratch).unwrap();
    let mut second = place.run(&plan);
    second.reports("machine: started");
    second.write("go\n");
    assert_eq!(second.line(), "the upper one");
    let sum = Command::new("md5sum").arg("/bin/busybox").output().unwrap();
    assert_eq!(second.line().split(' ').next(), String::from_utf8_lossy(&sum.stdout).split(' ').next());
}

/// MiB of memory that the guest's kernel has in all.
fn total(place: &Place) -> u64 {
    let told = place.sh("grep MemTotal /proc/meminfo");
    told.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn a_machine_has_more_memory_and_less_while_it_runs() {
    let place = Place::new();
    let plan = place.plan(&["sh", "-c", "read line; echo end"]);
    let mut main = place.run(&plan);
    main.reports("machine: started");
    let before = total(&place);
    assert!(before < 256, "{before}");
    let resize = |mib| {
        let mut connection = Connection::open(&place.path("control")).unwrap();
        connection.resize(MemorySize::from_mib(mib).unwrap()).unwrap()
    };
    resize(600).unwrap();
    while total(&place) < before + 340 {}
    // Less than at its start: what has come goes, and the balloon takes the rest.
    resize(200).unwrap();
    while total(&place) > before {}
    let inflated =
        "awk '/^balloon_inflate/ { n += $2 } /^balloon_deflate/ { n -= $2 } END { print n / 256 }' /proc/vmstat";
    while place.sh(inflated).trim() != "56" {}
    resize(400).unwrap();
    while total(&place) < before + 140 {}
    let refused = resize(2000).unwrap_err().to_string();
    assert!(refused.contains("can have 1024 MiB of memory, and not 2000"), "{refused}");
    // What it has goes with it.
    let (snapshot, saving) = save(&place, "snapshot");
    drop((main, saving));
    let mut plan = plan.clone();
    plan.origin = Some(snapshot);
    fs::remove_dir_all(&plan.scratch).unwrap();
    fs::create_dir(&plan.scratch).unwrap();
    let mut main = place.run(&plan);
    main.reports("machine: started");
    assert!(total(&place) >= before + 140);
    resize(256).unwrap();
    while total(&place) > before {}
    main.write("over\n");
    assert_eq!(main.line(), "end");
}

#[test]
fn machines_go_on_from_a_template_as_if_they_had_booted() {
    let place = Place::new();
    let mut template = place.plan(&["true"]);
    (template.container, template.hardware.layers) = (None, Vec::new());
    let mut waiting = place.run(&template);
    waiting.reports("machine: started");
    let (_, _, stderr) = place.exec(&["true"]).end();
    assert!(stderr.contains("the container's process does not run"), "{stderr}");
    let (_, saving) = save(&place, "template");
    drop((waiting, saving));

    let script = "cat /etc/layer; hostname; cat /proc/sys/kernel/random/uuid; echo $(($(date +%s) / 1000000)); read line; echo $line";
    let begin = |name: &str| {
        let own = Place { directory: tempfile::tempdir().unwrap(), layers: place.layers.clone() };
        let mut plan = own.plan(&["sh", "-c", script]);
        plan.hardware.initramfs = place.path("initramfs");
        plan.origin = Some(Origin::Template(place.path("template")));
        let identity = &mut plan.container.as_mut().unwrap().configuration.identity;
        identity.hostname = Some(name.to_owned());
        identity.entropy = Blob(name.as_bytes().to_vec());
        // In 2033, which it can know by being told alone.
        identity.clock = Some(2_000_000_000_000_000_000);
        let mut machine = own.run(&plan);
        machine.reports("machine: started");
        assert_eq!((machine.line(), machine.line()), ("the upper one".to_owned(), name.to_owned()));
        let random = machine.line();
        assert_eq!(machine.line(), "2000");
        (own, plan, machine, random)
    };
    let ((own, plan, mut first, random), (_other, _, second, another)) = (begin("red"), begin("blue"));
    assert_ne!(random, another);
    drop(second);

    // What is saved of one depends on no template.
    let (snapshot, saving) = save(&own, "snapshot");
    fs::remove_dir_all(place.path("template")).unwrap();
    first.stdin = None;
    drop((first, saving));
    let mut again = plan;
    again.origin = Some(snapshot);
    fs::remove_dir_all(&again.scratch).unwrap();
    fs::create_dir(&again.scratch).unwrap();
    let mut on = own.run(&again);
    on.reports("machine: started");
    on.write("typed later\n");
    let (status, stdout, stderr) = on.end();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "typed later\n", ""));
}

#[test]
fn what_is_no_snapshot_of_that_machine_is_refused() {
    let place = Place::new();
    let mut plan = place.plan(&["true"]);
    plan.driver = qemu();
    plan.origin = Some(Origin::Snapshot { snapshots: vec![place.path("nosuch")], outputs: [0, 0] });
    let (_, _, stderr) = place.run(&plan).end();
    assert!(stderr.contains("a snapshot's file") && stderr.contains("nosuch"), "{stderr}");
    let cut = place.path("cut");
    fs::create_dir(&cut).unwrap();
    fs::write(cut.join("state"), "nothing").unwrap();
    fs::write(cut.join("memory"), "").unwrap();
    plan.origin = Some(Origin::Snapshot { snapshots: vec![cut], outputs: [0, 0] });
    let (_, _, stderr) = place.run(&plan).end();
    assert!(stderr.contains("go on from a snapshot through QEMU's monitor"), "{stderr}");
}

#[test]
fn what_does_not_start_says_why() {
    let place = Place::new();
    let (_, _, stderr) = place.run(&place.plan(&["/bin/nosuch"])).end();
    let told = "machine: failed with Some(127): exec: \"/bin/nosuch\": stat /bin/nosuch: no such file or directory\n";
    assert_eq!(stderr, told);
    let mut plan = place.plan(&["true"]);
    (plan.driver, plan.hardware.kernel) = (qemu(), "/nosuch".into());
    let (_, _, stderr) = place.run(&plan).end();
    assert!(
        stderr.contains("machine: failed with None: run the microVM: the machine ended by itself: QEMU ended with"),
        "{stderr}"
    );
    let limited = Limits { bytes: None, operations: Some(Rate { per_second: std::num::NonZeroU64::MIN, burst: 0 }) };
    let (tap, mac) = ("nosuch".to_owned(), [2, 0, 0, 0, 0, 1]);
    plan.hardware.cards = vec![Some(Card { tap, mac, mtu: 1500, receive: limited, send: Limits::default() })];
    let (_, _, stderr) = place.run(&plan).end();
    assert!(stderr.contains("QEMU has no limit of what goes through a network card"), "{stderr}");
    plan.hardware.cards.clear();
    plan.driver = Driver::Qemu { program: "/nosuch".into(), accelerator: Accelerator::Emulation };
    let (_, _, stderr) = place.run(&plan).end();
    let told = "machine: failed with None: run the microVM: start /nosuch: No such file or directory (os error 2)\n";
    assert_eq!(stderr, told);
}

#[test]
fn our_own_hypervisors_process_waits_answers_and_ends_within_its_filter() {
    let place = Place::new();
    let mut plan = place.plan(&["true"]);
    // A guest that this host's KVM runs, whichever it is: it has no agent, and jumps to itself.
    fs::write(place.path("guest"), small::kernel(&[0xeb, 0xfe])).unwrap();
    (plan.driver, plan.hardware.kernel) = (Driver::Kvm, place.path("guest"));
    let main = place.run(&plan);
    let mut connection = loop {
        if let Ok(connection) = Connection::open(&place.path("control")) {
            break connection;
        }
    };
    connection.resize(MemorySize::from_mib(600).unwrap()).unwrap().unwrap();
    let refused = connection.ask(Request::Processes { container: BOX }).unwrap().unwrap_err().to_string();
    assert!(refused.contains("still booting"), "{refused}");
    // Long enough for it to give back what it does not need.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let filters = fs::read_dir(format!("/proc/{}/task", main.child.id())).unwrap().map(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        status.lines().find(|line| line.starts_with("Seccomp:")).unwrap().to_owned()
    });
    // One thread is the example's own, which listens to what is reported.
    assert_eq!(filters.filter(|filter| filter == "Seccomp:\t0").count(), 1);
    main.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, _, stderr) = main.end();
    assert!(stderr.contains("machine: failed with"), "{stderr}");
}

//! The agent as it is shipped, as the first process of a machine that QEMU emulates, with a stock kernel.

#[path = "../../tests/cloud_kernel.rs"]
mod cloud_kernel;
mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use guest_image::{Prepared, Source};
use guest_protocol::configuration::{
    Disk, Found, Identity, Interface, Lower, Machine as Configuration, Root, Route, Upper,
};
use guest_protocol::message::{Blob, ContainerId, End, Reply, Request, Status, Stream, Streams};
use serde_json::json;
use support::{BOX, Machine, busybox, init, spec};

/// Where layers begin on their disk.
const ALIGNED: u64 = 1 << 20;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// The distribution's kernel, prepared as a daemon does it.
fn kernel(directory: &Path) -> Prepared {
    let (kernel, modules) = cloud_kernel::packaged(cloud_kernel::Of::Here);
    let source = Source::Files(guest_image::Files { kernel, modules });
    guest_image::prepare(&directory.join("microvm"), &source, &unpack, &|_| {}).unwrap()
}

fn unpack(vmlinuz: &Path, out: &mut File) -> Result<bool, String> {
    match vmm::boot::Kernel::open(File::open(vmlinuz).unwrap(), vmlinuz).unwrap() {
        vmm::boot::Kernel::BzImage(kernel) => kernel.unpack(out).map(|_| true).map_err(|error| error.to_string()),
        vmm::boot::Kernel::Pvh(_) => Err("it is a bzImage".to_owned()),
    }
}

/// A disk with two layers, one behind the other. Says where they are, the upper one first.
fn layers(directory: &Path) -> Vec<(u64, u64)> {
    busybox(&directory.join("base"));
    fs::create_dir_all(directory.join("upper/etc")).unwrap();
    fs::write(directory.join("upper/etc/layer"), "the upper one\n").unwrap();
    let mut disk = Vec::new();
    let mut places = Vec::new();
    for name in ["base", "upper"] {
        let image = directory.join(format!("{name}.erofs"));
        let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(directory.join(name)).output();
        let made = made.expect("erofs-utils is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let image = fs::read(image).unwrap();
        disk.resize(disk.len().next_multiple_of(ALIGNED as usize), 0);
        places.insert(0, (disk.len() as u64, image.len() as u64));
        disk.extend(image);
    }
    fs::write(directory.join("layers"), disk).unwrap();
    places
}

/// What machines are booted with.
struct Files {
    directory: tempfile::TempDir,
    kernel: Prepared,
    layers: Vec<(u64, u64)>,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("guest-files-").tempdir().unwrap();
        let (kernel, layers) = (kernel(directory.path()), layers(directory.path()));
        Self { directory, kernel, layers }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A machine whose agent has said hello: booted, or gone on from a snapshot. Its disk `changes` is formatted.
    fn machine(&self, snapshot: Option<&str>) -> Machine {
        self.machine_on("user,restrict=on", MAC, snapshot)
    }

    /// As [`Files::machine`], with that other end (QEMU's `-netdev`) of its network card, in the calling thread's network namespace.
    fn machine_on(&self, other_end: &str, mac: [u8; 6], snapshot: Option<&str>) -> Machine {
        let dir = tempfile::Builder::new().prefix("guest-machine-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        File::create(path("changes")).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(path("changes")).status().unwrap();
        assert!(made.success());
        let listener = UnixListener::bind(path("host")).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "1", "-m", "256"]);
        qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"]);
        qemu.args(["-monitor", &format!("unix:{},server=on,wait=off", path("monitor"))]);
        qemu.arg("-kernel").arg(&self.kernel.kernel).arg("-initrd").arg(&self.kernel.initramfs);
        qemu.args(["-append", "console=ttyS0 quiet reboot=t panic=-1 stratus.host=port:agent"]);
        for (name, readonly, file) in [("layers", "on", self.path("layers")), ("changes", "off", path("changes"))] {
            qemu.args(["-drive", &format!("if=none,id={name},format=raw,readonly={readonly},file={file}")]);
            qemu.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
        }
        qemu.args(["-chardev", &format!("socket,id=agent,path={},reconnect=1", path("host"))]);
        qemu.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent"]);
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        qemu.args(["-netdev", &format!("{other_end},id=net")]);
        qemu.args(["-device", &format!("virtio-net-pci,netdev=net,romfile=,mac={mac}")]);
        if let Some(snapshot) = snapshot {
            qemu.args(["-incoming", &format!("exec:cat {snapshot}")]);
        }
        let console = File::create(path("console")).unwrap();
        let child = qemu.stdin(Stdio::null()).stdout(console).spawn().expect("qemu-system-x86 is installed");
        let mut machine = Machine::listening(dir, child, None, listener).by_port();
        machine.accept();
        machine
    }

    fn root(&self, upper: Upper, limits: &[(&str, &str)]) -> Request {
        Request::MakeRoot(Box::new(Root {
            container: BOX,
            lower: Lower::Layers { disk: Disk::Serial("layers".into()), layers: self.layers.clone() },
            upper,
            volumes: Vec::new(),
            files: Vec::new(),
            limits: limits.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        }))
    }
}

/// Has QEMU write a snapshot of a machine, which stands still from then on.
fn snapshot(machine: &Machine, file: &str) {
    let mut monitor = UnixStream::connect(machine.dir.path().join("monitor")).unwrap();
    monitor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    writeln!(monitor, "migrate -d \"exec:cat >{file}\"").unwrap();
    let mut told = String::new();
    while !told.contains("Migration status: completed") {
        assert!(!told.contains("Migration status: failed"), "{told}");
        std::thread::sleep(Duration::from_millis(50));
        writeln!(monitor, "info migrate").unwrap();
        let mut bytes = [0; 4096];
        let count = monitor.read(&mut bytes).unwrap();
        told.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

#[test]
fn an_image_runs_in_a_machine_of_its_own() {
    let files = Files::new();
    let mut machine = files.machine(None);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let interface = Interface {
        found: Found::Mac(MAC),
        name: "eth0".into(),
        mac: None,
        mtu: None,
        addresses: vec![(ip("10.0.2.15"), 24)],
        routes: Vec::new(),
    };
    let identity = Identity {
        hostname: Some("machine".into()),
        clock: Some(2_000_000_000_000_000_000),
        entropy: Blob(vec![3; 64]),
        interfaces: vec![interface],
        files: Vec::new(),
    };
    machine.configure(Configuration { identity, names: true, ..Configuration::default() });
    let changes = Upper::Disk(Disk::Serial("changes".into()));
    machine.ask(files.root(changes, &[("pids.max", "100"), ("memory.max", "67108864")])).unwrap();
    let mut spec =
        spec(&["sh", "-c", "hostname; cat /etc/layer; date +%Y; ls /sys/fs/cgroup/pids.max; cat; echo end; exit 5"]);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] }));
    mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] }));
    let start = machine.begin(init(&spec), Streams::Pipes { stdin: true });
    let main = machine.started(start).unwrap();
    machine.shows(main, "machine\nthe upper one\n2033\n/sys/fs/cgroup/pids.max\n");
    assert!(machine.sh("ip addr show eth0").contains("inet 10.0.2.15/24"));
    assert_eq!(
        machine.sh("cat /sys/fs/cgroup/pids.max; ping -c 1 -q 10.0.2.2 >/dev/null && echo reached"),
        "100\nreached\n"
    );
    machine.sh("echo changed >/etc/layer; dd if=/dev/zero of=/zeros bs=1M count=8 2>/dev/null; cmp -n 8388608 /zeros /dev/zero");

    // The host is killed, and another one connects.
    machine.host.write_stdin(main, b"before\n");
    machine.shows(main, "before\n");
    machine.hang_up();
    machine.accept();
    machine.host.write_stdin(main, b"after\n");
    machine.shows(main, "before\nafter\n");
    machine.another_host();
    machine.accept();
    machine.host.write_stdin(main, b"another\n");
    machine.host.close_stdin(main);
    let outcome = machine.outcome(main);
    assert!(outcome.stdout.ends_with("another\nend\n"), "{outcome:?}");
    assert_eq!(outcome.status, Status::Code(5));

    let directory = machine.dir.path().to_owned();
    let changes = File::open(directory.join("changes")).unwrap();
    assert!(machine.shut_down(End::PowerOff));
    // All of it is on the disk, which nothing has to be repaired of.
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::io::copy(&mut &changes, &mut copy.as_file()).unwrap();
    let shown = Command::new("debugfs").args(["-R", "cat /upper/etc/layer"]).arg(copy.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "changed\n");
    let checked = Command::new("e2fsck").args(["-n", "-f"]).arg(copy.path()).output().unwrap();
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !told.contains("recovering journal"), "{told}");
}

#[test]
fn containers_come_and_go_upon_layers_that_they_share() {
    let files = Files::new();
    let mut machine = files.machine(None);
    machine.configure(Configuration::default());
    let Request::MakeRoot(first) = files.root(Upper::Memory { size: 32 << 20 }, &[]) else { panic!("a root") };
    machine.ask(Request::MakeRoot(first.clone())).unwrap();
    let partitions = "ls -d /sys/block/*/*/partition | wc -l";
    let main = machine.start(&["sh", "-c", "read line"]);
    let alone = machine.sh(partitions);
    let Lower::Layers { disk, layers } = first.lower.clone() else { panic!("layers") };
    let Some(((bottom, _), rest)) = layers.split_last().map(|(bottom, rest)| (*bottom, rest)) else { panic!("layers") };
    assert!(!rest.is_empty());
    for number in [2, 3, 4] {
        let container = ContainerId(number);
        // Only the lowest one of the layers: the same partition, and no other.
        let lower = Lower::Layers { disk: disk.clone(), layers: layers[layers.len() - 1..].to_vec() };
        let root = Root { container, lower, ..(*first).clone() };
        for _ in 0..2 {
            assert_eq!(machine.ask(Request::MakeRoot(Box::new(root.clone()))), Ok(Reply::Done));
        }
        assert_eq!(machine.sh(partitions), alone);
        let other = Root { limits: vec![("pids.max".to_owned(), "9".to_owned())], ..root.clone() };
        assert!(machine.ask(Request::MakeRoot(Box::new(other))).is_err(), "another root for the same container");
        // A layer that begins where another one does, and is shorter, is none of these.
        let wrong = Lower::Layers { disk: disk.clone(), layers: vec![(bottom, 512)] };
        let wrong = Root { container: ContainerId(number + 10), lower: wrong, ..root };
        assert!(machine.ask(Request::MakeRoot(Box::new(wrong))).is_err());
        for _ in 0..2 {
            assert_eq!(machine.ask(Request::RemoveRoot { container }), Ok(Reply::Done));
        }
    }
    // One that runs keeps its root.
    assert!(machine.ask(Request::RemoveRoot { container: BOX }).is_err());
    machine.host.write_stdin(main, b"typed\n");
    assert_eq!(machine.outcome(main).status, Status::Code(0));
    assert_eq!(machine.ask(Request::RemoveRoot { container: BOX }), Ok(Reply::Done));
    // All of it was let go of: it can be there again.
    assert_eq!(machine.ask(Request::MakeRoot(first)), Ok(Reply::Done));
    let again = machine.start(&["true"]);
    assert_eq!(machine.outcome(again).status, Status::Code(0));
}

#[test]
fn clones_of_a_snapshot_go_on_each_as_another_machine() {
    let files = Files::new();
    let mut first = files.machine(None);
    first.configure(Configuration::default());
    first.ask(files.root(Upper::Memory { size: 32 << 20 }, &[])).unwrap();
    let main = first.start(&["sh", "-c", "seq 1 20000; read line; echo $line $(hostname) $(date +%Y); exit 3"]);
    // Some of what it has written is taken, and the rest is not.
    first.until("some of it comes", |machine| machine.output(main, Stream::Stdout).len() > 40_000);
    first.ignored.insert(main);
    first.ask(Request::Freeze { container: BOX, frozen: false }).unwrap();
    let file = files.path("snapshot");
    snapshot(&first, &file);
    let taken = first.output(main, Stream::Stdout);
    drop(first);

    let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    let mut random = Vec::new();
    for (name, year, time) in [("one", "2033", 2_000_000_000), ("two", "2036", 2_100_000_000u64)] {
        let mut clone = files.machine(Some(&file));
        let hello = clone.hello.clone().unwrap();
        assert!(hello.configured && hello.conversation > 1, "{hello:?}");
        let held = &hello.processes[0];
        assert_eq!((held.process, held.exit, hello.processes.len()), (main, None, 1));
        let identity = Identity {
            hostname: Some(name.into()),
            clock: Some(time * 1_000_000_000),
            entropy: Blob(name.repeat(20).into_bytes()),
            ..Identity::default()
        };
        assert_eq!(clone.ask(Request::Renew(Box::new(identity))), Ok(Reply::Done));
        clone.carry_on_after(main);
        random.push(clone.sh("head -c 32 /dev/urandom | md5sum"));
        clone.host.write_stdin(main, b"typed\n");
        let outcome = clone.outcome(main);
        // What the first host had taken, and what comes from there on: all of it, once.
        let from = held.outputs[0].taken as usize;
        assert!(from > 0 && from <= taken.len(), "{from}");
        let whole = taken[..from].to_owned() + &outcome.stdout;
        assert!(whole == format!("{numbers}typed {name} {year}\n"), "{} bytes; {from} were taken", whole.len());
        assert_eq!(outcome.status, Status::Code(3));
    }
    assert_ne!(random[0], random[1]);
}

/// What a machine is told of an endpoint of its sandbox.
fn interface(of: &net::GuestInterface) -> Interface {
    let route = |route: &net::GuestRoute| Route { to: (route.to.addr(), route.to.prefix_len()), by: Some(route.by) };
    Interface {
        found: Found::Mac(of.mac.octets()),
        name: of.name.clone(),
        mac: None,
        mtu: Some(of.mtu),
        addresses: of.addresses.iter().map(|address| (address.addr(), address.prefix_len())).collect(),
        routes: of.routes.iter().map(route).collect(),
    }
}

/// Asks a server in a machine for a file, and gives its length.
fn fetch(from: &str, name: &str) -> usize {
    let mut stream = TcpStream::connect(from).unwrap_or_else(|error| panic!("{from}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    write!(stream, "GET /{name} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").expect("a head") + 4;
    assert!(
        answer.starts_with(b"HTTP/1.") && answer[..20].contains(&b'2'),
        "{}",
        String::from_utf8_lossy(&answer[..end])
    );
    answer.len() - end
}

#[test]
fn a_machine_is_on_its_sandboxs_network() {
    let on_a_host = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let store = store::Store::in_memory().unwrap();
        let networks = net::Networks::open(net::NetConfig::new("gt".parse().unwrap(), store), Vec::new()).unwrap();
        let spec = |id: &str, tap_owner: Option<u32>| net::SandboxSpec {
            id: id.repeat(64),
            name: id.into(),
            endpoints: vec![net::EndpointSpec { network: "bridge".into(), ..net::EndpointSpec::default() }],
            ports: vec![net::PortSpec {
                host_ip: None,
                host_port: tap_owner.map(|_| 8080..=8080),
                container_port: 80,
                protocol: net::Protocol::Tcp,
            }],
            tap_owner,
        };
        let (place, sandbox) = networks.set_up(spec("a", Some(0))).unwrap();
        let (neighbour, other) = networks.set_up(spec("b", None)).unwrap();
        let told = sandbox.guest_interfaces();

        let files = Files::new();
        let tap = format!("tap,ifname={},script=no,downscript=no,vnet_hdr=on", told[0].tap);
        let mut machine = place.enter(|| files.machine_on(&tap, told[0].mac.octets(), None)).unwrap();
        let identity = Identity { interfaces: told.iter().map(interface).collect(), ..Identity::default() };
        machine.configure(Configuration { identity, ..Configuration::default() });
        machine.ask(files.root(Upper::Memory { size: 64 << 20 }, &[])).unwrap();
        // A size that goes in large packets, which the kernels cut where they have to.
        let script = "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null; httpd -p 80 -h /; echo serves; cat";
        let main = machine.start(&["sh", "-c", script]);
        machine.shows(main, "serves\n");
        assert_eq!(fetch("172.17.0.2:80", "file"), 8 << 20);
        assert_eq!(fetch("127.0.0.1:8080", "file"), 8 << 20);
        assert_eq!(neighbour.enter(|| fetch("172.17.0.2:80", "file")).unwrap(), 8 << 20);

        let listener = neighbour.enter(|| TcpListener::bind("0.0.0.0:8000")).unwrap().unwrap();
        let serve = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            stream.write_all(&vec![b'x'; 8 << 20]).unwrap();
            from.ip()
        });
        let address = other.endpoints[0].ipv4.unwrap().addr();
        assert_eq!(machine.sh(&format!("nc {address} 8000 </dev/null | wc -c")).trim(), (8 << 20).to_string());
        assert_eq!(serve.join().unwrap().to_string(), "172.17.0.2");
        // The namespace itself is nowhere.
        place.enter(|| TcpStream::connect("172.17.0.1:8000").unwrap_err()).unwrap();
    };
    std::thread::scope(|scope| scope.spawn(on_a_host).join().unwrap());
}

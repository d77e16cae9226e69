//! The agent as it is shipped, as the first process of a machine that QEMU emulates, with a stock kernel.

mod support;

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use guest_protocol::configuration::{Disk, Found, Identity, Interface, Lower, Machine as Configuration, Root, Upper};
use guest_protocol::message::{Blob, End, Request, Status, Streams};
use serde_json::json;
use support::{BOX, Machine, busybox, init, spec};

/// Where layers begin on their disk.
const ALIGNED: u64 = 1 << 20;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// The directory with the distribution's kernel, which is fetched once.
fn kernel() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| Path::new(&env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    let directory = cache.join("stratus/guest-kernel");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/kernel.sh");
    let fetched = Command::new(script).arg(&directory).stdin(Stdio::null()).status().unwrap();
    assert!(fetched.success(), "the kernel could not be fetched");
    directory
}

/// What a host puts into a machine's first root file system.
fn initramfs(file: &Path) {
    let kernel = kernel();
    let list = fs::read_to_string(kernel.join("list")).unwrap();
    let mut out = BufWriter::new(File::create(file).unwrap());
    let mut add = |entry: cpio::newc::Builder, contents: &[u8]| {
        let mut entry = entry.write(&mut out, contents.len() as u32);
        entry.write_all(contents).unwrap();
        entry.finish().unwrap();
    };
    let new = cpio::newc::Builder::new;
    add(new("init").mode(0o100_755), guest_image::AGENT);
    for directory in ["dev", "modules"] {
        add(new(directory).mode(0o40_755), &[]);
    }
    add(new("dev/null").mode(0o20_666).rdev_major(1).rdev_minor(3), &[]);
    add(new("modules/list").mode(0o100_644), list.as_bytes());
    for module in list.lines() {
        add(new(&format!("modules/{module}")).mode(0o100_644), &fs::read(kernel.join(module)).unwrap());
    }
    cpio::newc::trailer(out).unwrap().flush().unwrap();
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

/// A machine that is booted, and where the layers are on its disk `layers`. Its disk `changes` is formatted.
fn boot() -> (Machine, Vec<(u64, u64)>) {
    let dir = tempfile::Builder::new().prefix("guest-machine-").tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let places = layers(dir.path());
    initramfs(Path::new(&path("initramfs")));
    File::create(path("changes")).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(path("changes")).status().unwrap();
    assert!(made.success());
    let listener = UnixListener::bind(path("host")).unwrap();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "1", "-m", "256"]);
    qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel().join("vmlinuz")).args(["-initrd", &path("initramfs")]);
    qemu.args(["-append", "console=ttyS0 quiet reboot=t panic=-1 stratus.host=port:agent"]);
    for (name, readonly) in [("layers", "on"), ("changes", "off")] {
        let file = path(name);
        qemu.args(["-drive", &format!("if=none,id={name},format=raw,readonly={readonly},file={file}")]);
        qemu.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
    }
    qemu.args(["-chardev", &format!("socket,id=agent,path={},reconnect=1", path("host"))]);
    qemu.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent"]);
    qemu.args(["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile="]);
    let console = File::create(path("console")).unwrap();
    let child = qemu.stdin(Stdio::null()).stdout(console).spawn().expect("qemu-system-x86 is installed");
    let mut machine = Machine::listening(dir, child, None, listener).by_port();
    machine.accept();
    (machine, places)
}

#[test]
fn an_image_runs_in_a_machine_of_its_own() {
    let (mut machine, places) = boot();
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
    let root = |upper| Root {
        container: BOX,
        lower: Lower::Layers { disk: Disk::Serial("layers".into()), layers: places.clone() },
        upper,
        volumes: Vec::new(),
        files: Vec::new(),
        limits: vec![("pids.max".into(), "100".into()), ("memory.max".into(), (64 << 20).to_string())],
    };
    machine.ask(Request::MakeRoot(Box::new(root(Upper::Disk(Disk::Serial("changes".into())))))).unwrap();
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

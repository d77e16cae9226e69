//! A stock kernel behind this hypervisor, on real virtualization: the host's own KVM where it runs kernels, else within QEMU's emulation of a
//! processor that has it. The times that these tests take there say nothing: what a guest does, it does.

#[path = "../../../tests/cloud_kernel.rs"]
mod cloud_kernel;

use cloud_kernel::Of;
use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vmm::boot::Kernel;
use vmm::{Processor, Virtualization};

/// A KVM host, in an emulated machine or in a root directory and namespaces of its own, with this crate's example `vmm`, a kernel for its guests in both forms, and whatever else is added.
struct Host {
    directory: TempDir,
    files: Vec<(String, PathBuf)>,
}

impl Host {
    fn new() -> Host {
        let kernel = cloud_kernel::directory(Of::Here);
        let directory = tempfile::tempdir().unwrap();
        let unpacked = directory.path().join("vmlinux");
        let Ok(Kernel::BzImage(packed)) =
            Kernel::open(File::open(kernel.join("vmlinuz")).unwrap(), &kernel.join("vmlinuz"))
        else {
            panic!("a distribution's kernel is a bzImage");
        };
        packed.unpack(&mut BufWriter::new(File::create(&unpacked).unwrap())).unwrap();
        let mut host = Host { directory, files: Vec::new() };
        for module in ["irqbypass.ko", "kvm.ko", "kvm-amd.ko", "tun.ko"] {
            host.add(&format!("modules/{module}"), &kernel.join(module));
        }
        host.add("vmlinux", &unpacked);
        host.add("vmlinuz", &kernel.join("vmlinuz"));
        host.add("bin/busybox", &busybox());
        host.add_program("bin/vmm", &example("vmm"));
        host.add_program("bin/talk", &example("talk"));
        host
    }

    fn add(&mut self, name: &str, file: &Path) {
        self.files.push((name.to_owned(), file.to_owned()));
    }

    fn add_text(&mut self, name: &str, text: &str) {
        let file = self.directory.path().join(name.replace('/', "-"));
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        self.add(name, &file);
    }

    /// A program with the libraries that it is linked with.
    fn add_program(&mut self, name: &str, program: &Path) {
        for (name, file) in with_libraries(name, program) {
            // Another program may have it as well.
            if !self.files.iter().any(|(other, _)| *other == name) {
                self.add(&name, &file);
            }
        }
    }

    /// A first root file system for a guest: busybox, and `init`, a script for its shell.
    fn add_guest(&mut self, name: &str, init: &str) {
        self.add_guest_of(Of::Here, name, init);
    }

    /// The same for a guest with the kernel of another release, `/modules/list` among it.
    fn add_guest_of(&mut self, of: Of, name: &str, init: &str) {
        let kernel = cloud_kernel::directory(of);
        let script = self.directory.path().join(format!("{name}-init"));
        fs::write(&script, format!("#!/bin/busybox sh\n{MOUNT}{init}\n/bin/busybox poweroff -f\n")).unwrap();
        let archive = self.directory.path().join(name);
        let mut files = vec![("init".to_owned(), script), ("bin/busybox".to_owned(), busybox())];
        files.extend(with_libraries("bin/talk", &example("talk")));
        let list = fs::read_to_string(kernel.join("list")).unwrap();
        let modules = list.lines().chain(["list"]);
        files.extend(modules.map(|module| (format!("modules/{module}"), kernel.join(module))));
        pack(&archive, &files);
        self.add(name, &archive);
    }

    /// Has the host run `script`. Returns what was written to its console, the guests' included.
    fn run(self, script: &str) -> String {
        match vmm::probe() {
            Ok(Virtualization::Hardware) => self.run_here(script),
            _ => self.run_emulated(script),
        }
    }

    /// Boots it in QEMU.
    fn run_emulated(mut self, script: &str) -> String {
        let modules = "insmod /modules/irqbypass.ko; insmod /modules/kvm.ko; insmod /modules/kvm-amd.ko nested=1 npt=1; insmod /modules/tun.ko";
        self.add_text("init", &format!("#!/bin/busybox sh\n{PATH}{MOUNT}{modules}\n{script}\npoweroff -f\n"));
        let archive = self.directory.path().join("host");
        pack(&archive, &self.files);
        let mut qemu = Command::new("qemu-system-x86_64");
        // One processor. With two, QEMU 7.2's emulation now and then interrupts a guest that forbids it: the guest is found in an interrupt,
        // waiting for a lock that is only held with interrupts off. (In 6 runs of 8 while its serial console was busy; with one in none of 16.)
        qemu.args(["-accel", "tcg,thread=single", "-M", "q35", "-smp", "1", "-cpu", "max", "-m", "2560"]);
        qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"]);
        qemu.arg("-kernel").arg(cloud_kernel::directory(Of::Here).join("vmlinuz")).arg("-initrd").arg(&archive);
        qemu.args(["-append", "console=ttyS0 quiet reboot=t panic=-1"]);
        self.attend(qemu)
    }

    /// Runs it on this machine, whose KVM is its, with the same files and a network, mounts and processes of its own.
    fn run_here(mut self, script: &str) -> String {
        self.add_text("init", &format!("#!/bin/busybox sh\n{PATH}{MOUNT}{script}\nexit 0\n"));
        let root = self.directory.path().join("root");
        for (name, file) in &self.files {
            let place = root.join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(file, &place).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "chroot"]);
        unshare.arg(root).arg("/init");
        self.attend(unshare)
    }

    /// Waits for the end of a host, which has to be a good one.
    fn attend(&self, mut host: Command) -> String {
        let console = self.directory.path().join("told");
        let out = || File::options().append(true).create(true).open(&console).unwrap();
        host.stdin(Stdio::null()).stdout(out()).stderr(out());
        let mut running = host.spawn().unwrap_or_else(|error| panic!("run {host:?}: {error}"));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = running.try_wait().unwrap() {
                break Some(status);
            }
            if started.elapsed() > HANGS {
                running.kill().unwrap();
                running.wait().unwrap();
                break None;
            }
            thread::sleep(Duration::from_millis(50));
        };
        let told = String::from_utf8_lossy(&fs::read(&console).unwrap()).replace('\r', "");
        assert!(status.is_some_and(|status| status.success()), "{status:?} after {:?}: {told}", started.elapsed());
        told
    }
}

/// A host that is not done by then never is: they take half a minute, and several times that where other tests run beside.
const HANGS: Duration = Duration::from_secs(600);

/// How its scripts find programs.
const PATH: &str = "export PATH=/bin; /bin/busybox --install /bin\n";

/// What a first root file system has to mount, and nothing said if it lacks it.
const MOUNT: &str = "/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sysfs /sys; /bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t debugfs debug /sys/kernel/debug
";

fn with_libraries(name: &str, program: &Path) -> Vec<(String, PathBuf)> {
    let mut files = vec![(name.to_owned(), program.to_owned())];
    let libraries = String::from_utf8(Command::new("ldd").arg(program).output().unwrap().stdout).unwrap();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    files.extend(paths.map(|path| (path[1..].to_owned(), PathBuf::from(path))));
    files
}

fn busybox() -> PathBuf {
    PathBuf::from("/bin/busybox")
}

/// An example of this crate, which is built with the tests.
fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is not there: cargo build -p vmm --examples", program.display());
    program
}

/// Makes an archive that a kernel takes as its first root file system, with these files, all of which may be executed.
fn pack(archive: &Path, files: &[(String, PathBuf)]) {
    let mut directories = Vec::new();
    for (name, _) in files {
        let mut parent = Path::new(name);
        let mut above = Vec::new();
        while let Some(next) = parent.parent().filter(|next| *next != Path::new("")) {
            above.push(next.to_str().unwrap().to_owned());
            parent = next;
        }
        directories.extend(above.into_iter().rev());
    }
    directories.dedup();
    let mut out = BufWriter::new(File::create(archive).unwrap());
    for directory in directories {
        let entry = cpio::newc::Builder::new(&directory).mode(0o40755);
        entry.write(&mut out, 0).finish().unwrap();
    }
    for (name, file) in files {
        let contents = fs::read(file).unwrap();
        let mut entry = cpio::newc::Builder::new(name).mode(0o100_755).write(&mut out, contents.len() as u32);
        entry.write_all(&contents).unwrap();
        entry.finish().unwrap();
    }
    cpio::newc::trailer(out).unwrap().flush().unwrap();
}

/// Says what a guest knows of its machine.
const TELL: &str = r#"
b=/bin/busybox
echo "guest: kernel $($b uname -s), $($b grep -c ^processor /proc/cpuinfo) processors, clock $($b cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "guest: command line $($b cat /proc/cmdline)"
echo "guest: year $($b date +%Y), hardware clock $($b cat /sys/class/rtc/rtc0/name | $b cut -d' ' -f1)"
"#;

#[test]
fn nested_a_stock_kernel_boots_with_its_processors_and_switches_itself_off() {
    let mut host = Host::new();
    host.add_guest("guest.cpio", TELL);
    let told = host.run(
        "for kernel in /vmlinux /vmlinuz '--huge /vmlinux' '--huge /vmlinuz'; do
            echo host: kernel $kernel
            vmm --cpus 2 --memory 256 --initrd /guest.cpio --append 'console=ttyS0 quiet from=the-test' $kernel
            echo host: ended with $?
        done",
    );
    let runs: Vec<_> = told.split("host: kernel ").skip(1).collect();
    assert_eq!(runs.len(), 4, "{told}");
    for run in runs {
        for line in [
            "guest: kernel Linux, 2 processors, clock kvm-clock",
            "guest: command line console=ttyS0 quiet from=the-test",
            "hardware clock rtc_cmos",
            "vmm: PowerOff",
            "host: ended with 0",
        ] {
            assert!(run.contains(line), "{line:?} is not told:\n{told}");
        }
    }
}

#[test]
fn nested_a_guest_has_the_processors_of_a_level() {
    let mut host = Host::new();
    let flags = "echo guest: flags $(/bin/busybox grep -m1 ^flags /proc/cpuinfo) .; /bin/busybox md5sum /bin/busybox > /dev/null";
    host.add_guest("guest.cpio", flags);
    let told = host.run(
        "for level in host x86-64-v2 x86-64-v3 x86-64-v4; do
            echo host: level $level
            vmm --processor $level --memory 128 --initrd /guest.cpio --append 'console=ttyS0 quiet' /vmlinux
            echo host: ended with $?
        done",
    );
    let runs: Vec<_> = told.split("host: level ").skip(1).collect();
    let flags = |run: &str| -> Option<Vec<String>> {
        let line = run.lines().find_map(|line| line.split_once("guest: flags"))?.1;
        Some(line.split_whitespace().map(str::to_owned).collect())
    };
    let all = flags(runs[0]).unwrap_or_else(|| panic!("{told}"));
    // What each level has not, and whichever processor of these days has.
    for (run, without) in runs[1..].iter().zip([
        &["avx", "xsave", "aes", "smep", "movbe"][..],
        &["smap", "xsaves", "sha_ni"],
        &["sha_ni"],
    ]) {
        let level = Processor::parse(run.split_whitespace().next().unwrap()).unwrap();
        let Some(has) = flags(run) else {
            assert!(run.contains("host: ended with 2"), "{told}");
            assert!(run.contains(&format!("no processors of the level {level}: they lack ")), "{told}");
            continue;
        };
        assert!(run.contains("vmm: PowerOff"), "{told}");
        // What a kernel uses of all that there is, it uses of the level: behind QEMU's emulation none has XSAVE, whose sizes are not of the states that it chose.
        let mut both = level.features().filter(|name| all.iter().any(|flag| flag == name));
        assert!(both.all(|name| has.iter().any(|flag| flag == name)), "{told}");
        assert!(!without.iter().any(|name| has.iter().any(|flag| flag == name)), "{told}");
    }
    // All processors of these days have the first two.
    assert!(flags(runs[1]).is_some() && flags(runs[2]).is_some(), "{told}");
}

/// Loads what a guest needs for its virtual devices.
const MODULES: &str = "for module in $(/bin/busybox cat /modules/list); do /bin/busybox insmod /modules/$module; done";

#[test]
fn nested_a_guest_reads_and_writes_its_disks() {
    let mut host = Host::new();
    host.add_guest(
        "guest.cpio",
        &format!(
            r#"{MODULES}
b=/bin/busybox
for disk in vda vdb; do
    echo "guest: $disk $($b cat /sys/block/$disk/serial) sectors $($b cat /sys/block/$disk/size) read-only $($b cat /sys/block/$disk/ro)"
done
$b dd if=/dev/vda bs=4096 count=256 2>/dev/null | $b md5sum
$b dd if=/dev/vda of=/copy bs=1M count=4 2>/dev/null
$b dd if=/copy of=/dev/vda bs=1M seek=4 conv=fsync 2>/dev/null && echo "guest: copied"
$b dd if=/dev/zero of=/dev/vdb count=1 2>/dev/null || echo "guest: layers are not written to"
$b dd if=/dev/vdb bs=1M skip=1 2>/dev/null
echo "guest: random $($b dd if=/dev/hwrng bs=64 count=1 2>/dev/null | $b wc -c)"
"#
        ),
    );
    host.add_text("one", "the first layer");
    host.add_text("two", "guest: the second layer\n");
    let told = host.run(
        "dd if=/dev/urandom of=/disk bs=1M count=4; truncate -s 8M /disk; dd if=/disk bs=4096 count=256 | md5sum
        vmm --memory 256 --initrd /guest.cpio --append 'console=ttyS0 quiet pci=off' --disk /disk --layer /one --layer /two /vmlinux
        echo host: ended with $?
        dd if=/disk bs=1M count=4 | md5sum; dd if=/disk bs=1M skip=4 | md5sum",
    );
    for line in [
        "guest: vda disk0 sectors 16384 read-only 0",
        "guest: vdb layers sectors 2049 read-only 1",
        "guest: copied",
        "guest: layers are not written to",
        "guest: the second layer",
        "guest: random 64",
        "vmm: PowerOff",
    ] {
        assert!(told.contains(line), "{line:?} is not told:\n{told}");
    }
    let sums: Vec<_> = told.lines().filter_map(|line| line.strip_suffix("  -")).collect();
    assert_eq!(sums.len(), 4, "{told}");
    assert_eq!(sums[0], sums[1], "what the guest reads is not what the host has:\n{told}");
    assert_eq!(sums[2], sums[3], "what the guest wrote is not what the host has:\n{told}");
}

#[test]
fn nested_a_guest_has_a_file_system_on_a_qcow2_image() {
    let mut host = Host::new();
    let image = host.directory.path().join("disk.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("64M").status().unwrap();
    assert!(made.success());
    host.add("disk.qcow2", &image);
    host.add_program("bin/qemu-img", Path::new("/usr/bin/qemu-img"));
    // The first makes it, both write to it, and the second gives back what the first one wrote.
    host.add_guest(
        "guest.cpio",
        &format!(
            r#"{MODULES}
b=/bin/busybox
$b mkdir /disk
$b mount -t ext4 /dev/vda /disk 2>/dev/null || {{ $b mke2fs /dev/vda >/dev/null; $b mount -t ext4 /dev/vda /disk; echo "guest: made"; }}
[ ! -e /disk/much ] || echo "guest: has $($b md5sum < /disk/much)"
$b rm -f /disk/much
$b dd if=/dev/urandom of=/disk/much bs=1M count=8 2>/dev/null
$b sync; $b fstrim /disk; $b umount /disk
$b mount -t ext4 /dev/vda /disk && echo "guest: wrote $($b md5sum < /disk/much)"; $b umount /disk
"#
        ),
    );
    let told = host.run(
        "for run in 1 2 3; do
            vmm --memory 256 --initrd /guest.cpio --append 'console=ttyS0 quiet' --qcow2 /disk.qcow2 /vmlinux
            qemu-img check /disk.qcow2
            echo host: takes $(($(stat -c %b /disk.qcow2) / 2048)) MiB
        done",
    );
    let sums = |what: &str| -> Vec<String> {
        told.lines().filter_map(|line| line.strip_prefix(&format!("guest: {what} "))).map(str::to_owned).collect()
    };
    let (wrote, has) = (sums("wrote"), sums("has"));
    assert_eq!((wrote.len(), has.len(), told.matches("guest: made").count()), (3, 2, 1), "{told}");
    assert_eq!(wrote[..2], has[..], "what one wrote is not what the next one has:\n{told}");
    assert_eq!(told.matches("No errors were found on the image").count(), 3, "{told}");
    // What was deleted is the host's again.
    let taken =
        told.lines().filter_map(|line| line.strip_prefix("host: takes ")?.strip_suffix(" MiB")?.parse::<u32>().ok());
    assert_eq!(taken.filter(|mib| (8..14).contains(mib)).count(), 3, "{told}");
}

#[test]
fn nested_a_kernel_of_debian_11_finds_its_devices_and_goes_on_from_a_snapshot() {
    // In its emulation QEMU lets a guest choose the states that XSAVE saves without a word to KVM (XSETBV), whose answers to CPUID then are not of these: this
    // kernel takes them for true, and its signals end whom they are for. Newer ones see it.
    another_kernel(Of::Bullseye, "5.10", "noxsave", "guest: heard 0");
}

#[test]
fn nested_a_kernel_of_debian_13_finds_its_devices_and_hears_that_it_is_a_copy() {
    // Since Linux 5.18 there is a driver that does something about it.
    another_kernel(Of::Trixie, "6.12", "", "guest: heard 1");
}

/// Boots another release's kernel, has it use its devices, and go on from a snapshot.
#[track_caller]
fn another_kernel(of: Of, version: &str, more: &str, hears: &str) {
    let mut host = Host::new();
    host.add("kernel", &cloud_kernel::directory(of).join("vmlinuz"));
    let serve = r#"
b=/bin/busybox
echo "guest: kernel $($b uname -r), $($b grep -c ^processor /proc/cpuinfo) processors, clock $($b cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "guest: $($b cat /sys/class/net/eth0/address), disk $($b dd if=/dev/vda bs=1M skip=1 2>/dev/null | $b md5sum)"
echo "guest: random $($b dd if=/dev/hwrng bs=64 count=1 2>/dev/null | $b wc -c)"
/bin/talk 7 > /dev/null && echo "guest: spoke"
echo "guest: waits"
until $b dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | $b grep -q said; do $b usleep 100000; done
echo "guest: heard $($b dmesg | $b grep -c 'crng reseeded due to virtual machine fork')"
"#;
    host.add_guest_of(of, "guest.cpio", &format!("{MODULES}\n{serve}"));
    host.add_text("saved", "said");
    let told = host.run(&format!(
        r#"dd if=/dev/urandom of=/disk bs=1M count=2 2>/dev/null; mkfifo /save; mkdir /snapshot; touch /console
        talk listen /socket_7 > /dev/null 2>&1 &
        until [ -e /socket_7 ]; do usleep 10000; done
        devices="--disk /disk --tap tap0 --vsock /socket --balloon"
        vmm --memory 256 --cpus 2 $devices --save /snapshot --initrd /guest.cpio --append 'console=ttyS0 quiet {more}' /kernel < /save > /console 2>&1 & machine=$!
        exec 3> /save
        until grep -q 'guest: waits' /console; do usleep 50000; done
        echo >&3; wait $machine; cat /console
        dd if=/saved of=/disk bs=512 conv=notrunc 2>/dev/null
        vmm $devices --restore /snapshot
        echo "host: disk $(dd if=/disk bs=1M skip=1 2>/dev/null | md5sum)""#
    ));
    for line in [
        &format!("guest: kernel {version}."),
        ", 2 processors, clock kvm-clock",
        "guest: 02:00:00:00:00:01, disk ",
        "guest: random 64",
        "guest: spoke",
        "vmm: Stopped",
        hears,
        "vmm: PowerOff",
    ] {
        assert!(told.contains(line), "{line:?} is not told:\n{told}");
    }
    let sum = told.lines().find_map(|line| line.strip_prefix("host: disk ")).unwrap();
    assert!(told.contains(&format!(", disk {sum}")), "what the guest reads is not what the host has:\n{told}");
}

#[test]
fn nested_a_guest_gives_memory_back_has_less_and_more_of_it() {
    let mut host = Host::new();
    // Fills some of its memory, and frees it when its disk says so.
    let fill = r#"
b=/bin/busybox
said() { $b dd if=/dev/vda bs=512 skip=$1 count=1 iflag=direct 2>/dev/null | $b grep -q said; }
$b mkdir /fill; $b mount -t tmpfs -o size=200m fill /fill
$b dd if=/dev/urandom of=/fill/much bs=1M count=100 2>/dev/null
echo "guest: filled"
until said 0; do $b usleep 100000; done
$b rm /fill/much
until said 1; do $b usleep 100000; done
# More than it had at its start.
$b mount -o remount,size=450m /fill
$b dd if=/dev/zero of=/fill/much bs=1M count=330 2>/dev/null && echo "guest: more"; $b rm /fill/much
until said 2; do $b usleep 100000; done
"#;
    host.add_guest("guest.cpio", &format!("{MODULES}\n{fill}"));
    host.add_text("saved", "said");
    let told = host.run(
        r#"truncate -s 1M /disk; mkfifo /control; : > /console
        say() { dd if=/saved of=/disk bs=512 seek=$1 conv=notrunc 2>/dev/null; }
        own() { awk '/^RssAnon/ { print int($2 / 1024) }' /proc/$machine/status; }
        vmm --memory 300 --huge --initrd /guest.cpio --append 'console=ttyS0 quiet memhp_default_state=online_movable' --disk /disk --most-memory 1000 --balloon --control /vmlinux < /control > /console 2>&1 & machine=$!
        exec 3> /control
        until grep -q 'guest: filled' /console; do usleep 100000; done
        filled=$(own); echo "host: $([ $filled -ge 150 ] && echo much || own) after it filled its memory"
        say 0
        # Nobody asks for it: the guest tells what is free, some seconds after it is.
        until [ $(own) -lt $((filled - 70)) ]; do usleep 100000; done
        echo "host: less after it freed it"
        echo 'memory 150' >&3
        until echo tell >&3; usleep 200000; grep -q 'has 150 MiB, Some.*total: Some' /console; do :; done
        echo 'memory 300' >&3
        until echo tell >&3; usleep 200000; tail -n 1 /console | grep -q 'has 300 MiB'; do :; done
        echo "host: it has all again"
        echo 'memory 620' >&3
        until echo tell >&3; usleep 200000; tail -n 1 /console | grep -q 'has 620 MiB'; do :; done
        say 1
        until grep -q 'guest: more' /console; do usleep 100000; done
        echo 'memory 300' >&3
        until echo tell >&3; usleep 200000; tail -n 1 /console | grep -q 'has 300 MiB'; do :; done
        echo "host: what came has gone"
        say 2; exec 3>&-; wait $machine; cat /console"#,
    );
    for line in [
        "host: much after it filled its memory",
        "host: less after it freed it",
        "host: it has all again",
        "guest: more",
        "host: what came has gone",
        "vmm: PowerOff",
    ] {
        assert!(told.contains(line), "{line:?} is not told:\n{told}");
    }
}

#[test]
fn nested_a_guest_and_its_host_speak_over_vsock() {
    let mut host = Host::new();
    host.add_guest("guest.cpio", &format!("{MODULES}\n/bin/talk 7"));
    let told = host.run(
        "talk listen /socket_7 > /heard &
        until [ -e /socket_7 ]; do usleep 10000; done
        vmm --memory 256 --initrd /guest.cpio --append 'console=ttyS0 quiet pci=off' --vsock /socket /vmlinux
        echo host: ended with $?, its socket is $([ -e /socket ] && echo there || echo gone)
        # Not while the guest writes to the same console.
        wait; cat /heard",
    );
    for line in [
        "talk: hello from the host",
        "talk: hello from the guest",
        "talk: 1048576 bytes came back, the same",
        "host: ended with 0, its socket is gone",
    ] {
        assert!(told.contains(line), "{line:?} is not told:\n{told}");
    }
}

#[test]
fn nested_a_guest_serves_http_over_its_network_card() {
    let mut host = Host::new();
    // It serves until it is asked for the page that ends it.
    let serve = r#"
b=/bin/busybox
$b ip link set lo up; $b ip link set eth0 up; $b ip address add 10.9.8.2/24 dev eth0
echo "guest: $($b cat /sys/class/net/eth0/address) $($b cat /sys/class/net/eth0/mtu)"
$b mkdir -p /www/cgi-bin; $b dd if=/dev/urandom of=/www/much bs=1M count=4 2>/dev/null; $b md5sum < /www/much > /www/sum
echo "hello from the guest" > /www/hello
printf '#!/bin/busybox sh\n/bin/busybox echo; /bin/busybox touch /end\n' > /www/cgi-bin/end; $b chmod +x /www/cgi-bin/end
$b httpd -h /www -p 80
until [ -e /end ]; do $b usleep 20000; done
"#;
    host.add_guest("guest.cpio", &format!("{MODULES}\n{serve}"));
    let told = host.run(
        "vmm --memory 256 --initrd /guest.cpio --append 'console=ttyS0 quiet' --tap tap0 /vmlinux > /console 2>&1 & machine=$!
        until ip link set tap0 up 2>/dev/null; do usleep 20000; done
        ip address add 10.9.8.1/24 dev tap0
        until wget -q -O /hello http://10.9.8.2/hello; do usleep 50000; done
        cat /hello
        wget -q -O /much http://10.9.8.2/much; wget -q -O /sum http://10.9.8.2/sum
        md5sum < /much; cat /sum
        # The guest may be gone before it has answered.
        wget -q -O /dev/null http://10.9.8.2/cgi-bin/end &
        wait $machine; cat /console",
    );
    for line in ["hello from the guest", "guest: 02:00:00:00:00:01 1500", "vmm: PowerOff"] {
        assert!(told.contains(line), "{line:?} is not told:\n{told}");
    }
    let sums: Vec<_> = told.lines().filter_map(|line| line.strip_suffix("  -")).collect();
    assert_eq!(sums.len(), 2, "{told}");
    assert_eq!(sums[0], sums[1], "what came is not what the guest has:\n{told}");
}

#[test]
fn nested_a_machine_is_saved_and_three_go_on_from_there_with_all_of_their_devices() {
    let mut host = Host::new();
    // What it says of itself: its boot, its disk beyond what it has read, its host.
    let serve = r#"
b=/bin/busybox
$b ip link set lo up; $b ip link set eth0 up; $b ip address add 10.9.8.2/24 dev eth0
$b mkdir -p /www/cgi-bin
$b cat > /www/cgi-bin/tell <<'END'
#!/bin/busybox sh
b=/bin/busybox
echo; echo "boot $($b cat /proc/sys/kernel/random/boot_id)";
echo "sectors $($b cat /sys/block/vda/size)"
echo "processors $($b grep -c ^processor /proc/cpuinfo)"
echo "disk $($b dd if=/dev/vda bs=1M skip=$QUERY_STRING count=1 2>/dev/null | $b md5sum)"
echo "generation $([ -e /sys/bus/acpi/devices/VMGENCTR:00 ] && $b grep ACPI:Ged /proc/interrupts | $b awk '{print $2 + $3}')"
END
printf '#!/bin/busybox sh\n/bin/busybox echo; /bin/talk 7 > /dev/null && /bin/busybox echo spoke\n' > /www/cgi-bin/talk
printf '#!/bin/busybox sh\n/bin/busybox echo; /bin/busybox touch /end\n' > /www/cgi-bin/end
$b chmod +x /www/cgi-bin/*
$b httpd -h /www -p 80
until [ -e /end ]; do $b usleep 20000; done
"#;
    host.add_guest("guest.cpio", &format!("{MODULES}\n{serve}"));
    // Runs in a network of its own: the machine, and a client of it.
    host.add_text(
        "go",
        r#"#!/bin/busybox sh
number=$1; shift
# What runs in the background has no standard input but for what it is given.
if [ $number = 0 ]; then exec 3<> /save; else exec 3< /dev/null; fi
ip link set lo up
talk listen /socket${number}_7 > /heard$number 2>&1 &
vmm --memory 256 --disk /disk$number --tap tap0 --vsock /socket$number --append 'console=ttyS0 quiet' "$@" <&3 > /console$number 2>&1 & machine=$!
until ip link set tap0 up 2>/dev/null; do usleep 20000; done
ip address add 10.9.8.1/24 dev tap0
until wget -q -O /tell$number "http://10.9.8.2/cgi-bin/tell?$number"; do usleep 50000; done
if [ $number != 0 ]; then
    wget -q -O /talk$number http://10.9.8.2/cgi-bin/talk
    wget -q -O /dev/null http://10.9.8.2/cgi-bin/end &
else
    echo > /save
fi
wait $machine
echo "machine $number ended with $?"
"#,
    );
    let told = host.run(
        "dd if=/dev/urandom of=/disk bs=1M count=4 2>/dev/null; for number in 0 1 2 3; do cp /disk /disk$number; done; truncate -s 5M /disk1 /disk2 /disk3; mkdir /snapshot; mkfifo /save; chmod +x /go
        unshare -n /go 0 --save /snapshot --huge --cpus 2 --initrd /guest.cpio /vmlinux
        unshare -n /go 1 --restore /snapshot & unshare -n /go 2 --restore /snapshot --faulted --ahead /set; wait
        [ -s /set ] && unshare -n /go 3 --restore /snapshot --faulted --ahead /set
        for number in 0 1 2 3; do
            sed \"s/^/tell $number: /\" /tell$number; echo \"disk $number: $(dd if=/disk bs=1M skip=$number count=1 2>/dev/null | md5sum)\"
            sed \"s/^/talk $number: /\" /talk$number; sed \"s/^/console $number: /\" /console$number
        done",
    );
    let find = |number: u32, what: &str| {
        let start = format!("tell {number}: {what} ");
        let line = told.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{what} of {number} is not told:\n{told}")).to_owned()
    };
    assert!(told.contains("console 0: vmm: Stopped"), "{told}");
    // The memory of the second comes as it is touched; that of the third ahead of that, as the second touched it.
    for number in [1, 2, 3] {
        assert_eq!(find(number, "boot"), find(0, "boot"), "{told}");
        assert_eq!(find(number, "processors"), "2");
        // The disks have grown meanwhile.
        assert_eq!((find(0, "sectors"), find(number, "sectors")), ("8192".to_owned(), "10240".to_owned()), "{told}");
        assert!(told.contains(&format!("disk {number}: {}", find(number, "disk"))), "{told}");
        assert!(told.contains(&format!("talk {number}: spoke")), "{told}");
        assert!(told.contains(&format!("console {number}: vmm: PowerOff")), "{told}");
        // It heard once that its generation is another one. (Debian's 6.1 has no driver that does something about it.)
        assert_eq!(find(number, "generation"), "1", "{told}");
    }
}

//! What a stock kernel costs in exits from its start to its init: behind our own hypervisor, on a KVM host that QEMU emulates.
//!
//! Times there say nothing, and what depends on them (a timer's ticks) says more than it would elsewhere. The host's kernel counts a machine's exits while it lives
//! (`/sys/kernel/debug/kvm`).

use super::super::arena::Arena;
use super::super::document::{Figure, Target, Unit};
use super::process::Boots;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// It takes 15 seconds, and several times that where others compute beside it.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the host loads.
const MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];
/// What a guest writes when its init runs.
const INIT: &str = "the guest's init runs";
/// What a guest writes first: for so long it would have to be asked for its last word, and is ended instead.
const GUEST: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
echo the guest\\'s init runs
exec /bin/busybox sleep 1000
";
/// Loads KVM, runs a machine until its init has written its line, and writes what was counted until then, each with `count` before it.
const HOST: &str = r#"#!/bin/busybox sh
export PATH=/bin; /bin/busybox --install /bin
mkdir -p /proc /sys /dev; mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t debugfs debug /sys/kernel/debug
insmod /modules/irqbypass.ko; insmod /modules/kvm.ko; insmod /modules/kvm-amd.ko nested=1 npt=1
vmm --memory 256 --huge --initrd /guest --vsock /socket --layer /guest --balloon --append 'console=ttyS0 quiet swiotlb=noforce no_timer_check reboot=t panic=-1 pci=off' /vmlinux > /told 2>&1 & machine=$!
until grep -q "init runs" /told; do usleep 20000; kill -0 $machine || { cat /told; poweroff -f; }; done
for file in /sys/kernel/debug/kvm/*; do [ -f $file ] && echo "count $(basename $file) $(cat $file)"; done
poweroff -f
"#;

pub(super) fn figures(arena: &Arena, boots: &Boots, modules: &Path) -> Result<Vec<Figure>> {
    let counted = count(arena, boots, modules)?;
    let of = |name: &str| counted.get(name).copied().with_context(|| format!("the host does not count {name}"));
    let (all, interrupts, pages) = (of("exits")?, of("irq_exits")?, of("pf_taken")?);
    let figure = |what, value: f64, target, bound| Figure {
        what,
        unit: Unit::Calls,
        measured: vec![("stratus", vec![value])],
        target,
        bound,
    };
    Ok(vec![
        figure(
            "exits that are not interrupts from the start of Debian's kernel to its init, 1 processor, 256 MiB, nested",
            all - interrupts,
            Target::AtMost(2300.0),
            EXITS,
        ),
        figure("of them, for pages that the guest touches", pages, Target::None, ""),
        figure("of them, for ports", of("io_exits")?, Target::None, ""),
    ])
}

const EXITS: &str = "what a kernel does once: CPUID (some 800, of which 512 look for hypervisors of other makers at 256 places each), ports (400, most of them the serial port's and the \
    clock's), the I/O APIC (230), each start of the timer (300 to 400, for as long as the emulated boot takes), and huge pages. The kernel and its initramfs are in huge pages, which are filled as they are \
    touched first: mapped from their files by 4 KiB, as in a machine of less than 256 MiB, they are 17,000 exits more. Firecracker there: about 2,600, 395 of them for ports";

fn count(arena: &Arena, boots: &Boots, modules: &Path) -> Result<BTreeMap<String, f64>> {
    let directory = arena.path("nested");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let busybox = ("bin/busybox".to_owned(), PathBuf::from("/bin/busybox"));
    let guest = directory.join("guest");
    pack(&guest, &["bin", "dev"], &[("init".to_owned(), write("guest-init", GUEST)?), busybox.clone()])?;
    let mut files = vec![("init".to_owned(), write("host-init", HOST)?), busybox];
    files.extend([("guest".to_owned(), guest), ("vmlinux".to_owned(), boots.kernel.clone())]);
    for module in MODULES {
        let name = format!("{module}.ko");
        let found = find(modules, &name).with_context(|| format!("{name} is not in {}", modules.display()))?;
        files.push((format!("modules/{name}"), found));
    }
    let program = program(arena)?;
    files.push(("bin/vmm".to_owned(), program.clone()));
    files.extend(libraries(&program)?.into_iter().map(|path| (path.trim_start_matches('/').to_owned(), path.into())));
    let archive = directory.join("host");
    pack(&archive, &["bin", "modules", "lib", "lib64", "lib/x86_64-linux-gnu"], &files)?;
    let told = run(&directory, &archive)?;
    let counts = told.lines().filter_map(|line| line.strip_prefix("count ")?.split_once(' '));
    let counts: BTreeMap<_, _> =
        counts.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect();
    if counts.is_empty() {
        bail!("the nested host counted nothing, and {INIT:?} was waited for: {told}");
    }
    Ok(counts)
}

/// The hypervisor with a command line of its own, which is an example of its crate.
fn program(arena: &Arena) -> Result<PathBuf> {
    let program = arena.program.with_file_name("examples").join("vmm");
    if !program.is_file() {
        bail!("{} is not there: build it with: cargo build --release -p vmm --example vmm", program.display());
    }
    Ok(program)
}

/// The files that a program is linked with.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

/// A file of that name below a directory.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|other| other == name)).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}

/// Makes an archive that a kernel takes as its first root file system, with these directories and files, all of which may be executed.
fn pack(archive: &Path, directories: &[&str], files: &[(String, PathBuf)]) -> Result<()> {
    let mut out = BufWriter::new(File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?);
    for directory in directories {
        cpio::newc::Builder::new(directory).mode(0o40_755).write(&mut out, 0).finish()?;
    }
    for (name, file) in files {
        let contents = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let length = u32::try_from(contents.len()).context("a file is too long for an archive")?;
        let mut entry = cpio::newc::Builder::new(name).mode(0o100_755).write(&mut out, length);
        entry.write_all(&contents)?;
        entry.finish()?;
    }
    cpio::newc::trailer(out)?.flush().context("cannot write an archive")
}

/// Boots the host, and returns what it wrote to its console.
fn run(directory: &Path, archive: &Path) -> Result<String> {
    let console = directory.join("told");
    let mut qemu = Command::new("qemu-system-x86_64");
    // One processor, as crates/vmm/tests/nested.rs says.
    qemu.args(["-accel", "tcg,thread=single", "-M", "q35", "-smp", "1", "-cpu", "max", "-m", "2560"]);
    qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(e2e::kernel_as_packaged().0).arg("-initrd").arg(archive);
    qemu.args(["-append", "console=ttyS0 quiet reboot=t panic=-1"]);
    let out = File::create(&console).context("cannot write a console's file")?;
    qemu.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut running = qemu.spawn().context("cannot run QEMU")?;
    let began = Instant::now();
    while running.try_wait()?.is_none() {
        if began.elapsed() > PATIENCE {
            running.kill().context("cannot end QEMU")?;
            running.wait().context("cannot wait for QEMU")?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(String::from_utf8_lossy(&fs::read(&console)?).replace('\r', ""))
}

//! What the second microVM of an image takes: it reads the layers that the first one has in the host's memory, and writes next to nothing.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// Of open(2), on x86_64: reads then go past the host's page cache.
const O_DIRECT: u32 = 0o40000;
/// What the second one may take of the disk, in bytes.
const DISK: u64 = 100_000;

/// A file, whatever it is called.
type File = (u64, u64);

fn files_in(directory: &Path) -> BTreeSet<File> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    entries.map(|entry| entry.metadata().expect("it stays")).map(|file| (file.dev(), file.ino())).collect()
}

/// The files that a container's machine has open for reads that the page cache answers: the process that has it, and QEMU where that runs it.
fn cached_files(host: &Daemon, name: &str) -> BTreeSet<File> {
    let pid = host.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name}")).text().to_owned();
    let below = host.sh(&format!("pgrep -P {pid} || true")).stdout().to_owned();
    let mut found = BTreeSet::new();
    for process in below.lines().chain([pid.as_str()]) {
        let of = Path::new("/proc").join(process);
        for entry in fs::read_dir(of.join("fd")).expect("it runs").flatten() {
            let Ok(file) = fs::metadata(entry.path()) else { continue };
            let told = fs::read_to_string(of.join("fdinfo").join(entry.file_name())).unwrap_or_default();
            let flags = told.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
            if flags.is_some_and(|flags| flags & O_DIRECT == 0) {
                found.insert((file.dev(), file.ino()));
            }
        }
    }
    found
}

/// The machine's process, and QEMU where that runs it, have namespaces that are not the host's, and a root in which there is what they need, and next to nothing that
/// could be written to.
fn is_apart(host: &Daemon, name: &str) {
    let pid = host.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name}")).text().to_owned();
    let below = host.sh(&format!("pgrep -P {pid} || true")).stdout().to_owned();
    let by_qemu = host.sh("docker info -f '{{.Runtimes.microvm.Status.driver}}'").stdout().starts_with("qemu");
    assert_eq!(below.lines().count(), usize::from(by_qemu), "{below}");
    for process in below.lines().chain([pid.as_str()]) {
        for namespace in ["ipc", "mnt", "net", "pid", "uts"] {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).expect("a namespace");
            assert_ne!(of(process), of("self"), "process {process} has the host's {namespace}");
            assert_eq!(of(process), of(&pid), "both are in one");
        }
        let inside = |directory: &str| {
            let names = host.sh(&format!("ls -A /proc/{process}/root/{directory}"));
            names.lines().into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let own = ["control", "dev", "initramfs", "kernel", "layers", "machine", "plan", "proc", "scratch"];
        let qemus = ["bin", "etc", "lib", "lib64", "sys", "usr"];
        let mut seen = inside("");
        if by_qemu {
            // Those of the host's that it has: not all of them are everywhere.
            assert!(seen.contains("usr"), "{seen:?}");
            seen.retain(|name| !qemus.contains(&name.as_str()));
            assert!(inside("etc").is_subset(&set(&["ld.so.cache"])), "{:?}", inside("etc"));
        }
        // What a snapshot is gone on from, where it is a template's.
        seen.remove("snapshots");
        assert_eq!(seen, set(&own));
        assert_eq!(inside("layers"), set(&["0", "1", "2"]));
        assert_eq!(inside("control"), set(&["socket"]));
        assert_eq!(inside("dev/net"), set(&["tun"]));
        // Of the host's devices none but those that any container has, that one, and what runs its processors.
        let mut devices = inside("dev");
        for may in ["kvm", "userfaultfd"] {
            devices.remove(may);
        }
        let any = [
            "fd", "full", "net", "null", "ptmx", "pts", "random", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
        ];
        assert_eq!(devices, set(&any));
        // What can be written to is its own.
        let mounts = host.sh(&format!("awk '$6 ~ /^rw/ {{ print $5 }}' /proc/{process}/mountinfo"));
        let writable = ["/dev", "/dev/pts", "/scratch", "/control"];
        let others: Vec<_> =
            mounts.lines().into_iter().filter(|path| !writable.contains(path) && !path.starts_with("/proc/")).collect();
        assert_eq!(others, Vec::<&str>::new(), "{mounts}");
    }
}

/// Bytes of the disk that all of the daemon's data takes, but for the store, whose two files grow by steps for all that is in them: of hundreds of containers one has them grow.
fn disk(host: &Daemon) -> u64 {
    host.sh(&format!("du -s --block-size=1 --exclude 'stratus.db*' {} | cut -f1", host.data().display())).number()
}

#[test]
fn the_second_machine_of_an_image_shares_its_layers_and_takes_no_disk() {
    let host = host();
    host.project("FROM busybox\nRUN head -c 3000000 /dev/urandom >/much\nRUN echo more >/more\n", &[]);
    host.slowly("docker build -q -t layers app").ok();
    let run = |name: &str| {
        host.slowly(&format!("docker run -d --name {name} --cpus 1 --runtime microvm layers sleep 1000")).ok();
    };
    run("first");
    let templates = host.data().join("microvm/templates");
    let is_made = || {
        let names = fs::read_dir(&templates).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.len() == 1 && !names[0].starts_with("new-")
    };
    let machines = || fs::read_dir(host.run_dir().join("machines")).into_iter().flatten().count();
    eventually("a template", || is_made() && machines() == 1);

    let before = disk(&host);
    run("second");
    let taken = disk(&host).saturating_sub(before);
    assert!(taken <= DISK, "the second machine takes {taken} bytes of the disk");
    // Exactly the layers' files, each in the host's page cache for both.
    let layers = files_in(&host.data().join("images/erofs"));
    assert_eq!(layers.len(), 3, "the image's layers");
    let [first, second] = ["first", "second"].map(|name| cached_files(&host, name));
    assert!(layers.is_subset(&first) && layers.is_subset(&second), "{layers:?}\nfirst: {first:?}\nsecond: {second:?}");
    for name in ["first", "second"] {
        is_apart(&host, name);
    }

    // What one has read is there for the other: that does not grow what the host has of it.
    let resident = || {
        let told =
            host.sh(&format!("fincore --bytes --noheadings --output RES {}/images/erofs/*", host.data().display()));
        told.lines().iter().map(|line| line.trim().parse::<u64>().expect("bytes")).sum::<u64>()
    };
    host.slowly("docker exec first md5sum /much").ok();
    let read = resident();
    assert!(read >= 3_000_000, "{read} bytes of the layers are in the host's memory");
    host.slowly("docker exec second md5sum /much").ok();
    let size: u64 = fs::read_dir(host.data().join("images/erofs"))
        .unwrap()
        .flatten()
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(resident() <= size.next_multiple_of(4096) + 3 * 4096, "{} of {size} bytes", resident());
    host.sh("docker rm -f first second").ok();
}

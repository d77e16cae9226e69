//! Memory of microVMs that comes and goes, and is saved with them.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// Bytes that are kept. What comes is what a kernel takes first for them.
const KEPT: u64 = 120_000_000;

/// KiB of memory that the guest has.
fn total(host: &Daemon) -> u64 {
    let total = host.slowly("docker exec box grep MemTotal /proc/meminfo").text().to_owned();
    total.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).expect("it is a number")
}

#[test]
fn memory_that_has_come_goes_on_with_what_is_in_it() {
    let host = host();
    host.slowly("docker run -d --name box -m 128m --shm-size 300m --runtime microvm busybox sleep 1000").ok();
    host.slowly("docker update -m 500m --memory-swap 500m box").ok();
    eventually("the memory is there", || total(&host) > 500 << 10);
    let kept = host
        .slowly(&format!("docker exec box sh -c 'yes stratus | head -c {KEPT} > /dev/shm/kept; md5sum /dev/shm/kept'"));
    let kept = kept.text().to_owned();
    host.slowly("$STRATUS suspend box && $STRATUS resume box").ok();
    host.slowly("docker exec box md5sum /dev/shm/kept").says(&kept);
    host.slowly("$STRATUS fork box --name copy && docker exec copy md5sum /dev/shm/kept").mentions(&kept);
    host.slowly("docker rm -f box copy").ok();
}

#[test]
fn a_machine_that_gives_memory_back_is_saved_in_the_middle_of_that() {
    let host = host();
    host.slowly("docker run -d --name box -m 128m --runtime microvm busybox sleep 1000").ok();
    host.slowly("docker update -m 500m --memory-swap 1g box").ok();
    host.slowly("docker exec box sh -c 'head -c 150000000 /dev/zero | tail | wc -c'").says("150000000");
    host.slowly("docker update -m 128m box && $STRATUS suspend box && $STRATUS resume box").ok();
    host.slowly("docker exec box echo again").says("again");
    eventually("its memory is given back", || total(&host) < 224 << 10);
    host.slowly("docker rm -f box").ok();
}

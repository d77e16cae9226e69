//! A disk without room, of containers with kernels of their own: what fails says so and leaves nothing, and what runs goes on.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// The system's own words, which scripts look for.
const FULL: &str = "No space left on device";

/// A daemon whose disk holds its kernel, a template and what is saved of one machine or two.
fn on_small_disk() -> Daemon {
    let mut host = host();
    host.move_to_disk(400 << 20);
    host
}

/// Takes of the daemon's disk all but so many bytes.
fn fill(host: &Daemon, left: u64) {
    let filler = host.data().join("filler");
    let filler = filler.display();
    host.sh(&format!("cat /dev/zero >{filler}")).fails_with("No space left on device");
    host.sh(&format!("truncate -s -{left} {filler}")).ok();
}

fn make_room(host: &Daemon) {
    std::fs::remove_file(host.data().join("filler")).unwrap();
}

/// How many there are in a directory of the daemon's.
fn count(host: &Daemon, directory: &str) -> usize {
    std::fs::read_dir(host.data().join(directory)).into_iter().flatten().count()
}

/// How many machines there are, of containers and for templates.
fn machines(host: &Daemon) -> usize {
    std::fs::read_dir(host.run_dir().join("machines")).into_iter().flatten().count()
}

#[test]
fn what_can_not_be_saved_runs_on() {
    let host = on_small_disk();
    let counts = "n=0; while :; do n=$((n + 1)); echo $n >/dev/shm/n; sleep 0.1; done";
    host.slowly(&format!("docker run -d --name box --runtime microvm busybox sh -c '{counts}'")).ok();
    let counted = || host.slowly("docker exec box cat /dev/shm/n").number();
    eventually("a template", || count(&host, "microvm/templates") == 1 && machines(&host) == 1);
    host.slowly("$STRATUS snapshot create box before").ok();
    assert_eq!(count(&host, "microvm/snapshots"), 1);
    fill(&host, 0);
    for command in ["suspend box", "snapshot create box late", "fork box"] {
        let before = counted();
        host.slowly(&format!("$STRATUS {command}")).complains(FULL);
        host.sh("docker inspect -f '{{.State.Status}}' box").says("running");
        eventually("it to go on", || counted() > before);
        assert_eq!(count(&host, "microvm/snapshots"), 1, "{command} left something");
        host.sh("docker ps -a --format '{{.Names}}'").says("box");
    }
    make_room(&host);
    host.slowly("$STRATUS snapshot ls box").mentions("before").omits("late");
    let before = counted();
    host.slowly("$STRATUS suspend box && $STRATUS resume box").ok();
    eventually("it to go on", || counted() > before);
    host.slowly("$STRATUS rollback box before").ok();
    eventually("it to go on from there", || counted() > 0);
    host.sh("docker rm -f box").ok();
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

/// A template is some 60 MB.
#[test]
fn a_template_that_does_not_fit_costs_a_boot_and_nothing_else() {
    let host = on_small_disk();
    fill(&host, 20 << 20);
    // Nor is it tried behind each boot.
    for _ in 0..2 {
        host.slowly("docker run --rm --runtime microvm busybox echo hello").says("hello");
        eventually("the template to be given up", || machines(&host) == 0);
        assert_eq!(count(&host, "microvm/templates"), 0);
    }
    assert!(host.log().contains("could not make a template of microVMs"), "{}", host.log());
    make_room(&host);
    host.slowly("docker run --rm --runtime microvm busybox echo hello").says("hello");
    eventually("a template", || count(&host, "microvm/templates") == 1 && machines(&host) == 0);
}

#[test]
fn a_disk_that_finds_no_room_on_the_host_fails_to_the_program_and_is_whole_again() {
    let host = on_small_disk();
    let run = "docker run -d --name box --runtime microvm --storage-opt size=100m busybox sleep 1000";
    host.slowly(run).ok();
    host.slowly("docker exec box sh -c 'echo kept >/kept; sync'").ok();
    eventually("a template", || count(&host, "microvm/templates") == 1 && machines(&host) == 1);
    fill(&host, 1 << 20);
    host.slowly("docker exec box sh -c 'dd if=/dev/zero of=/much bs=1M count=60 conv=fsync'").fails_with("");
    // Others are not concerned.
    host.sh("docker inspect -f '{{.State.Status}}' box").says("running");
    make_room(&host);
    host.slowly("docker restart -t 1 box").ok();
    host.slowly("docker exec box cat /kept").says("kept");
    host.slowly("docker exec box sh -c 'dd if=/dev/zero of=/much bs=1M count=60 conv=fsync'").ok();
    host.sh("docker rm -f box").ok();
}

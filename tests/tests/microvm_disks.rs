//! A disk of its own for what a container in a microVM writes.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use std::time::{Duration, Instant};

use e2e::eventually;
use microvm_kernel::host;

#[test]
fn what_is_written_to_a_disk_outlives_the_run() {
    let mut host = host();
    for (option, why) in
        [("size=1m", "32 MiB to 2 TiB"), ("size=big", "32 MiB to 2 TiB"), ("inodes=5", "unknown --storage-opt inodes")]
    {
        host.sh(&format!("docker create --runtime microvm --storage-opt {option} busybox true"))
            .exits_with(1)
            .complains(why);
    }
    host.sh("docker create --storage-opt size=1g busybox true").exits_with(1).complains("pquota");
    host.slowly("docker run -d --name box --runtime microvm --storage-opt size=64m busybox sh -c 'echo $(date) >>/starts; trap \"exit 0\" TERM; while :; do sleep 0.1; done'").ok();
    host.slowly("docker exec box sh -c 'echo kept >/kept; rm /etc/group; df -m / | tail -n 1 | tr -s \" \" | cut -d \" \" -f 2'").ok();
    // It has as much room as was asked for, and no more, whatever the machine's memory.
    host.slowly("docker exec box sh -c 'dd if=/dev/urandom of=/much bs=1M count=200; rm /much'")
        .complains("No space left on device");
    host.slowly("docker diff box | grep -E '^. /(kept|etc/group)$' | sort").says("A /kept\nD /etc/group");
    host.slowly("docker commit box image && docker run --rm image cat /kept").mentions("kept");
    // Stopped and started, killed and started, and after the daemon was killed.
    host.slowly("docker stop box").ok();
    host.slowly("docker cp box:/kept - | tar -xO").says("kept");
    host.slowly("docker start box && docker exec box cat /kept").mentions("kept");
    // What was not synced is there after a kill, as with any container.
    host.slowly("docker exec box sh -c 'echo written >/written'").ok();
    host.slowly("docker kill box").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' box").says("137");
    host.kill9();
    host.restart();
    // Its own program says that it started, and nobody waited for that yet.
    host.slowly("docker start box && docker exec box sh -c 'until [ $(wc -l </starts) = 3 ]; do sleep 0.1; done'").ok();
    host.slowly("docker exec box sh -c 'cat /kept /written; ls /etc/group'")
        .prints("kept\nwritten")
        .complains("No such file or directory");
    // What it takes is counted.
    host.slowly("docker exec box sh -c 'head -c 20000000 /dev/urandom >/much; sync'").ok();
    let size = || host.sh("docker ps -s --format '{{.Size}}'").text().to_owned();
    let full = size();
    let megabytes = full.split_once("MB").and_then(|(number, _)| number.trim().parse::<f64>().ok());
    assert!(megabytes.is_some_and(|megabytes| (20.0..70.0).contains(&megabytes)), "{full}");
    host.sh("docker system df --format '{{.Type}} {{.Size}}' | grep Containers").mentions("MB");
    // What is deleted is the host's again.
    host.slowly("docker exec box sh -c 'rm /much; sync'").ok();
    eventually("its blocks to go", || size().contains("kB ("));
    let disks = format!("find {}/containers -name disk", host.data().display());
    assert_eq!(host.sh(&disks).lines().len(), 1);
    host.sh("docker rm -f box").ok();
    eventually("its disk to go", || host.sh(&disks).lines().is_empty());
}

#[test]
fn what_goes_through_a_disk_is_limited() {
    let host = host();
    host.sh("docker run --runtime microvm --annotation stratus.microvm.disk.bytes=4M busybox true")
        .exits_with(125)
        .complains("stratus.microvm.disk.bytes=4M is to be a number of bytes a second, and not 0");
    let limits = "--annotation stratus.microvm.disk.bytes=4000000 --annotation stratus.microvm.disk.operations=1000000";
    host.slowly(&format!("docker run -d --name box --runtime microvm --storage-opt size=64m {limits} busybox top"))
        .ok();
    // 12 MiB of 4 MB a second, of which a tenth may go at once: as long as the clock says at the least, however fast the machine is.
    let began = Instant::now();
    host.slowly("docker exec box dd if=/dev/urandom of=/much bs=1M count=12 conv=fsync").ok();
    assert!(began.elapsed() > Duration::from_millis(2900), "{:?}", began.elapsed());
    host.sh("docker rm -f box").ok();
}

#[test]
fn a_disk_is_part_of_what_is_saved() {
    let host = host();
    host.slowly("docker run -d --name box --runtime microvm --storage-opt size=64m busybox sleep 10000").ok();
    host.slowly("docker exec box sh -c 'echo one >/state'").ok();
    host.slowly("$STRATUS snapshot create box first").ok();
    host.slowly("docker exec box sh -c 'echo two >/state; head -c 5000000 /dev/zero >/more; sync'").ok();
    // Each copy has one of its own.
    host.slowly("$STRATUS fork box --name copy").ok();
    host.slowly("docker exec copy sh -c 'cat /state; echo three >/state; sync'").says("two");
    host.slowly("docker exec box cat /state").says("two");
    host.slowly("docker stop -t 1 copy && docker start copy && docker exec copy cat /state").mentions("three");
    // Suspended, it has its disk as it was.
    host.slowly("$STRATUS suspend box && $STRATUS resume box").ok();
    host.slowly("docker exec box sh -c 'cat /state; wc -c </more'").says("two\n5000000");
    host.slowly("$STRATUS rollback box first").ok();
    host.slowly("docker exec box sh -c 'cat /state; ls /more'").prints("one").complains("No such file");
    // It goes on writing, and what it has written is whole at its next start.
    host.slowly("docker exec box sh -c 'for n in $(seq 200); do echo $n >/file$n; done; sync'").ok();
    host.slowly("docker stop -t 1 box && docker start box && docker exec box sh -c 'cat /state /file200'")
        .mentions("one\n200");
    host.sh("docker rm -f box copy").ok();
    let snapshots = host.data().join("microvm/snapshots");
    eventually("they are gone", || std::fs::read_dir(&snapshots).unwrap().next().is_none());
}

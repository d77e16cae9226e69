//! The power goes: what a client was told is done is there afterwards, and of what was not done nothing looks whole.

use std::time::Duration;

use e2e::{Daemon, eventually};

/// A daemon on such a disk. An image with many files, whose sums it has with it, is in `noise.tar` on another.
fn on_a_disk_with_power() -> Daemon {
    let mut host = Daemon::start();
    host.move_to_disk_with_power();
    host.sh(
        "docker run --name box busybox sh -c 'mkdir /noise && cd /noise && for n in $(seq 200); do head -c 5000 /dev/urandom > $n; done; \
         head -c 3000000 /dev/urandom > large && sha256sum * > /sums' \
         && docker commit box noise && docker rm box && docker save noise -o noise.tar",
    )
    .ok();
    forget(&host);
    host
}

/// Removes the image, and waits until its layer is off the disk.
fn forget(host: &Daemon) {
    host.sh("docker rmi noise").ok();
    let data = host.data().display().to_string();
    eventually("the layer to go", || host.sh(&format!("find {data} -path '*/noise/large' | wc -l")).text() == "0");
}

#[track_caller]
fn is_whole(host: &Daemon) {
    host.sh("docker run --rm noise sh -c 'cd /noise && sha256sum -sc /sums && wc -l < /sums'").says("201");
}

#[test]
fn what_was_done_is_there() {
    let mut host = on_a_disk_with_power();
    host.sh("docker load -qi noise.tar").ok();
    host.lose_power();
    is_whole(&host);
    host.sh("docker tag noise other && docker volume create data && docker network create net && docker create --name box --network net noise").ok();
    host.lose_power();
    host.sh("docker images -q other | wc -l").says("1");
    host.sh("docker volume ls -q && docker network ls -q --filter name=net").mentions("data");
    host.sh("docker ps -a --format '{{.Names}} {{.Networks}}'").says("box net");
    host.sh("docker rm box && docker rmi other").ok();
    host.lose_power();
    host.sh("docker ps -aq && docker images -q other").says("");
    is_whole(&host);
}

#[test]
fn what_was_not_done_never_looks_whole() {
    let mut host = on_a_disk_with_power();
    let mut there = 0;
    for round in 0..12 {
        let load = host.session("docker load -qi noise.tar");
        // Somewhere in it, or after it: whichever, what is shown is whole.
        std::thread::sleep(Duration::from_millis(round * 15));
        host.lose_power();
        drop(load);
        if host.sh("docker images -q noise").text().is_empty() {
            // Nothing that was left of it is taken for the layer.
            host.sh("docker load -qi noise.tar").ok();
        } else {
            there += 1;
        }
        is_whole(&host);
        host.sh("docker run --rm busybox true").ok();
        forget(&host);
    }
    println!("the image was there after {there} of 12 losses");
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

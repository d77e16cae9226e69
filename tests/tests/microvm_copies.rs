//! Copies of what a container in a microVM has changed, while it is ended, while others are made, and when the daemon is killed.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use std::path::PathBuf;
use std::thread;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// A container that has changed so much that copies take a while, and that ends with 3 when it is told to.
fn changed(host: &Daemon) {
    host.slowly("docker run -d --name box --runtime microvm busybox sh -c 'mkdir /many; for n in $(seq 400); do echo $n >/many/$n; done; head -c 10000000 /dev/urandom >/much; touch /ready; trap \"exit 3\" TERM; while :; do sleep 0.1; done'").ok();
    eventually("it is ready", || host.slowly("docker exec box test -e /ready").code() == 0);
}

/// The directories of copies that are being made.
fn copies(host: &Daemon) -> Vec<PathBuf> {
    let roots = std::fs::read_dir(host.data().join("containers")).into_iter().flatten().flatten();
    let below = roots.flat_map(|root| std::fs::read_dir(root.path()).into_iter().flatten().flatten());
    below.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains("/changes-")).collect()
}

#[test]
fn copies_of_changes_are_in_nobodys_way() {
    let host = host();
    changed(&host);
    // Several at once, each whole.
    thread::scope(|scope| {
        for number in 0..2 {
            let host = &host;
            scope.spawn(move || {
                assert_eq!(host.slowly("docker diff box | grep -c '^A /many/'").text(), "400");
                host.slowly(&format!("docker commit box copy{number}")).ok();
            });
        }
    });
    for number in 0..2 {
        host.sh(&format!("docker run --rm copy{number} sh -c 'ls /many | wc -l; wc -c </much'")).says("400\n10000000");
    }
    assert_eq!(copies(&host), Vec::<PathBuf>::new());
    // One that is held still is told to end, and hears it.
    thread::scope(|scope| {
        let commit = scope.spawn(|| host.slowly("docker commit box last").code());
        eventually("a copy to be made", || !copies(&host).is_empty() || commit.is_finished());
        host.slowly("docker stop -t 200 box").ok();
        host.sh("docker inspect -f '{{.State.ExitCode}}' box").says("3");
        // Its machine is gone with it, or it had all.
        commit.join().expect("it does not panic");
    });
    eventually("no copy to be left", || copies(&host).is_empty());
    host.slowly("docker rm -f box").ok();
}

#[test]
fn a_copy_that_was_given_up_leaves_nothing_and_nobody_held_still() {
    let mut host = host();
    changed(&host);
    let commit = host.session("docker commit box image");
    eventually("a copy to be made", || !copies(&host).is_empty());
    host.kill9();
    drop(commit);
    host.restart();
    host.slowly("docker exec box cat /ready").ok();
    assert_eq!(copies(&host), Vec::<PathBuf>::new());
    host.slowly("docker commit box image && docker run --rm image cat /many/400").mentions("400");
    host.slowly("docker rm -f box").ok();
}

#[test]
fn times_of_files_keep_their_fraction() {
    let host = host();
    host.slowly("docker run -d --name box --runtime microvm busybox sleep 1000").ok();
    host.sh("mkdir in && touch -d '2020-05-06 07:08:09.123456789 UTC' in/file && touch -d '1960-01-01 00:00:00.5 UTC' in/old").ok();
    host.slowly("tar -c --format=posix -C in file old | docker cp - box:/tmp").ok();
    host.slowly("docker exec box stat -c %y /tmp/file /tmp/old")
        .mentions("2020-05-06 07:08:09.123456789")
        .mentions("1960-01-01 00:00:00.5");
    host.slowly("docker cp box:/tmp - | TZ=UTC tar -tv --full-time").mentions("2020-05-06 07:08:09.123456789");
    // What is before 1970 is shown by GNU tar as a second later than it is.
    host.slowly("docker cp box:/tmp/old - | grep -ao 'mtime=.*'").says("mtime=-315619199.500000000");
    // What its machine keeps beside its socket has a bound.
    host.sh(&format!("df -k --output=size {}/machines/*/control | tail -n 1", host.run_dir().display())).says("4096");
    host.slowly("docker rm -f box").ok();
}

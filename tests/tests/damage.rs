//! Files of the daemon that somebody cut short, changed or took away: refused with what to do, and never made anew.

use std::fs;

use e2e::{Daemon, eventually};

/// A daemon with something to lose that has ended, and its store file's bytes.
fn stopped() -> (Daemon, Vec<u8>) {
    let mut host = Daemon::start();
    host.sh("docker create --name box busybox && docker volume create data").ok();
    // It is written in a quiet moment.
    eventually("a backup", || host.data().join("stratus.db.backup").exists());
    host.stop();
    let bytes = fs::read(host.data().join("stratus.db")).expect("the store");
    (host, bytes)
}

/// The daemon does not start, says `text`, and leaves the store's file as it is.
#[track_caller]
fn refuses(host: &Daemon, damaged: &[u8], text: &str) {
    let file = host.data().join("stratus.db");
    fs::write(&file, damaged).expect("damage the store");
    let outcome = host.fails_to_start();
    outcome.exits_with(1).complains("stratus.db").complains(text);
    assert!(!outcome.stderr().contains("panicked"), "{outcome}");
    assert!(fs::read(&file).expect("the store") == damaged, "the file was changed");
}

#[test]
fn a_store_that_is_not_whole_is_refused() {
    let (mut host, whole) = stopped();
    // What is behind the end of the database is kept back for a full disk, and holds nothing.
    for length in [0, 100, whole.len() / 3, whole.len() / 2] {
        refuses(&host, &whole[..length], "backup");
    }
    // What says that it is a store, and what it holds.
    for damaged in [0..1, 5..6, 4096..whole.len() / 2] {
        let mut bytes = whole.clone();
        bytes[damaged].iter_mut().for_each(|byte| *byte ^= 0x55);
        refuses(&host, &bytes, "backup");
    }
    refuses(&host, &vec![0; whole.len()], "backup");
    refuses(&host, b"this is another file", "backup");
    // Put back, it is as if nothing had been.
    fs::write(host.data().join("stratus.db"), &whole).expect("mend the store");
    host.restart();
    host.sh("docker ps -a --format '{{.Names}}' && docker volume ls -q").says("box\ndata");
}

#[test]
fn a_store_that_is_gone_is_not_made_anew_while_there_is_a_backup() {
    let (mut host, _) = stopped();
    let (file, backup) = (host.data().join("stratus.db"), host.data().join("stratus.db.backup"));
    fs::remove_file(&file).expect("lose the store");
    host.fails_to_start().exits_with(1).complains("stratus.db.backup");
    assert!(!file.exists(), "a store was made");
    // As it says.
    fs::copy(&backup, &file).expect("take the backup");
    host.restart();
    host.sh("docker network ls -q | wc -l").says("3");
}

#[test]
fn a_count_that_nobody_can_read_is_told_and_counted_anew() {
    let mut host = Daemon::start();
    let id = host.sh("docker run -d --name box busybox sleep 1000").text().to_owned();
    host.stop();
    let store = store::Store::open(host.data().join("stratus.db")).expect("open the store");
    let key = format!("meter/open/container/{id}");
    store.txn().put(&key, "{").put("meter/open/other/x", "[]").commit().expect("damage a count");
    drop(store);
    host.restart();
    assert!(host.log().contains(&key), "{}", host.log());
    host.sh("docker rm -f box").ok();
    let runs = "$STRATUS --host $DOCKER_HOST usage --output json | jq -c '.Groups[] | [.Name, .Runs, .Running]'";
    eventually("its end to be counted", || host.sh(runs).stdout().trim() == r#"["box",1,0]"#);
}

#[test]
fn layers_and_blobs_that_are_gone_are_named() {
    let mut host = Daemon::start();
    host.sh("docker run --name more busybox sh -c 'echo more > /more' && docker commit more image && docker rm more")
        .ok();
    host.sh("docker create --name box image cat /more").ok();
    let layers = host.data().join("images/layers");
    let mut names: Vec<_> = fs::read_dir(&layers).expect("layers").flatten().map(|entry| entry.path()).collect();
    names.sort();
    let lost = names.into_iter().find(|layer| layer.join("fs/more").exists()).expect("the layer");
    let aside = host.work().join("aside");
    host.sh(&format!("mv {} {}", lost.display(), aside.display())).ok();
    host.sh("docker start -a box").fails_with("");
    host.sh("docker run --rm busybox echo fine").says("fine");
    // The next daemon says at once what it misses.
    host.restart();
    assert!(host.log().contains("a layer is missing"), "{}", host.log());
    host.sh("docker create --name next image").fails_with("");
    host.sh("docker run --rm busybox echo fine").says("fine");
    host.sh("docker rm box && docker rmi image").ok();

    host.sh("docker commit $(docker create busybox) small").ok();
    for blob in fs::read_dir(host.data().join("images/blobs/sha256")).expect("blobs").flatten() {
        fs::write(blob.path(), b"damaged").expect("damage a blob");
    }
    host.sh("docker save small > /dev/null").fails_with("");
    host.restart();
    host.sh("docker inspect small").fails_with("");
    host.sh("docker rmi -f small").ok();
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

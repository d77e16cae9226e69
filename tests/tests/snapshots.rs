//! What only a container with a kernel of its own can do: be saved, and go on from there, once or many times.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, Outcome, eventually};
use microvm_kernel::host;

/// A container that counts, in its memory, and serves what it counts, who it is and what was written.
fn counting(host: &Daemon, options: &str) {
    let serve = "mkdir /www; httpd -h /www -p 80; n=0; while :; do n=$((n + 1)); echo $n >/www/n.new; mv /www/n.new /www/n; sleep 0.05; done";
    host.slowly(&format!("docker run -d --name counter {options} --runtime microvm busybox sh -c '{serve}'")).ok();
    eventually("it counts", || counted(host, "counter").is_some());
}

/// How far a container has counted.
fn counted(host: &Daemon, name: &str) -> Option<u64> {
    let seen = host.sh(&format!("curl -s -m 5 http://$(docker port {name} 80 | head -n 1)/n"));
    seen.stdout().trim().parse().ok()
}

/// By how many seconds a container's clock is behind the host's.
fn behind(host: &Daemon, name: &str) -> i64 {
    let seconds = |text: &str| text.parse::<i64>().expect("a time");
    let there = seconds(host.slowly(&format!("docker exec {name} date +%s")).text());
    seconds(host.sh("date +%s").text()) - there
}

#[test]
fn a_suspended_container_goes_on_where_it_was() {
    let mut host = host();
    counting(&host, "--rm --cap-add SYS_TIME -p 127.0.0.1:0:80");
    host.slowly("docker exec counter sh -c 'echo kept >/kept'").ok();
    // In 2001, so that it can't know the time but by being told.
    host.slowly("docker exec counter date -s @1000000000").ok();
    assert!(behind(&host, "counter") > 24 * 3600);
    host.slowly("$STRATUS suspend counter").ok();
    host.sh("docker ps -a --format '{{.State}} {{.Status}}'").mentions("exited").mentions("(Suspended)");
    host.sh("docker inspect -f '{{.State.ExitCode}} {{.State.Pid}}' counter").says("0 0");
    host.sh("$STRATUS suspend counter")
        .exits_with(1)
        .complains("container counter is suspended: `stratus resume counter` first");
    // It is there after the daemon, too, whatever ended that.
    host.kill9();
    host.restart();
    host.slowly("$STRATUS resume counter").ok();
    eventually("it counts on", || counted(&host, "counter").is_some());
    host.slowly("docker exec counter cat /kept").says("kept");
    // It knows how late it is.
    assert!(behind(&host, "counter") < 3600, "{}", behind(&host, "counter"));
    host.sh("$STRATUS resume counter").exits_with(1).complains("is not suspended");

    // `docker start` has it go on, as well; a stop of what is suspended has the next start begin anew.
    host.sh("docker update --restart no counter").ok();
    host.slowly("$STRATUS suspend counter").ok();
    host.slowly("docker start counter").ok();
    host.slowly("docker exec counter cat /kept").says("kept");
    host.slowly("$STRATUS suspend counter").ok();
    host.sh("docker stop counter").ok();
    host.slowly("docker start counter").ok();
    host.slowly("docker exec counter cat /kept").exits_with(1);
    let snapshots = host.data().join("microvm/snapshots");
    eventually("what nothing goes on from is gone", || std::fs::read_dir(&snapshots).unwrap().next().is_none());
    host.sh("docker rm -f counter").ok();
}

#[test]
fn a_container_goes_back_to_where_it_was_saved() {
    let host = host();
    host.slowly("docker run -d --name box --runtime microvm -t busybox sh -c 'echo begun; n=0; while read line; do n=$((n + 1)); echo $n $line; done'").ok();
    // Nothing says that it did so before anybody else did something in there.
    eventually("it begins", || host.sh("docker logs box").text() == "begun");
    host.slowly("docker exec box sh -c 'echo one >/state'").ok();
    host.slowly("$STRATUS snapshot create box first").says("first");
    host.sh("$STRATUS snapshot create box first").exits_with(1).complains("has a snapshot \"first\" already");
    host.sh("$STRATUS snapshot create box ../x").exits_with(1).complains("Invalid snapshot name");
    host.slowly("docker exec box sh -c 'echo two >/state'").ok();
    host.slowly("$STRATUS snapshot create box second").ok();
    host.slowly("docker exec box rm /state").ok();
    host.slowly("$STRATUS rollback box first").ok();
    host.slowly("docker exec box cat /state").says("one");
    host.slowly("$STRATUS rollback box").ok();
    host.slowly("docker exec box cat /state").says("two");
    // What it wrote was not written again.
    host.sh("docker logs box").says("begun");
    host.sh("$STRATUS snapshot ls box").mentions("first").mentions("second");
    host.sh("$STRATUS rollback box nosuch").exits_with(1).complains("No such snapshot: nosuch");
    // What can't go on from there is not ended for it.
    host.sh("docker network create other").ok();
    host.slowly("docker stop -t 1 box && docker network connect other box && docker start box").ok();
    let process = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    host.sh("$STRATUS rollback box first")
        .exits_with(1)
        .complains("its machine is on 1 networks, and the container on 2");
    host.sh("docker inspect -f '{{.State.Status}} {{.State.Pid}}' box").says(&format!("running {process}"));
    host.slowly("docker stop -t 1 box && docker network disconnect other box && docker network rm other").ok();
    host.sh("$STRATUS snapshot ls box").mentions("first").mentions("second");
    host.slowly("$STRATUS rollback box").ok();
    // A snapshot goes when it is removed, and with its container; also one that what runs went on from.
    host.sh("$STRATUS snapshot rm box second").ok();
    host.slowly("docker exec box cat /state").says("two");
    host.slowly("docker stop -t 1 box").ok();
    host.slowly("$STRATUS rollback box first").ok();
    host.slowly("docker exec box cat /state").says("one");
    host.sh("docker rm -f box").ok();
    let snapshots = host.data().join("microvm/snapshots");
    eventually("they are gone", || std::fs::read_dir(&snapshots).unwrap().next().is_none());
    // Containers share the kernel that would have to be saved.
    host.sh("docker run -d --name plain busybox sleep 1000").ok();
    for call in ["suspend plain", "fork plain", "snapshot create plain"] {
        host.sh(&format!("$STRATUS {call}")).exits_with(1).complains("only one in a microVM can be saved");
    }
    host.sh("docker rm -f plain").ok();
}

#[test]
fn forks_go_on_as_others() {
    let host = host();
    host.sh("docker network create net").ok();
    counting(&host, "--cap-add SYS_TIME --network net --network-alias count -p 127.0.0.1:0:80");
    host.slowly("docker exec counter sh -c 'echo shared >/file; cat /proc/sys/kernel/random/boot_id'").ok();
    host.slowly("docker exec counter date -s @1000000000").ok();
    host.slowly("$STRATUS fork counter --count 2 --name red").says("red\ncounter-1");
    // The copies are told how late it is; the one that they are of goes on as it was.
    assert!(behind(&host, "counter") > 24 * 3600);
    for name in ["red", "counter-1"] {
        assert!(behind(&host, name) < 3600, "{name}: {}", behind(&host, name));
    }
    for name in ["counter", "red", "counter-1"] {
        eventually("each counts", || counted(&host, name).is_some());
        host.slowly(&format!("docker exec {name} cat /file")).says("shared");
        // Its name, in the machine and in its file of names, is its own, as is its address.
        let id = host.sh(&format!("docker inspect -f '{{{{slice .Id 0 12}}}}' {name}")).text().to_owned();
        let address = host.sh(&format!("docker inspect -f '{{{{.NetworkSettings.Networks.net.IPAddress}}}}' {name}"));
        host.slowly(&format!("docker exec {name} hostname")).says(&id);
        host.slowly(&format!("docker exec {name} cat /etc/hosts")).mentions(&format!("{}\t{id}", address.text()));
        host.slowly(&format!("docker exec {name} ip -4 addr show eth0")).mentions(&format!("inet {}/", address.text()));
        host.sh(&format!("docker run --rm --network net busybox wget -q -O - http://{name}/n")).ok();
    }
    // All of them answer to the name that the first one had.
    host.sh("docker run --rm --network net busybox nslookup count | grep -c '^Address.*: [0-9.]*$'").ok();
    // Random numbers of their own.
    let random = |name: &str| {
        host.slowly(&format!("docker exec {name} sh -c 'head -c 16 /dev/urandom | md5sum'")).text().to_owned()
    };
    let numbers: std::collections::BTreeSet<_> = ["counter", "red", "counter-1"].map(random).into();
    assert_eq!(numbers.len(), 3);
    // One ends, and the others don't; a fork of a fork.
    host.sh("docker rm -f counter").ok();
    host.slowly("$STRATUS fork red -q").ok();
    host.slowly("docker exec red-1 cat /file").says("shared");
    host.sh("$STRATUS fork red --count 1 --name a --name b").exits_with(1).complains("no more names than copies");
    host.sh("$STRATUS fork red --name counter-1").exits_with(1).complains("already in use");
    // Where one can't be made, none is.
    host.sh("$STRATUS fork red --count 2 --name free --name counter-1").exits_with(1).complains("already in use");
    host.sh("docker ps -a --format '{{.Names}}' | sort").says("counter-1\nred\nred-1");
    host.sh("docker rm -f red red-1 counter-1 && docker network rm net").ok();
    let snapshots = host.data().join("microvm/snapshots");
    eventually("what nothing goes on from is gone", || std::fs::read_dir(&snapshots).unwrap().next().is_none());
}

#[test]
fn what_was_killed_before_it_was_saved_is_not_killed_again() {
    let host = host();
    let work = "tail /dev/zero; echo $? >/done; while [ ! -e /go ]; do sleep 0.1; done";
    host.slowly(&format!("docker run -d --name box -m 32m --runtime microvm busybox sh -c '{work}'")).ok();
    eventually("one of its processes is killed", || host.slowly("docker exec box cat /done").stdout() == "137\n");
    host.slowly("$STRATUS suspend box && $STRATUS resume box").ok();
    host.slowly("docker exec box touch /go && docker wait box").says("0");
    host.sh("docker inspect -f '{{.State.OOMKilled}}' box").says("false");
    host.sh("docker rm box").ok();
}

/// Lists what there is of containers' own files beside what they have.
fn put_aside(host: &Daemon) -> Vec<String> {
    let names = "-name next -o -name former -o -name '*.new' -o -name upper.next";
    let found = host.sh(&format!("find {}/containers -mindepth 2 -maxdepth 2 {names}", host.data().display()));
    found.lines().into_iter().map(str::to_owned).collect()
}

#[test]
fn a_rollback_that_fails_leaves_a_container_what_is_its_own() {
    let host = host();
    host.sh("echo one >one && echo two >two && docker create --name plain --runtime microvm busybox sleep 10000 && docker cp one plain:/file").ok();
    host.slowly("docker start plain && $STRATUS snapshot create plain first && docker stop -t 1 plain").ok();
    host.sh("docker cp two plain:/file && docker cp two plain:/later").ok();
    host.slowly("docker run -d --name box --runtime microvm --storage-opt size=64m busybox sleep 10000").ok();
    host.slowly("docker exec box sh -c 'echo one >/file' && $STRATUS snapshot create box first").ok();
    host.slowly("docker exec box sh -c 'echo two >/file; sync'").ok();
    let states = format!("{}/microvm/snapshots/*/state", host.data().display());
    host.sh(&format!("for state in {states}; do cp $state $state.whole && echo none >$state; done")).ok();
    // One that does not run, and one that is ended for it.
    host.slowly("$STRATUS rollback plain first").fails_with("go on from a snapshot");
    host.slowly("$STRATUS rollback box first").fails_with("go on from a snapshot");
    assert_eq!(put_aside(&host), [""; 0]);
    host.slowly("docker start plain && docker exec plain cat /file /later").says("plain\ntwo\ntwo");
    host.sh("docker ps -a --filter name=box --format '{{.Status}}'").mentions("(Suspended)");
    host.slowly("docker stop box && docker start box && docker exec box cat /file").says("box\nbox\ntwo");
    // Once it can go on from there, it does.
    host.sh(&format!("for state in {states}; do mv $state.whole $state; done")).ok();
    host.slowly("$STRATUS rollback plain first && docker exec plain sh -c 'cat /file; ls /later'")
        .prints("one")
        .complains("No such file");
    host.slowly("$STRATUS rollback box first && docker exec box cat /file").mentions("one");
    assert_eq!(put_aside(&host), [""; 0]);
    host.sh("docker rm -f plain box").ok();
}

/// Rolls a container back to its first snapshot, and does something in the directory of its files once it has what is brought back, before that is recorded. The machine takes longer to go on.
fn rolled_back_meanwhile(host: &Daemon, done: &str) -> Outcome {
    host.slowly(&format!(
        "cd {}/containers/$(docker inspect -f '{{{{.Id}}}}' box)
        $STRATUS rollback box first & pid=$!
        until [ -d former ] && [ ! -e next ] || ! kill -0 $pid; do :; done
        {done}
        wait $pid",
        host.data().display()
    ))
}

#[test]
fn what_was_put_aside_never_comes_back_over_what_was_written_since() {
    let host = host();
    let images = host.data().join("images");
    let images = images.display();
    // Nothing can be thrown away, and again.
    let full = format!("mv {images}/trash {images}/away && touch {images}/trash");
    let emptied = format!("rm {images}/trash && mv {images}/away {images}/trash");
    host.slowly("docker run -d --name box --runtime microvm --storage-opt size=64m busybox sleep 10000").ok();
    host.slowly("docker exec box sh -c 'echo one >/file' && $STRATUS snapshot create box first").ok();
    host.slowly("docker exec box sh -c 'echo two >/file; sync'").ok();
    rolled_back_meanwhile(&host, &full).ok();
    host.slowly("docker exec box sh -c 'cat /file; echo three >/file; sync'").says("one");
    host.sh(&emptied).ok();
    assert!(!put_aside(&host).iter().any(|path| path.ends_with("former")));
    host.slowly("docker stop -t 1 box && docker start box && docker exec box cat /file").says("box\nbox\nthree");
    // What can't have for its own what was brought back does not run on with it; and where it can't have its own again, nobody takes the snapshot's files for that.
    rolled_back_meanwhile(&host, &format!("{full} && mkdir -p next/in disk.new/in"))
        .fails_with("keep what container box had in the snapshot");
    host.slowly("docker stop box").ok();
    host.slowly("docker cp box:/file -").fails_with("put back what is container box's own of its files");
    host.slowly("docker commit box image").fails_with("put back what is container box's own of its files");
    host.sh(&emptied).ok();
    host.sh(&format!("rm -r {0}/containers/*/next {0}/containers/*/disk.new", host.data().display())).ok();
    host.slowly("docker cp box:/file - | tar -xO").says("three");
    assert_eq!(put_aside(&host), [""; 0]);
    host.slowly("docker start box && docker exec box cat /file").says("box\nthree");
    host.sh("docker rm -f box").ok();
}

//! Files of a container in a microVM that does not run: into it, out of it, and what becomes of them.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::eventually;
use microvm_kernel::host;

#[test]
fn what_is_copied_in_is_there_when_it_starts() {
    let mut host = host();
    host.sh("mkdir -p tree/deep && echo below >tree/deep/file && ln -s deep/file tree/link && echo hello >greeting && chmod 640 greeting").ok();
    host.sh("docker create --name box --runtime microvm busybox sh -c 'cat /greeting /new/link; stat -c %a:%u /greeting; exec sleep 10000'").ok();
    host.sh("docker cp greeting box:/ && docker cp tree box:/new && docker cp greeting box:/etc/group").ok();
    host.sh("docker cp greeting box:/no/such/f").fails_with("Could not find the file /no/such in container box");
    // What never ran has what was copied into it, and nothing else.
    host.sh("docker cp box:/new/deep/file - | tar -xO && docker cp -L box:/new/link got && cat got")
        .says("below\nbelow");
    let diff = "docker diff box | grep -vE '^. /(dev|etc|proc|sys)' | sort | xargs";
    host.sh(diff).says("A /greeting A /new A /new/deep A /new/deep/file A /new/link");
    host.sh("docker export box | tar -t | grep -cE '^(greeting|new/deep/file|bin/sh)$'").says("3");
    host.sh("docker commit box before && docker run --rm before cat /greeting /etc/group").mentions("hello\nhello");
    host.slowly("docker start box").ok();
    eventually("what it says", || host.sh("docker logs box").text() == "hello\nbelow\n640:0");
    // While it runs, what it changes lies over that.
    host.slowly(diff).says("A /greeting A /new A /new/deep A /new/deep/file A /new/link");
    host.slowly("docker exec box sh -c 'cat /etc/group; echo mine >/greeting; rm /new/deep/file; rm -r /etc/group; echo more >/new/more'")
        .says("hello");
    host.slowly(diff).says("A /greeting A /new A /new/deep A /new/link A /new/more");
    host.slowly("docker diff box | grep group").says("D /etc/group");
    host.slowly(
        "docker commit box during && docker run --rm during sh -c 'cat /greeting /new/more; ls /new /etc/group'",
    )
    .prints("mine\nmore\n/new:\ndeep\nlink\nmore")
    .complains("/etc/group: No such file");
    // It goes with the end; what was copied stays, and more may come. What it had when it ran, nobody can say.
    host.slowly("docker stop -t 1 box").ok();
    host.sh("docker cp box:/greeting .").fails_with("went with its microVM's memory");
    host.sh("docker commit box after").fails_with("went with its microVM's memory");
    host.sh("echo second >second && docker cp second box:/new/deep && docker cp second box:/new/nothing/f")
        .fails_with("went with its microVM's memory");
    host.kill9();
    host.restart();
    host.slowly("docker start box && docker exec box cat /greeting /new/deep/file /new/deep/second /etc/group")
        .mentions("hello\nbelow\nsecond\nhello");
    host.sh("docker rm -f box").ok();
    // One that keeps nothing of what it does may be asked at any time.
    host.slowly("docker create --name locked --runtime microvm --read-only busybox true").ok();
    host.sh("docker cp greeting locked:/f").fails_with("marked read-only");
    host.slowly("docker start -a locked && docker cp locked:/etc/passwd - | tar -t && docker commit locked").ok();
}

#[test]
fn programs_and_users_may_come_by_a_copy() {
    let host = host();
    host.sh("printf '#!/bin/sh\\nid -u; cat /run.d/conf\\n' >run && chmod 755 run && echo 'fred:x:77:77::/:/bin/sh' >passwd && echo set >conf").ok();
    host.sh("docker create --name box --runtime microvm -v conf:/run.d -u fred busybox /run").ok();
    host.sh("docker cp passwd box:/etc/passwd && docker cp run box:/run && docker cp conf box:/run.d/conf").ok();
    host.slowly("docker start -a box").says("77\nset");
    // In the machine of another one as well.
    host.slowly("docker run -d --name first --runtime microvm busybox sleep 10000").ok();
    host.sh("docker create --name second --runtime microvm --network container:first busybox sh -c 'cat /etc/passwd; exec sleep 10000' && docker cp passwd second:/etc/passwd")
        .ok();
    host.slowly("docker start second").ok();
    eventually("what it says", || host.sh("docker logs second").text() == "fred:x:77:77::/:/bin/sh");
    host.slowly("docker exec -u fred second id -u").says("77");
    host.sh("docker rm -f box first second").ok();
    // Who its user is its own files say, whether it runs or not.
    host.sh("docker create --name box --runtime microvm --storage-opt size=64m -u fred busybox sleep 10000 && docker cp passwd box:/etc/passwd")
        .ok();
    host.slowly("docker start box && docker exec -u 0 box sed -i s/77:77/88:89/ /etc/passwd").ok();
    host.slowly(
        "docker cp -a conf box:/while && docker stop -t 1 box && docker cp -a conf box:/after && docker start box",
    )
    .ok();
    host.slowly("docker exec -u 0 box stat -c %u:%g /while /after").says("88:89\n88:89");
    host.sh("docker rm -f box").ok();
}

#[test]
fn an_exec_whose_client_is_gone_leaves_no_file() {
    use std::io::Write as _;
    let host = host();
    host.slowly("docker run -d --name box --runtime microvm busybox sleep 10000").ok();
    for _ in 0..10 {
        let made = host.ask("POST /containers/box/exec", r#"{"Cmd":["true"]}"#).expect("an answer");
        let id = made.text().split('"').nth(3).expect("an identifier").to_owned();
        let mut stream = host.connect();
        let head = "Host: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(format!("POST /exec/{id}/start HTTP/1.1\r\n{head}").as_bytes()).expect("send a request");
    }
    let files = format!("find {}/machines/*/control -type f -name '????????????????'", host.run_dir().display());
    eventually("what they were told to go", || host.sh(&files).lines().is_empty());
    host.slowly("docker exec box true").ok();
    host.sh("docker rm -f box").ok();
}

#[test]
fn what_was_copied_in_is_part_of_what_is_saved() {
    let host = host();
    host.sh("echo one >one && echo two >two").ok();
    host.sh("docker create --name box --runtime microvm busybox sleep 10000 && docker cp one box:/file").ok();
    host.slowly("docker start box && $STRATUS snapshot create box first").ok();
    host.slowly("$STRATUS fork box --name copy && docker exec copy cat /file").mentions("one");
    host.slowly(
        "docker stop -t 1 copy && docker cp two copy:/other && docker start copy && docker exec copy cat /file /other",
    )
    .mentions("one\ntwo");
    // One that is suspended finds what it had, and nothing new.
    host.slowly("$STRATUS suspend box").ok();
    host.sh("docker cp two box:/file").fails_with("resume it first");
    host.slowly("$STRATUS resume box && docker exec box cat /file").says("box\none");
    host.slowly("docker stop -t 1 box && docker cp two box:/file && docker cp two box:/later && docker start box && docker exec box cat /file /later")
        .mentions("two\ntwo");
    host.slowly("$STRATUS rollback box first").ok();
    host.slowly("docker exec box sh -c 'cat /file; ls /later'").prints("one").complains("No such file");
    host.slowly("docker diff box | grep -E 'file|later'").says("A /file");
    // A start that begins anew has what the snapshot had, as with its disk.
    host.slowly("docker stop -t 1 box && docker start box && docker exec box sh -c 'cat /file; ls /later'")
        .prints("one\n")
        .complains("No such file");
    host.sh("docker rm -f box copy").ok();
    let snapshots = host.data().join("microvm/snapshots");
    eventually("they are gone", || std::fs::read_dir(&snapshots).unwrap().next().is_none());
}

#[test]
fn what_is_on_a_disk_is_there_whether_it_runs_or_not() {
    let mut host = host();
    host.sh("echo one >one && echo two >two").ok();
    host.sh("docker create --name box --runtime microvm --storage-opt size=64m busybox sh -c 'cat /file; echo mine >/file; rm -f /etc/group; sync; echo kept; exec sleep 10000'").ok();
    // Before its first start nothing is on it.
    host.sh("docker cp one box:/file && docker cp box:/file - | tar -xO").says("one");
    host.slowly("docker start box").ok();
    eventually("what it says", || host.sh("docker logs box").text() == "one\nkept");
    host.slowly("docker stop -t 1 box").ok();
    host.slowly("docker cp box:/file - | tar -xO").says("mine");
    host.slowly("mkdir -p tree/in && echo below >tree/in/file && docker cp two box:/two && docker cp tree box:/tree && docker cp -L box:/tree/in/file got && cat got")
        .says("below");
    host.slowly("docker cp two box:/no/such/f").fails_with("Could not find the file /no/such in container box");
    host.slowly("docker diff box | grep -E '/(file|two|group)$' | sort")
        .says("A /file\nA /tree/in/file\nA /two\nD /etc/group");
    host.slowly("docker export box | tar -t | grep -cE '^(two|tree/in/file|bin/sh|etc/group)$'").says("3");
    host.slowly("docker commit box image && docker run --rm image cat /file /two").mentions("mine\ntwo");
    // A start has the disk at once, though a machine was there for it a moment ago.
    host.slowly("docker start box && docker exec box cat /two /tree/in/file").says("box\ntwo\nbelow");
    host.slowly("docker stop -t 1 box").ok();
    // What a client was told is there is there, whatever becomes of the daemon and of the machine.
    host.slowly("docker cp one box:/synced").ok();
    host.kill9();
    host.restart();
    host.slowly("docker cp box:/synced - | tar -xO").says("one");
    host.slowly("docker start box && docker exec box cat /synced /file").says("box\none\nmine");
    host.slowly("docker stop -t 1 box && docker cp box:/synced - | tar -t").mentions("synced");
    // Nobody needs it any more.
    eventually("the machine for its files to end", || host.sh(&machines(&host)).lines().is_empty());
    host.sh("docker rm -f box").ok();
}

#[test]
fn volumes_of_what_has_a_disk_are_the_hosts() {
    let host = host();
    host.sh("echo one >one").ok();
    host.slowly("docker run -d --name box --runtime microvm --storage-opt size=64m -v data:/srv/data busybox sh -c 'ln -s /srv/data /away; echo inside >/srv/data/in; sync; echo ready; exec sleep 10000'")
        .ok();
    eventually("its files", || host.sh("docker logs box").text() == "ready");
    host.slowly("docker stop -t 1 box").ok();
    // By its own path, and by a link on the disk.
    host.slowly("docker cp box:/srv/data/in - | tar -xO && docker cp box:/away/in - | tar -xO").says("inside\ninside");
    host.slowly("docker cp one box:/srv/data/first && docker cp one box:/away/second && docker run --rm -v data:/d busybox ls /d | xargs")
        .says("first in second");
    // Neither without what is in it, nor below what is mounted later.
    host.slowly("docker cp box:/srv out").fails_with("there is a volume of a container that does not run at /srv/data");
    host.slowly("mkdir -p srv/data && cp one srv/data/third && tar -c srv/data/third | docker cp - box:/")
        .fails_with("there is a volume of a container that does not run at /srv/data/third");
    host.slowly(
        "docker cp one box:/srv/beside && docker start box && docker exec box cat /srv/beside /srv/data/second",
    )
    .says("box\none\none");
    host.sh("docker rm -f box && docker volume rm data").ok();
}

#[test]
fn a_start_waits_for_who_uses_a_disk_and_a_removal_for_nobody() {
    use std::io::Read as _;
    let host = host();
    host.slowly("docker run --name box --runtime microvm --storage-opt size=64m busybox sh -c 'echo mine >/file'").ok();
    let mut stream = host.begins_copy_into("box");
    eventually("the copy to begin", || host.sh("docker cp box:/two - | tar -t").stdout().contains("two"));
    // Others use it as well.
    host.slowly("docker cp box:/file - | tar -xO").says("mine");
    host.slowly("docker start box").fails_with("files of container box are being copied");
    host.sh("docker rm -f box").ok();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    eventually("the machine for its files to end", || host.sh(&machines(&host)).lines().is_empty());
}

/// Lists what is there for machines.
fn machines(host: &e2e::Daemon) -> String {
    format!("find {}/machines -mindepth 1 -maxdepth 1", host.run_dir().display())
}

#[test]
fn a_daemon_that_is_killed_in_a_copy_leaves_what_can_be_started() {
    let mut host = host();
    host.sh(
        "echo one >one && docker create --name box --runtime microvm busybox sleep 10000 && docker cp one box:/one",
    )
    .ok();
    // It has a layer by then, which the next copy makes an old one.
    host.slowly("docker start box && docker stop -t 1 box").ok();
    let _stream = host.begins_copy_into("box");
    let upper = format!("find {} -path '*/upper/two'", host.data().display());
    eventually("the copy to begin", || !host.sh(&upper).lines().is_empty());
    host.kill9();
    host.restart();
    host.slowly("docker start box && docker exec box ls -d /one /two").mentions("/one\n/two");
    host.sh("docker rm -f box").ok();
}

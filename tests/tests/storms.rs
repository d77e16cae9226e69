//! Containers that do too much: they meet their limits, and nobody else feels it.

use std::fs;

use e2e::{Daemon, eventually};

fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// More than ten thousand lines a second, for as long as it takes to see that they cost nobody memory or disk.
#[test]
fn lines_without_end_that_nobody_reads() {
    let host = Daemon::start();
    let command = "docker run -d --name talker --log-opt max-size=200k --log-opt max-file=2 busybox \
                   sh -c 'n=0; while :; do yes \"a line of which there are many\" | head -n 10000; n=$((n+1)); echo round $n; done'";
    host.sh(command).ok();
    let (daemon, keeper) = (host.pid(), host.keeper());
    let before = (resident(daemon), resident(keeper));
    let directory = host.sh("dirname $(docker inspect -f '{{.LogPath}}' talker)").text().to_owned();
    // The files turn over many times: what is kept is the end, and never more than two files.
    eventually("thirty rounds", || {
        let said = host.sh("docker logs --tail 12000 talker").stdout().to_owned();
        let latest = said.lines().rev().find_map(|line| line.strip_prefix("round ")?.parse::<u32>().ok());
        latest.is_some_and(|round| round >= 30)
    });
    let size: u64 = fs::read_dir(&directory)
        .expect("the container's directory")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .map(|entry| entry.metadata().map_or(0, |meta| meta.len()))
        .sum();
    assert!(size < 600_000, "the logs take {size} bytes");
    let after = (resident(daemon), resident(keeper));
    assert!(after.0 < before.0 + 40_000 && after.1 < before.1 + 4_000, "memory went from {before:?} to {after:?} KiB");
    host.sh("docker run --rm busybox echo fine").says("fine");
    host.sh("docker rm -f talker").ok();
}

#[test]
fn a_process_that_forks_without_end() {
    let host = Daemon::start();
    // A shell ends that can't fork any more: the first process is none, and they begin once it is none.
    let forks = "while :; do sleep 1000 & done";
    host.sh(&format!(
        "docker run -d --name bomb --pids-limit 40 busybox \
         sh -c 'mkfifo /all; for n in 1 2 3; do (: < /all; {forks}) & done; exec sleep 1000 > /all'"
    ))
    .ok();
    eventually("it to be full", || host.sh("docker exec bomb sh -c 'true | true'").code() != 0);
    let most = host.sh("docker stats --no-stream --format '{{.PIDs}}' bomb").number();
    assert!(most <= 40, "{most} processes");
    host.sh("docker run --rm busybox echo fine").says("fine");
    host.sh("docker inspect -f '{{.State.Running}}' bomb").says("true");
    host.sh("docker rm -f bomb && docker ps -aq").omits("Error");
    eventually("its processes to go", || !host.holdings().iter().any(|line| line.starts_with("pids/")));
}

#[test]
fn a_process_that_takes_too_much_memory() {
    let host = Daemon::start();
    host.sh("docker run --name hog -m 16m busybox sh -c 'exec tail /dev/zero'").exits_with(137);
    host.sh("docker inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}' hog")
        .says("true 137 exited");
    host.sh("docker events --since 1h --until $(date +%s.%N) -f container=hog --format '{{.Action}}' | xargs")
        .says("create attach start oom die");
    // One that is not the first process: the container goes on.
    host.sh("docker run -d --name survivor -m 16m busybox sh -c 'tail /dev/zero; echo killed; sleep 1000'").ok();
    eventually("the end of the hog", || host.sh("docker logs survivor").stdout() == "killed\n");
    host.sh("docker inspect -f '{{.State.Running}}' survivor").says("true");
    // It starts again as if nothing had been.
    host.sh("docker rm -f hog && docker run --name hog -m 16m busybox true").ok();
    host.sh("docker inspect -f '{{.State.OOMKilled}}' hog").says("false");
}

#[test]
fn processes_that_nobody_waits_for() {
    let host = Daemon::start();
    let command = "sh -c '(sleep 0.01 &); exec sleep 1000'";
    host.sh(&format!(
        "docker run -d --name without busybox {command} && docker run -d --init --name with busybox {command}"
    ))
    .ok();
    let states = |name: &str| host.sh(&format!("docker exec {name} ps -o stat,comm")).text().to_owned();
    let zombie = |line: &str| line.starts_with('Z');
    eventually("the child to end", || states("without").lines().any(zombie));
    // A title, the init, the program, and ps: the child was taken over and is gone.
    eventually("the child to be reaped", || states("with").lines().count() == 4 && !states("with").lines().any(zombie));
    host.sh("docker stop -t 5 with").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' with").says("143");
    host.sh("docker rm -f without").ok();
}

#[test]
fn a_container_that_does_not_want_to_stop() {
    let host = Daemon::start();
    let deaf = "sh -c 'trap \"\" TERM INT; echo ready; while :; do sleep 0.05; done'";
    host.sh(&format!("docker run -d --name deaf busybox {deaf}")).ok();
    eventually("it to listen no more", || host.sh("docker logs deaf").stdout() == "ready\n");
    host.sh("docker stop -t 1 deaf").says("deaf");
    host.sh("docker inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Status}}' deaf")
        .says("137 false exited");
    host.sh("docker events --since 1h --until $(date +%s.%N) -f container=deaf --format '{{.Action}}{{with .Actor.Attributes.signal}} {{.}}{{end}}' | xargs")
        .says("create start kill 15 kill 9 die stop");
    // A restart gives it the same time, and no more.
    host.sh("docker start deaf && docker restart -t 0 deaf && docker inspect -f '{{.State.Running}}' deaf")
        .mentions("true");
    host.sh("docker rm -f deaf").ok();
}

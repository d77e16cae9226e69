//! What becomes of a container between its making and its end.

use e2e::{Daemon, eventually};

fn state(host: &Daemon, name: &str) -> String {
    host.sh(&format!("docker inspect -f '{{{{.State.Status}}}}' {name}")).text().to_owned()
}

#[test]
fn from_created_to_removed() {
    let host = Daemon::start();
    host.sh("docker create --name box busybox sleep 1000").ok();
    assert_eq!(state(&host, "box"), "created");
    host.sh("docker inspect -f '{{.State.StartedAt}} {{.State.FinishedAt}} {{.State.Pid}}' box")
        .says("0001-01-01T00:00:00Z 0001-01-01T00:00:00Z 0");
    host.sh("docker start box").says("box");
    host.sh("docker start box").says("box");
    assert_eq!(state(&host, "box"), "running");
    host.sh("docker stop -t 0 box").says("box");
    host.sh("docker stop box").says("box");
    host.sh("docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' box")
        .says("exited 137 false");
    host.sh("docker restart -t 0 box").says("box");
    assert_eq!(state(&host, "box"), "running");
    host.sh("docker inspect -f '{{.RestartCount}}' box").says("0");
    host.sh("docker rm box").fails_with("cannot remove container \"/box\": container is running");
    host.sh("docker rm -f box").says("box");
    host.sh("docker rm box").fails_with("No such container: box");
    host.sh("docker rm -f box").complains("No such container: box");
}

#[test]
fn signals() {
    let host = Daemon::start();
    let trap = "trap 'echo hup' HUP; trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    host.sh(&format!("docker run -d --name box busybox sh -c \"{trap}\"")).ok();
    eventually("traps to be set", || host.sh("docker logs box").text() == "ready");
    host.sh("docker kill -s HUP box").says("box");
    eventually("the trap", || host.sh("docker logs box").text() == "ready\nhup");
    host.sh("docker kill -s NOPE box").fails_with("invalid signal: NOPE");
    host.sh("docker stop box").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' box").says("7");
    host.sh("docker kill box").fails_with("cannot kill container: box: container ").complains("is not running");
    host.sh("docker run -d --name usr --stop-signal USR1 busybox sh -c \"trap 'exit 11' USR1; echo ready; while :; do sleep 0.05; done\"")
        .ok();
    eventually("traps to be set", || host.sh("docker logs usr").text() == "ready");
    host.sh("docker stop usr").ok();
    host.sh("docker wait usr").says("11");
    host.sh("docker start usr && docker kill usr && docker wait usr").mentions("137");
    // The client passes on what it gets.
    let mut run = host.session(&format!("docker run --name proxied busybox sh -c \"{trap}\""));
    run.waits_for("ready").signal("HUP").waits_for("hup").signal("TERM");
    assert_eq!(run.exit_code(), 7);
}

#[test]
fn pausing() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    host.sh("docker pause box").says("box");
    host.sh("docker inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Paused}}' box").says("paused true true");
    host.sh("docker ps --format '{{.Status}}'").mentions("(Paused)");
    host.sh("docker pause box").fails_with("is already paused");
    host.sh("docker exec box true").fails_with("is paused, unpause the container before exec");
    host.sh("docker unpause box").says("box");
    host.sh("docker unpause box").fails_with("is not paused");
    host.sh("docker exec box true").ok();
    host.sh("docker pause box && docker stop -t 0 box").ok();
    assert_eq!(state(&host, "box"), "exited");
    host.sh("docker pause box").fails_with("is not running");
    host.sh("docker start box && docker pause box && docker rm -f box").ok();
}

#[test]
fn renaming() {
    let host = Daemon::start();
    host.sh("docker run -d --name one busybox sleep 1000").ok();
    host.sh("docker create --name two busybox").ok();
    host.sh("docker rename one three").ok();
    host.sh("docker inspect -f '{{.Name}}' three").says("/three");
    host.sh("docker inspect one").fails_with("No such object: one");
    host.sh("docker rename three two")
        .fails_with("Conflict. The container name \"/two\" is already in use by container");
    host.sh("docker rename three three").fails_with("Renaming a container with the same name as its current name");
    host.sh("docker rename three 'no/good'").fails_with("Invalid container name (no/good)");
    host.sh("docker run -d --name one busybox sleep 1000").ok();
}

#[test]
fn waiting() {
    let host = Daemon::start();
    host.sh("docker run --name done busybox sh -c 'exit 6'").exits_with(6);
    host.sh("docker wait done").says("6");
    host.sh("docker run -d --name box busybox sh -c 'read line; exit 8'").ok();
    host.sh("docker wait box").says("8");
    let mut run = host.session("docker run --name slow busybox sh -c 'echo ready; sleep 1000'");
    run.waits_for("ready");
    host.sh("docker rm -f slow").ok();
    assert_eq!(run.exit_code(), 137);
    host.sh("docker wait nobody").fails_with("No such container: nobody");
}

#[test]
fn updating() {
    let host = Daemon::start();
    host.sh("docker run -d --name box -m 64m --pids-limit 50 busybox sleep 1000").ok();
    host.sh("docker update -m 96m --memory-swap 96m --cpus 0.5 --pids-limit 40 --restart on-failure:3 box").says("box");
    host.sh("docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}' box")
        .says("100663296 500000000 40 on-failure 3");
    host.sh("docker stats --no-stream --format '{{.MemUsage}}' box").mentions("/ 96MiB");
    host.sh("docker update -m 1k box").fails_with("Minimum memory limit allowed is 6MB");
    host.sh("docker rm -f box").ok();
}

#[test]
fn pruning() {
    let host = Daemon::start();
    host.sh("docker run -d --name stays busybox sleep 1000").ok();
    host.sh("docker run --name goes busybox true").ok();
    host.sh("docker create --name too --label keep busybox").ok();
    host.sh("docker container prune -f --filter label!=keep").mentions("Total reclaimed space: ");
    host.sh("docker ps -a --format '{{.Names}}'").says("too\nstays");
    host.sh("docker container prune -f").mentions("Deleted Containers:");
    host.sh("docker ps -a --format '{{.Names}}'").says("stays");
}

#[test]
fn restart_policies() {
    let host = Daemon::start();
    host.sh("docker run -d --name thrice --restart on-failure:3 busybox sh -c 'echo again; exit 5'").ok();
    eventually("the last try", || {
        host.sh("docker inspect -f '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' thrice").text()
            == "3 exited 5"
    });
    host.sh("docker logs thrice").says("again\nagain\nagain\nagain");
    host.sh("docker run -d --name once --restart on-failure busybox true").ok();
    host.sh("docker wait once").says("0");
    host.sh("docker inspect -f '{{.RestartCount}}' once").says("0");
    host.sh("docker run -d --name always --restart always busybox sleep 1000").ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' always").text().to_owned();
    host.sh(&format!("kill -9 {pid}")).ok();
    eventually("another try", || {
        host.sh("docker inspect -f '{{.RestartCount}} {{.State.Status}}' always").text() == "1 running"
    });
    // Who stops it by hand means it.
    host.sh("docker stop -t 0 always").ok();
    host.sh("docker inspect -f '{{.State.Status}}' always").says("exited");
    host.sh("docker run -d --rm --restart always busybox true").fails_with("onflicting options");
    host.sh("docker run -d --restart sometimes busybox true").fails_with("invalid restart policy");
}

#[test]
fn memory_and_process_limits() {
    let host = Daemon::start();
    host.sh("docker run --name eater -m 20m --memory-swap 20m busybox sh -c 'tail /dev/zero'").exits_with(137);
    host.sh("docker inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' eater").says("true 137");
    host.sh("docker events --since 1h --until $(date +%s.%N) --filter event=oom --format '{{.Actor.Attributes.name}}'")
        .says("eater");
    host.sh("docker run --rm --pids-limit 5 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 100 & done'")
        .complains("Resource temporarily unavailable");
    host.sh("docker run --rm -m 1m busybox true").exits_with(125).complains("Minimum memory limit allowed is 6MB");
    host.sh("docker run --rm -m 32m --memory-swap 16m busybox true")
        .exits_with(125)
        .complains("Minimum memoryswap limit should be larger than memory limit");
    host.sh("docker run --rm --cpus 1000 busybox true").exits_with(125).complains("range of CPUs is from 0.01 to");
}

#[test]
fn health_checks() {
    let host = Daemon::start();
    host.sh(
        "docker run -d --name box --health-cmd 'test ! -e /bad && echo fine' --health-interval 100ms --health-retries 2 \
             busybox sleep 1000",
    )
    .ok();
    let health = "docker inspect -f '{{.State.Health.Status}}' box";
    eventually("it to be healthy", || host.sh(health).text() == "healthy");
    host.sh("docker ps --format '{{.Status}}'").mentions("(healthy)");
    host.sh("docker ps -q --filter health=healthy | wc -l").says("1");
    let mut events = host.session("docker events --filter event=health_status --format '{{.Action}}'");
    host.sh("docker inspect -f '{{(index .State.Health.Log 0).ExitCode}} {{(index .State.Health.Log 0).Output}}' box")
        .says("0 fine");
    host.sh("docker exec box touch /bad").ok();
    eventually("it to be unhealthy", || host.sh(health).text() == "unhealthy");
    events.waits_for("health_status: unhealthy").signal("INT");
    events.exit_code();
    host.sh("docker inspect -f '{{ge .State.Health.FailingStreak 2}}' box").says("true");
    host.sh("docker run --rm --no-healthcheck busybox true").ok();
    host.sh("docker run -d --name hangs --health-cmd 'sleep 100' --health-interval 50ms --health-timeout 100ms --health-retries 1 busybox sleep 1000")
        .ok();
    eventually("the time to be over", || {
        host.sh("docker inspect -f '{{.State.Health.Status}}' hangs").text() == "unhealthy"
    });
    host.sh("docker inspect -f '{{(index .State.Health.Log 0).Output}}' hangs")
        .mentions("Health check exceeded timeout (100ms)");
}

/// A check whose time is over is ended: there are never many of them.
#[test]
fn health_checks_that_hang() {
    let host = Daemon::start();
    host.sh("docker run -d --name hangs --health-cmd 'exec sleep 987' --health-interval 20ms --health-timeout 100ms \
             --health-retries 2 busybox sleep 1000")
        .ok();
    let timeouts = "docker inspect -f '{{.State.Health.FailingStreak}}' hangs";
    eventually("many checks", || host.sh(timeouts).number() >= 12);
    let checks = host.sh("docker top hangs -o args | grep -c 987 || true").number();
    assert!(checks <= 3, "{checks} checks are still there");
    // They are told of from their making to their end; on a slow machine the next begins before that.
    host.sh("docker rm -f hangs").ok();
    let seen = host.sh(
        "docker events --since 1h --until $(date +%s.%N) -f container=hangs --format '{{.Action}}' | sed 's/:.*//' \
         | grep exec_ | sort -u | xargs",
    );
    seen.says("exec_create exec_die exec_start");
}

/// A removal and whatever else may be done to a container, all at once, many times: what a removal said is done is done
/// for good, and the name is free.
#[test]
fn removal_beside_everything_else() {
    let mut host = Daemon::start();
    let others = [
        "docker start box",
        "docker rename box other",
        "docker update --restart always box",
        "docker pause box",
        "docker stop -t 0 box",
        "docker network connect extra box",
        "docker network disconnect extra box",
    ];
    host.sh("docker network create extra").ok();
    let gone = "docker inspect box other >/dev/null 2>&1 && echo still there";
    for round in 0..12 {
        host.sh("docker create --name box busybox sleep 1000").ok();
        // Each round another one is a little later than the removal.
        let beside: Vec<String> = others.iter().map(|other| format!("{other} >/dev/null 2>&1 &")).collect();
        let (before, after) = beside.split_at(round % others.len());
        host.sh(&format!(
            "{} docker rm -f box >/dev/null 2>&1 & {} wait; docker rm -f box other >/dev/null 2>&1; {gone}; true",
            before.join(" "),
            after.join(" ")
        ))
        .says("");
    }
    host.sh("docker ps -aq").says("");
    host.restart();
    host.sh("docker ps -aqs").says("");
    host.sh("docker create --name box busybox && docker rm box").ok();
    eventually("the files to go", || host.holdings().iter().all(|line| !line.contains("containers/")));
}

/// A size that can't be told is no reason to list nothing.
#[test]
fn sizes_of_what_is_damaged() {
    let host = Daemon::start();
    host.sh("docker create --name whole busybox && docker create --name broken busybox").ok();
    let upper = host.sh("docker inspect -f '{{.GraphDriver.Data.UpperDir}}' broken").text().to_owned();
    host.sh(&format!("rm -rf {upper}")).ok();
    host.sh("docker ps -as --format '{{.Names}}' | sort | xargs").says("broken whole");
    host.sh("docker inspect -s -f '{{.SizeRw}}' broken").says("-1");
    host.sh("docker inspect -s -f '{{.SizeRw}}' whole").says("0");
    host.sh("$STRATUS ps -as | grep broken").mentions("?");
    host.sh("docker rm whole broken").ok();
}

/// A forced removal does what it says, whoever starts the container at the same time.
#[test]
fn forced_removal_beside_starts() {
    let host = Daemon::start();
    for _ in 0..10 {
        host.sh("docker create --name box busybox sleep 1000").ok();
        host.sh(
            "for n in 1 2 3 4; do docker start box >/dev/null 2>&1 & done; docker rm -f box; code=$?; wait; exit $code",
        )
        .says("box");
        host.sh("docker ps -aq").says("");
    }
}

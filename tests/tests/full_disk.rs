//! A disk without room: what fails says so, what runs goes on, what is removed makes room, and then everything works again.

use e2e::{Daemon, Registry, eventually};

/// The system's own words, which scripts look for.
const FULL: &str = "no space left on device";

/// A daemon whose disk holds little more than its base image.
fn on_small_disk() -> Daemon {
    let mut host = Daemon::start();
    host.move_to_disk(64 << 20);
    host
}

/// Has a container take every byte that is left.
fn fill(host: &Daemon) {
    host.sh("docker run --name filler busybox sh -c 'cat /dev/zero > /fill'").fails_with("No space left on device");
    // What is left of the last block goes, too.
    host.sh("docker start -a filler").fails_with("");
}

#[test]
fn nothing_comes_in_and_everything_can_go() {
    let host = on_small_disk();
    host.sh("docker create --name box busybox && docker save busybox > saved.tar && docker tag busybox other").ok();
    host.sh("head -c 3000000 /dev/urandom > noise && tar -c noise > noise.tar").ok();
    fill(&host);
    host.sh("docker load -i noise.tar").fails_with("");
    host.sh("docker import noise.tar noise").fails_with(FULL);
    host.sh("docker cp noise box:/").fails_with(FULL);
    host.sh("docker commit filler large").fails_with(FULL);
    // Whatever it was that filled it, there is a way to see that.
    for command in ["import noise.tar noise", "cp noise box:/", "run --rm busybox true"] {
        let failed = host.sh(&format!("$STRATUS {command}"));
        failed.complains("stratus system df").complains("stratus system prune");
        failed.spares("image prune");
    }
    // The other way, it is the disk of this side.
    let receive = "mkdir here && mount -t tmpfs -o size=64k tmpfs here && $STRATUS cp box:/bin/busybox here/";
    let failed = host.sh(&format!("unshare --mount --propagation private sh -c '{receive}'"));
    failed.complains("free some of this machine's disk").spares("prune");
    host.sh("docker ps -a --format '{{.Names}}' | sort | xargs").says("box filler");
    host.sh("docker images --format '{{.Repository}}' | sort | xargs").says("busybox other");
    // What is known is still told, and can be taken away.
    host.sh("docker inspect filler -f '{{.State.Status}}'").says("exited");
    host.sh("docker rmi other && docker rm box").ok();
    host.sh("docker rm filler").says("filler");
    eventually("room for another", || {
        host.sh("docker run --rm busybox sh -c 'head -c 10000000 /dev/zero > /x'").code() == 0
    });
    host.sh("docker import noise.tar noise && docker rmi noise").ok();
    host.sh("docker images --format '{{.Repository}}'").says("busybox");
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

/// Has the store need room that is not there: from then on nothing but what must be is recorded. `name`: a running container,
/// whose record is written again and again.
fn fill_the_store(host: &Daemon, name: &str) {
    let label = "x".repeat(60_000);
    host.sh(&format!("docker network create --label a={label} large-{name}")).code();
    let updates = format!(
        "n=0; while docker update --restart always {name}; do n=$((n + 1)); test $n -lt 300 || exit 0; done; exit 1"
    );
    host.slowly(&updates).fails_with(FULL);
}

#[test]
fn who_fills_the_disk_can_be_ended() {
    let mut host = on_small_disk();
    let names = "killed stopped forced paused again other";
    host.sh(&format!(
        "for n in {names}; do docker run -d -i --name $n --restart always busybox sh -c 'cat /fill > /dev/null 2>&1; cat'; done"
    ))
    .ok();
    host.sh("docker run -d --name filler busybox sh -c 'cat /dev/zero > /fill; cat /dev/zero > /fill2; sleep 1000'")
        .ok();
    eventually("a full disk", || host.sh("docker exec filler test -e /fill2").code() == 0);
    fill_the_store(&host, "other");
    host.sh("docker pause paused").ok();
    let state = |host: &Daemon, name: &str| {
        host.sh(&format!("docker inspect -f '{{{{.State.Status}}}} {{{{.State.ExitCode}}}}' {name}")).text().to_owned()
    };
    host.sh("docker kill killed").says("killed");
    assert_eq!(state(&host, "killed"), "exited 137");
    host.sh("docker stop -t 0 stopped").says("stopped");
    assert_eq!(state(&host, "stopped"), "exited 137");
    host.sh("docker stop -t 0 paused").says("paused");
    host.sh("docker rm -f forced").says("forced");
    // Its end makes room for its start.
    host.sh("docker restart -t 0 again").says("again");
    // A start that can't be recorded leaves a state that says so.
    fill_the_store(&host, "other");
    host.sh("docker start stopped").fails_with(FULL);
    host.sh("docker inspect -f '{{.State.Status}} {{.State.Error}}' stopped").mentions("exited").mentions(FULL);
    // What was ended by hand stays down under a later daemon.
    host.restart();
    for name in ["killed", "paused"] {
        assert_eq!(state(&host, name), "exited 137", "{name}");
    }
    host.sh("docker rm -f filler other").says("filler\nother");
    eventually("room for another", || host.sh("docker start stopped").code() == 0);
    host.sh("docker rm -f killed stopped paused again").ok();
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

#[test]
fn a_pull_that_does_not_fit() {
    let host = on_small_disk();
    let registry = Registry::start(&host);
    let name = format!("{}/large", registry.name());
    host.sh(&format!(
        "docker run --name box busybox sh -c 'head -c 8000000 /dev/urandom > /noise' && docker commit box {name} \
         && docker push -q {name} && docker rm box && docker rmi {name}"
    ))
    .ok();
    fill(&host);
    host.sh(&format!("docker pull {name}")).fails_with(FULL);
    host.sh("docker images --format '{{.Repository}}'").says("busybox");
    host.sh("docker rm filler").ok();
    eventually("it to fit", || host.sh(&format!("docker pull -q {name}")).code() == 0);
    host.sh(&format!("docker run --rm {name} sh -c 'wc -c < /noise'")).says("8000000");
}

#[test]
fn what_runs_goes_on_while_its_log_cannot_be_written() {
    let mut host = on_small_disk();
    host.sh("docker run -di --name talker busybox sh -c 'n=0; while read l; do n=$((n+1)); echo got $n $l; echo $n > /dev/shm/n; done'").ok();
    fill(&host);
    let said = "said".repeat(1000);
    let mut typed = host.session("docker attach --sig-proxy=false talker");
    for n in 1..=20 {
        typed.types(&format!("{said}\n"));
        typed.waits_for(&format!("got {n} said"));
    }
    host.sh("docker exec talker cat /dev/shm/n").says("20");
    host.sh("docker inspect -f '{{.State.Running}}' talker").says("true");
    // A daemon that starts on a full disk takes up what runs.
    host.restart();
    host.sh("docker exec talker cat /dev/shm/n").says("20");
    host.sh("docker rm filler").ok();
    let mut typed = host.session("docker attach --sig-proxy=false talker");
    eventually("its log to be written again", || {
        typed.types("more\n");
        host.sh("docker logs --tail 1 talker").stdout().contains("more")
    });
    host.sh("docker stop -t 0 talker && docker rm talker").ok();
}

#[test]
fn a_build_that_does_not_fit() {
    let host = on_small_disk();
    std::fs::create_dir(host.work().join("app")).expect("a directory");
    let dockerfile = "FROM busybox\nRUN echo small > /small\nRUN head -c 6000000 /dev/urandom > /large\nCOPY --from=busybox /bin/busybox /copy\n";
    std::fs::write(host.work().join("app/Dockerfile"), dockerfile).expect("the Dockerfile");
    let build = "env DOCKER_BUILDKIT=0 docker build -t app app";
    fill(&host);
    assert_ne!(host.sh(build).code(), 0);
    host.sh("docker ps -a --format '{{.Names}}'").says("filler");
    host.sh("docker images --format '{{.Repository}}'").says("busybox");
    host.sh("docker rm filler").ok();
    eventually("it to fit", || host.sh(build).code() == 0);
    // What is found again is whole.
    host.sh(build).ok().omits("Running in");
    host.sh("docker run --rm app sh -c 'wc -c < /large && cmp /copy /bin/busybox && cat /small'")
        .says("6000000\nsmall");
    host.sh("docker rmi app && docker builder prune -af").ok();
    host.sh("docker run --rm busybox sh -c 'head -c 10000000 /dev/zero > /x'").ok();
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

//! stratus as the OCI runtime of others: dockerd, containerd and podman start their containers with it, and notice nothing.

use e2e::World;

/// Debian's containerd, and its dockerd with stratus beside its usual runtime.
fn dockerd() -> World {
    let world = World::start();
    world.sh("printf 'version = 2\\nroot = \"%s/c/root\"\\nstate = \"%s/c/state\"\\n[grpc]\\naddress = \"%s/c.sock\"\\n' $PWD $PWD $PWD > c.toml").ok();
    world.starts("containerd.log", "containerd --config c.toml", |world| world.sh("ctr -a c.sock version").code() == 0);
    world.starts(
        "dockerd.log",
        "dockerd --containerd $PWD/c.sock --data-root $PWD/data --exec-root $PWD/exec --pidfile $PWD/pid --host $DOCKER_HOST \
         --bridge none --iptables=false --storage-driver overlay2 --cgroup-parent /$CGROUP --add-runtime stratus=$RUNTIME \
         --default-runtime stratus",
        |world| world.sh("docker version").code() == 0,
    );
    world.has_busybox();
    world
}

#[test]
fn of_dockerd() {
    let world = dockerd();
    world.sh("docker info -f '{{.DefaultRuntime}}'").says("stratus");
    world.sh("grep -c 'failed to parse' dockerd.log").prints("0");
    world.sh("docker run --rm busybox echo hello").says("hello");
    world.sh("docker run --rm busybox sh -c 'echo out; echo err >&2; exit 3'").exits_with(3);
    world.sh("echo through | docker run -i --rm busybox cat").says("through");
    world.sh("docker run --rm -t busybox sh -c 'test -t 0 && stty size'").ok();
    world.sh("docker run --rm busybox nonsense").exits_with(127).complains("executable file not found");
    world.sh("docker run --rm busybox /etc").exits_with(126).complains("permission denied");
    world.sh("docker run --rm --read-only --tmpfs /mem busybox sh -c 'touch /mem/x && ! touch /x'").ok();
    world
        .sh("docker run --rm -u 1000:50 -w /tmp -e A=b -h box busybox sh -c 'id -u; id -g; pwd; echo $A; hostname'")
        .says("1000\n50\n/tmp\nb\nbox");
    world.sh("docker run --rm --cap-drop all busybox grep CapEff /proc/self/status").says("CapEff:\t0000000000000000");
    world.sh("docker run --rm --ulimit nofile=77:88 busybox sh -c 'ulimit -n'").says("77");
    world.sh("docker run --rm --init busybox sh -c 'cat /proc/1/comm'").mentions("init");
    world.sh("docker run --rm --pids-limit 7 -m 64m busybox sh -c 'cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max'")
        .says("7");
}

#[test]
fn of_dockerd_for_a_whole_life() {
    let world = dockerd();
    world.sh("docker run -d --name box -m 64m busybox sh -c 'echo begun; trap \"exit 7\" TERM; while :; do sleep 0.05; done'").ok();
    world.sh("docker exec box sh -c 'echo in; exit 4'").exits_with(4).prints("in");
    world.sh("docker exec -t box sh -c 'test -t 1 && echo terminal'").says("terminal");
    world.sh("docker exec -u 1000 -w /tmp -e A=b box sh -c 'id -u; pwd; echo $A'").says("1000\n/tmp\nb");
    world.sh("docker top box | grep -c sleep").ok();
    world.sh("docker stats --no-stream --format '{{.MemUsage}}' box").mentions("64MiB");
    world.sh("docker pause box && docker inspect -f '{{.State.Status}}' box && docker unpause box").mentions("paused");
    world
        .sh("docker update -m 32m --memory-swap 32m box && docker stats --no-stream --format '{{.MemUsage}}' box")
        .mentions("32MiB");
    world.sh("docker logs box").says("begun");
    world.sh("docker restart box && docker exec box true").ok();
    world.sh("docker stop box && docker inspect -f '{{.State.ExitCode}}' box").mentions("7");
    world.sh("docker start box && docker kill box && docker wait box").mentions("137");
    world.sh("docker run --name hog -m 16m --memory-swap 16m busybox sh -c 'tail /dev/zero'").exits_with(137);
    world.sh("docker checkpoint create box one").fails_with("");
    world.sh("docker rm -f box hog").ok();
}

#[test]
fn of_containerd() {
    let world = dockerd();
    let ctr = |command: &str| format!("ctr -a c.sock -n tests {command}");
    let run = "run --runc-binary $RUNTIME --cgroup $CGROUP/ctr";
    world.sh(&format!("docker save busybox -o i.tar && {}", ctr("image import i.tar"))).ok();
    let image = "docker.io/library/busybox:latest";
    world.sh(&ctr(&format!("{run} --rm {image} one sh -c 'echo hello; exit 3'"))).exits_with(3).prints("hello");
    world.sh(&ctr(&format!("{run} -d {image} box sleep 1000"))).ok();
    world.sh(&ctr("tasks ls")).mentions("RUNNING");
    world.sh(&ctr("tasks exec --exec-id e box sh -c 'echo in; exit 4'")).exits_with(4).prints("in");
    world.sh(&ctr("tasks ps box")).ok();
    world.sh(&ctr("tasks metrics box")).mentions("memory");
    world
        .sh(&format!("{} && {} && {}", ctr("tasks pause box"), ctr("tasks ls"), ctr("tasks resume box")))
        .mentions("PAUSED");
    world.sh(&ctr("tasks kill -s KILL box")).ok();
    e2e::eventually("its end", || world.sh(&ctr("tasks ls")).text().contains("STOPPED"));
    world.sh(&format!("{} && {}", ctr("tasks delete box; true"), ctr("containers delete box"))).ok();
}

#[test]
fn of_podman() {
    let world = World::start();
    let podman = |command: &str| {
        format!(
            "podman --root $PWD/r --runroot $PWD/rr --tmpdir $PWD/t --cgroup-manager cgroupfs --events-backend file --runtime $RUNTIME {command}"
        )
    };
    world.sh("mkdir r rr t").ok();
    world.has_base();
    world.sh(&format!("tar -C base -c . | {}", podman("import -c 'ENV PATH=/bin' - busybox"))).ok();
    let run = "run --network none --cgroup-parent /$CGROUP";
    world.sh(&podman(&format!("{run} --rm busybox sh -c 'echo hello; exit 3'"))).exits_with(3).prints("hello");
    world.sh(&podman(&format!("{run} -d --name box busybox sleep 1000"))).ok();
    world.sh(&podman("exec box sh -c 'echo in; exit 4'")).exits_with(4).prints("in");
    world.sh(&podman("exec -t box sh -c 'test -t 1 && echo terminal'")).says("terminal");
    world.sh(&podman("top box args")).mentions("sleep 1000");
    world.sh(&format!("{} && {}", podman("pause box"), podman("unpause box"))).ok();
    world.sh(&podman("stop -t 0 box")).ok();
    world.sh(&podman("inspect -f '{{.State.ExitCode}} {{.OCIRuntime}}' box")).mentions("137 ");
    world.sh(&format!("{} && {}", podman("start box"), podman("kill box"))).ok();
    world.sh(&podman("rm -f box")).ok();
}

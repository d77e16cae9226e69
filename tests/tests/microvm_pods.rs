//! Several containers in one microVM: `docker run --runtime microvm --network container:NAME`, as the containers of a pod.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::eventually;
use microvm_kernel::host;

#[test]
fn a_container_comes_into_the_machine_of_another_one() {
    let mut host = host();
    let serve = "mkdir /www; echo main > /www/index.html; httpd -f -h /www -p 80";
    host.slowly(&format!(
        "docker run -d --name main -h pod -p $PORT:8080 -m 100m --runtime microvm busybox sh -c '{serve}'"
    ))
    .ok();
    let boot = host.slowly("docker exec main cat /proc/sys/kernel/random/boot_id").text().to_owned();
    let side = "mkdir /www; echo side > /www/index.html; trap \"echo told; exit 5\" TERM; httpd -h /www -p 8080; echo serves; while :; do sleep 0.1; done";
    host.slowly(&format!(
        "docker run -d --name side --network container:main -m 64m --cpus 0.5 -e A=b --runtime microvm busybox sh -c '{side}'"
    ))
    .ok();
    // One kernel and one network; processes, files and limits of its own.
    host.slowly("docker exec side cat /proc/sys/kernel/random/boot_id").says(&boot);
    eventually("it serves", || host.sh("docker logs side").stdout() == "serves\n");
    host.slowly("docker exec side wget -q -O - http://127.0.0.1/").says("main");
    host.slowly("docker exec main wget -q -O - http://127.0.0.1:8080/").says("side");
    host.sh("curl -s -m 20 http://127.0.0.1:$PORT").says("side");
    host.slowly("docker exec side cat /www/index.html").says("side");
    host.slowly("docker exec side sh -c 'ps | grep -c [h]ttpd.-f; true'").says("0");
    host.slowly("docker exec side cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max").says("67108864\n50000 100000");
    host.slowly("docker exec main cat /sys/fs/cgroup/memory.max").says("104857600");
    host.slowly("docker exec side sh -c 'echo $A; cat /etc/hostname; grep -c pod /etc/hosts'").says("b\npod\n1");
    eventually("the machine has grown", || {
        let total = "docker exec main sh -c 'grep MemTotal /proc/meminfo'";
        let kilobytes: Option<u64> = host.slowly(total).text().split_whitespace().nth(1).and_then(|kb| kb.parse().ok());
        // 196 MiB were there, of which the kernel has its part.
        kilobytes.is_some_and(|kilobytes| kilobytes > 200 << 10)
    });
    // What it writes, what it has, and what it uses are its own.
    host.slowly("docker exec side sh -c 'echo new > /new'; docker diff side | grep -c new").says("1");
    host.slowly("docker diff main").omits("new");
    host.slowly(
        "echo in > in; docker cp in side:/in && docker exec side cat /in && docker cp side:/new out && cat out",
    )
    .says("in\nnew");
    host.slowly("docker top side").mentions("httpd -h /www -p 8080").omits("sleep 1000");
    host.slowly("docker stats --no-stream --format '{{.MemUsage}}' side").mentions("64MiB");

    // Who stands for it on the host, and for a process of it, believes the machine in nothing: they are nobody, and make the system calls that they have a reason for.
    host.slowly("docker exec -d side sleep 1000").ok();
    let stand_in = host.sh("docker inspect -f '{{.State.Pid}}' side").text().to_owned();
    let further = host.sh(&format!("pgrep -P {} -f '^/machine exec '", host.keeper())).text().to_owned();
    for process in [stand_in, further] {
        host.sh(&format!("grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/{process}/status | tr -s '\\t ' ' '"))
            .says("Uid: 65534 65534 65534 65534\nCapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2");
    }

    // Of what one died is told, though it may write next to nothing.
    host.slowly("docker run --name hungry --network container:main -m 20m --runtime microvm busybox tail /dev/zero")
        .exits_with(137);
    host.sh("docker inspect -f '{{.State.OOMKilled}}' hungry && docker rm hungry").says("true\nhungry");

    // The daemon is killed: neither notices.
    host.kill9();
    host.sh("curl -s -m 20 http://127.0.0.1:$PORT").says("side");
    host.restart();
    host.slowly("docker exec side cat /proc/sys/kernel/random/boot_id").says(&boot);

    // It ends alone, and comes again, into the same machine, as its image is.
    host.slowly("docker kill -s TERM side && docker wait side").says("side\n5");
    host.sh("docker logs side").says("serves\ntold");
    host.slowly("docker start side").ok();
    host.slowly("docker exec side cat /proc/sys/kernel/random/boot_id").says(&boot);
    host.slowly("docker exec side sh -c 'ls /new; true'").complains("No such file");
    host.slowly("docker kill side && docker wait side").says("side\n137");
    host.slowly("docker exec main wget -q -O - http://127.0.0.1/").says("main");
    // With the machine it ends.
    host.slowly("docker start side").ok();
    host.slowly("docker rm -f main").ok();
    host.slowly("docker wait side").says("137");
    host.sh("docker start side").exits_with(1).complains("No such container: ");
    host.sh("docker rm side && docker ps -aq").says("side");
    let machines = host.run_dir().join("machines");
    eventually("nothing is left", || std::fs::read_dir(&machines).expect("it is there").next().is_none());
}

#[test]
fn many_come_and_go_with_images_of_their_own() {
    let host = host();
    host.sh(
        "mkdir one && printf 'FROM busybox\\nRUN echo one > /which\\n' > one/Dockerfile && docker build -q -t one one",
    )
    .ok();
    host.sh("mkdir two && printf 'FROM one\\nRUN echo two > /which\\n' > two/Dockerfile && docker build -q -t two two")
        .ok();
    host.slowly("docker run -d --name main --runtime microvm busybox sleep 1000").ok();
    let run = "docker run --rm --network container:main --runtime microvm";
    // Streams, exit statuses, and what can't be executed, as in any container.
    host.slowly(&format!(
        "printf 'a\\nb\\n' | {run} -i two sh -c 'cat; cat /which; echo bad >&2; exit 7' 2>err; echo $?; cat err"
    ))
    .says("a\nb\ntwo\n7\nbad");
    host.slowly(&format!("{run} busybox no-such-program")).exits_with(127).complains("executable file not found");
    host.slowly(&format!("{run} -m 100m busybox sh -c 'x=a; while :; do x=$x$x; done'")).exits_with(137);
    // Some at once, many times over: what lies on their disk, and their memory, goes with them.
    for _ in 0..3 {
        let all = ["one", "two", "busybox"].map(|image| format!("{run} {image} cat /which & "));
        host.slowly(&format!("({} wait) 2>/dev/null | sort", all.concat())).says("one\ntwo");
    }
    let left = "docker exec main sh -c 'ls /sys/block/vd?/ | grep -c ^vd'";
    eventually("their layers are gone", || host.slowly(left).text() == "1");
    host.slowly("docker exec main sh -c 'ls -d /sys/fs/cgroup'").ok();
    let terminal = host.terminal(&format!("{run} -it one sh -c 'stty size; read line; echo read $line'"));
    terminal.waits_for("24 80");
    drop(terminal);
    host.slowly("docker rm -f main").ok();
}

#[test]
fn a_layer_that_an_image_has_twice_lies_where_it_is_uppermost() {
    let host = host();
    host.sh("mkdir c && echo one > c/one && echo two > c/two && printf 'FROM busybox\nCOPY one /x\nCOPY two /x\nCOPY one /x\n' > c/Dockerfile && docker build -q -t twice c")
        .ok();
    let ids = host.sh(
        "docker image inspect -f '{{json .RootFS.Layers}}' twice | tr -d '[]' | tr , '\n' | sort | uniq -d | wc -l",
    );
    assert_eq!(ids.text(), "1", "no layer is there twice");
    host.slowly("docker run -d --name main --runtime microvm twice sleep 1000").ok();
    host.slowly("docker exec main cat /x").says("one");
    host.slowly("docker run --rm --network container:main --runtime microvm twice cat /x").says("one");
    host.slowly("docker run --rm --network container:main --runtime microvm busybox ls /x").complains("No such file");
    host.slowly("docker exec main cat /x").says("one");
    host.slowly("docker rm -f main").ok();
}

#[test]
fn what_one_leaves_behind_keeps_nobody_else_away() {
    let host = host();
    host.slowly("docker run -d --name main -m 128m --runtime microvm busybox sleep 1000").ok();
    let run = "docker run --network container:main --runtime microvm";
    // Control groups of its own, with what runs in it.
    let groups =
        "mkdir /groups && mount -t cgroup2 none /groups && mkdir -p /groups/one/two || exit 4; sleep 1000 & exit 3";
    host.slowly(&format!("{run} --rm --privileged busybox sh -c \"{groups}\"")).exits_with(3);
    // Two at once, whose memory adds up on the host as well.
    host.slowly(&format!(
        "({run} -d --name one -m 200m busybox sleep 1000 & {run} -d --name two -m 200m busybox sleep 1000; wait) >/dev/null"
    ))
    .ok();
    let limit = host.sh("cat $(find /sys/fs/cgroup -path \"*$(docker inspect -f '{{.Id}}' main)*\" \\( -name memory.limit_in_bytes -o -name memory.max \\) | head -n 1)");
    let limit: u64 = limit.text().parse().expect("it is a number");
    // The machine's own is 128 + 96 MiB, and 256 for its process.
    assert_eq!(limit >> 20, 128 + 96 + 256 + 400);
    host.slowly("docker exec two dd if=/dev/zero of=/dev/null bs=150M count=1").ok();
    host.slowly("docker exec one dd if=/dev/zero of=/dev/null bs=150M count=1").ok();
    // A policy of its own can change; one whose machine is paused answers nobody.
    host.slowly("docker update --restart on-failure:3 one").ok();
    host.slowly("docker pause main").ok();
    host.slowly("docker exec one true").exits_with(126).prints("the microVM of container main is paused");
    host.slowly("docker unpause main && docker exec one true").ok();
    host.slowly("docker rm -f one two").ok();
    // What they had is gone, so that the machine can be saved.
    eventually("their memory is given back", || {
        let total = host.slowly("docker exec main grep MemTotal /proc/meminfo");
        total.text().split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).is_some_and(|kb| kb < 224 << 10)
    });
    eventually("it is saved", || host.slowly("$STRATUS suspend main").code() == 0);
    host.slowly("$STRATUS resume main").ok();
    host.slowly(&format!("{run} --rm busybox echo again")).says("again");
    host.slowly("docker rm -f main").ok();
}

#[test]
fn one_is_paused_and_goes_on_by_itself() {
    let mut host = host();
    let count = "n=0; while :; do n=$((n + 1)); echo $n >/n; sleep 0.1; done";
    host.slowly(&format!("docker run -d --name main --runtime microvm busybox sh -c '{count}'")).ok();
    host.slowly(&format!(
        "docker run -d --name side --network container:main --runtime microvm busybox sh -c '{count}'"
    ))
    .ok();
    let counted = |host: &e2e::Daemon, name: &str| {
        host.slowly(&format!("docker exec {name} cat /n")).stdout().trim().parse::<u64>().ok()
    };
    eventually("it counts", || counted(&host, "side").is_some());
    host.slowly("docker pause side").ok();
    host.sh("docker ps --format '{{.Names}} {{.Status}}' | grep -c Paused").says("1");
    host.sh("docker pause side").exits_with(1).complains("is already paused");
    host.sh("docker exec side true").exits_with(1).complains("is paused");
    let processes = host.slowly("docker stats --no-stream --format '{{.PIDs}}' side").text().parse::<u32>();
    assert!(processes.is_ok_and(|count| (1..3).contains(&count)), "they are those in the machine");
    let before = counted(&host, "main");
    eventually("the first one goes on", || counted(&host, "main") > before);
    // It lasts beyond the daemon.
    host.kill9();
    host.restart();
    // Whoever goes on has another `sleep` ten times a second.
    let stands = host.slowly("docker top side").text().to_owned();
    for _ in 0..5 {
        host.slowly("docker top side").says(&stands);
    }
    host.sh("docker inspect -f '{{.State.Status}}' side").says("paused");
    host.slowly("docker unpause side").ok();
    host.sh("docker unpause side").exits_with(1).complains("is not paused");
    let before = counted(&host, "side");
    eventually("it goes on", || counted(&host, "side") > before);
    // What is paused ends when it is told to, and begins anew as one that is not.
    host.slowly("docker pause side && docker kill side && docker wait side").says("side\nside\n137");
    host.slowly("docker start side && docker pause side && docker stop -t 0 side && docker start side").ok();
    eventually("it counts", || counted(&host, "side").is_some());
    host.slowly("docker pause side && docker rm -f side").ok();
    host.slowly("docker exec main true && docker rm -f main").ok();
}

#[test]
fn what_one_may_use_changes_while_it_runs() {
    let mut host = host();
    host.slowly("docker run -d --name main -m 128m --runtime microvm busybox sleep 1000").ok();
    host.slowly("docker run -d --name side --network container:main --runtime microvm busybox sleep 1000").ok();
    let limits = "docker exec side sh -c 'cd /sys/fs/cgroup; cat memory.max pids.max cpu.max'";
    host.slowly(limits).says("max\nmax\nmax 100000");
    host.slowly("docker update -m 200m --memory-swap 200m --pids-limit 20 side").ok();
    host.slowly(limits).says("209715200\n20\nmax 100000");
    // The machine has grown by that, and its process may have as much.
    let total = |host: &e2e::Daemon| {
        let told = host.slowly("docker exec main grep MemTotal /proc/meminfo");
        told.text().split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok())
    };
    eventually("the machine is larger", || total(&host).is_some_and(|kilobytes| kilobytes > 350 << 10));
    // More than there was: one piece, which is read into memory at once.
    host.slowly("docker exec side dd if=/dev/zero of=/dev/null bs=150M count=1").ok();
    host.slowly("docker stats --no-stream --format '{{.MemUsage}}' side").mentions("200MiB");
    host.slowly("docker update --cpus 0.5 side").ok();
    host.slowly("docker exec main cat /sys/fs/cgroup/memory.max").says("134217728");
    // More than the host has is refused, and changes nothing.
    host.slowly("docker update -m 900g --memory-swap 900g side").exits_with(1).complains("MiB of memory, and not");
    host.slowly(limits).says("209715200\n20\n50000 100000");
    // It is counted by a daemon that comes later, and goes with less of it, or none.
    host.kill9();
    host.restart();
    host.slowly("docker update -m 20m --pids-limit -1 side").ok();
    host.slowly(limits).says("20971520\nmax\n50000 100000");
    eventually("the machine is smaller", || total(&host).is_some_and(|kilobytes| kilobytes < 244 << 10));
    host.slowly("docker update -m 100m --memory-swap 200m main").ok();
    host.slowly("docker exec main cat /sys/fs/cgroup/memory.max").says("104857600");
    host.slowly("docker exec side cat /sys/fs/cgroup/memory.max").says("20971520");
    host.slowly("docker restart -t 0 side").ok();
    host.slowly(limits).says("20971520\nmax\n50000 100000");
    host.slowly("docker rm -f side main").ok();
}

#[test]
fn whoever_waits_for_the_first_one_has_not_tried_in_vain() {
    let host = host();
    let ends = "trap \"exit 3\" USR1; touch /listens; while :; do sleep 0.1; done";
    host.slowly(&format!("docker run -d --name main --restart always --runtime microvm busybox sh -c '{ends}'")).ok();
    host.slowly("docker run -d --name side --restart on-failure:3 --network container:main --runtime microvm busybox sleep 1000")
        .ok();
    let restarts = |count: &str| {
        host.slowly("docker inspect -f '{{.State.Status}} {{.RestartCount}}' side").text() == format!("running {count}")
    };
    // The machine takes longer to boot than four tries would.
    host.slowly("docker restart -t 0 main").ok();
    eventually("it is there again", || restarts("1"));
    eventually("it listens", || host.slowly("docker exec main ls /listens").code() == 0);
    host.slowly("docker kill -s USR1 main").ok();
    eventually("it is there again after an end that nobody asked for", || restarts("2"));
    host.slowly("docker exec side true").ok();
    // Nor is one while the first one was stopped by hand.
    host.slowly("docker stop -t 0 main").ok();
    eventually("it waits", || host.sh("docker inspect -f '{{.State.Status}}' side").stdout() == "restarting\n");
    host.slowly("docker start main").ok();
    eventually("it is there again with the first one", || restarts("3"));
    // Its tries are over then.
    host.slowly("docker restart -t 0 main && docker exec main true").ok();
    eventually("it stays away", || {
        host.sh("docker inspect -f '{{.State.Status}} {{.RestartCount}}' side").stdout() == "exited 3\n"
    });
    host.slowly("docker rm -f side main").ok();
}

#[test]
fn processes_are_shared_with_whoever_wants_it() {
    let host = host();
    host.slowly("docker run -d --name main --runtime microvm busybox sleep 1000").ok();
    let run = "docker run --network container:main --runtime microvm";
    host.slowly(&format!("{run} -d --name alone busybox sleep 3000")).ok();
    host.slowly(&format!("{run} -d --name shares --pid container:main busybox sh -c 'sleep 2000 & sleep 2001 & wait'"))
        .ok();
    // They see each other, by the same numbers; and have their own files.
    eventually("its own", || host.slowly("docker exec shares ps").stdout().contains("sleep 2001"));
    host.slowly("docker exec shares ps").mentions("1 root     sleep 1000").omits("sleep 3000");
    host.slowly("docker exec main ps").mentions("sleep 2000").omits("sleep 3000");
    host.slowly("docker exec shares sh -c 'echo mine >/file' && docker exec main ls /file").fails_with("No such file");
    host.slowly("docker top main").omits("sleep 2000");
    // Also with one that came itself, whatever is shared there.
    host.slowly(&format!("{run} --rm --pid container:shares busybox ps")).mentions("sleep 1000").mentions("sleep 2000");
    host.slowly(&format!("{run} --rm --pid container:alone busybox ps")).mentions("sleep 3000").omits("sleep 1000");
    // One that ends takes its own along, and no other.
    host.slowly("docker kill shares && docker wait shares").says("shares\n137");
    eventually("its processes to be gone", || !host.slowly("docker exec main ps").stdout().contains("sleep 200"));
    host.slowly("docker start shares && docker exec shares ps").mentions("sleep 1000");
    host.slowly("docker restart -t 0 alone && docker exec alone ps").mentions("sleep 3000");
    // With whose they are all of them end.
    host.slowly(&format!("{run} -d --name below --pid container:alone busybox sleep 4000")).ok();
    host.slowly("docker kill alone && docker wait below").says("alone\n137");
    host.slowly("docker exec main ps").mentions("sleep 1000");
    host.slowly("docker rm -f shares alone below main").ok();
}

#[test]
fn what_cannot_be_shared_is_said() {
    let host = host();
    host.sh("docker run -d --name plain busybox sleep 1000").ok();
    host.slowly("docker run -d --name main --runtime microvm busybox sleep 1000").ok();
    let run = "docker run --rm --network container:main --runtime microvm";
    host.sh("docker run --rm --network container:plain --runtime microvm busybox true")
        .exits_with(125)
        .complains("the network of plain, which shares the host's kernel");
    host.sh("docker run --rm --network container:main busybox true")
        .exits_with(125)
        .complains("with --runtime microvm a container comes into its microVM");
    host.sh(&format!("{run} --storage-opt size=1g busybox true"))
        .exits_with(125)
        .complains("without --network container:main");
    host.sh(&format!("{run} --ipc container:main busybox true"))
        .exits_with(125)
        .complains("IPC that containers of one of them share");
    host.sh("docker run --rm --pid container:main --runtime microvm busybox true")
        .exits_with(125)
        .complains("does not come into its microVM");
    host.sh(&format!("{run} --pid container:plain busybox true")).exits_with(125).complains("namespace of another");
    host.sh("docker run --rm --pid container:main busybox true").exits_with(125).complains("has a kernel of its own");
    host.slowly("docker run -d --name side --network container:main --runtime microvm busybox sleep 1000").ok();
    host.sh("docker run --rm --network container:side --runtime microvm busybox true")
        .exits_with(125)
        .complains("is itself in the microVM of container");
    host.sh("$STRATUS suspend side").exits_with(1).complains("has no memory that could be saved of its own there yet");
    host.slowly("$STRATUS suspend main").exits_with(1).complains("can't be saved while side runs in its microVM");
    host.slowly("docker exec main true").ok();
    host.slowly("docker pause main").ok();
    host.sh("docker pause side").exits_with(1).complains("the microVM of container main is paused");
    host.sh("docker update -m 100m side").exits_with(1).complains("the microVM of container main is paused");
    host.sh(&format!("{run} busybox true")).exits_with(125).complains("is paused: unpause it first");
    host.slowly("docker unpause main && docker exec side true").ok();
    host.slowly("docker stop -t 0 main && docker wait side").says("main\n137");
    host.sh("docker start side").exits_with(1).complains("cannot join network of a non running container");
    host.sh("docker rm -f main side plain").ok();
}

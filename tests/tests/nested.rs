//! Containers in microVMs by our own hypervisor, on a machine whose KVM runs kernels: the host itself, or a server that QEMU emulates, KVM and all,
//! where what takes a tenth of a second elsewhere takes seconds.
//!
//! `cargo xtask nested` finds out which.

#[path = "../hung_volume.rs"]
mod hung_volume;
#[path = "../to_host.rs"]
mod to_host;

use std::fs;
use std::process::Command;

use e2e::{Daemon, Outcome, Server, eventually};

/// A daemon that found KVM, and has a kernel for its machines.
fn with_kvm() -> Daemon {
    let load = "[ -e /dev/kvm ] || modprobe kvm-amd nested=1 || modprobe kvm-intel";
    assert!(Command::new("sh").args(["-c", load]).status().expect("run sh").success(), "there is no KVM");
    let host = Daemon::start();
    let kernel = if Server::is_here() {
        "--installed".to_owned()
    } else {
        let (vmlinuz, modules) = e2e::kernel_as_packaged();
        format!("--use {} --modules {}", vmlinuz.display(), modules.display())
    };
    host.slowly(&format!("$STRATUS microvm kernel {kernel} --data-dir {}", host.data().display())).ok();
    host
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn a_service_behind_our_own_hypervisor() {
    let mut host = with_kvm();
    host.sh("$STRATUS info").mentions("kvm");
    host.sh("docker info -f '{{.Runtimes.microvm.Status.driver}}'").says("kvm");
    host.sh("$STRATUS run --rm --isolation microvm busybox sh -c 'echo hello; exit 7'").exits_with(7).prints("hello");
    host.sh("docker run --rm --runtime microvm busybox no-such-program").exits_with(127);
    // A volume: written in a machine, the same on the host, and what is read-only is so.
    host.sh("docker run --rm --runtime microvm -v data:/data -v /etc/hostname:/name:ro busybox sh -c 'dd if=/dev/urandom of=/data/much bs=1M count=2 2>/dev/null; md5sum < /data/much > /data/sum; chown 7:8 /data/sum; cat /name; rm -f /name; echo no > /name'")
        .exits_with(1)
        .prints(host.sh("cat /etc/hostname").text())
        .complains("Read-only file system");
    host.sh(
        "cd $(docker volume inspect -f '{{.Mountpoint}}' data) && md5sum < much | diff - sum && stat -c '%u %g' sum",
    )
    .says("7 8");
    host.sh("docker volume rm data").ok();
    let serve = "mkdir /www; echo hello from $(hostname) > /www/index.html; dd if=/dev/urandom of=/www/much bs=1M count=4 2>/dev/null; trap \"echo told to end; exit 3\" TERM; httpd -h /www -p 80; echo serving; while :; do sleep 0.2; done";
    host.sh(&format!(
        "docker run -d --name web -h web -p $PORT:80 -m 64m --cpus 1 --runtime microvm busybox sh -c '{serve}'"
    ))
    .ok();
    eventually("the server", || host.sh("curl -s -m 20 http://127.0.0.1:$PORT").stdout() == "hello from web\n");
    host.sh("curl -s -m 120 http://127.0.0.1:$PORT/much | md5sum | cut -d' ' -f1")
        .says(host.sh("docker exec web md5sum /www/much | cut -d' ' -f1").text());
    host.sh("echo typed | docker exec -i web sh -c 'read line; echo got $line; exit 4'")
        .exits_with(4)
        .prints("got typed");
    // Its process on the host is nobody, and has no capability left.
    // Another container in the same machine, with a layer that comes to its disk while it runs.
    host.sh("docker run --name made busybox sh -c 'echo other >/which' && docker commit made other && docker rm made")
        .ok();
    host.sh("docker run --rm --network container:web -m 64m --runtime microvm other sh -c 'cat /which; wget -q -O - http://127.0.0.1/'")
        .prints("other\nhello from web");
    host.sh("docker run --rm --network container:web --runtime microvm busybox ls /which").complains("No such file");
    // Its volumes are on a device that comes with the first who has some, and comes again when it has gone.
    host.sh("docker run --rm --network container:web -v data:/data --runtime microvm busybox sh -c 'dd if=/dev/urandom of=/data/much bs=1M count=2 2>/dev/null; md5sum </data/much >/data/sum; chown 7:8 /data/sum'")
        .ok();
    host.sh(
        "cd $(docker volume inspect -f '{{.Mountpoint}}' data) && md5sum <much | diff - sum && stat -c '%u %g' sum",
    )
    .says("7 8");
    // What serves them goes with it, and with that all that it had open.
    eventually("nobody to serve them", || serving(&host).code() == 1);
    host.sh("docker run --rm --network container:web -v data:/data:ro -v /etc/hostname:/name --runtime microvm busybox sh -c 'md5sum </data/much | diff - /data/sum && cat /name; touch /data/no'")
        .exits_with(1)
        .prints(host.sh("cat /etc/hostname").text())
        .complains("Read-only file system");
    host.sh("docker volume rm data").ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' web").text().to_owned();
    host.sh(&format!("grep -E '^(Uid|CapEff|NoNewPrivs):' /proc/{pid}/status | tr -s '\\t ' ' '"))
        .says("Uid: 65534 65534 65534 65534\nCapEff: 0000000000000000\nNoNewPrivs: 1");
    // Each of its threads has a filter, and they have been at work for a while.
    host.sh(&format!("grep -h '^Seccomp:' /proc/{pid}/task/*/status | sort -u | tr -s '\\t ' ' '")).says("Seccomp: 2");
    host.kill9();
    host.restart();
    host.sh("curl -s -m 20 http://127.0.0.1:$PORT").says("hello from web");
    host.sh("docker stop -t 60 web").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' web").says("3");
    host.sh("docker logs web").says("serving\ntold to end");
    // A machine that is killed is noticed.
    host.sh("docker start web").ok();
    host.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' web) && docker wait web").says("137");
    host.sh("docker rm web").ok();
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn as_many_devices_as_there_is_room_for() {
    let host = with_kvm();
    host.sh("for n in 1 2 3 4 5 6 7 8 9; do docker network create n$n; done").ok();
    host.sh("docker create --name full --network n1 --storage-opt size=64m -v data:/data --cpus 1 --runtime microvm busybox sleep 10000")
        .ok();
    host.sh("for n in 2 3 4 5 6 7 8 9; do docker network connect n$n full; done && docker start full").ok();
    host.sh("docker exec full sh -c 'ls -d /sys/class/net/eth* | wc -l; touch /data/file /file'").says("9");
    // What is left out for that is said to whoever would need it.
    host.sh("docker run --rm --network container:full --runtime microvm busybox echo comes").says("comes");
    host.sh("docker run --rm --network container:full -v data:/data --runtime microvm busybox true")
        .exits_with(125)
        .complains("has no place for volumes of other containers");
    host.sh("docker rm -f full && docker volume rm data && docker network rm n1 n2 n3 n4 n5 n6 n7 n8 n9").ok();
}

/// The processes that serve volumes of containers which came into machines.
fn serving(host: &Daemon) -> Outcome {
    host.sh(&format!("pgrep -P {} -f machine-shared-files", host.keeper()))
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn what_our_own_hypervisor_saved_goes_on() {
    let host = with_kvm();
    let snapshots = host.data().join("microvm/snapshots");
    let count = "mkdir /www; httpd -h /www -p 80; n=0; while :; do n=$((n + 1)); echo $n >/www/n.new; mv /www/n.new /www/n; sleep 0.2; done";
    host.sh(&format!(
        "docker run -d --name box -p 127.0.0.1:0:80 -m 64m --cpus 1 --runtime microvm busybox sh -c '{count}'"
    ))
    .ok();
    let counts = |name: &str| {
        let seen = host.sh(&format!("curl -s -m 20 http://$(docker port {name} 80 | head -n 1)/n"));
        seen.stdout().trim().parse::<u64>().is_ok()
    };
    eventually("it counts", || counts("box"));
    host.sh("docker exec box sh -c 'echo one >/state'").ok();
    // What had the volumes of another container is gone with that.
    host.sh(
        "docker run --rm --network container:box -v data:/data --runtime microvm busybox sh -c 'echo kept >/data/file'",
    )
    .ok();
    // Whole at first, then what changed since the one that it went on from.
    eventually("it is saved", || host.sh("$STRATUS suspend box").code() == 0);
    host.sh("docker ps -a --format '{{.Status}}'").mentions("(Suspended)");
    host.sh("$STRATUS resume box").ok();
    host.sh("docker exec box cat /state").says("one");
    host.sh("docker run --rm --network container:box -v data:/data --runtime microvm busybox cat /data/file")
        .says("kept");
    host.sh("docker volume rm data").ok();
    host.sh("$STRATUS snapshot create box second").says("second");
    host.sh("$STRATUS snapshot ls box --output json | grep -c Parent").says("1");
    host.sh("docker exec box rm /state").ok();
    host.sh("$STRATUS rollback box second").ok();
    host.sh("docker exec box cat /state").says("one");
    host.sh("$STRATUS fork box --count 3").says("box-1\nbox-2\nbox-3");
    for name in ["box", "box-1", "box-2", "box-3"] {
        eventually("each counts", || counts(name));
        host.sh(&format!("docker exec {name} cat /state")).says("one");
        let id = host.sh(&format!("docker inspect -f '{{{{slice .Id 0 12}}}}' {name}")).text().to_owned();
        host.sh(&format!("docker exec {name} hostname")).says(&id);
    }
    host.sh("docker rm -f box box-1 box-2 box-3").ok();

    // What the first one that goes on touches is kept for the next one, where memory comes as it is touched.
    host.sh(&format!("docker run -d --name slow --annotation stratus.microvm.memory=faulted -p 127.0.0.1:0:80 -m 64m --cpus 1 --runtime microvm busybox sh -c '{count}'"))
        .ok();
    eventually("it counts", || counts("slow"));
    host.sh("$STRATUS snapshot create slow first").says("first");
    for _ in 0..2 {
        host.sh("$STRATUS rollback slow first").ok();
        eventually("it counts", || counts("slow"));
        eventually("what it touches is kept", || {
            host.sh(&format!("stat -c '%a %U' {}/*/touched", snapshots.display())).stdout() == "444 root\n"
        });
    }
    host.sh("docker rm -f slow").ok();

    // What is run of an image is up, and waits on the disk while nobody asks it anything.
    host.sh("$STRATUS microvm image create -t web -m 64m --cpus 1 --ready-port 80 busybox sh -c 'mkdir /www; echo up >/www/index.html; httpd -f -h /www -p 80'")
        .says("web:1");
    host.sh("$STRATUS microvm run --name one --idle 5s web").says("one");
    let ask = "curl -s -m 60 -H \"X-aws-proxy-auth: $($STRATUS microvm token one)\" $($STRATUS microvm inspect one | grep -o 'http://[^\"]*')/";
    host.sh(ask).says("up");
    eventually("it is suspended", || host.sh("$STRATUS microvm ls").stdout().contains("suspended"));
    host.sh(ask).says("up");
    host.sh("$STRATUS microvm terminate one && $STRATUS microvm image rm web").ok();
    eventually("what nothing needs is gone", || fs::read_dir(&snapshots).is_ok_and(|mut left| left.next().is_none()));
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn ten_go_on_from_one_and_each_answers_with_its_own_name() {
    let host = with_kvm();
    let serve = "mkdir -p /www/cgi-bin; printf \"#!/bin/sh\\necho; hostname\" >/www/cgi-bin/name; chmod +x /www/cgi-bin/name; httpd -f -h /www -p 80";
    host.sh(&format!(
        "docker run -d --name box -p 127.0.0.1:0:80 -m 64m --cpus 1 --runtime microvm busybox sh -c '{serve}'"
    ))
    .ok();
    let says = |name: &str| {
        let seen = host.sh(&format!("curl -s -m 60 http://$(docker port {name} 80 | head -n 1)/cgi-bin/name"));
        seen.stdout().trim().to_owned()
    };
    let id = |name: &str| host.sh(&format!("docker inspect -f '{{{{slice .Id 0 12}}}}' {name}")).text().to_owned();
    let first = id("box");
    eventually("it answers", || says("box") == first);
    let names: Vec<String> = (1..=10).map(|number| format!("box-{number}")).collect();
    host.sh("$STRATUS fork box --count 10").says(&names.join("\n"));
    for name in &names {
        let id = id(name);
        eventually("each answers", || says(name) == id);
    }
    assert_eq!(says("box"), first);
    // All of them have their memory of one file.
    let mapped = host.sh("for name in $(docker ps -q); do grep -c 'snapshots/.*/memory' /proc/$(docker inspect -f '{{.State.Pid}}' $name)/maps; done | grep -vc '^0$'");
    mapped.says("10");
    host.sh(&format!("docker rm -f box {}", names.join(" "))).ok();
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn memory_that_comes_and_goes_is_saved_in_the_middle_of_that() {
    let host = with_kvm();
    let total = || {
        let told = host.sh("docker exec box grep MemTotal /proc/meminfo");
        told.stdout().split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok())
    };
    host.sh("docker run -d --name box -m 64m --cpus 1 --shm-size 100m --runtime microvm busybox sleep 100000").ok();
    host.sh("docker update -m 300m --memory-swap 1g box").ok();
    eventually("more memory", || total().is_some_and(|kilobytes| kilobytes > 300 << 10));
    let kept = "yes stratus | head -c 40000000 >/dev/shm/kept; md5sum /dev/shm/kept";
    let kept = host.sh(&format!("docker exec box sh -c '{kept}'")).text().to_owned();
    host.sh("$STRATUS suspend box && $STRATUS resume box").ok();
    host.sh("docker exec box md5sum /dev/shm/kept").says(&kept);
    // While the guest gives it back, and has to bring elsewhere what is in it.
    host.sh("docker update -m 64m box && $STRATUS suspend box && $STRATUS resume box").ok();
    host.sh("docker exec box md5sum /dev/shm/kept").says(&kept);
    eventually("less memory", || total().is_some_and(|kilobytes| kilobytes < 160 << 10));
    host.sh("docker exec box md5sum /dev/shm/kept").says(&kept);
    host.sh("docker rm -f box").ok();
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn network_cards_come_and_go_behind_our_own_hypervisor() {
    let host = with_kvm();
    host.sh("docker network create one && docker network create two").ok();
    host.sh("docker run -d --name web --network two busybox sh -c 'mkdir /www; echo hello >/www/index.html; httpd -f -h /www'")
        .ok();
    host.sh("docker run -d --name client --network one -m 64m --cpus 1 --runtime microvm busybox sleep 100000").ok();
    let interfaces = |names: &str| {
        host.sh("docker exec client sh -c 'echo $(ls /sys/class/net)'").says(names);
    };
    interfaces("eth0 lo");
    host.sh("docker network connect two client").ok();
    interfaces("eth0 eth1 lo");
    host.sh("docker exec client wget -qO- http://web").says("hello");
    host.sh("docker exec web ping -c 1 -W 60 client").mentions("1 packets received");
    // The one that it began with goes, and comes again.
    host.sh("docker network disconnect one client").ok();
    interfaces("eth1 lo");
    host.sh("docker exec client wget -qO- http://web").says("hello");
    host.sh("docker network connect one client").ok();
    interfaces("eth0 eth1 lo");
    // What is saved goes on with the cards that came, each on its network.
    host.sh("$STRATUS suspend client && $STRATUS resume client").ok();
    host.sh("docker exec client wget -qO- http://web").says("hello");
    host.sh("$STRATUS fork client --name copy").says("copy");
    host.sh("docker exec copy wget -qO- http://web").says("hello");
    host.sh("docker exec web ping -c 1 -W 60 copy").mentions("1 packets received");
    host.sh("docker network disconnect two copy").ok();
    host.sh("docker exec copy wget -qO- http://web").exits_with(1).complains("bad address");
    host.sh("docker network connect two copy && docker exec copy wget -qO- http://web").says("hello");
    host.sh("docker exec client wget -qO- http://web").says("hello");
    host.sh("docker rm -f client copy web && docker network rm one two").ok();
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn volumes_go_on_with_what_was_saved() {
    let host = with_kvm();
    // It has three files open, and appends to two of them for ever.
    let append = "exec 3>>/data/log 4</data/gone 5>>/data/replaced; n=0; while :; do n=$((n + 1)); echo $n >&5; echo $n >&3; sleep 0.2; done";
    host.sh(
        "docker volume create data && cd $(docker volume inspect -f '{{.Mountpoint}}' data) && touch gone replaced",
    )
    .mentions("data");
    let data = host.sh("docker volume inspect -f '{{.Mountpoint}}' data").text().to_owned();
    let run = "docker run --runtime microvm -m 64m --cpus 1 -v data:/data";
    host.sh(&format!("{run} -d --name box -v /anonymous busybox sh -c '{append}'")).ok();
    let lines = || host.sh(&format!("wc -l <{data}/log")).stdout().trim().parse::<u64>().unwrap_or(0);
    let grows = |who: &str| {
        let before = lines();
        eventually(who, || lines() > before + 2);
    };
    grows("it appends");
    eventually("the next one goes on from a template", || {
        host.sh("docker rm -f next");
        host.sh(&format!("{run} -d --name next busybox sleep 1000")).ok();
        host.sh("grep -c /microvm/templates/ /proc/$(docker inspect -f '{{.State.Pid}}' next)/mountinfo").stdout()
            == "1\n"
    });
    host.sh("docker exec next head -n 1 /data/log").says("1");
    host.sh("docker rm -f next").ok();

    // What the host does meanwhile it finds as it is by then; what took the place of what it had open is another file.
    host.sh("$STRATUS suspend box").ok();
    host.sh(&format!(
        "rm {data}/gone && echo of the host >>{data}/log && echo new >{data}/new && mv {data}/new {data}/replaced"
    ))
    .ok();
    let rests = lines();
    host.sh("$STRATUS resume box").ok();
    eventually("it appends again", || lines() > rests + 2);
    host.sh("docker exec box sh -c 'ls /data; cat /proc/1/fd/4'").exits_with(1).prints("log");
    host.sh("docker exec box sh -c 'cat /data/replaced; cat /proc/1/fd/5'").exits_with(1).prints("new");
    host.sh("docker logs box 2>&1").mentions("write error: Input/output error");
    host.sh(&format!("cat {data}/replaced")).says("new");

    // Volumes are the host's: nothing of them goes back.
    host.sh("$STRATUS snapshot create box one").says("one");
    host.sh("docker exec box sh -c 'echo kept >/data/kept; echo shared >/anonymous/file'").ok();
    host.sh("$STRATUS rollback box one").ok();
    grows("it appends after a rollback");
    host.sh("docker exec box cat /data/kept /anonymous/file").says("kept\nshared");

    // Copies share them, with what they have open there.
    host.sh("$STRATUS fork box --count 2").says("box-1\nbox-2");
    host.sh("docker rm -f -v box").ok();
    for (name, other) in [("box-1", "box-2"), ("box-2", "box-1")] {
        host.sh(&format!("docker pause {other}")).ok();
        grows(name);
        host.sh(&format!("docker exec {name} cat /data/kept /anonymous/file")).says("kept\nshared");
        host.sh(&format!("docker unpause {other}")).ok();
    }
    host.sh("docker rm -f -v box-1 box-2").ok();
    host.sh("docker volume ls -q").says("data");
    host.sh("docker volume rm data").ok();
    host.sh("$STRATUS run --rm --isolation microvm -v /kept busybox true").ok();
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn a_volume_that_hangs_holds_up_no_machine_of_our_own_hypervisor() {
    hung_volume::holds_up_nobody_for_ever(&with_kvm(), true);
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn volumes_whose_files_are_not_known_again_keep_a_machine_from_being_saved() {
    let host = with_kvm();
    // An image's layers are known again, where they are mounted over each other as well.
    host.project("FROM busybox\nRUN echo one >/one\nRUN echo two >/two\n", &[]);
    host.sh("docker build -q -t layered app").ok();
    let run = "docker run -d -m 64m --cpus 1 --runtime microvm";
    host.sh(&format!(
        "{run} --name box --mount type=image,src=layered,dst=/image busybox sh -c 'exec sleep 100000 </image/two'"
    ))
    .ok();
    host.sh("$STRATUS suspend box && $STRATUS resume box").ok();
    host.sh("docker exec box cat /proc/1/fd/0 /image/one").says("two\none");
    host.sh("docker rm -f box").ok();

    // A file system in memory that has nothing but files.
    host.sh("mkdir ram && mount -t ramfs none ram").ok();
    host.sh(&format!("{run} --name box -v $PWD/ram:/ram busybox sleep 100000")).ok();
    for command in ["suspend box", "snapshot create box", "fork box"] {
        host.sh(&format!("$STRATUS {command}"))
            .exits_with(1)
            .complains("a volume on a file system of the type ramfs can't be suspended, saved or copied");
    }
    host.sh("docker exec box sh -c 'echo here >/ram/file' && cat ram/file").says("here");
    host.sh("docker rm -f box && umount ram").ok();
}

#[test]
#[ignore = "it takes a KVM that runs kernels: cargo xtask nested"]
fn a_guest_that_talks_nonsense_over_vsock_is_lost_alone() {
    let host = with_kvm();
    let run = "docker run -d -m 64m --cpus 1 --runtime microvm";
    host.sh(&format!("{run} --name other busybox sleep 100000")).ok();
    host.sh(&format!("{run} --name box --privileged busybox sleep 100000")).ok();
    fs::write(host.work().join("to-host"), to_host::program()).expect("the program");
    // As an agent begins, to be heard at all.
    let talk = "printf 'stratus\\000guest\\r\\n\\001\\000\\000\\000\\000\\000\\000\\000\\000'; exec yes nonsense";
    fs::write(host.work().join("talk"), talk).expect("what it says");
    host.sh("docker exec -i box sh -c 'cat >/to-host && chmod +x /to-host' <to-host").ok();
    host.sh("docker exec -i box sh -c 'cat >/talk' <talk").ok();
    // The host listens to one agent. Who comes besides waits, as far as there is room for some, and is refused.
    let eight = "for number in 1 2 3 4 5 6 7 8; do /to-host /bin/sh /talk || echo refused >>/told & done; wait";
    host.sh(&format!("docker exec -d box sh -c '{eight}'")).ok();
    eventually("those that are refused", || {
        host.sh("docker exec box sh -c 'cat /told; true'").stdout() == "refused\n".repeat(4)
    });
    for name in ["box", "other", "box"] {
        host.sh(&format!("docker exec {name} echo here")).says("here");
    }

    // The driver leaves the device, and the agent's connection is over with all others: whoever had come besides is heard.
    let leaves = "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport && echo $(ls -d virtio*) >unbind";
    let mut left = host.session(&format!("docker exec -d box sh -c '{leaves}'"));
    eventually("its end", || host.sh("docker inspect -f '{{.State.Status}}' box").text() == "exited");
    left.exit_code();
    host.sh("docker logs box 2>&1").mentions("stratus: the guest's agent sent");
    host.sh("docker inspect -f '{{.State.ExitCode}}' box").says("137");
    host.sh("docker exec other echo here").says("here");
    host.sh("docker run --rm -m 64m --cpus 1 --runtime microvm busybox echo another").says("another");
    host.sh("docker start box && docker exec box echo here").mentions("here");
    host.sh("docker rm -f box other").ok();
}

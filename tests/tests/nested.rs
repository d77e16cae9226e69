//! Containers in microVMs by our own hypervisor, on a server whose KVM runs kernels.
//!
//! `cargo xtask server` boots one for them, which QEMU emulates, KVM and all: what takes a tenth of a second elsewhere takes seconds here.

use e2e::{Server, eventually};

/// An installed daemon that found KVM, and a kernel for its machines.
fn with_kvm() -> Server {
    let host = Server::install();
    host.sh("modprobe kvm-amd nested=1 && ls /dev/kvm").says("/dev/kvm");
    host.sh("systemctl enable --now stratus").ok();
    host.sh("stratus microvm kernel --installed").ok();
    host.import_busybox();
    host
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server nested"]
fn a_service_behind_our_own_hypervisor() {
    let host = with_kvm();
    host.sh("stratus info").mentions("kvm");
    host.sh("docker info -f '{{.Runtimes.microvm.Status.driver}}'").says("kvm");
    host.sh("stratus run --rm --isolation microvm busybox sh -c 'echo hello; exit 7'").exits_with(7).prints("hello");
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
        "docker run -d --name web -h web -p 8080:80 -m 64m --cpus 1 --runtime microvm busybox sh -c '{serve}'"
    ))
    .ok();
    eventually("the server", || host.sh("curl -s -m 20 http://127.0.0.1:8080").stdout() == "hello from web\n");
    host.sh("curl -s -m 120 http://127.0.0.1:8080/much | md5sum | cut -d' ' -f1")
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
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' web").text().to_owned();
    host.sh(&format!("grep -E '^(Uid|CapEff|NoNewPrivs):' /proc/{pid}/status | tr -s '\\t ' ' '"))
        .says("Uid: 65534 65534 65534 65534\nCapEff: 0000000000000000\nNoNewPrivs: 1");
    // Each of its threads has a filter, and they have been at work for a while.
    host.sh(&format!("grep -h '^Seccomp:' /proc/{pid}/task/*/status | sort -u | tr -s '\\t ' ' '")).says("Seccomp: 2");
    host.sh("kill -9 $(systemctl show --value --property=MainPID stratus)").ok();
    eventually("another daemon", || host.sh("docker version").code() == 0);
    host.sh("curl -s -m 20 http://127.0.0.1:8080").says("hello from web");
    host.sh("docker stop -t 60 web").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' web").says("3");
    host.sh("docker logs web").says("serving\ntold to end");
    // A machine that is killed is noticed.
    host.sh("docker start web").ok();
    host.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' web) && docker wait web").says("137");
    host.sh("docker rm web").ok();
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server nested"]
fn what_our_own_hypervisor_saved_goes_on() {
    let host = with_kvm();
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
    // Whole at first, then what changed since the one that it went on from.
    host.sh("stratus suspend box").ok();
    host.sh("docker ps -a --format '{{.Status}}'").mentions("(Suspended)");
    host.sh("stratus resume box").ok();
    host.sh("docker exec box cat /state").says("one");
    host.sh("stratus snapshot create box second").says("second");
    host.sh("stratus snapshot ls box --output json | grep -c Parent").says("1");
    host.sh("docker exec box rm /state").ok();
    host.sh("stratus rollback box second").ok();
    host.sh("docker exec box cat /state").says("one");
    host.sh("stratus fork box --count 3").says("box-1\nbox-2\nbox-3");
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
    host.sh("stratus snapshot create slow first").says("first");
    for _ in 0..2 {
        host.sh("stratus rollback slow first").ok();
        eventually("it counts", || counts("slow"));
        eventually("what it touches is kept", || {
            host.sh("stat -c '%a %U' /var/lib/stratus/microvm/snapshots/*/touched").stdout() == "444 root\n"
        });
    }
    host.sh("docker rm -f slow").ok();

    // What is run of an image is up, and waits on the disk while nobody asks it anything.
    host.sh("stratus microvm image create -t web -m 64m --cpus 1 --ready-port 80 busybox sh -c 'mkdir /www; echo up >/www/index.html; httpd -f -h /www -p 80'")
        .says("web:1");
    host.sh("stratus microvm run --name one --idle 5s web").says("one");
    let ask = "curl -s -m 60 -H \"X-aws-proxy-auth: $(stratus microvm token one)\" $(stratus microvm inspect one | grep -o 'http://[^\"]*')/";
    host.sh(ask).says("up");
    eventually("it is suspended", || host.sh("stratus microvm ls").stdout().contains("suspended"));
    host.sh(ask).says("up");
    host.sh("stratus microvm terminate one && stratus microvm image rm web").ok();
    eventually("what nothing needs is gone", || {
        host.sh("ls /var/lib/stratus/microvm/snapshots | wc -l").stdout().trim() == "0"
    });
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server nested"]
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
    host.sh("stratus suspend box && stratus resume box").ok();
    host.sh("docker exec box md5sum /dev/shm/kept").says(&kept);
    // While the guest gives it back, and has to bring elsewhere what is in it.
    host.sh("docker update -m 64m box && stratus suspend box && stratus resume box").ok();
    host.sh("docker exec box md5sum /dev/shm/kept").says(&kept);
    eventually("less memory", || total().is_some_and(|kilobytes| kilobytes < 160 << 10));
    host.sh("docker exec box md5sum /dev/shm/kept").says(&kept);
    host.sh("docker rm -f box").ok();
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server nested"]
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
    host.sh("stratus suspend client && stratus resume client").ok();
    host.sh("docker exec client wget -qO- http://web").says("hello");
    host.sh("stratus fork client --name copy").says("copy");
    host.sh("docker exec copy wget -qO- http://web").says("hello");
    host.sh("docker exec web ping -c 1 -W 60 copy").mentions("1 packets received");
    host.sh("docker network disconnect two copy").ok();
    host.sh("docker exec copy wget -qO- http://web").exits_with(1).complains("bad address");
    host.sh("docker network connect two copy && docker exec copy wget -qO- http://web").says("hello");
    host.sh("docker exec client wget -qO- http://web").says("hello");
    host.sh("docker rm -f client copy web && docker network rm one two").ok();
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server nested"]
fn volumes_go_on_with_what_was_saved() {
    let host = with_kvm();
    // It has two files open, and appends to one of them for ever.
    let append = "exec 3>>/data/log 4</data/gone; n=0; while :; do n=$((n + 1)); echo $n >&3; sleep 0.2; done";
    host.sh("docker volume create data && touch $(docker volume inspect -f '{{.Mountpoint}}' data)/gone")
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

    // What the host does meanwhile it finds as it is by then.
    host.sh("stratus suspend box").ok();
    host.sh(&format!("rm {data}/gone && echo of the host >>{data}/log")).ok();
    let rests = lines();
    host.sh("stratus resume box").ok();
    eventually("it appends again", || lines() > rests + 2);
    host.sh("docker exec box sh -c 'ls /data; cat /proc/1/fd/4'").exits_with(1).prints("log");

    // Volumes are the host's: nothing of them goes back.
    host.sh("stratus snapshot create box one").says("one");
    host.sh("docker exec box sh -c 'echo kept >/data/kept; echo shared >/anonymous/file'").ok();
    host.sh("stratus rollback box one").ok();
    grows("it appends after a rollback");
    host.sh("docker exec box cat /data/kept /anonymous/file").says("kept\nshared");

    // Copies share them, with what they have open there.
    host.sh("stratus fork box --count 2").says("box-1\nbox-2");
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
    host.sh("stratus run --rm --isolation microvm -v /kept busybox true").ok();
}

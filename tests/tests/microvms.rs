//! `docker run --runtime microvm`: the same image, the same command, and a kernel of its own.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

#[test]
fn an_image_runs_unchanged_with_a_kernel_of_its_own() {
    let host = host();
    let own = host.sh("docker run --rm busybox uname -r").text().to_owned();
    let other = host.slowly("docker run --rm --runtime microvm busybox uname -r").text().to_owned();
    assert!(own != other && !other.is_empty(), "{own} and {other}");
    host.slowly("$STRATUS run --rm --isolation microvm busybox uname -r").says(&other);
    // Streams, exit statuses, and what can't be executed, as in any container.
    host.slowly("printf 'a\\nb\\n' | docker run --rm -i --runtime microvm busybox sh -c 'cat; echo bad >&2; exit 7' 2>err; echo $?; cat err")
        .says("a\nb\n7\nbad");
    host.slowly("docker run --rm --runtime microvm busybox no-such-program")
        .exits_with(127)
        .complains("exec: \"no-such-program\": executable file not found in $PATH");
    host.slowly("docker run --rm --runtime microvm busybox /etc/passwd").exits_with(126).complains("permission denied");
    host.sh("docker ps -aq").says("");
    let init = host.sh("docker run --rm --init busybox cat /proc/1/comm").text().to_owned();
    host.slowly("docker run --rm --init --runtime microvm busybox cat /proc/1/comm").says(&init);
    // User, environment, directory, name.
    host.slowly("docker run --rm --runtime microvm -u 1000:50 -e A=b -w /tmp -h its-name busybox sh -c 'id -u; id -g; echo $A; pwd; hostname'")
        .says("1000\n50\nb\n/tmp\nits-name");
}

#[test]
fn a_service_in_a_machine_is_as_one_in_a_container() {
    let mut host = host();
    let serve = "mkdir /www; echo hello from $(hostname) > /www/index.html; echo serving; trap \"echo told to end; exit 3\" TERM; httpd -h /www -p 80; while :; do sleep 0.1; done";
    host.slowly("docker network create net").ok();
    host.slowly(&format!(
        "docker run -d --name web -h web --network net -p $PORT:80 -m 100m --runtime microvm busybox sh -c '{serve}'"
    ))
    .ok();
    eventually("the server", || host.sh("curl -s -m 5 http://127.0.0.1:$PORT").stdout() == "hello from web\n");
    host.sh("docker run --rm --network net busybox wget -q -O - http://web/").says("hello from web");
    host.sh("docker logs web").says("serving");
    // Names of others, by the resolver of its network.
    host.sh("docker run -d --name other --network net busybox httpd -f").ok();
    host.slowly("docker exec web ping -c 1 -W 5 other").mentions("1 packets received");
    host.slowly("docker exec web cat /etc/hosts").mentions("web");
    // Its environment is nobody else's business.
    let machine = format!("{}/machines/$(docker ps -q -f name=web)", host.run_dir().display());
    host.sh(&format!("cat {machine}/plan >/dev/null && stat -c %a {machine}")).says("700");
    host.sh(&format!("setpriv --reuid=nobody --regid=nogroup --clear-groups cat {machine}/plan")).exits_with(1);
    // Further processes.
    host.slowly("echo typed | docker exec -i web sh -c 'read line; echo got $line; exit 4'").exits_with(4);
    host.slowly("docker exec web no-such-program").exits_with(127);
    host.slowly("docker exec web sh -c 'ps | grep -c [h]ttpd.-h'").says("2");
    // Its limit is the container's, and the machine is as large as that takes.
    host.slowly("docker exec web sh -c 'free -m | sed -n \"s/^Mem: *\\([0-9]*\\).*/\\1/p\"'").ok();
    let terminal = host.terminal("docker exec -it web sh -c 'stty size; read line; echo read $line'");
    terminal.waits_for("24 80");
    drop(terminal);

    // The daemon is killed: nothing that runs notices.
    host.kill9();
    host.sh("curl -s -m 5 http://127.0.0.1:$PORT").says("hello from web");
    host.restart();
    host.slowly("docker exec web true").ok();
    host.sh("docker inspect -f '{{.State.Status}} {{.HostConfig.Runtime}}' web").says("running microvm");

    // Frozen and thawed, ended by its own hand, started again.
    host.sh("docker pause web && docker inspect -f '{{.State.Status}}' web && docker unpause web").mentions("paused");
    host.sh("docker kill -s TERM web").ok();
    host.sh("docker wait web").says("3");
    host.sh("docker logs web").says("serving\ntold to end");
    host.slowly("docker start web").ok();
    eventually("the server", || host.sh("curl -s -m 5 http://127.0.0.1:$PORT").stdout() == "hello from web\n");
    // A machine that is killed is noticed.
    host.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' web)").ok();
    host.sh("docker wait web").says("137");
    host.sh("docker rm -f web other && docker network rm net && docker ps -aq").omits("Error");
    // But of the machine that a template for the next one is made of, for a moment.
    let machines = host.run_dir().join("machines");
    eventually("nothing is left", || std::fs::read_dir(&machines).expect("it is there").next().is_none());
}

#[test]
fn what_a_machine_cannot_have_is_said() {
    let host = host();
    host.sh("docker run --rm --runtime microvm --network host busybox true")
        .exits_with(125)
        .complains("the host's network can't be had behind a hypervisor: run it with --isolation container");
    host.sh("docker run --rm --runtime microvm --pid host busybox true")
        .exits_with(125)
        .complains("the host's processes");
    host.sh("docker run --rm --runtime microvm --device /dev/fuse busybox true")
        .exits_with(125)
        .complains("a device of the host");
    host.sh("docker run --rm --runtime microvm -v /dev/null:/here busybox true")
        .exits_with(125)
        .complains("a device of the host (/here)");
    host.sh(&format!("docker run --rm --runtime microvm -v {}:/socket busybox true", host.socket().display()))
        .exits_with(125)
        .complains("a socket of the host (/socket)");
    host.sh("docker info -f '{{range $name, $_ := .Runtimes}}{{$name}} {{end}}'").says("microvm stratus");
    host.slowly("docker run -d --name box --runtime microvm busybox sleep 1000").ok();
    host.sh("docker top box").prints("UID").prints("sleep 1000");
    host.sh("docker top box -o pid,user,comm,args | tail -n 1 | tr -s ' '").says("1 root sleep sleep 1000");
    host.sh("docker top box aux | tail -n 1").prints("root").prints("sleep 1000");
    host.sh("docker top box -o pid,lstart")
        .exits_with(1)
        .complains("the column \"lstart\" is not told of what runs in a microVM: there are pid, ppid, user");
    host.sh("docker run --rm --runtime microvm --device-cgroup-rule 'c 1:3 r' busybox true")
        .exits_with(125)
        .complains("a rule for devices of the host can't be had behind a hypervisor");
    // Nor has a container of the host's kernel anything of its machine's process.
    for (option, what) in [("--network", "network"), ("--pid", "PID")] {
        host.sh(&format!("docker run --rm {option} container:box busybox true"))
            .exits_with(125)
            .complains(&format!("cannot join {what} of container box: it has a kernel of its own"));
    }
    host.sh("docker run --rm --runtime no-such-runtime busybox true").exits_with(125).complains("no-such-runtime");
    let without = Daemon::start();
    without.sh("docker run --rm --runtime microvm busybox true").exits_with(125).complains(
        "there is no kernel for microVMs yet: have one made by `stratus microvm kernel --fetch --data-dir /",
    );
}

#[test]
fn the_limits_of_a_machine_change_while_it_runs() {
    let host = host();
    host.slowly("docker run -d --name box -m 100m --runtime microvm busybox sleep 1000").ok();
    // MiB that the machine's kernel has, and that are in its balloon.
    let total = || {
        let told = host.slowly("docker exec box sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo");
        told.text().parse::<u64>().expect("it is a number") / 1024
    };
    let left = || {
        let told = host.slowly("docker exec box awk '/^balloon_inflate/ { n += $2 } /^balloon_deflate/ { n -= $2 } END { print n / 256 }' /proc/vmstat");
        told.text().to_owned()
    };
    let before = total();
    host.slowly("docker update -m 500m --memory-swap 500m --cpus 1 box").ok();
    eventually("it has more", || total() >= before + 400);
    host.sh("docker inspect -f '{{.HostConfig.Memory}}' box").says("524288000");
    // The container may use it, which was too much before.
    host.slowly("docker exec box sh -c 'head -c 200m /dev/zero | tail -c 200m | wc -c'").says("209715200");
    host.slowly("docker update -m 60m box").ok();
    eventually("what came has gone", || total() <= before);
    eventually("it leaves some of what it had", || left() == "40");
    host.slowly("docker exec box sh -c 'head -c 200m /dev/zero | tail -c 200m | wc -c'").omits("209715200");
    host.slowly("docker update -m 900g --memory-swap 900g box").exits_with(1).complains("MiB of memory, and not");
    host.sh("docker inspect -f '{{.HostConfig.Memory}}' box").says("62914560");
    host.sh("docker pause box && docker update -m 300m box").exits_with(1).complains("unpause it first");
    host.sh("docker unpause box").ok();
    // What it is to have it has from the start then.
    host.slowly("docker restart -t 0 box").ok();
    assert!(total() < before);
}

#[test]
fn files_go_into_a_machine_and_out_of_it() {
    let host = host();
    host.slowly("docker run -d --name box --tmpfs /mem --runtime microvm busybox sh -c 'mkdir -p /made/deep; echo in >/made/deep/file; ln /made/deep/file /made/other; ln -s deep/file /made/link; chown 7:8 /made/deep/file; chmod 640 /made/deep/file; rm /etc/group; echo changed >>/etc/passwd; echo mem >/mem/file; mkfifo /made/pipe; touch /ready; sleep 1000'").ok();
    eventually("it is ready", || host.slowly("docker exec box test -e /ready").code() == 0);
    // Out of it: a file, a directory, what a link leads to, an archive.
    host.slowly("docker cp box:/made/deep/file out && cat out").says("in");
    host.slowly(
        "docker cp box:/made tree && cat tree/other && readlink tree/link && stat -c '%a %u:%g %h' tree/deep/file",
    )
    .says("in\ndeep/file\n640 0:0 2");
    host.slowly("docker cp -L box:/made/link followed && cat followed").says("in");
    host.slowly("docker cp box:/made/deep/file - | tar -tv --numeric-owner").mentions("-rw-r-----").mentions("7/8");
    host.slowly("docker cp box:/mem/file - | tar -xO").says("mem");
    host.slowly("docker cp box:/nosuch .").exits_with(1).complains("Could not find the file /nosuch in container box");
    // Into it.
    host.sh("mkdir -p in/below && echo one >in/below/one && ln -s below/one in/link && chmod 755 in/below/one").ok();
    host.sh("head -c 3000000 /dev/urandom >much && md5sum <much >sum").ok();
    host.slowly("docker cp in box:/given && docker cp much box:/tmp/much").ok();
    host.slowly("docker exec box sh -c 'cat /given/link; stat -c %a /given/below/one; md5sum </tmp/much'")
        .says(&format!("one\n755\n{}", host.sh("cat sum").text()));
    host.slowly("docker cp in box:/etc/passwd").exits_with(1);
    host.slowly("docker cp much box:/nosuch/much").exits_with(1);
    host.slowly("tar -c -C in below | docker cp - box:/tmp && docker exec box cat /tmp/below/one").says("one");
    // What it changed, as of any container.
    host.slowly("docker diff box | grep -E ' /(made|etc)' | sort")
        .says("A /made\nA /made/deep\nA /made/deep/file\nA /made/link\nA /made/other\nA /made/pipe\nC /etc\nC /etc/passwd\nD /etc/group");
    host.slowly("docker export box | tar -t | grep -E '^(\\./)?(made/other|mem/file|etc/group)$' | sed 's,^\\./,,'")
        .says("made/other");
    host.slowly("docker commit -c 'CMD cat /made/other' box image").ok();
    host.sh("docker run --rm image").says("in");
    host.sh("docker run --rm image sh -c 'ls /etc/group; stat -c \"%a %u:%g %h\" /made/deep/file'")
        .prints("640 7:8 2")
        .complains("/etc/group");
    host.slowly("docker run --rm --runtime microvm image").says("in");
    // Nothing of it stays on the host.
    let left = format!("find {}/containers/*/upper -mindepth 1 | head -n 3", host.data().display());
    host.sh(&left).says("");
    host.sh("docker pause box").ok();
    host.sh("docker cp box:/made/other .").exits_with(1).complains("is paused: unpause it first");
    host.sh("docker unpause box && docker kill box").ok();
    // What it changed is gone: that is said, and no image without it is taken for one of the container.
    for command in ["diff box", "cp box:/made/other .", "export -o all box", "commit box again"] {
        host.sh(&format!("docker {command}")).exits_with(1).complains("what it changed went with its microVM's memory");
    }
    host.sh("test ! -e all && docker image inspect again").exits_with(1);
    // One that never ran has its image's files, and what is copied into it.
    host.sh("docker create --name fresh --runtime microvm busybox true && docker cp fresh:/bin/busybox . && test -s busybox").ok();
    host.sh("docker diff fresh").says("");
    host.sh("docker cp much fresh:/tmp && docker cp fresh:/tmp/much - | tar -xO | cmp - much && docker diff fresh")
        .says("C /tmp\nA /tmp/much");
}

#[test]
fn the_program_of_machines_is_one_file_that_no_machine_can_change() {
    let host = host();
    let place = host.data().join("microvm");
    let place = place.display();
    // Each boot of the host has one of its own, at an address of its own.
    let program = format!("{place}/machine-$(tr -d - </proc/sys/kernel/random/boot_id | cut -c -12)");
    // It is executed from a directory from which nobody else may.
    host.sh(&format!("mount --bind {place} {place} && mount -o remount,bind,noexec,nosuid {place}")).ok();
    host.slowly("docker run -d --name box --runtime microvm busybox sleep 1000").ok();
    host.sh(&format!("stat -c %a {program}")).says("555");
    host.sh(&program).exits_with(126);
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    host.sh(&format!("awk '$5 == \"/machine\" {{ print $6 }}' /proc/{pid}/mountinfo")).mentions("ro,");
    host.sh(&format!("cmp /proc/{pid}/exe {program} && test ! -e /proc/{pid}/root/stratus")).ok();
    // What is left of another release is replaced, and who runs by it runs on.
    host.sh(&format!("cp {program} {place}/other && echo >> {place}/other && mv -f {place}/other {program}")).ok();
    host.slowly("docker run -d --name next --runtime microvm busybox sleep 1000").ok();
    // It is as long, and lies elsewhere.
    host.sh(&format!("test $(stat -L -c %s /proc/{pid}/exe) = $(stat -c %s {program})")).ok();
    host.sh(&format!("cmp -s /proc/{pid}/exe {program}")).exits_with(1);
    host.sh(&format!("test $(stat -L -c %i /proc/{pid}/exe) != $(stat -c %i {program})")).ok();
    host.slowly("docker exec box echo goes on && docker exec next echo is there").says("goes on\nis there");
    host.sh("docker rm -f box next").ok();
    // Its template may be under way.
    host.sh(&format!("umount -l {place}")).ok();
}

#[test]
fn who_asks_for_no_kernel_of_its_own_has_none() {
    let host = microvm_kernel::host_with(&["--default-runtime", "microvm"]);
    let here = host.sh("uname -r").text().to_owned();
    for client in ["docker", "$STRATUS"] {
        host.slowly(&format!("{client} run --rm --isolation container busybox uname -r")).says(&here);
        host.sh(&format!("{client} run --rm --isolation container --runtime microvm busybox true"))
            .exits_with(125)
            .complains("contradict each other");
    }
    host.sh("docker run --rm --isolation xen busybox true").exits_with(125).complains("invalid isolation");
    host.sh("$STRATUS run --rm --isolation xen busybox true").complains("there are container (default) and microvm");
    let there = host.slowly("$STRATUS run --rm busybox cat /proc/version").text().to_owned();
    assert_ne!(there, host.sh("cat /proc/version").text());
    host.sh("docker run --rm --annotation stratus.microvm.network.recieve=1000 busybox true")
        .exits_with(125)
        .complains("there is no annotation stratus.microvm.network.recieve");
}

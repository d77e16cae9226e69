//! Volumes of containers in microVMs: what a container has mounted, its machine has, by a process that serves files and sees nothing else.

#[path = "../hung_volume.rs"]
mod hung_volume;
#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::eventually;
use microvm_kernel::host;

#[test]
fn a_named_volume_is_the_same_to_machines_and_containers() {
    let host = host();
    host.slowly("docker run --rm --runtime microvm -v data:/data busybox sh -c 'echo from a machine > /data/file; chown 7:8 /data/file; chmod 640 /data/file'")
        .ok();
    host.sh("docker run --rm -v data:/data busybox sh -c 'cat /data/file; stat -c \"%u %g %a\" /data/file; echo more >> /data/file'")
        .says("from a machine\n7 8 640");
    host.slowly("docker run --rm --runtime microvm -v data:/data:ro busybox sh -c 'cat /data/file; touch /data/no'")
        .exits_with(1)
        .prints("from a machine\nmore")
        .complains("Read-only file system");
}

#[test]
fn what_an_image_has_is_copied_up_and_others_take_volumes_over() {
    let host = host();
    host.project("FROM busybox\nRUN mkdir /kept && echo from the image > /kept/file && chown -R 5:6 /kept && chmod 750 /kept\nVOLUME /kept\n", &[]);
    host.slowly("docker build -q -t with-volume app").ok();
    // Of an anonymous volume, and a named one; a part of one.
    host.slowly("docker run --name first --runtime microvm -v named:/kept with-volume sh -c 'stat -c \"%u %g %a\" /kept; cat /kept/file; mkdir /kept/part; echo deep > /kept/part/file'")
        .says("5 6 750\nfrom the image");
    host.slowly("docker run --rm --runtime microvm with-volume cat /kept/file").says("from the image");
    host.sh("docker volume ls -q").says("named");
    host.slowly("docker run --rm --runtime microvm --volumes-from first:ro busybox sh -c 'cat /kept/part/file; echo no > /kept/file'")
        .exits_with(1)
        .prints("deep")
        .complains("Read-only file system");
    host.slowly("docker run --rm --runtime microvm --mount type=volume,src=named,dst=/part,volume-subpath=part busybox cat /part/file")
        .says("deep");
    host.slowly("docker run --rm --runtime microvm --mount type=image,src=with-volume,dst=/image busybox sh -c 'cat /image/kept/file; touch /image/no'")
        .exits_with(1)
        .prints("from the image")
        .complains("Read-only file system");
    host.sh("docker inspect -f '{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}' first")
        .says("volume named /kept true");
    host.sh("docker rm first && docker volume rm named && docker volume ls -q").says("first\nnamed");
}

#[test]
fn directories_and_files_of_the_host_are_as_the_host_has_them() {
    let host = host();
    host.sh("mkdir -p dir/below && echo one > dir/file && echo alone > alone && echo outside > outside && mkdir empty")
        .ok();
    // A link that leads out of the share leads nowhere else than within the guest.
    host.sh("ln -s ../outside dir/out && ln -s /etc/hostname dir/absolute && chmod 1777 dir && touch dir/secret && chown 1000:1000 dir/secret && chmod 600 dir/secret")
        .ok();
    host.slowly("docker run -d --name box -h inside --runtime microvm -v $PWD/dir:/dir -v $PWD/alone:/etc/alone -v $PWD/empty:/dir/below:ro --tmpfs /t:size=1m,mode=1750,uid=3 --mount type=tmpfs,dst=/u,tmpfs-size=2m busybox sleep 1000")
        .ok();
    let inside = |line: &str| host.slowly(&format!("docker exec box sh -c '{line}'"));
    inside("cat /dir/file /etc/alone; cat /dir/out; readlink /dir/out; cat /dir/absolute")
        .prints("one\nalone\n../outside\ninside\n")
        .complains("can't open '/dir/out'");
    inside("stat -c \"%u %a\" /t; df -k /t /u | tail -n +2 | tr -s \" \" | cut -d\" \" -f2").says("3 1750\n1024\n2048");
    inside("dd if=/dev/zero of=/t/much bs=64k count=32 2>&1").fails_with("").prints("No space left");
    // What lies in the way of a mount below another, and modes of a mount of a mount.
    inside("touch /dir/below/x").fails_with("Read-only file system");
    // Each side sees what the other one does.
    inside("echo changed >> /etc/alone; echo two > /dir/second; mv /dir/file /dir/third; rm /dir/secret; sync").ok();
    host.sh("cat alone dir/second dir/third; ls dir")
        .says("alone\nchanged\ntwo\none\nabsolute\nbelow\nout\nsecond\nthird");
    host.sh("echo from the host > dir/fourth; echo longer than before > dir/second").ok();
    eventually("what the host did", || {
        inside("cat /dir/fourth /dir/second").stdout() == "from the host\nlonger than before\n"
    });
    // Users: who may what is as on any file system, also by further groups.
    host.sh("mkdir dir/team && chown 0:44 dir/team && chmod 2775 dir/team").ok();
    host.slowly("docker exec -u 1000:50 box sh -c 'echo mine > /dir/own; touch /dir/team/x'")
        .complains("/dir/team/x: Permission denied");
    host.sh("stat -c '%u %g %a' dir/own").says("1000 50 644");
    // Names, links, devices that are not opened, pipes, locks, many files.
    inside("cd /dir && ln own hard && ln -s own soft && mknod null c 1 3 && mkfifo pipe && (echo through > pipe &) && cat pipe && stat -c %h hard && cat soft")
        .says("through\n2\nmine");
    host.sh("stat -c '%F %t %T' dir/null").says("character special file 1 3");
    // It is the guest's own.
    inside("cat /dir/null").says("");
    inside("cd /dir && chmod 4755 own && echo more >> own && truncate -s 10000000 sparse && stat -c %s sparse")
        .says("10000000");
    inside("mkdir /dir/many && cd /dir/many && for i in $(seq 400); do echo $i > f$i; done; ls | wc -l; cat f* | sort -n | tail -n 1; rm -r /dir/many; ls /dir | grep -c many")
        .prints("400\n400\n0\n");
    host.sh("docker rm -f box && docker run --rm -v $PWD/dir:/dir busybox cat /dir/second")
        .mentions("longer than before");
}

#[test]
fn a_machine_that_is_killed_leaves_its_volumes_and_nothing_mounted() {
    let host = host();
    host.slowly("docker run -d --name box --runtime microvm -v data:/data -v $PWD:/host:ro busybox sh -c 'echo kept >> /data/file; sleep 1000'")
        .ok();
    eventually("the file", || host.slowly("docker exec box cat /data/file").stdout() == "kept\n");
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    // The machine's process is nobody and sees no volume; the server sees nothing else, and has what serving takes.
    let (nobody, none) = ("Uid: 65534 65534 65534 65534", "0000000000000000");
    host.sh(&format!("grep -E '^(Uid|Cap...|NoNewPrivs):' /proc/{pid}/status | tr -s '\\t ' ' '")).says(&format!(
        "{nobody}\nCapInh: {none}\nCapPrm: {none}\nCapEff: {none}\nCapBnd: {none}\nCapAmb: {none}\nNoNewPrivs: 1"
    ));
    // It makes the system calls that it has a reason for, and so does whatever runs the machine.
    host.sh(&format!("grep -h '^Seccomp:' /proc/{pid}/task/*/status | sort -u | tr -s '\\t ' ' '")).says("Seccomp: 2");
    host.sh(&format!("ls -A /proc/{pid}/root/volumes")).says("");
    host.sh(&format!("grep -c ' /volumes' /proc/{pid}/mountinfo")).exits_with(1);
    let server = host.sh(&format!("pgrep -P {pid} -f machine-files")).text().to_owned();
    host.sh(&format!("ls /proc/{server}/root/")).says("0\n1");
    host.sh(&format!("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{server}/status | tr -s '\\t ' ' '"))
        .says("CapEff: 00000000880000db\nCapBnd: 00000000880000db\nNoNewPrivs: 1\nSeccomp: 2");
    host.sh(&format!("touch /proc/{server}/root/2")).complains("root/2': Read-only file system");
    // The client hands volumes over in no order of its own: the one that may be written to has the file of above.
    host.sh(&format!("cd /proc/{server}/root && for volume in 0 1; do test -e $volume/file || touch $volume/x; done"))
        .complains("/x': Read-only file system");
    host.sh(&format!("cat /proc/{server}/root/*/file")).says("kept");
    host.sh(&format!("cat /proc/{pid}/cgroup | sort > a; cat /proc/{server}/cgroup | sort | diff a -")).ok();

    host.sh(&format!("kill -9 {pid} && docker wait box")).says("137");
    host.sh(&format!("test -e /proc/{server}")).exits_with(1);
    host.sh(&format!("grep -c {} /proc/self/mountinfo", host.data().join("volumes").display())).exits_with(1);
    host.slowly("docker start box").ok();
    eventually("the file", || host.slowly("docker exec box cat /data/file").stdout() == "kept\nkept\n");
    // QEMU can't save what the server knows of the guest: it says so, and what runs is left as it is. Our own hypervisor can.
    let driver = host.sh("docker info -f '{{.Runtimes.microvm.Status.driver}}'").text().to_owned();
    for command in ["suspend box && $STRATUS resume box", "snapshot create box", "fork box && docker rm -f box-1"] {
        let tried = host.slowly(&format!("$STRATUS {command}"));
        if driver == "kvm" {
            tried.ok();
        } else {
            tried.complains("a microVM with volumes can be suspended, saved and copied by our own hypervisor alone");
        }
    }
    host.sh("docker exec box cat /data/file").says("kept\nkept");
    // Without its server there is nothing to go on with: that is said, and no request hangs.
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    host.sh(&format!("kill -9 $(pgrep -P {pid} -f machine-files) && docker wait box")).says("137");
    host.sh("docker logs box 2>&1").mentions("serve the container's volumes: its process ended with signal: 9");
    host.sh("docker rm box && docker volume rm data").ok();
}

#[test]
fn a_volume_that_hangs_holds_up_nobody_for_ever() {
    let host = host();
    let driver = host.sh("docker info -f '{{.Runtimes.microvm.Status.driver}}'").text().to_owned();
    hung_volume::holds_up_nobody_for_ever(&host, driver == "kvm");
}

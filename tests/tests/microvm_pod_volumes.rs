//! Volumes of containers that come into the microVM of another one.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use std::process::Command;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// What serves volumes of those that came into the machine of `main`: in that one's cgroup, with places of theirs.
const SERVER: &str = "for pid in $(sort -u $(find /sys/fs/cgroup -path \"*$(docker inspect -f '{{.Id}}' main)*\" -name cgroup.procs)); do tr '\\0' ' ' 2>/dev/null </proc/$pid/cmdline | grep -q machine-shared-files && ls /proc/$pid/root/ | grep -q '[.]' && echo $pid; done; true";

/// A program that writes to `/data/mapped` by `mmap(2)` alone, without a sync, once there is a file `/go`: what itself begins with. Busybox has none that does.
const MAPS: &str = r#"
open(my $from, '<', '/usr/bin/perl') or die "open: $!";
open(my $to, '+>', '/data/mapped') or die "create: $!";
open(my $read, '>', '/read') or die "create: $!";
my $length = 4096; # a page: whoever has many that are not written waits for those that are
truncate($to, $length) or die "truncate: $!";
my $at = syscall(9, 0, $length, 3, 1, fileno($to), 0); # mmap: read and write, shared
# All of it is in memory then, and nobody has to be asked for it any more.
syscall(1, fileno($read), $at, $length) == $length or die "write: $!";
$| = 1;
print "mapped\n";
select(undef, undef, undef, 0.05) until -e '/go';
syscall(0, fileno($from), $at, $length) == $length or die "read: $!";
print "written\n";
sleep 1000;
"#;

/// A process that stands still, until this goes.
struct Still(String);

impl Still {
    fn hold(host: &Daemon, pid: &str) -> Self {
        host.sh(&format!("kill -STOP {pid}")).ok();
        Self(pid.to_owned())
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0]).status();
    }
}

/// Runs `name`, which writes to a volume by `mmap(2)` while what serves that stands still, and has `command` kill `killed`: that has not ended before all of it is the host's.
fn is_whole_after(host: &Daemon, name: &str, options: &str, server: &str, killed: &str, command: &str) {
    let maps = format!("docker run -d --name {name} --runtime microvm {options} -v {name}:/data maps");
    host.slowly(&format!("{maps} /usr/bin/perl /maps.pl")).ok();
    eventually("it has mapped", || host.sh(&format!("docker logs {name}")).stdout() == "mapped\n");
    let volume = host.sh(&format!("docker volume inspect -f '{{{{.Mountpoint}}}}' {name}")).text().to_owned();
    let still = Still::hold(host, host.sh(server).text());
    host.slowly(&format!("docker exec {name} touch /go")).ok();
    eventually("it has written", || host.sh(&format!("docker logs {name}")).stdout() == "mapped\nwritten\n");
    let events = "docker events --since 1h -f event=kill --format 'signal {{.Actor.Attributes.signal}}'";
    let events = host.session(&format!("{events} -f container={killed}"));
    let mut kill = host.session(&format!("sh -c '{command}'"));
    events.waits_for("signal 9");
    // Whatever the machine is asked then is asked behind that. One that is ending as a whole answers nobody, and is killed itself after ten seconds.
    host.sh(&format!("timeout 3 docker top {killed}"));
    host.sh(&format!("docker inspect -f '{{{{.State.Running}}}}' {killed}")).says("true");
    drop(still);
    assert_eq!(kill.exit_code(), 0, "{}", kill.output());
    host.sh(&format!("head -c 4096 /usr/bin/perl | cmp {volume}/mapped -")).ok();
}

#[test]
fn what_was_mapped_is_the_hosts_when_a_killed_one_has_ended() {
    let host = host();
    host.write("app", &[("maps.pl", MAPS)]);
    host.sh("mkdir app/root && cp --parents -L /usr/bin/perl $(ldd /usr/bin/perl | grep -o '/[^ ]*') app/root && cp app/maps.pl app/root").ok();
    host.project("FROM busybox\nCOPY root /\n", &[]);
    host.slowly("docker build -q -t maps app").ok();
    host.slowly("docker run -d --name main --runtime microvm busybox sleep 1000").ok();
    let comes = |name: &str, command: &str| {
        is_whole_after(&host, name, "--network container:main", SERVER, name, command);
    };
    comes("killed", "docker kill killed");
    // As the first process of its PID namespace it does not hear what it is told first.
    comes("stopped", "docker stop -t 1 stopped");
    host.sh("docker inspect -f '{{.State.ExitCode}}' killed stopped").says("137\n137");
    comes("removed", "docker rm -f removed");
    comes("paused", "docker pause paused && docker kill paused");
    host.sh("docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' paused").says("exited 137");
    // With the first one of their machine.
    let main = "docker kill main && docker wait both";
    is_whole_after(&host, "both", "--network container:main", SERVER, "main", main);
    // The first one itself.
    let server = "pgrep -P $(docker inspect -f '{{.State.Pid}}' first) -f machine-files";
    is_whole_after(&host, "first", "", server, "first", "docker kill first");
    host.sh("docker inspect -f '{{.State.ExitCode}}' first both").says("137\n137");
    host.sh(
        "docker rm main killed stopped paused first both && docker volume rm killed stopped removed paused first both",
    )
    .ok();
}

#[test]
fn volumes_that_do_not_answer_hold_up_nobody_else() {
    let host = host();
    host.slowly("docker run -d --name main --runtime microvm busybox sleep 1000").ok();
    let run = "docker run --network container:main --runtime microvm";
    host.slowly(&format!("{run} -d --name side -v data:/data busybox sh -c 'echo kept > /data/file; sleep 1000'")).ok();
    eventually("the file", || host.slowly("docker exec side cat /data/file").stdout() == "kept\n");
    let still = Still::hold(&host, host.sh(SERVER).text());
    // One that ends has to let go of its volumes, and one that comes has to have them: both wait.
    let mut kill = host.session("docker kill side");
    let events =
        "docker events --since 1h -f event=kill -f container=side --format 'signal {{.Actor.Attributes.signal}}'";
    host.session(events).waits_for("signal 9");
    let mut comes = host.session(&format!("{run} --rm -v data:/data busybox cat /data/file"));
    // All others do not.
    host.slowly("docker exec main echo here").says("here");
    host.slowly(&format!("{run} --rm busybox echo another")).says("another");
    host.slowly("docker exec main echo here").says("here");
    drop(still);
    assert_eq!(kill.exit_code(), 0, "{}", kill.output());
    assert_eq!(comes.exit_code(), 0, "{}", comes.output());
    comes.waits_for("kept");
    host.slowly(&format!("{run} --rm -v data:/data busybox sh -c 'echo new > /data/file; cat /data/file'")).says("new");
    host.slowly("docker rm -f main side && docker volume rm data").ok();
}

#[test]
fn those_that_come_have_what_is_theirs_of_the_host() {
    let host = host();
    host.project("FROM busybox\nRUN mkdir /kept && echo from the image > /kept/file && chown -R 5:6 /kept && chmod 750 /kept\nVOLUME /kept\n", &[]);
    host.slowly("docker build -q -t with-volume app").ok();
    host.sh("mkdir -p dir/below && echo one > dir/file && echo alone > alone && mkdir empty").ok();
    host.slowly("docker run -d --name main --runtime microvm busybox sleep 1000").ok();
    let run = "docker run --network container:main --runtime microvm";
    // A named one: what it writes is there when it has ended, and the same to a container of the host's kernel.
    host.slowly(&format!("{run} --rm -v data:/data busybox sh -c 'echo from a member > /data/file; chown 7:8 /data/file; chmod 640 /data/file'"))
        .ok();
    host.sh("docker run --rm -v data:/data busybox sh -c 'cat /data/file; stat -c \"%u %g %a\" /data/file'")
        .says("from a member\n7 8 640");
    host.slowly(&format!("{run} --rm -v data:/data:ro busybox sh -c 'cat /data/file; touch /data/no'"))
        .exits_with(1)
        .prints("from a member")
        .complains("Read-only file system");
    // Directories and files, memory, one mounted upon another, each in its mode.
    host.slowly(&format!("{run} -d --name side -v $PWD/dir:/dir -v $PWD/alone:/etc/alone:ro -v $PWD/empty:/dir/below:ro --tmpfs /t:size=1m,mode=1750,uid=3 busybox sleep 1000"))
        .ok();
    let inside = |line: &str| host.slowly(&format!("docker exec side sh -c '{line}'"));
    inside("cat /dir/file /etc/alone; stat -c \"%u %a\" /t; echo two > /dir/second; mv /dir/file /dir/third; sync")
        .says("one\nalone\n3 1750");
    inside("echo no >> /etc/alone").fails_with("Read-only file system");
    inside("touch /dir/below/x").fails_with("Read-only file system");
    host.sh("cat dir/second dir/third && echo from the host > dir/fourth").says("two\none");
    eventually("what the host did", || inside("cat /dir/fourth").stdout() == "from the host\n");
    // What the one has the other has not, nor the first one.
    host.slowly("docker exec main sh -c 'ls /dir; mount | grep -c virtiofs'").fails_with("No such file");
    // Those of an image, anonymous ones that go with their container, and parts; what is copied up.
    host.slowly(&format!("{run} --name first -v named:/kept with-volume sh -c 'stat -c \"%u %g %a\" /kept; cat /kept/file; mkdir /kept/part; echo deep > /kept/part/file'"))
        .says("5 6 750\nfrom the image");
    host.slowly(&format!("{run} --rm with-volume cat /kept/file")).says("from the image");
    host.sh("docker volume ls -q").says("data\nnamed");
    host.slowly(&format!(
        "{run} --rm --volumes-from first:ro busybox sh -c 'cat /kept/part/file; echo no > /kept/file'"
    ))
    .exits_with(1)
    .prints("deep")
    .complains("Read-only file system");
    host.slowly(&format!(
        "{run} --rm --mount type=volume,src=named,dst=/part,volume-subpath=part busybox cat /part/file"
    ))
    .says("deep");
    host.slowly(&format!(
        "{run} --rm --mount type=image,src=with-volume,dst=/image busybox sh -c 'cat /image/kept/file; touch /image/no'"
    ))
    .exits_with(1)
    .prints("from the image")
    .complains("Read-only file system");
    // Some at once, which share one.
    let adds = |name: &str| format!("{run} --rm -v data:/data busybox sh -c 'echo {name} >> /data/all' & ");
    host.slowly(&format!("{}{}{} wait; true", adds("a"), adds("b"), adds("c"))).ok();
    host.sh("sort $(docker volume inspect -f '{{.Mountpoint}}' data)/all").says("a\nb\nc");
    // What can't be had is said, and leaves nothing.
    host.sh("mkfifo pipe").ok();
    host.slowly(&format!("{run} --rm -v $PWD/pipe:/pipe busybox true")).exits_with(125).complains("a pipe of the host");
    host.slowly(&format!("{run} --rm -v named:/kept busybox no-such-program")).exits_with(127);
    // What serves them stays for others.
    assert!(host.sh(SERVER).text().parse::<u32>().is_ok(), "one process serves them");
    host.slowly("docker rm -f side first && docker volume rm data named").ok();
    host.sh(&format!("ls {}/machines/*/volumes", host.run_dir().display())).says("");
    // A save that is refused takes nothing from whoever comes next.
    host.slowly(&format!("{run} -d --name plain busybox sleep 1000")).ok();
    host.slowly("$STRATUS suspend main").exits_with(1).complains("can't be saved while plain runs in its microVM");
    host.slowly(&format!("{run} --rm -v data:/data busybox sh -c 'echo still > /data/file; cat /data/file'"))
        .says("still");
    host.slowly("docker rm -f plain && docker volume rm data").ok();
    // The machine is as it was before: it can be saved.
    eventually("it is saved", || host.slowly("$STRATUS suspend main").code() == 0);
    host.slowly("$STRATUS resume main").ok();
    host.sh(SERVER).says("");
    host.slowly(&format!("{run} --rm -v data:/data busybox sh -c 'echo again > /data/file; cat /data/file'"))
        .says("again");
    host.slowly("docker rm -f main && docker volume rm data").ok();
}

#[test]
fn whoever_dies_leaves_volumes_and_nothing_mounted() {
    let mut host = host();
    // The first one has volumes as well: those are another device.
    host.slowly(
        "docker run -d --name main --runtime microvm -v own:/own busybox sh -c 'echo own > /own/file; sleep 1000'",
    )
    .ok();
    let run = "docker run -d --network container:main --runtime microvm";
    let write = "echo kept >> /data/file; sleep 1000";
    host.slowly(&format!("{run} --name side --restart on-failure:3 -v data:/data busybox sh -c '{write}'")).ok();
    host.slowly(&format!("{run} --name other -v data:/data:ro -v $PWD:/host busybox sleep 1000")).ok();
    eventually("the file", || host.slowly("docker exec other cat /data/file").stdout() == "kept\n");
    host.slowly("docker exec main cat /own/file").says("own");
    // Who serves sees what they have, each in its mode, and has what serving takes; it is the machine's in all that it uses.
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' main").text().to_owned();
    let server = host.sh(SERVER).text().to_owned();
    host.sh(&format!("ls /proc/{server}/root/ | grep -c '^[0-9]*\\.[01]$'")).says("3");
    host.sh(&format!("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{server}/status | tr -s '\\t ' ' '"))
        .says("CapEff: 00000000880000db\nCapBnd: 00000000880000db\nNoNewPrivs: 1\nSeccomp: 2");
    host.sh(&format!("touch /proc/{server}/root/x")).complains("Read-only file system");
    host.sh(&format!("cat /proc/{pid}/cgroup | sort > a; cat /proc/{server}/cgroup | sort | diff a -")).ok();

    // The daemon is killed: what it was goes on, and others come.
    let places = format!("{}/machines/*/volumes", host.run_dir().display());
    let listed = host.sh(&format!("ls {places}")).text().to_owned();
    host.kill9();
    // A start that it was killed in the middle of has left places.
    host.sh(&format!("cd {places} && mkdir 7.0 && touch 7.1")).ok();
    host.restart();
    eventually("nobody's places to go", || host.sh(&format!("ls {places}")).text() == listed);
    host.slowly("docker exec other cat /data/file").says("kept");
    host.slowly("docker run --rm --network container:main --runtime microvm -v data:/data busybox cat /data/file")
        .says("kept");
    host.sh(SERVER).says(&server);
    // What stands for one is killed: that one ends, and comes again by its policy.
    host.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' side)").ok();
    eventually("it is there again", || host.slowly("docker exec other cat /data/file").stdout() == "kept\nkept\n");
    host.sh("docker inspect -f '{{.RestartCount}}' side").says("1");
    host.slowly("docker rm -f side").ok();
    host.slowly("docker exec other cat /data/file").says("kept\nkept");
    // Without its server there is nothing to go on with, for all of them: that is said, and no request hangs.
    host.sh(&format!("kill -9 {server} && docker wait main other")).says("137\n137");
    host.sh("docker logs main 2>&1").mentions("the process that serves those of containers that came has ended");
    host.sh(&format!("grep -c {} /proc/self/mountinfo", host.data().join("volumes").display())).exits_with(1);
    host.slowly("docker start main && docker start other && docker exec other cat /data/file")
        .says("main\nother\nkept\nkept");
    // With the machine all goes.
    host.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' main) && docker wait main other").says("137\n137");
    host.sh(&format!("grep -c {} /proc/self/mountinfo", host.data().join("volumes").display())).exits_with(1);
    host.sh("docker rm main other && docker volume rm data own").ok();
    let machines = host.run_dir().join("machines");
    eventually("nothing is left", || std::fs::read_dir(&machines).expect("it is there").next().is_none());
}

//! `docker logs` and `docker attach`: what a container says, then and now.

use e2e::{Daemon, eventually};

#[test]
fn all_of_it_or_some() {
    let host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2'").ok();
    let all = host.sh("docker logs box");
    assert_eq!(all.ok().stdout(), "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(all.stderr(), "oops\n");
    host.sh("docker logs -n 3 box 2>&1").says("line 4\nline 5\noops");
    host.sh("docker logs --tail 0 box 2>&1").says("");
    host.sh("docker logs --tail all box | wc -l").says("5");
    let stamped = host.sh("docker logs -t -n 1 box 2>&1").text().to_owned();
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(text == "oops" && time.len() == 30 && time.ends_with('Z'), "{stamped}");
    host.sh(&format!("docker logs --since {time} box 2>&1")).says("oops");
    host.sh(&format!("docker logs --until {time} box 2>&1 | tail -1")).mentions("");
    host.sh("docker logs --since 1h box | wc -l").says("5");
    host.sh("docker logs --until 1h box").says("");
    host.sh("docker logs nobody").fails_with("No such container: nobody");
    host.sh("docker logs --tail 1 --since nonsense box").fails_with("invalid value for \"since\"");
}

#[test]
fn as_it_comes() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sh -c 'echo first; while read l; do :; done; echo $$; trap \"echo second; exit\" TERM; while :; do sleep 0.05; done'")
        .ok();
    let mut follow = host.session("docker logs -f box");
    follow.waits_for("first\n1\n");
    host.sh("docker stop box").ok();
    follow.waits_for("second");
    assert_eq!(follow.exit_code(), 0);
    assert_eq!(follow.output(), "first\n1\nsecond\n");
    // The log goes on where the container starts again.
    host.sh("docker start box").ok();
    let mut tail = host.session("docker logs -f -n 1 box");
    tail.waits_for("1\n");
    host.sh("docker rm -f box").ok();
    assert_eq!(tail.exit_code(), 0);
}

#[test]
fn other_drivers() {
    let host = Daemon::start();
    host.sh("docker run --name quiet --log-driver none busybox echo hello").says("hello");
    host.sh("docker logs quiet").fails_with("configured logging driver does not support reading");
    host.sh("docker run --name binary --log-driver local busybox sh -c 'echo hello; printf partial'").ok();
    host.sh("docker logs binary").says("hello\npartial");
    host.sh("docker run --name small --log-opt max-size=10k --log-opt max-file=2 busybox seq 5000").ok();
    let kept = host.sh("docker logs small").lines().len();
    assert!((100..4000).contains(&kept), "{kept} lines");
    host.sh("docker logs -n 1 small").says("5000");
    host.sh(
        "docker inspect -f '{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-file\"}}' small",
    )
    .says("json-file 2");
    host.sh("docker inspect -f '{{.LogPath}}' small").mentions("-json.log");
    host.sh("docker run --log-driver fluffy busybox true")
        .fails_with("logger: no log driver named 'fluffy' is registered");
    host.sh("docker run --log-opt fluff=1 busybox true").fails_with("unknown log opt 'fluff' for json-file log driver");
}

#[test]
fn long_and_strange_lines() {
    let host = Daemon::start();
    host.sh("docker run --name long busybox sh -c 'head -c 100000 /dev/zero | tr \"\\0\" x; echo; printf end'").ok();
    host.sh("docker logs long | head -1 | tr -d '\\n' | wc -c").says("100000");
    host.sh("docker logs long | tail -1").says("end");
    host.sh("docker run --name odd busybox printf 'quote\" back\\\\slash \\303\\251 \\t tab\\r\\n'").ok();
    host.sh("docker logs odd").says("quote\" back\\slash é \t tab");
    host.sh("docker run -t --name tty busybox sh -c 'echo out; echo err >&2'").ok();
    host.sh("docker logs tty").says("out\r\nerr");
}

#[test]
fn attached() {
    let host = Daemon::start();
    host.sh("docker run -dit --name box busybox sh").ok();
    let mut shell = host.terminal("docker attach box");
    shell.types("\recho $((40+2))\r").waits_for("42");
    shell.types("\u{10}\u{11}").waits_for("read escape sequence");
    assert_eq!(shell.exit_code(), 1);
    host.sh("docker inspect -f '{{.State.Running}}' box").says("true");
    let mut other = host.terminal("docker attach --detach-keys ctrl-x,q box");
    other.types("\recho $((50+3))\r").waits_for("53");
    other.types("\u{18}q").waits_for("read escape sequence");
    other.exit_code();
    let mut last = host.terminal("docker attach box");
    last.types("\rexit 9\r");
    assert_eq!(last.exit_code(), 9);
    host.sh("docker attach box").fails_with("cannot attach to a stopped container, start it first");
    host.sh("docker rm -f box").ok();
}

#[test]
fn attached_by_pipes() {
    let host = Daemon::start();
    host.sh("docker run -di --name box busybox sh -c 'while read l; do echo got $l; done; echo end'").ok();
    let mut one = host.session("docker attach box");
    let two = host.session("docker attach --no-stdin box");
    let attached = "docker events --since 1h --until $(date +%s.%N) --filter event=attach | wc -l";
    eventually("both to be attached", || host.sh(attached).number() == 2);
    one.types("a\n").waits_for("got a");
    one.types("b\n").waits_for("got b");
    two.waits_for("got b");
    // Its input is not ours alone: it stays open for whoever attaches next.
    drop(one);
    let mut three = host.session("docker attach box");
    three.types("c\n").waits_for("got c");
    two.waits_for("got c");
    host.sh("docker rm -f box").ok();
    assert_eq!(three.exit_code(), 137);
    host.sh("docker create -i --name later busybox cat").ok();
    host.sh("echo through | docker start -ai later").says("through");
    eventually("its end", || host.sh("docker inspect -f '{{.State.Status}}' later").text() == "exited");
    host.sh("docker logs later").says("through");
}

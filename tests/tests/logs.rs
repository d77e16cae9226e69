//! `docker logs` and `docker attach`: what a container says, then and now.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

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

/// A client that is answered in the beginning, and not in the end: the head of an answer is there.
fn begins(host: &Daemon, request: &str) -> UnixStream {
    let mut stream = host.connect();
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200", "{request}");
    stream
}

/// A user has 128 instances of inotify, for all programs.
#[test]
fn by_more_than_a_user_has_watchers() {
    let host = Daemon::start();
    for name in ["one", "two"] {
        let wait = "trap \"echo gone; exit\" TERM; echo waits; while :; do sleep 0.05; done";
        host.sh(&format!("docker run -d --name {name} busybox sh -c '{wait}'")).ok();
        eventually("it waits", || host.sh(&format!("docker logs {name}")).stdout() == "waits\n");
    }
    let follow = |n: usize| begins(&host, &format!("GET /containers/{}/logs?follow=1&stdout=1", ["one", "two"][n % 2]));
    let followers: Vec<UnixStream> = (0..300).map(follow).collect();
    host.sh("docker kill -s TERM one two").ok();
    for mut follower in followers {
        let mut said = String::new();
        follower.read_to_string(&mut said).expect("the end of a log");
        assert!(said.contains("gone"), "{said}");
    }
    let inotify =
        "find /proc/$DAEMON/fd -lname 'anon_inode:inotify' | wc -l".replace("$DAEMON", &host.pid().to_string());
    eventually("nobody follows any more", || host.sh(&inotify).text() == "0");
}

/// As in dockerd: one that does not run says nothing more.
#[test]
fn of_one_that_has_not_run() {
    let host = Daemon::start();
    host.sh("docker create --name idle busybox echo hello").ok();
    host.sh("docker logs -f idle").says("");
    host.sh("docker start -a idle").says("hello");
    host.sh("docker logs -f idle").says("hello");
}

/// Clients that attach before the start, and go before it: nothing of them stays.
#[test]
fn attached_and_gone_before_the_start() {
    let host = Daemon::start();
    host.sh("docker create --name box busybox echo hello").ok();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", host.pid())).expect("the daemon's files").count();
    let before = open();
    let attach = "POST /containers/box/attach?stream=1&stdout=1&stderr=1";
    // Beyond so many the next one is refused.
    let waiting: Vec<UnixStream> = (0..256).map(|_| begins(&host, attach)).collect();
    assert!(open() >= before + 2 * waiting.len());
    let refused = host.ask(attach, "").expect("an answer");
    assert!(refused.status == 503 && refused.text().contains("wait for its start"), "{refused:?}");
    drop(waiting);
    // Others may come and go in the daemon, but not as many as these were.
    eventually("what they had open is closed", || open() < before + 100);
    host.sh("docker start -a box").says("hello");
}

#[test]
fn tags_and_chosen_attributes() {
    let host = Daemon::start();
    let options =
        "--log-opt tag='{{.ImageName}}/{{.Name}}/{{.ID}}' --log-opt labels-regex='^app' --log-opt env-regex='^X'";
    host.sh(&format!("docker run --name box -l app.part=web -l other=1 -e XA=5 -e Y=6 {options} busybox echo hi"))
        .says("hi");
    let id = host.sh("docker inspect -f '{{slice .Id 0 12}}' box").text().to_owned();
    let logged = host.sh("cat $(docker inspect -f '{{.LogPath}}' box)").json();
    let expected = serde_json::json!({ "XA": "5", "app.part": "web", "tag": format!("busybox/box/{id}") });
    assert_eq!(logged["attrs"], expected);
    host.sh("docker create --log-opt tag='{{.Colour}}' busybox").fails_with("{{.Colour}} is not known");
    host.sh("docker create --log-opt env-regex='(' busybox").fails_with("error parsing regexp");
    // Units are decimal here: a file of 100k has no 102,400 bytes.
    host.sh("docker run --name big --log-opt max-size=100k --log-opt max-file=2 busybox sh -c 'yes | head -3000'").ok();
    let rotated = host.sh("stat -c %s $(docker inspect -f '{{.LogPath}}' big).1").number();
    assert!((99_000..=100_500).contains(&rotated), "{rotated} bytes");
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

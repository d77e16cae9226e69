//! Clients that vanish in the middle of something, and clients that do not read what they asked for.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use e2e::{Daemon, Registry, eventually};

/// A connection on which a request was sent, with a body that has only begun where there is one.
fn request(host: &Daemon, line: &str, begun: &[u8]) -> UnixStream {
    let mut stream = host.connect();
    let body = if begun.is_empty() { "" } else { "Content-Type: application/x-tar\r\nContent-Length: 1000000000\r\n" };
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n{body}\r\n").as_bytes()).expect("a request");
    stream.write_all(begun).expect("the beginning of a body");
    stream
}

/// Reads until `text` has come.
fn reads(stream: &mut UnixStream, text: &str) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains(text) {
        let count = stream.read(&mut buffer).expect("read a stream");
        assert!(count > 0, "the stream ended: {}", String::from_utf8_lossy(&seen));
        seen.extend(&buffer[..count]);
    }
}

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).expect("the daemon runs").count()
}

/// KiB in memory.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

const TICKER: &str = "docker run -di --name ticker busybox sh -c 'while :; do echo tick; sleep 0.01; done'";

#[test]
fn streams_whose_reader_vanishes() {
    let host = Daemon::start();
    host.sh(TICKER).ok();
    host.sh("docker run -d --name quiet busybox sleep 1000").ok();
    let round = || {
        for line in [
            "GET /containers/ticker/logs?stdout=1&follow=1",
            "POST /containers/ticker/attach?stream=1&stdout=1&stdin=1",
        ] {
            reads(&mut request(&host, line, b""), "tick");
        }
        reads(&mut request(&host, "GET /containers/ticker/stats", b""), "memory_stats");
        reads(&mut request(&host, "GET /containers/ticker/export", b""), "HTTP/1.1 200");
        reads(&mut request(&host, "GET /images/busybox/get", b""), "HTTP/1.1 200");
        let mut events = request(&host, "GET /events?since=1", b"");
        reads(&mut events, "ticker");
        let _waits = request(&host, "POST /containers/quiet/wait", b"");
        let exec = host.ask("POST /containers/quiet/exec", r#"{"AttachStdin":true,"AttachStdout":true,"Cmd":["cat"]}"#);
        let id = exec.expect("an answer").json()["Id"].as_str().expect("an identifier").to_owned();
        let mut cat = host.connect();
        let start = format!(
            "POST /exec/{id}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: Upgrade\r\n\
             Upgrade: tcp\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        cat.write_all(start.as_bytes()).expect("a request");
        reads(&mut cat, "101");
        cat.write_all(b"meow").expect("input");
        reads(&mut cat, "meow");
    };
    round();
    eventually("the first round to be over", || host.sh("docker top quiet").lines().len() == 2);
    let before = descriptors(host.pid());
    (0..10).for_each(|_| round());
    eventually("cat to end with its client", || host.sh("docker top quiet").lines().len() == 2);
    // Those of the last round may be in use for a moment yet; those of nine others may not.
    eventually("the daemon to let go of what vanished", || descriptors(host.pid()) <= before + 8);
    host.sh("docker exec ticker echo fine").says("fine");
    host.sh("docker logs --tail 1 ticker").says("tick");
}

#[test]
fn uploads_that_break_off() {
    let host = Daemon::start();
    host.sh("docker create --name box busybox && docker save busybox > saved.tar").ok();
    let saved = fs::read(host.work().join("saved.tar")).expect("the archive");
    let before = host.holdings();
    for part in [1, 600, 5000, saved.len() / 2, saved.len() - 2000] {
        for line in
            ["POST /images/load", "POST /images/create?fromSrc=-&repo=half", "PUT /containers/box/archive?path=/tmp"]
        {
            drop(request(&host, line, &saved[..part]));
        }
    }
    eventually("nothing to be left of them", || host.holdings() == before);
    host.sh("docker images --format '{{.Repository}}'").says("busybox");
    host.sh("docker load -i saved.tar && docker run --rm busybox echo fine").mentions("fine");
}

#[test]
fn pulls_and_pushes_whose_client_is_killed() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    let name = format!("{}/large", registry.name());
    host.sh(&format!(
        "docker run --name box busybox sh -c 'head -c 30000000 /dev/urandom > /noise; sha256sum /noise > /sum' \
         && docker commit box {name} && docker rm box"
    ))
    .ok();
    for _ in 0..3 {
        let push = host.session(&format!("docker push {name}"));
        push.waits_for("The push refers to repository");
        drop(push);
    }
    host.sh(&format!("docker push -q {name} && docker rmi {name}")).ok();
    for _ in 0..3 {
        let pull = host.session(&format!("docker pull {name}"));
        pull.waits_for("Pulling from");
        drop(pull);
        host.sh("docker ps").ok();
    }
    host.sh(&format!("docker run --rm {name} sha256sum -c -s /sum")).ok();
    host.sh(&format!("docker rmi {name}")).mentions("Untagged");
    eventually("nothing to be left of it", || {
        host.holdings().iter().all(|line| !line.contains("/staging/") && !line.contains(".new"))
    });
}

/// What nobody reads is kept where it is, not in the daemon's memory.
#[test]
fn streams_that_nobody_reads() {
    let host = Daemon::start();
    host.sh("docker run -d --name talker busybox sh -c 'yes 0123456789012345678901234567890123456789 | head -n 300000; echo end; sleep 1000'")
        .ok();
    host.sh("docker create --name large busybox && head -c 50000000 /dev/zero > large && docker cp large large:/").ok();
    let before = resident(host.pid());
    let unread: Vec<UnixStream> = (0..10)
        .flat_map(|_| {
            [
                request(&host, "GET /containers/talker/logs?stdout=1&follow=1", b""),
                request(&host, "GET /containers/talker/attach/ws?logs=1&stream=1&stdout=1", b""),
                request(&host, "GET /containers/large/export", b""),
                request(&host, "GET /events", b""),
                request(&host, "GET /containers/talker/stats", b""),
            ]
        })
        .collect();
    for n in 0..300 {
        let made = host.ask("POST /volumes/create", &format!(r#"{{"Name":"volume{n}"}}"#)).expect("an answer");
        assert_eq!(made.status, 201);
    }
    eventually("all of the log", || host.sh("docker logs --tail 1 talker").text() == "end");
    host.sh("docker run --rm busybox echo fine").says("fine");
    let grown = resident(host.pid()).saturating_sub(before);
    assert!(grown < 150_000, "the daemon grew by {grown} KiB");
    drop(unread);
    host.sh("docker logs talker | wc -l").says("300001");
}

/// Who attaches and does not read holds the container up, as a terminal that is stopped does, and nobody else.
#[test]
fn an_attached_client_that_does_not_read() {
    let host = Daemon::start();
    host.sh("docker run -di --name talker busybox sh -c 'read go; yes 0123456789 | head -n 200000; echo end'").ok();
    let mut attached = request(&host, "POST /containers/talker/attach?stream=1&stdout=1&stdin=1", b"");
    reads(&mut attached, "HTTP/1.1 200");
    attached.write_all(b"go\n").expect("input");
    eventually("it to talk", || host.sh("docker logs --tail 1 talker").text() == "0123456789");
    host.sh("docker run --rm busybox echo fine").says("fine");
    host.sh("docker inspect -f '{{.State.Status}}' talker").says("running");
    drop(attached);
    host.sh("docker wait talker").says("0");
    host.sh("docker logs talker | wc -l").says("200001");
}

#[test]
fn a_client_that_closes_its_side_still_hears() {
    let host = Daemon::start();
    host.sh("docker run -di --name box busybox sh -c 'cat; echo late'").ok();
    let mut attached = request(&host, "POST /containers/box/attach?stream=1&stdout=1&stdin=1", b"");
    reads(&mut attached, "HTTP/1.1 200");
    attached.write_all(b"early\n").expect("input");
    attached.shutdown(Shutdown::Write).expect("close one side");
    reads(&mut attached, "early");
    host.sh("docker rm -f box").ok();
}

/// Sends a request, and closes the sending side, as `nc -N` does.
fn asks_and_closes(host: &Daemon, line: &str, body: &str) -> UnixStream {
    let mut stream = host.connect();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).expect("a request");
    stream.shutdown(Shutdown::Write).expect("close one side");
    stream
}

#[test]
fn a_client_that_closes_its_side_once_it_has_asked_is_answered() {
    let host = Daemon::start();
    let answer = |line: &str, body: &str| {
        let mut text = String::new();
        asks_and_closes(&host, line, body).read_to_string(&mut text).expect("an answer and its end");
        text
    };
    let pong = answer("GET /_ping", "");
    assert!(pong.starts_with("HTTP/1.1 200") && pong.ends_with("\r\n\r\nOK"), "{pong}");
    let body = r#"{"Image":"busybox","Cmd":["sleep","1000"]}"#;
    let created = answer("POST /containers/create?name=box", body);
    assert!(created.starts_with("HTTP/1.1 201"), "{created}");
    assert!(answer("POST /containers/box/start", "").starts_with("HTTP/1.1 204"));
    let cut = answer("POST /containers/create", "").replace("\r\n", " ");
    assert!(cut.starts_with("HTTP/1.1 400"), "{cut}");
    // What goes on does so until the client is gone altogether.
    let before = descriptors(host.pid());
    let mut waits = asks_and_closes(&host, "POST /containers/box/wait", "");
    let mut events = asks_and_closes(&host, "GET /events", "");
    let mut log = asks_and_closes(&host, "GET /containers/box/logs?stdout=1&follow=1", "");
    for stream in [&mut waits, &mut events, &mut log] {
        reads(stream, "HTTP/1.1 200");
    }
    host.sh("docker exec box sh -c 'echo said > /proc/1/fd/1'").ok();
    reads(&mut log, "said");
    host.sh("docker kill box").ok();
    reads(&mut waits, r#""StatusCode":137"#);
    reads(&mut events, r#""die""#);
    drop((waits, events, log));
    eventually("their connections to go", || descriptors(host.pid()) <= before);
}

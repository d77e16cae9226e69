//! What no client in its right mind sends: each gets a clear refusal, and the daemon goes on serving everybody else.

use std::io::{Read, Write};

use e2e::{Daemon, eventually};

/// Sends a request with a body of JSON; it is refused with this status, and says `text`.
#[track_caller]
fn refuses(host: &Daemon, request: &str, body: &str, status: u16, text: &str) {
    let reply = host.ask(request, body).unwrap_or_else(|_| panic!("no answer to {request}"));
    let said = reply.text();
    assert!(reply.status == status && said.contains(text), "{request} {body:.200}\n{} {said}", reply.status);
    let message = reply.json()["message"].as_str().map(str::to_owned).expect("a message");
    assert!(!message.is_empty() && !message.contains("panicked"), "{message}");
}

/// Sends bytes that are no good request; they are refused with this status.
#[track_caller]
fn refuses_bytes(host: &Daemon, bytes: &[u8], status: u16) {
    let reply = host.sends(bytes).unwrap_or_else(|_| panic!("no answer to {}", String::from_utf8_lossy(&bytes[..40])));
    assert_eq!(reply.status, status, "{}", reply.head);
}

fn still_serves(host: &Daemon) {
    host.sh("docker run --rm --network none busybox echo fine").says("fine");
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

#[test]
fn bytes_that_are_no_http() {
    let host = Daemon::start();
    refuses_bytes(&host, b"NONSENSE\r\n\r\n", 400);
    refuses_bytes(&host, b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400);
    refuses_bytes(&host, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0\0\0\0\0\0\r\n\r\n", 400);
    refuses_bytes(&host, b"GET /_ping HTTP/1.1\r\nHost: x\r\nA: \0b\r\n\r\n", 400);
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n\r\n");
    let create = "POST /containers/create";
    for length in
        ["Content-Length: -5", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 99999999999999999999999"]
    {
        refuses_bytes(&host, head(create, length).as_bytes(), 400);
    }
    let chunked = head(create, "Content-Type: application/json\r\nTransfer-Encoding: chunked");
    refuses_bytes(&host, format!("{chunked}ZZ\r\n{{}}\r\n").as_bytes(), 400);
    refuses_bytes(&host, format!("{chunked}FFFFFFFFFFFFFFFFF\r\n{{}}\r\n").as_bytes(), 400);
    still_serves(&host);
}

#[test]
fn too_much_of_everything() {
    let host = Daemon::start();
    let long = "a".repeat(2 << 20);
    refuses_bytes(&host, format!("GET /_ping HTTP/1.1\r\nHost: x\r\nA: {long}\r\n\r\n").as_bytes(), 431);
    let many: String = (0..1000).map(|n| format!("A{n}: b\r\n")).collect();
    refuses_bytes(&host, format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes(), 431);
    refuses_bytes(&host, format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", &long[..70_000]).as_bytes(), 414);
    refuses(&host, "POST /containers/create", &" ".repeat(20 << 20), 413, "request body too large");
    refuses(&host, "POST /containers/create", &"[".repeat(1 << 20), 400, "invalid JSON");
    refuses(&host, "POST /containers/create", &(r#"{"HostConfig":"#.repeat(10_000) + "1"), 400, "invalid JSON");
    refuses(&host, &format!("POST /images/create?fromImage={}", &long[..5000]), "", 400, "more than 255 characters");
    refuses(&host, "POST /volumes/create", &format!(r#"{{"Name":"{}"}}"#, &long[..300]), 400, "volume name");
    still_serves(&host);
}

#[test]
fn json_that_is_wrong() {
    let host = Daemon::start();
    let create = "POST /containers/create";
    refuses(&host, create, "{", 400, "invalid JSON: unexpected EOF");
    refuses(&host, create, "", 400, "EOF");
    refuses(&host, create, "[]", 400, "cannot unmarshal array");
    refuses(&host, create, "null", 400, "config cannot be empty");
    refuses(&host, create, r#"{"Image":"busybox"} more"#, 400, "unexpected content after JSON");
    refuses(&host, create, r#"{"Image":5}"#, 400, "cannot unmarshal number into Go struct field");
    for wrong in [r#""lots""#, "1e40", "1.5", "[]", "{}", "99999999999999999999"] {
        let body = format!(r#"{{"Image":"busybox","HostConfig":{{"Memory":{wrong}}}}}"#);
        refuses(&host, create, &body, 400, "cannot unmarshal");
    }
    refuses(&host, create, r#"{"Image":"busybox","HostConfig":{"Memory":-7}}"#, 400, "Minimum memory limit");
    refuses(&host, create, r#"{"Image":"busybox","HostConfig":{"CpuShares":-1}}"#, 400, "invalid CPU shares (-1)");
    let invalid =
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                    Content-Length: 14\r\n\r\n{\"Image\":\"\xff\xfe\"}";
    refuses_bytes(&host, invalid, 400);
    let text = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                 Content-Length: 2\r\n\r\n{}";
    refuses_bytes(&host, text, 400);
    // What nobody knows yet is no failure: clients are newer than daemons.
    let reply = host.ask(create, r#"{"Image":"busybox","Nonsense":{"a":[1,{"b":null}]},"HostConfig":{"Nothing":7}}"#);
    assert_eq!(reply.expect("an answer").status, 201);
    still_serves(&host);
}

#[test]
fn names_and_numbers_that_are_none() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    for (request, status, text) in [
        ("POST /containers/create?name=a%00b", 400, "Invalid container name"),
        ("POST /containers/create?name=..%2f..%2fx", 400, "Invalid container name"),
        ("POST /containers/create?name=%ff%fe", 400, "not UTF-8"),
        ("POST /containers/create?name=%zz", 400, "invalid URL escape"),
        ("GET /containers/%ff/json", 400, "not UTF-8"),
        ("GET /containers/a%00b/json", 404, "No such container"),
        ("GET /nonsense", 404, "page not found"),
        ("PUT /_ping", 404, "page not found"),
        ("GET /v99.99/_ping", 400, "too new"),
        ("GET /containers/json?filters=%7B", 400, "invalid filter"),
        ("GET /containers/json?limit=99999999999999999999", 400, "value out of range"),
        ("POST /containers/box/resize?h=-1&w=1", 400, "invalid"),
        ("POST /containers/box/resize?h=99999999999&w=1", 400, "invalid"),
        ("GET /containers/box/logs?stdout=1&since=99999999999999999999999", 400, "value out of range"),
        ("GET /containers/box/logs", 400, "you must choose at least one stream"),
        ("POST /containers/box/kill?signal=99999", 400, "the linux daemon does not support signal 99999"),
        ("POST /containers/box/kill?signal=-1", 400, "the linux daemon does not support signal -1"),
        ("POST /containers/box/stop?t=abc", 400, "invalid syntax"),
        ("POST /containers/box/wait?condition=never", 400, "invalid condition"),
        ("GET /events?since=abc", 400, "invalid syntax"),
        ("GET /containers/box/top?ps_args=%00", 400, "NUL"),
        ("GET /containers/box/archive?path=%00", 400, "NUL"),
        ("GET /containers/box/archive", 400, "path cannot be empty"),
        (
            "GET /containers/box/archive?path=..%2f..%2f..%2f..%2f..%2f..%2fetc%2fdebian_version",
            404,
            "Could not find the file",
        ),
        ("POST /containers/box/rename?name=a%2fb", 400, "Invalid container name"),
        ("POST /images/create?fromImage=a%00b", 400, "invalid reference format"),
        ("POST /images/busybox/tag?repo=a%20b", 400, "invalid reference format"),
        ("DELETE /images/%00", 400, "invalid reference format"),
    ] {
        let body = if request.contains("create?name") { r#"{"Image":"busybox"}"# } else { "" };
        refuses(&host, request, body, status, text);
    }
    refuses(&host, "POST /networks/create", r#"{"Name":"a\u0000b"}"#, 400, "invalid network name");
    let network = r#"{"Name":"net","IPAM":{"Config":[{"Subnet":"999.0.0.0/8"}]}}"#;
    refuses(&host, "POST /networks/create", network, 400, "invalid subnet");
    refuses(&host, "POST /volumes/create", r#"{"Name":"a/../b"}"#, 400, "invalid characters");
    refuses(&host, "POST /containers/box/update", r#"{"CpusetCpus":"a-b"}"#, 400, "Invalid value a-b");
    refuses(&host, "POST /containers/box/exec", r#"{"Cmd":[]}"#, 400, "No exec command specified");
    // A byte that no program can be given is seen at the latest when it is to be given.
    for wrong in
        [r#""Cmd":["a\u0000"]"#, r#""Cmd":["true"],"Env":["A=\u0000"]"#, r#""Cmd":["true"],"WorkingDir":"/\u0000""#]
    {
        let body = format!(r#"{{"Image":"busybox",{wrong}}}"#);
        let made = host.ask("POST /containers/create?name=wrong", &body).expect("an answer");
        assert_eq!(made.status, 201, "{made:?}");
        refuses(&host, "POST /containers/wrong/start", "", 400, "NUL");
        host.sh("docker rm wrong").ok();
    }
    host.sh("docker ps --format '{{.Names}}'").says("box");
    still_serves(&host);
}

#[test]
fn archives_that_are_none() {
    let host = Daemon::start();
    host.sh("docker create --name box busybox").ok();
    let rubbish = "rubbish ".repeat(1000);
    for path in ["PUT /containers/box/archive?path=/", "POST /images/load", "POST /images/create?fromSrc=-"] {
        let request = format!(
            "{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n{rubbish}",
            rubbish.len()
        );
        let reply = host.sends(request.as_bytes()).expect("an answer");
        let refused = reply.status == 400 || reply.text().contains("errorDetail");
        assert!(refused && reply.text().contains("this is no tar header"), "{path}: {reply:?}");
    }
    host.sh("head -c 100000 /dev/urandom > noise && docker load -i noise").fails_with("");
    host.sh("tar -c --absolute-names /etc/hostname | head -c 700 > cut.tar && docker load -i cut.tar").fails_with("");
    host.sh("docker images -q | wc -l").says("1");
    still_serves(&host);
}

/// Heads that come byte by byte, connections that say nothing, requests whose rest never comes: others are served.
#[test]
fn clients_that_take_their_time() {
    let host = Daemon::start();
    let mut waiting = Vec::new();
    // As many as a process may have that was not told that it may have more.
    for n in 0..900 {
        let mut stream = host.connect();
        let begun: &[u8] = match n % 4 {
            0 => b"",
            1 => b"GET /_ping HT",
            2 => b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
            _ => b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        };
        stream.write_all(begun).expect("the beginning of a request");
        waiting.push(stream);
    }
    still_serves(&host);
    let mut slow = host.connect();
    for byte in b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" {
        slow.write_all(&[*byte]).expect("a byte");
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("OK"), "{answer}");
    // Those that had sent nothing yet may still do so.
    waiting[0].write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a late request");
    let mut late = String::new();
    waiting[0].read_to_string(&mut late).expect("an answer");
    assert!(late.ends_with("OK"), "{late}");
    drop(waiting);
    still_serves(&host);
}

/// Archives that are begun and never end, by more clients than a daemon has threads: others are served as ever, and who
/// has an archive to send gets a turn.
#[test]
fn archives_that_never_end() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let requests = ["POST /images/load?", "POST /images/create?fromSrc=-", "PUT /containers/box/archive?path=/tmp"];
    let stalled: Vec<_> = (0..600)
        .map(|n| {
            let mut stream = host.connect();
            let head = format!("{} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", requests[n % 3]);
            stream.write_all(format!("{head}5\r\nab").as_bytes()).expect("the beginning of an archive");
            stream
        })
        .collect();
    still_serves(&host);
    host.sh("docker exec box echo inside").says("inside");
    host.sh("docker stop -t 0 box && docker start box").ok();
    host.sh("echo hello > greeting && docker cp greeting box:/tmp/ && docker exec box cat /tmp/greeting").says("hello");
    drop(stalled);
    still_serves(&host);
}

/// Archives that are asked for and never read.
#[test]
fn archives_that_nobody_takes() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sh -c 'head -c 8000000 /dev/zero > /big && touch /done && sleep 1000'")
        .ok();
    eventually("the file is there", || host.sh("docker exec box ls /done").code() == 0);
    host.sh("docker commit box big").ok();
    let requests = ["GET /images/big/get", "GET /containers/box/export", "GET /containers/box/archive?path=/"];
    let stalled: Vec<_> = (0..600)
        .map(|n| {
            let mut stream = host.connect();
            let request = format!("{} HTTP/1.1\r\nHost: x\r\n\r\n", requests[n % 3]);
            stream.write_all(request.as_bytes()).expect("a request");
            stream
        })
        .collect();
    still_serves(&host);
    host.sh("docker stop -t 0 box && docker start box").ok();
    drop(stalled);
    host.sh("docker cp box:/etc/passwd - | tar -xO")
        .says("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh");
    still_serves(&host);
}

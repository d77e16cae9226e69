//! The endpoint of microVMs: requests and WebSockets by token, and what becomes by itself of those that nobody asks anything.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use std::time::Duration;

use e2e::{Daemon, Session, eventually};
use futures_util::{SinkExt, StreamExt};
use microvm_kernel::host;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Answers one connection at port 8080: with the head of the request that it gets; `/wait1` once there is a file `/go1`; `/ws` becomes a WebSocket
/// (RFC 6455) that answers each message of three bytes with `hello`. Hooks are written down in `/hooks`, and `/refuse-HOOK` has it refuse;
/// it takes its time with the hook `run`.
const PROGRAM: &str = r#"#!/bin/sh
read -r method path version
head="$method $path"
while read -r line; do
    line=$(printf %s "$line" | tr -d '\r')
    [ -z "$line" ] && break
    head="$head
$line"
    case $line in
    [Ss]ec-[Ww]eb[Ss]ocket-[Kk]ey:*) key=${line#*: } ;;
    [Cc]ontent-[Ll]ength:*) length=${line#*: } ;;
    esac
done
[ -n "$length" ] && head -c "$length" >/body
status='200 OK'
case $path in
/ws)
    accept=$(printf '%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11' "$key" | sha1sum | cut -c1-40 | xxd -r -p | base64)
    printf 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n' "$accept"
    while [ "$(head -c 9 | wc -c)" = 9 ]; do printf '\201\005hello'; done
    exit
    ;;
/wait*) until [ -e "/go${path#/wait}" ]; do sleep 0.1; done ;;
/aws/*)
    hook=${path##*/}
    echo "$hook" >>/hooks
    [ -e "/refuse-$hook" ] && status='500 not now'
    [ "$hook" = run ] && until [ -e /told ]; do sleep 0.1; done
    ;;
esac
printf 'HTTP/1.1 %s\r\nContent-Length: %s\r\nConnection: close\r\nX-Theirs: 1\r\n\r\n%s\n' "$status" $((${#head} + 1)) "$head"
"#;

const HOOKS: &str = "--hooks-port 8080 --hook ready --hook suspend --hook resume --hook terminate";

/// A daemon with an image of that program.
fn with_image() -> Daemon {
    let host = host();
    let project = host.work().join("web");
    std::fs::create_dir(&project).unwrap();
    let dockerfile =
        "FROM busybox\nCOPY --chmod=755 program /\nCMD [\"nc\", \"-ll\", \"-p\", \"8080\", \"-e\", \"/program\"]\n";
    for (name, text) in [("Dockerfile", dockerfile), ("program", PROGRAM)] {
        std::fs::write(project.join(name), text).unwrap();
    }
    host.slowly(&format!("$STRATUS microvm image build -t web --ready-port 8080 {HOOKS} web")).says("web:1");
    host
}

fn state(host: &Daemon, name: &str) -> String {
    host.sh(&format!("$STRATUS microvm inspect {name} | jq -r .State")).text().to_owned()
}

/// Has `$ENDPOINT` and `$TOKEN` for what follows in a shell.
fn with_token(name: &str) -> String {
    format!(
        "ENDPOINT=$($STRATUS microvm inspect {name} | jq -r .Endpoint); TOKEN=$($STRATUS microvm token {name}); ask() {{ curl -s -m 60 -H \"X-aws-proxy-auth: $TOKEN\" \"$@\"; }}; "
    )
}

/// Opens a WebSocket as a browser does, which can't set headers.
async fn browser(host: &Daemon, name: &str) -> WebSocketStream<TcpStream> {
    let endpoint = host.sh(&format!("$STRATUS microvm inspect {name} | jq -r .Endpoint")).text().to_owned();
    let token = host.sh(&format!("$STRATUS microvm token {name}")).text().to_owned();
    let address = endpoint.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
    let offered = format!("lambda-microvms, lambda-microvms.authentication.{token}, lambda-microvms.port.8080");
    request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, answer) = client_async(request, stream).await.expect("a WebSocket");
    assert_eq!(answer.headers().get("sec-websocket-protocol").unwrap(), "lambda-microvms");
    socket
}

async fn says_hello(socket: &mut WebSocketStream<TcpStream>) {
    socket.send(Message::Text(Utf8Bytes::from_static("abc"))).await.unwrap();
    assert_eq!(comes(socket).await.unwrap().unwrap().into_text().unwrap().as_str(), "hello");
}

/// What comes next; `None`: it is closed.
async fn comes(socket: &mut WebSocketStream<TcpStream>) -> Option<Result<Message, Error>> {
    tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("something comes, or it is closed")
}

/// Asks `path` as a client that waits for its answer.
fn asks(host: &Daemon, path: &str) -> Session {
    host.session(&format!("curl -s -m 300 -H \"X-aws-proxy-auth: $(cat token)\" $(cat endpoint){path}"))
}

#[tokio::test]
async fn who_has_a_token_is_let_in() {
    let mut host = with_image();
    host.slowly("$STRATUS microvm run --name one web && $STRATUS microvm run --name two web").says("one\ntwo");
    let ask = with_token("one");
    // The program sees the request, and nothing of the token.
    let seen = host.sh(&format!("{ask} ask -i -H 'X-Mine: 2' -H 'Connection: X-Hop' -H 'X-Hop: 3' $ENDPOINT/a?b=c"));
    let seen = seen.prints("HTTP/1.1 200 OK").prints("GET /a?b=c").prints("x-mine: 2").prints("x-theirs: 1");
    seen.prints("x-forwarded-for: 127.0.0.1").prints("x-forwarded-proto: http");
    assert!(!seen.stdout().contains("aws-proxy") && !seen.stdout().contains("x-hop"), "{seen}");
    host.sh(&format!("{ask} head -c 3000000 /dev/urandom >big; ask --data-binary @big $ENDPOINT/")).prints("POST /");
    host.sh("test $(docker exec one sha256sum /body | cut -c1-64) = $(sha256sum big | cut -c1-64)").ok();
    // For nobody else, and nowhere else.
    let status = |host: &Daemon, what: &str| {
        host.sh(&format!("{ask} curl -s -m 60 -o answer -w '%{{http_code}}' {what} $ENDPOINT/; echo; cat answer"))
            .stdout()
            .to_owned()
    };
    for (what, code, says) in [
        ("", "401", "no token: send one in the header X-aws-proxy-auth"),
        ("-H 'X-aws-proxy-auth: nonsense'", "401", "none of this daemon's"),
        ("-H \"X-aws-proxy-auth: ${TOKEN}x\"", "401", "none of this daemon's"),
        ("-H \"X-aws-proxy-auth: $TOKEN\" -H 'X-aws-proxy-port: 22'", "403", "for port 8080, and not for port 22"),
        ("-H \"X-aws-proxy-auth: $TOKEN\" -H 'X-aws-proxy-port: x'", "400", "it is a number"),
        ("-H \"X-aws-proxy-auth: $TOKEN\" -H 'Host: 000000000000.localhost'", "421", "another microVM"),
        ("-H \"X-aws-proxy-auth: $($STRATUS microvm token -p all one)\" -H 'X-aws-proxy-port: 81'", "502", "port 81"),
    ] {
        let answer = status(&host, what);
        assert!(answer.starts_with(code) && answer.contains(says), "{what}: {answer}");
    }
    host.sh(&format!("{ask} ask -X POST $ENDPOINT//aws/lambda-microvms/runtime/v1/terminate"))
        .prints("hooks are the daemon's alone");
    host.sh("$STRATUS microvm token -p 0 one").exits_with(1).complains("port \"0\": write a port");
    host.sh("$STRATUS microvm token --valid-for 2h one").exits_with(1).complains("a second to 60 minutes");
    host.sh("$STRATUS microvm token three").exits_with(1).complains("No such container: three");
    host.sh("$STRATUS --output json microvm token -p 8000-8099 -p 9 one").prints("8000-8099, 9");

    let mut socket = browser(&host, "two").await;
    says_hello(&mut socket).await;
    says_hello(&mut socket).await;
    drop(socket);

    // The daemon is killed: the endpoint is where it was, and the token as good.
    host.sh(&format!("{ask} echo \"$TOKEN\" >token; echo $ENDPOINT >endpoint")).ok();
    host.kill9();
    host.restart();
    let asked = |host: &Daemon| host.sh("$STRATUS microvm inspect one | jq -r .LastAsked").text().to_owned();
    let before = asked(&host);
    assert!(before.starts_with("20"), "{before}");
    host.sh("curl -s -m 60 -H \"X-aws-proxy-auth: $(cat token)\" $(cat endpoint)/again").prints("GET /again");
    // It is taken back, for good, and another one is none the worse.
    host.sh("$STRATUS microvm token --revoke one").ok();
    host.sh("curl -s -m 60 -H \"X-aws-proxy-auth: $(cat token)\" $(cat endpoint)/").prints("the token was taken back");
    host.sh("$STRATUS microvm token one >token").ok();
    host.kill9();
    host.restart();
    host.sh(&format!("{ask} curl -s -m 60 -H \"X-aws-proxy-auth: $(cat token)\" $ENDPOINT/new")).prints("GET /new");
    host.sh("$STRATUS microvm token --revoke three").exits_with(1).complains("No such container: three");
    host.sh("$STRATUS microvm token --revoke -p 80 one").exits_with(2).complains("cannot be used with");
    host.slowly("$STRATUS microvm suspend one").ok();
    host.sh("curl -s -m 60 -H \"X-aws-proxy-auth: $(cat token)\" $(cat endpoint)/").prints("resume it first");
    host.slowly("$STRATUS microvm terminate one").ok();
    host.sh("curl -s -m 60 -H \"X-aws-proxy-auth: $(cat token)\" $(cat endpoint)/").prints("No such container");
}

#[tokio::test]
async fn what_nobody_asks_anything_is_suspended_and_goes_on_when_somebody_does() {
    let mut host = with_image();
    host.slowly("$STRATUS microvm run --name one --idle 2s web").says("one");
    host.sh("$STRATUS microvm inspect one").prints("\"After\": 2").prints("\"AutoResume\": true");
    let ask = with_token("one");
    host.sh(&format!("{ask} echo \"$TOKEN\" >token; echo $ENDPOINT >endpoint")).ok();
    eventually("it is suspended", || state(&host, "one") == "suspended");
    // Several come at once: it goes on once. One of them keeps it awake while it is looked at.
    let awake = asks(&host, "/wait1");
    host.slowly(
        "for n in 1 2 3 4; do curl -s -m 100 -H \"X-aws-proxy-auth: $(cat token)\" $(cat endpoint)/$n & done; wait",
    )
    .prints("GET /1")
    .prints("GET /4");
    host.slowly("docker exec one cat /hooks").says("ready\nsuspend\nresume");
    host.slowly("docker exec one touch /go1").ok();
    awake.waits_for("GET /wait1");
    // An open WebSocket over which nothing comes does not keep it awake, and is closed.
    let mut socket = browser(&host, "one").await;
    says_hello(&mut socket).await;
    eventually("it is suspended", || state(&host, "one") == "suspended");
    assert!(!matches!(comes(&mut socket).await, Some(Ok(Message::Text(_)))));
    // Who has it go on, and does not wait for that, leaves one that runs.
    host.sh("curl -s -m 0.2 -H \"X-aws-proxy-auth: $(cat token)\" $(cat endpoint)/ || true").ok();
    // What is under way keeps it awake: longer than it takes another one to be suspended.
    let awake = asks(&host, "/wait2");
    eventually("it goes on", || state(&host, "one") == "running");
    host.slowly("$STRATUS microvm run --name two --idle 2s web").says("two");
    eventually("the other one is suspended", || state(&host, "two") == "suspended");
    assert_eq!(state(&host, "one"), "running");

    // One whose program does not want to is left alone, and asked again later.
    host.slowly("docker exec one touch /refuse-suspend /go2").ok();
    awake.waits_for("GET /wait2");
    eventually("it is asked", || host.slowly("docker exec one tail -n 1 /hooks").text() == "suspend");
    assert_eq!(state(&host, "one"), "running");
    eventually("it is said", || host.sh("$STRATUS microvm ls").stdout().contains("running (its policy fails)"));
    host.sh("$STRATUS microvm inspect one | jq -r .PolicyError").mentions("500");
    // The policy outlives the daemon.
    host.kill9();
    host.restart();
    host.slowly("docker exec one rm /refuse-suspend").ok();
    eventually("it is suspended", || state(&host, "one") == "suspended");
    host.slowly("$STRATUS microvm terminate one two").ok();
}

#[test]
fn what_was_suspended_for_long_or_is_too_old_is_ended() {
    let mut host = with_image();
    host.sh("$STRATUS microvm run --idle 0s web").exits_with(1).complains("it has to be longer than nothing");
    host.sh("$STRATUS microvm run --idle 1500ms web").exits_with(2).complains("write whole seconds, as 90s or 5m");
    host.sh("$STRATUS microvm run --suspended 1s web").exits_with(2).complains("--idle");
    host.slowly("$STRATUS microvm run --name one --idle 1s --suspended 1s web").says("one");
    let gone = |host: &Daemon, name: &str| {
        eventually("it is ended", || !host.sh("$STRATUS microvm ls").stdout().contains(name));
    };
    gone(&host, "one");
    // In place of being suspended.
    host.slowly("$STRATUS microvm run --name two --idle 1s --suspended 0s web").says("two");
    gone(&host, "two");
    host.slowly("$STRATUS microvm run --name three --idle 1s --no-auto-resume web").says("three");
    let ask = with_token("three");
    eventually("it is suspended", || state(&host, "three") == "suspended");
    host.sh(&format!("{ask} ask $ENDPOINT/")).prints("no request has it go on");
    host.slowly("$STRATUS microvm resume three").ok();
    host.slowly("$STRATUS microvm run --name four --max-duration 3s web").says("four");
    gone(&host, "four");
    // Also where its time comes while the daemon is away.
    host.slowly("$STRATUS microvm run --name five --max-duration 8s web").says("five");
    let created = host.sh("date -d $($STRATUS microvm inspect five | jq -r .Created) +%s").text().to_owned();
    host.kill9();
    eventually("its time is over", || host.sh(&format!("test $(date +%s) -gt $(({created} + 8))")).code() == 0);
    host.restart();
    gone(&host, "five");
    host.slowly("$STRATUS microvm terminate three").ok();
    // Nobody is left whose program was not told whose it is, as the daemon was killed before.
    host.slowly(&format!("$STRATUS microvm image build -t slow --ready-port 8080 {HOOKS} --hook run=60 web"))
        .says("slow:1");
    host.sh("$STRATUS microvm run --name slow slow >/dev/null 2>&1 &").ok();
    eventually("it runs", || host.sh("docker ps -q").stdout() != "");
    assert_eq!(state(&host, "slow"), "pending");
    host.kill9();
    host.restart();
    host.sh("docker ps -aq").says("");
}

#[test]
fn whoever_suspends_a_microvm_or_has_it_go_on_has_its_program_told() {
    let host = with_image();
    host.slowly("$STRATUS microvm run --name one web").says("one");
    let told = |name: &str| host.slowly(&format!("docker exec {name} cat /hooks")).text().replace('\n', " ");
    // By the commands for containers, too.
    host.slowly("$STRATUS suspend one && $STRATUS resume one").ok();
    assert_eq!(told("one"), "ready suspend resume");
    host.slowly("docker exec one touch /refuse-suspend && $STRATUS suspend one").fails_with("500");
    host.slowly("docker exec one rm /refuse-suspend && $STRATUS snapshot create one first").ok();
    host.slowly("docker exec one sh -c 'echo later >>/hooks' && $STRATUS rollback one first").ok();
    assert_eq!(told("one"), "ready suspend resume suspend resume");
    host.slowly("$STRATUS fork one --name copy").says("copy");
    assert_eq!(told("copy"), "ready suspend resume suspend resume resume");
    host.sh("docker rm -f copy").ok();
    // What is under way is answered first.
    host.sh(&format!("{} echo \"$TOKEN\" >token; echo $ENDPOINT >endpoint", with_token("one"))).ok();
    let awake = asks(&host, "/wait1");
    eventually("the request", || host.slowly("docker exec one ps").stdout().contains("/program"));
    let suspending = host.session("$STRATUS microvm suspend one");
    host.slowly("docker exec one touch /go1").ok();
    awake.waits_for("GET /wait1");
    suspending.waits_for("one");
    assert_eq!(state(&host, "one"), "suspended");
    host.slowly("$STRATUS microvm terminate one").ok();
}

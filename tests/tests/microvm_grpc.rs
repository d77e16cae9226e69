//! HTTP/2 at the endpoint of microVMs: to programs that speak HTTP/1.1, and to services of gRPC.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::eventually;
use hyper::Request;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use microvm_kernel::host;
use tokio::net::TcpStream;

/// Answers one connection at port 9090 by HTTP/2 (RFC 9113), to its first request: with the request's body, and what follows it in an answer of gRPC; with `stream` as an argument, nothing follows, as the call goes on. What kinds of frames came is in `/frames`.
const SERVICE: &str = r#"#!/bin/sh
take() { dd bs=1 count="$1" 2>/dev/null; }
take 24 >/preface
printf '\0\0\0\004\0\0\0\0\0'
: >/body
: >/frames
while :; do
    frame=$(take 9 | xxd -p)
    [ -n "$frame" ] || exit
    length=$((0x$(echo "$frame" | cut -c1-6)))
    kind=$(echo "$frame" | cut -c7-8)
    flags=$((0x$(echo "$frame" | cut -c9-10)))
    echo "$kind" >>/frames
    case $kind in
    00) take $length >>/body ;;
    04) take $length >/dev/null; [ $flags = 0 ] && printf '\0\0\0\004\001\0\0\0\0' ;;
    *) take $length >/dev/null ;;
    esac
    case $kind in 00 | 01) [ $((flags & 1)) = 1 ] && break ;; esac
done
printf '\0\0\024\001\004\0\0\0\001\210\017\020\020application/grpc'
printf "$(printf '\\0\\%03o\\%03o' $(($(wc -c </body) / 256)) $(($(wc -c </body) % 256)))"'\0\0\0\0\0\001'
cat /body
[ "$1" = stream ] && exec cat >/dev/null
printf '\0\0\017\001\005\0\0\0\001\0\013grpc-status\0010'
cat >/dev/null
"#;

/// Answers one connection at port 8080 by HTTP/1.1 with the request's head.
const PROGRAM: &str = r#"#!/bin/sh
head=
while read -r line; do
    line=$(printf %s "$line" | tr -d '\r')
    [ -z "$line" ] && break
    head="$head$line
"
done
printf 'HTTP/1.1 200 OK\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' ${#head} "$head"
"#;

/// What three requests at once on one connection are answered with: curl 7.88 sends no second one on a connection that it was told to begin so.
async fn at_once(host: &str, token: &str) -> Vec<u16> {
    let stream = TokioIo::new(TcpStream::connect(host).await.unwrap());
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let asks = (1..=3).map(|number| {
        let request = Request::get(format!("http://{host}/{number}")).header("x-aws-proxy-auth", token);
        let request = request.header("x-aws-proxy-port", "8080").body(String::new()).unwrap();
        let mut sender = sender.clone();
        async move { sender.send_request(request).await.unwrap().status().as_u16() }
    });
    futures_util::future::join_all(asks).await
}

#[test]
fn a_service_of_grpc_is_asked_by_http_2_and_others_by_http_1() {
    let host = host();
    let steps = "FROM busybox\nCOPY --chmod=755 service program /\n\
        CMD [\"sh\", \"-c\", \"nc -ll -p 9090 -e /service & exec nc -ll -p 8080 -e /program\"]\n";
    host.write("web", &[("Dockerfile", steps), ("service", SERVICE), ("program", PROGRAM)]);
    host.slowly("$STRATUS microvm image build -t web --ready-port 8080 web").says("web:1");
    host.slowly("$STRATUS microvm run --name one --idle 1h web").says("one");
    let ask = "ENDPOINT=$($STRATUS microvm inspect one | jq -r .Endpoint); TOKEN=$($STRATUS microvm token one -p all); \
        ask() { curl -s -i -m 60 --http2-prior-knowledge -H \"X-aws-proxy-auth: $TOKEN\" \"$@\"; }; ";
    // One that speaks HTTP/1.1 is asked by that, by however many at once on a connection.
    let answer = host.slowly(&format!("{ask} ask -H 'X-aws-proxy-port: 8080' $ENDPOINT/some?thing"));
    answer.prints("HTTP/2 200").prints("GET /some?thing HTTP/1.1").prints("x-forwarded-proto: http");
    answer.omits("aws-proxy");
    let host_of =
        host.sh("$STRATUS microvm inspect one | jq -r .Endpoint").text().trim_start_matches("http://").to_owned();
    answer.prints(&format!("x-forwarded-host: {host_of}"));
    let token = host.sh("$STRATUS microvm token one -p all").text().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(at_once(&host_of, &token)), [200; 3]);
    // gRPC: its message comes back, and how the call ended, which is told behind it.
    host.sh("head -c 9000 /dev/urandom | base64 >web/message").ok();
    let call = "ask -H 'X-aws-proxy-port: 9090' -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @web/message $ENDPOINT/pkg.Service/Call";
    let answer =
        host.slowly(&format!("{ask} {call} >web/answer; head -n 1 web/answer; grep -a '^grpc-status' web/answer"));
    answer.prints("HTTP/2 200").prints("grpc-status: 0");
    host.sh("grep -aFxf web/message web/answer | cmp - web/message").ok();
    host.slowly("docker exec one head -c 14 /preface").says("PRI * HTTP/2.0");
    // It has a suspended one go on.
    host.slowly("$STRATUS microvm suspend one").ok();
    host.slowly(&format!("{ask} {call} | grep -ac '^grpc-status: 0'")).says("1");
    // Who is not let in is told so, and so is who asks for hooks.
    host.sh("curl -s -i --http2-prior-knowledge $($STRATUS microvm inspect one | jq -r .Endpoint)/")
        .prints("HTTP/2 401")
        .prints("no token");
    host.sh(&format!("{ask} ask $ENDPOINT/aws/lambda-microvms/runtime/v1/run")).prints("HTTP/2 403");
    // Where none is, and where what is there speaks something else.
    for port in ["9", "8080"] {
        let call = call.replace("9090", port);
        host.slowly(&format!("{ask} {call}")).prints("HTTP/2 502").prints("the program does not answer at port");
    }
    host.sh("docker rm -f one").ok();
}

#[test]
fn a_stream_of_grpc_ends_with_the_run_of_its_microvm() {
    let host = host();
    let steps = "FROM busybox\nCOPY --chmod=755 service /\nCMD [\"nc\", \"-ll\", \"-p\", \"9090\", \"-e\", \"/service\", \"stream\"]\n";
    host.write("web", &[("Dockerfile", steps), ("service", SERVICE)]);
    host.slowly("$STRATUS microvm image build -t web --ready-port 9090 web").says("web:1");
    host.slowly("$STRATUS microvm run --name one --idle 2s web").says("one");
    host.sh("$STRATUS microvm token one >token; $STRATUS microvm inspect one | jq -r .Endpoint >endpoint").ok();
    let stream = || {
        let call = "curl -s -N --http2-prior-knowledge -H \"X-aws-proxy-auth: $(cat token)\" \
            -H 'content-type: application/grpc' -H 'te: trailers' -d begun $(cat endpoint)/pkg.Service/Stream";
        let stream = host.session(call);
        stream.waits_for("begun");
        stream
    };
    let state = || host.sh("$STRATUS microvm inspect one | jq -r .State").text().to_owned();
    // It is under way, so that no policy suspends it; who does it all the same cuts it off: it is reset (curl says 92).
    let mut under_way = stream();
    host.slowly("$STRATUS microvm suspend one").ok();
    assert_eq!(under_way.exit_code(), 92);
    // Nobody is there any more, and so its policy sees it.
    host.slowly("$STRATUS microvm resume one").ok();
    eventually("it is suspended", || state() == "suspended");
    // Another one has it go on.
    let mut under_way = stream();
    host.slowly("docker kill one").ok();
    assert_eq!(under_way.exit_code(), 92);
    host.sh("docker rm -f one").ok();
}

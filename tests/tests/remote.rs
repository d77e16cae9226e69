//! The daemon over the network: certificates on both sides, and nothing without them.

use e2e::Daemon;

/// An authority, certificates of it for the daemon and for a client, and one for a client that another authority made.
const CERTIFICATES: &str = "
    set -e
    authority() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=$1 -keyout $1.key -out $1.pem; }
    signed() { # NAME AUTHORITY EXTENSIONS
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr
        echo \"$3\" > $1.ext
        openssl x509 -req -days 2 -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -extfile $1.ext -out $1.pem
    }
    authority ours && authority others
    signed daemon ours 'subjectAltName=IP:127.0.0.1,DNS:localhost'
    signed client ours extendedKeyUsage=clientAuth
    signed stranger others extendedKeyUsage=clientAuth
    for name in client stranger; do
        mkdir $name && cp ours.pem $name/ca.pem && cp $name.pem $name/cert.pem && cp $name.key $name/key.pem
    done";

/// Makes the shell's `docker` and `stratus` call by TCP, with the certificates of a directory.
fn remote(certificates: &str, command: &str) -> String {
    format!(
        "export DOCKER_HOST=tcp://127.0.0.1:$PORT DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=$PWD/{certificates}; {command}"
    )
}

fn listening() -> Daemon {
    let mut host = Daemon::start();
    host.sh(CERTIFICATES).ok();
    let work = host.work().display().to_string();
    let unix = format!("unix://{}/docker.sock", host.run_dir().display());
    let tcp = format!("tcp://127.0.0.1:{}", host.port());
    let [authority, certificate, key] = ["ours.pem", "daemon.pem", "daemon.key"].map(|file| format!("{work}/{file}"));
    host.restart_with(&[
        "--host",
        &unix,
        "--host",
        &tcp,
        "--tlscacert",
        &authority,
        "--tlscert",
        &certificate,
        "--tlskey",
        &key,
    ]);
    host
}

#[test]
fn who_shows_a_certificate_may_do_everything() {
    let host = listening();
    host.sh(&remote("client", "docker run -d --name box busybox sleep 1000 && docker exec box echo hello"))
        .mentions("hello");
    host.sh(&remote("client", "echo through | docker run -i --rm busybox cat")).says("through");
    host.sh(&remote("client", "echo in | docker exec -i box sh -c 'cat; echo out'")).says("in\nout");
    host.sh(&remote("client", "docker run --rm busybox sh -c 'head -c 3000000 /dev/zero' | wc -c")).says("3000000");
    host.sh(&remote("client", "$STRATUS ps --output json | jq -r '.[].Names[0]'")).says("/box");
    host.sh(&remote("client", "echo in | $STRATUS exec -i box cat")).says("in");
    let events = host.session(&format!("sh -c '{}'", remote("client", "exec docker events --filter event=kill")));
    events.waits_until("an event", |output| {
        host.sh("docker kill -s USR1 box").ok();
        output.contains("kill")
    });
    host.sh("docker rm -f box").ok();
}

#[test]
fn nobody_comes_in_without_one() {
    let host = listening();
    // Nor with no TLS at all, and that is told in the words for it.
    host.sh("DOCKER_HOST=tcp://127.0.0.1:$PORT docker ps")
        .fails_with("Client sent an HTTP request to an HTTPS server.");
    host.sh("DOCKER_HOST=tcp://127.0.0.1:$PORT $STRATUS ps")
        .exits_with(1)
        .complains("speaks TLS alone")
        .complains("DOCKER_TLS_VERIFY=1");
    host.sh(&remote("stranger", "docker ps")).fails_with("tls: ");
    host.sh(&remote("stranger", "$STRATUS ps")).fails_with("does not accept the certificate");
    host.sh("curl -s -S --cacert ours.pem https://127.0.0.1:$PORT/_ping").fails_with("curl: ");
    // The client looks as well.
    host.sh(&remote("client", "cp others.pem client/ca.pem && docker ps")).fails_with("certificate");
    host.sh(&remote("client", "$STRATUS ps")).fails_with("certificate");
    host.sh(&remote("nowhere", "$STRATUS ps")).fails_with("nowhere/ca.pem");
    // Who says nothing holds nobody up.
    let _silent = std::net::TcpStream::connect(("127.0.0.1", host.port())).expect("a connection");
    host.sh("cp ours.pem client/ca.pem").ok();
    host.sh(&remote("client", "docker ps -q")).ok();
}

#[test]
fn there_is_no_way_without_certificates() {
    let host = Daemon::start();
    let daemon = |flags: &str| {
        format!(
            "$STRATUS daemon --data-dir $PWD/other/data --run-dir $PWD/other/run --host tcp://127.0.0.1:$PORT {flags}"
        )
    };
    host.sh(&daemon("")).fails_with("/etc/stratus/tls/ca.pem");
    host.sh(&daemon("--tlscacert missing.pem")).fails_with("missing.pem");
    host.sh(&format!("echo nonsense > nonsense.pem && {}", daemon("--tlscacert nonsense.pem")))
        .fails_with("no certificate");
    host.sh(&format!("echo 'tlsverify = false' > off.toml && {}", daemon("--config off.toml"))).fails_with("tlsverify");
    host.sh("$STRATUS daemon --data-dir $PWD/other/data --run-dir $PWD/other/run --clean").ok();
}

//! The clients that programs use: each does in its own language what its users do, unchanged. `make sdks` fetches them.

use std::path::{Path, PathBuf};

use e2e::Daemon;

/// Where `make sdks` put them.
fn fetched() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let directory = cache.unwrap_or_else(home).join("stratus/sdks");
    assert!(directory.join("made-of").exists(), "{} is not there: run `make sdks`", directory.display());
    directory
}

/// Runs a program of tests/sdks; it fails by itself where something is not as it has to be.
fn run(program: &str) {
    let host = Daemon::start();
    let (fetched, source) = (fetched(), Path::new(env!("CARGO_MANIFEST_DIR")).join("sdks").join(program));
    let interpreter = match source.extension().and_then(|extension| extension.to_str()) {
        Some("py") => format!("{}/python/bin/python", fetched.display()),
        _ => format!("NODE_PATH={}/node_modules node", fetched.display()),
    };
    // Testcontainers' own reaper is an image that no registry here has.
    host.sh(&format!("TESTCONTAINERS_RYUK_DISABLED=true {interpreter} {}", source.display())).ok();
}

#[test]
fn docker_py() {
    run("docker_py.py");
}

#[test]
fn dockerode() {
    run("dockerode.js");
}

#[test]
fn testcontainers_for_python() {
    run("testcontainers_py.py");
}

#[test]
fn testcontainers_for_node() {
    run("testcontainers_node.js");
}

/// What Testcontainers' reaper does, in its order, over the daemon's socket that is mounted in it: all of a session's label goes, by force.
const REAPER: &str = r#"
set -e
api() { method=$1 path=$2; shift 2; /usr/bin/curl -sS --fail -G -X "$method" --unix-socket /var/run/docker.sock "$@" "http://docker/v1.44$path"; }
ids() { api GET "$1" --data-urlencode 'filters={"label":["org.testcontainers.session-id=one"]}' --data-urlencode all=1 | /usr/bin/jq -r "$2"; }
for id in $(ids /containers/json '.[].Id'); do api DELETE "/containers/$id" -d force=true -d v=true; done
for id in $(ids /networks '.[].Id'); do api DELETE "/networks/$id"; done
for name in $(ids /volumes '.Volumes[].Name'); do api DELETE "/volumes/$name" -d force=true; done
for id in $(ids /images/json '.[].Id'); do api DELETE "/images/$id" -d force=true; done
"#;

/// Its image is in no registry here. It runs in a container beside those that it ends, as the real one does.
#[test]
fn a_reaper_ends_what_a_session_left_and_nothing_else() {
    let host = Daemon::start();
    host.write("", &[("reaper.sh", REAPER)]);
    for session in ["one", "two"] {
        let label = format!("--label org.testcontainers.session-id={session}");
        host.sh(&format!("docker network create {label} net-{session} && docker volume create {label} vol-{session}"))
            .ok();
        host.sh(&format!(
            "docker run -d {label} --name up-{session} --network net-{session} -v vol-{session}:/data busybox sleep 1000"
        ))
        .ok();
        host.sh(&format!("docker create {label} --name made-{session} busybox true")).ok();
        host.sh(&format!("echo 'FROM busybox\nLABEL org.testcontainers.session-id={session}' | DOCKER_BUILDKIT=0 docker build -q -t img-{session} -"))
            .ok();
    }
    let socket = host.socket();
    host.sh(&format!(
        "docker run --rm --name reaper -v {}:/var/run/docker.sock -v $PWD/reaper.sh:/reaper.sh:ro -v /usr:/usr:ro -v /lib:/lib:ro \
         -v /lib64:/lib64:ro busybox sh /reaper.sh",
        socket.display()
    ))
    .ok();
    host.sh("docker ps -a --format '{{.Names}}' | sort").says("made-two\nup-two");
    host.sh("docker network ls --format '{{.Name}}' | grep net-").says("net-two");
    host.sh("docker volume ls -q").says("vol-two");
    host.sh("docker images --format '{{.Repository}}' | grep img-").says("img-two");
}

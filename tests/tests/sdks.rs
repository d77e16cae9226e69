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

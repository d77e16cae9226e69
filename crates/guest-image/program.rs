//! Builds a program of the workspace's that another one carries, in a directory of its own, by another run of cargo: static, and small.
//!
//! What makes that robust: it has a target directory of its own, so that it never waits for the run that waits for it; what the outer run
//! sets for its compilers (clippy's driver, flags, profiles) is not passed on; the versions are the workspace's (`--locked`), all
//! of which the outer run has fetched already, as the program's are among its own; and it shares the outer run's jobs. Several such programs
//! share the directory, and with it what they have in common.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the outer run's settings begin with. `CARGO_HOME` and what says how to reach the network stay.
const NOT_PASSED: [&str; 9] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_",
    "CARGO_FEATURE_",
    "CARGO_INCREMENTAL",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "RUSTC_W",
];

/// Static; and, by the linker that Rust takes where it has its own, with what is written beginning on a page of its own, so that it is on no more of them than it has to be.
const FLAGS: [&str; 2] = ["-Ctarget-feature=+crt-static", "-Clink-arg=-Wl,-z,separate-loadable-segments"];

/// Builds the program of the package `name`, which is made of `sources`, paths from the workspace's root: it is in `OUT_DIR`, by that name.
pub(crate) fn build(name: &str, sources: &[&str]) {
    let variable = |name| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let output = PathBuf::from(variable("OUT_DIR"));
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../..");
    for source in ["Cargo.lock", "Cargo.toml", "crates/guest-image/program.rs"].iter().chain(sources) {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let target = variable("TARGET").into_string().expect("a target has a plain name");
    // All profiles of the outer run share what is built: TARGET_DIRECTORY/PROFILE/build/PACKAGE/out.
    let directory = output.ancestors().nth(4).unwrap_or(&output).join("guest");

    let mut cargo = Command::new(variable("CARGO"));
    let passed = |name: &OsString| {
        let name = name.to_string_lossy();
        NOT_PASSED.iter().any(|prefix| name.starts_with(prefix)) || name == "RUSTFLAGS"
    };
    env::vars_os().map(|(name, _)| name).filter(passed).for_each(|name| {
        cargo.env_remove(name);
    });
    cargo.current_dir(&root);
    cargo.args(["build", "--quiet", "--locked", "--package", name, "--profile", "guest", "--target", &target]);
    cargo.arg("--target-dir").arg(&directory);
    // A static program is one that may lie at any address all the same.
    cargo.env("CARGO_INCREMENTAL", "0").env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    let status = cargo.status().unwrap_or_else(|error| panic!("run {cargo:?}: {error}"));
    assert!(status.success(), "{name} does not build: {cargo:?}");
    let program = directory.join(&target).join("guest").join(name);
    let copied = fs::copy(&program, output.join(name));
    copied.unwrap_or_else(|error| panic!("copy {}: {error}", program.display()));
}

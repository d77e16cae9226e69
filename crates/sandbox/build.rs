//! Builds the program that is PID 1 of containers with `--init`, which the crate contains as bytes.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "init/main.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let output = PathBuf::from(variable("OUT_DIR")).join("init");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.arg(SOURCE).arg("-o").arg(&output).arg("--target").arg(variable("TARGET"));
    rustc.args(["--edition", "2024", "--crate-type", "bin", "-D", "warnings"]);
    for option in [
        "panic=abort",
        "opt-level=s",
        "codegen-units=1",
        "overflow-checks=off",
        "strip=symbols",
        "relocation-model=static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none",
    ] {
        rustc.args(["-C", option]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("run {rustc:?}: {error}"));
    assert!(status.success(), "{SOURCE} does not build: {rustc:?}");
}

//! Builds the program, and prepares it to be put at an address.
#![forbid(unsafe_code)]

mod placeable;
#[path = "../guest-image/program.rs"]
mod program;

use placeable::Placeable;
use std::path::PathBuf;
use std::{env, fs};

/// What it is made of.
const SOURCES: [&str; 13] = [
    "crates/machine-program/placeable.rs",
    "machine/Cargo.toml",
    "machine/src",
    "crates/guest-protocol/Cargo.toml",
    "crates/guest-protocol/src",
    "crates/microvm/Cargo.toml",
    "crates/microvm/src",
    "crates/sandbox/Cargo.toml",
    "crates/sandbox/build.rs",
    "crates/sandbox/init",
    "crates/sandbox/src",
    "crates/vmm/Cargo.toml",
    "crates/vmm/src",
];

fn main() {
    program::build("machine", &SOURCES);
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // `R_X86_64_RELATIVE` and `R_AARCH64_RELATIVE`.
    let relative = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => 8,
        Ok("aarch64") => 1027,
        other => {
            panic!("no program of {other:?} was put at an address before: say which of its relocations are relative")
        }
    };
    let program = fs::read(output.join("machine")).expect("the program was built");
    let placeable =
        Placeable::new(program, relative).unwrap_or_else(|why| panic!("put the program at an address: {why}"));
    let words: Vec<u8> = placeable.words.iter().flat_map(|at| at.to_le_bytes()).collect();
    for (name, bytes) in [("image", placeable.image), ("words", words)] {
        fs::write(output.join(name), bytes).unwrap_or_else(|error| panic!("write {name}: {error}"));
    }
}

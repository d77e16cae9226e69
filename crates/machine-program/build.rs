//! Builds the program.
#![forbid(unsafe_code)]

#[path = "../guest-image/program.rs"]
mod program;

/// What it is made of.
const SOURCES: [&str; 12] = [
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
}

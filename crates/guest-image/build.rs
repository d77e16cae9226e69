//! Builds the agent.
#![forbid(unsafe_code)]

mod program;

/// What the agent is made of.
const SOURCES: [&str; 8] = [
    "guest/Cargo.toml",
    "guest/src",
    "crates/guest-protocol/Cargo.toml",
    "crates/guest-protocol/src",
    "crates/sandbox/Cargo.toml",
    "crates/sandbox/build.rs",
    "crates/sandbox/init",
    "crates/sandbox/src",
];

fn main() {
    program::build("guest", &SOURCES);
}

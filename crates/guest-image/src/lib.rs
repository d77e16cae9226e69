//! What a microVM is booted with: a kernel, the few of its modules that a guest needs, and the agent that is its first process.
//!
//! [`AGENT`] is built by `build.rs` from `guest/` with a profile of its own. It is in a crate of its own so that whoever contains the program is
//! not what the program is built from, and so that nothing but this is built again when the agent changes.
//!
//! A [`Source`] says where the kernel comes from: this machine, its distribution's packages, or files of the user's. [`prepare`] makes of one what machines
//! start from, in a directory of the daemon's, once; [`prepared`] says what is there, and is all that a start needs. [`Modules`] are what a guest loads
//! before anything else, and [`write_initramfs`] packs them with the agent.
#![forbid(unsafe_code)]

mod error;
mod fetch;
mod initramfs;
mod module;
mod modules;
mod prepare;
mod source;

pub use error::Error;
pub use initramfs::write_initramfs;
pub use modules::Modules;
pub use prepare::{Prepared, Unpack, prepare, prepared};
pub use source::{Files, Source};

use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// The agent: `/init` of an initramfs.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest"));

/// SHA-256 of [`AGENT`], as 64 hexadecimal digits.
pub fn agent_digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| hex::encode(Sha256::digest(AGENT)))
}

#[cfg(test)]
mod tests {
    use super::AGENT;

    #[test]
    fn it_is_a_static_program_of_two_megabytes_at_most() {
        assert!(AGENT.starts_with(b"\x7fELF"));
        assert!(AGENT.len() <= 2 << 20, "{} bytes", AGENT.len());
        // What a dynamic program names to be loaded with it.
        assert!(!AGENT.windows(11).any(|part| part == b"/ld-linux-x" || part == b"/ld-linux-a"));
    }
}

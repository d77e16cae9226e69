//! The agent of a microVM, as the bytes of a static program.
//!
//! `build.rs` builds it from `guest/` with a profile of its own. It is a crate of its own so that whoever contains the program is not what
//! the program is built from, and so that nothing but this is built again when the agent changes.
#![forbid(unsafe_code)]

/// The program: `/init` of an initramfs.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest"));

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

//! The program of a microVM's process on the host, and of the small ones that stand beside it: `machine/`, as bytes.
//!
//! It is a program of its own, and not a role of the one that carries it, as the dynamic loader writes a large program's constants anew in each
//! process: they would be most of what a machine takes beyond its guest's memory. It is built by `build.rs` as the agent is (`guest-image`), and is in
//! a crate of its own so that nothing but this is built again when the hypervisor changes.
#![forbid(unsafe_code)]

/// The program: static, so that it needs no file but itself, and at a random address in each process.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/machine"));

#[cfg(test)]
mod tests {
    use super::PROGRAM;

    /// A word of two bytes of the file's header (elf(5)).
    fn word(at: usize) -> u16 {
        u16::from_le_bytes([PROGRAM[at], PROGRAM[at + 1]])
    }

    #[test]
    fn it_is_static_may_lie_anywhere_and_has_few_constants_with_addresses() {
        const SHARED_OBJECT: u16 = 3;
        const INTERPRETER: u32 = 3;
        const CONSTANTS: u32 = 0x6474_e552;
        assert!(PROGRAM.starts_with(b"\x7fELF"));
        assert_eq!(word(16), SHARED_OBJECT, "it has one address for all");
        // Program headers: 56 bytes each, the kind first, the length in memory at 40.
        let headers = (0..usize::from(word(56))).map(|number| &PROGRAM[64 + 56 * number..][..56]);
        let headers: Vec<_> = headers
            .map(|header| {
                let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
                (kind, u64::from_le_bytes(header[40..48].try_into().unwrap()))
            })
            .collect();
        assert!(headers.iter().all(|(kind, _)| *kind != INTERPRETER), "it names a dynamic loader");
        let constants = headers.iter().find(|(kind, _)| *kind == CONSTANTS).map(|(_, length)| *length);
        // Each process has them for itself.
        assert!(constants.is_some_and(|length| length <= 80 << 10), "{constants:?} bytes");
    }
}

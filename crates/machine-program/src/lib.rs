//! The program of a microVM's process on the host, and of the small ones that stand beside it: `machine/`, as bytes.
//!
//! It is a program of its own, and not a role of the one that carries it, as the dynamic loader writes a large program's constants anew in each
//! process: they would be most of what a machine takes beyond its guest's memory. It is built by `build.rs` as the agent is (`guest-image`), and is in
//! a crate of its own so that nothing but this is built again when the hypervisor changes.
//!
//! It may lie anywhere, and is at one address in all processes that execute the same file: whoever writes that chooses it at random ([`at`]).
#![forbid(unsafe_code)]

#[path = "../words.rs"]
mod words;

/// The program for the address 0.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/image"));
/// Where in it the address is to be added: offsets of four bytes, little-endian.
const WORDS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/words"));

/// The program for an address, a multiple of a page's size: static, so that it needs no file but itself, and with all its constants in the file, so that its
/// processes share them.
pub fn at(address: u64) -> Vec<u8> {
    let mut program = IMAGE.to_vec();
    let (words, _) = WORDS.as_chunks();
    words::add(&mut program, words.iter().map(|at| u32::from_le_bytes(*at)), address);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn it_runs_wherever_it_is_put() {
        let directory = tempfile::tempdir().unwrap();
        for address in [0x5555_5555_4000u64, 0x5a3b_1c2d_0000, 0x6555_5555_5000] {
            let path = directory.path().join(format!("{address:x}"));
            fs::write(&path, at(address)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            let output = Command::new(&path).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("does nothing by itself"), "{output:?}");
        }
    }

    /// The kinds of its program headers.
    fn kinds(program: &[u8]) -> Vec<u32> {
        let count = usize::from(u16::from_le_bytes([program[56], program[57]]));
        let kind = |number: usize| program[64 + 56 * number..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        (0..count).filter_map(kind).collect()
    }

    #[test]
    fn it_is_static_and_its_addresses_are_what_differs() {
        const INTERPRETER: u32 = 3;
        let (one, other) = (at(0), at(0x1000_0000));
        assert!(!kinds(&one).contains(&INTERPRETER), "it names a dynamic loader");
        assert_eq!(one.len(), other.len());
        let differ = one.iter().zip(&other).filter(|(one, other)| one != other).count();
        // One byte of each word.
        assert_eq!(differ, WORDS.len() / 4);
        assert!(WORDS.len() / 4 > 1000);
    }
}

//! Guests that do one thing, so that it is seen when they do it: a processor that carries out a kernel's instructions one by one, as some hosts' KVM does, boots none in a
//! bearable time, and these few it runs at once.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// What the distribution's kernel writes as its first instructions in place of its own.
pub(super) const FIRST: u8 = b'f';
/// What a guest writes that waits to be saved.
pub(super) const WAITS: u8 = b'w';
/// Bytes that a guest writes which goes on from a snapshot: the first of its generation, which no other has.
pub(super) const ANSWER: usize = 4;
/// Where a guest that waits has written to each page, and how far: what a program would have in memory.
const TOUCHED: [u32; 2] = [32 << 20, 48 << 20];
/// Where the hypervisor writes a machine's generation (`vmm`, `arch/x86_64/layout.rs`).
const GENERATION: u32 = 0xf_f000;
/// Where in its memory a guest that goes on from a snapshot has the same, for whoever looks there: until then it has zeros.
pub(super) const ANSWERED: u64 = 5 << 20;
/// Where a guest's code lies.
const CODE: u32 = 1 << 20;
/// `cli; hlt`, and again.
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// `mov dx, 0x3f8; mov al, byte; out dx, al`: to the serial port.
fn say(byte: u8) -> Vec<u8> {
    vec![0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]
}

/// Writes the kernel at `kernel`, an ELF file with a PVH entry, to `to`, with other instructions at its entry: they write [`FIRST`], and halt. All else is
/// as it was: its size, its segments and where they go.
pub(super) fn first_instruction(kernel: &Path, to: &Path) -> Result<()> {
    let mut bytes = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let at = entry(&bytes).with_context(|| format!("{} has no PVH entry", kernel.display()))?;
    let code = [say(FIRST), HALT.to_vec()].concat();
    bytes.get_mut(at..at + code.len()).context("the kernel's entry is not in its file")?.copy_from_slice(&code);
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

/// Where in an ELF file its PVH entry lies: the note of the name Xen and the type 18 has its physical address (Xen's docs/misc/pvh.pandoc).
fn entry(file: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(file.get(at..at + 8)?.try_into().ok()?));
    let name = file.windows(8).position(|found| found == [18, 0, 0, 0, b'X', b'e', b'n', 0])?;
    let address = u64::from(word(name + 8)?);
    let headers = long(32)? as usize;
    let count = usize::from(u16::from_le_bytes(file.get(56..58)?.try_into().ok()?));
    // elf(5): an `Elf64_Phdr` has 56 bytes, of which the first are its type (1: loaded), and behind 8 more its offset, addresses, and length in the file.
    let inside = |header: usize| {
        let (kind, offset, physical, length) =
            (word(header)?, long(header + 8)?, long(header + 24)?, long(header + 32)?);
        let within = address.checked_sub(physical).filter(|within| kind == 1 && *within < length)?;
        usize::try_from(offset + within).ok()
    };
    (0..count).find_map(|number| inside(headers + number * 56))
}

/// A kernel that writes to each page of 16 MiB, says that it [`WAITS`], waits until its generation is another one, as it is in each machine that goes on from a snapshot,
/// writes the first bytes of it, to its memory and to its serial port, and halts.
pub(super) fn waiting() -> Vec<u8> {
    let generation = GENERATION.to_le_bytes();
    let code = [
        // mov edi, the first; mov [edi], edi; add edi, 4096; cmp edi, the end; jb back
        &[0xbf][..],
        &TOUCHED[0].to_le_bytes(),
        &[0x89, 0x3f, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff],
        &TOUCHED[1].to_le_bytes(),
        &[0x72, 0xf0],
        &say(WAITS),
        // mov eax, [generation]; mov ebx, eax
        &[0xa1],
        &generation,
        &[0x89, 0xc3],
        // mov eax, [generation]; cmp eax, ebx; je back
        &[0xa1],
        &generation,
        &[0x39, 0xd8, 0x74, 0xf7],
        // mov [where it is looked for], eax
        &[0xa3],
        &(ANSWERED as u32).to_le_bytes(),
        // mov dx, 0x3f8; out dx, al; shr eax, 8, four times
        &[0x66, 0xba, 0xf8, 0x03],
        &[0xee, 0xc1, 0xe8, 8].repeat(ANSWER),
        &HALT,
    ];
    kernel(&code.concat())
}

/// An ELF file with a PVH entry, of one segment.
fn kernel(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const OFFSET: u64 = 4096;
    let note = [&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0], &CODE.to_le_bytes()[..]].concat();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([u64::from(CODE), 64, 0].iter().flat_map(|long| long.to_le_bytes()));
    file.extend([0u16, 0, 64, 56, 2, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    for (kind, offset, address, length) in
        [(1u32, OFFSET, u64::from(CODE), code.len() as u64), (4, HEADERS, 0, note.len() as u64)]
    {
        file.extend([kind, 5].iter().flat_map(|word| word.to_le_bytes()));
        file.extend([offset, address, address, length, length, 4].iter().flat_map(|long| long.to_le_bytes()));
    }
    file.extend(note);
    file.resize(OFFSET as usize, 0);
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_of_a_kernel_is_found_and_no_other_byte_changed() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let kernel = waiting();
        assert_eq!(entry(&kernel), Some(4096));
        fs::write(&from, &kernel).unwrap();
        first_instruction(&from, &to).unwrap();
        let changed = fs::read(&to).unwrap();
        assert_eq!(changed.len(), kernel.len());
        assert_eq!(changed[4096..][..7], say(FIRST));
        assert_eq!((&changed[..4096], &changed[4096 + 11..]), (&kernel[..4096], &kernel[4096 + 11..]));
        fs::write(&from, b"no kernel").unwrap();
        assert!(first_instruction(&from, &to).is_err());
    }
}

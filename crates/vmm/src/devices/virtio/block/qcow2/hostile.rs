//! Images that strangers made, for tests and for fuzzing.

use super::super::Disk;
use super::super::SECTOR;
use crate::devices::virtio::buffers::Buffers;
use std::fs::File;
use std::os::unix::fs::FileExt;
use vm_memory::VolatileSlice;

/// Bytes before the image: what is done with it.
const PROGRAM: usize = 64;
/// Bytes of a step.
const STEP: usize = 7;
/// The most sectors of a step.
const MOST: u64 = 300;

/// An image without data, of a disk of that size, with clusters of `1 << cluster_bits` bytes: header, reference counts, first table.
#[cfg(test)]
pub(crate) fn empty(version: u32, size: u64, cluster_bits: u32) -> Vec<u8> {
    let cluster = 1usize << cluster_bits;
    let entries = size.div_ceil((cluster * cluster / 8) as u64);
    let first = (entries as usize * 8).div_ceil(cluster).max(1);
    let mut image = vec![0; (3 + first) * cluster];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &version.to_be_bytes());
    put(20, &cluster_bits.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &(entries as u32).to_be_bytes());
    put(40, &(3 * cluster as u64).to_be_bytes());
    put(48, &(cluster as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    if version == 3 {
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
    }
    put(cluster, &(2 * cluster as u64).to_be_bytes());
    (0..3 + first).for_each(|number| put(2 * cluster + number * 2, &1u16.to_be_bytes()));
    image
}

/// Reads and writes a disk whose image is made of `data`, behind 64 bytes that say what is done. It must come to an end, and to no panic.
pub fn run(data: &[u8]) {
    let (program, image) = data.split_at(data.len().min(PROGRAM));
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    let file = file.unwrap_or_else(|error| panic!("{error}"));
    file.write_all_at(image, 0).unwrap_or_else(|error| panic!("{error}"));
    let [flags, steps @ ..] = program else { return };
    let Ok(mut disk) = Disk::of_qcow2(file, flags & 1 == 1, "image") else { return };
    for step in steps.as_chunks::<STEP>().0 {
        let [kind, a, b, c, d, e, f] = *step;
        let sectors = disk.size() / SECTOR;
        // Near the beginning, or near the end.
        let at = u64::from(u32::from_be_bytes([a, b, c, d])) % sectors.max(1);
        let at = if kind & 0x80 == 0 { at } else { sectors.saturating_sub(at) };
        let count = (u64::from(u16::from_be_bytes([e, f])) % MOST).min(sectors - at);
        let mut bytes = vec![kind; (count * SECTOR) as usize];
        let mut buffers = Buffers::default();
        buffers.push(VolatileSlice::from(&mut bytes[..])).unwrap_or_else(|| panic!("it is not so long"));
        // Each may be refused.
        let _ = match kind % 5 {
            0 => disk.read(at * SECTOR, &mut buffers),
            1 => disk.write(at * SECTOR, &mut buffers),
            2 => disk.zero(at * SECTOR, count * SECTOR, true),
            3 => disk.zero(at * SECTOR, count * SECTOR, false),
            _ => disk.flush(),
        };
    }
    let _ = disk.settle();
}

//! An empty ext4 file system, as Linux's Documentation/filesystems/ext4 describes it: blocks of 4 KiB, a journal, extents, and checksums of group descriptors, so that
//! the bitmaps and tables of groups that nobody has used yet need not be written (`GDT_CSUM`).
//!
//! What is not written is a hole of the file, and reads zeros, as inode tables have to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Blocks of a group: as many as one block has bits.
const GROUP: u64 = BLOCK * 8;
/// Inodes of a group: one for 16 KiB.
const INODES: u64 = GROUP / 4;
/// Bytes of an inode.
const INODE: u64 = 256;
/// Blocks of a group's inode table.
const TABLE: u64 = INODES * INODE / BLOCK;
/// Bytes of a group's descriptor.
const DESCRIPTOR: u64 = 32;
/// The fewest blocks of a last group: one that has hardly more than its own tables is left out.
const LAST_GROUP: u64 = 2048;

/// The root directory's inode, the journal's, and that of the one directory in the root.
const ROOT: u64 = 2;
const JOURNAL: u64 = 8;
const LOST_AND_FOUND: u64 = 11;

/// has_journal, ext_attr, dir_index
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x20;
/// filetype, extents
const INCOMPATIBLE: u32 = 0x2 | 0x40;
/// sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40;
/// Of a group: its inode table is not used, its block bitmap is as its descriptor says, its inode table is zeros.
const INODES_UNUSED: u16 = 1;
const BLOCKS_UNUSED: u16 = 2;
const TABLE_ZEROED: u16 = 4;

/// A block, or a part of one, that is filled field by field.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(length: u64) -> Self {
        Self(vec![0; length as usize])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u16(&mut self, at: usize, value: u16) -> &mut Self {
        self.put(at, &value.to_le_bytes())
    }

    fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put(at, &value.to_le_bytes())
    }

    fn set_bits(&mut self, bits: std::ops::Range<u64>) -> &mut Self {
        bits.for_each(|bit| self.0[bit as usize / 8] |= 1 << (bit % 8));
        self
    }
}

/// What lies where.
struct Layout {
    blocks: u64,
    groups: u64,
    /// Blocks of all group descriptors.
    descriptors: u64,
    /// Blocks of the journal.
    journal: u64,
    uuid: [u8; 16],
    /// Seconds since 1970.
    now: u32,
}

/// Writes an empty file system into a file of zeros.
///
/// # Errors
/// The file can't be written to.
pub(super) fn format(file: &File, size: u64, uuid: [u8; 16]) -> io::Result<()> {
    let layout = Layout::new(size, uuid);
    let table = layout.group_descriptors();
    for group in (0..layout.groups).filter(|group| has_superblock(*group)) {
        let start = group * GROUP * BLOCK;
        // The first 1024 bytes of a disk are a boot loader's.
        let at = if group == 0 { 1024 } else { 0 };
        file.write_all_at(&layout.superblock(group), start + at)?;
        file.write_all_at(&table, start + BLOCK)?;
    }
    for group in [0, layout.groups - 1] {
        file.write_all_at(&layout.block_bitmap(group), layout.bitmap(group) * BLOCK)?;
    }
    let mut inodes = Bytes::new(BLOCK);
    inodes.set_bits(0..LOST_AND_FOUND).set_bits(INODES..BLOCK * 8);
    file.write_all_at(&inodes.0, (layout.bitmap(0) + 1) * BLOCK)?;
    for (number, inode) in layout.inodes() {
        file.write_all_at(&inode, (layout.bitmap(0) + 2) * BLOCK + (number - 1) * INODE)?;
    }
    file.write_all_at(&directory(&[(ROOT, "."), (ROOT, ".."), (LOST_AND_FOUND, "lost+found")]), layout.data() * BLOCK)?;
    file.write_all_at(&directory(&[(LOST_AND_FOUND, "."), (ROOT, "..")]), (layout.data() + 1) * BLOCK)?;
    file.write_all_at(&layout.journal_superblock(), (layout.data() + 2) * BLOCK)
}

/// The first group has one, the second, and those that are powers of 3, 5 and 7 (`sparse_super`).
fn has_superblock(group: u64) -> bool {
    let is_power = |of: u64| {
        std::iter::successors(Some(of), |power| power.checked_mul(of))
            .take_while(|power| *power <= group)
            .any(|power| power == group)
    };
    group <= 1 || [3, 5, 7].into_iter().any(is_power)
}

impl Layout {
    fn new(size: u64, uuid: [u8; 16]) -> Self {
        let mut blocks = size / BLOCK;
        if blocks > GROUP && blocks % GROUP < LAST_GROUP {
            blocks -= blocks % GROUP;
        }
        let groups = blocks.div_ceil(GROUP);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Self {
            blocks,
            groups,
            descriptors: (groups * DESCRIPTOR).div_ceil(BLOCK),
            // 4 MiB at least (jbd2.h, JBD2_MIN_JOURNAL_BLOCKS); what is more lets more be written at once.
            journal: (blocks / 64).clamp(1024, 8192),
            uuid,
            now: u32::try_from(now).unwrap_or(u32::MAX),
        }
    }

    /// The group's block bitmap; behind it are the inode bitmap and table.
    fn bitmap(&self, group: u64) -> u64 {
        group * GROUP + if has_superblock(group) { 1 + self.descriptors } else { 0 }
    }

    /// The first block with anything in it but tables: the root directory's, before that of `lost+found` and the journal.
    fn data(&self) -> u64 {
        self.bitmap(0) + 2 + TABLE
    }

    /// Blocks of a group that are in use.
    fn used(&self, group: u64) -> u64 {
        let tables = self.bitmap(group) - group * GROUP + 2 + TABLE;
        if group == 0 { tables + 2 + self.journal } else { tables }
    }

    /// Blocks of a group.
    fn length(&self, group: u64) -> u64 {
        GROUP.min(self.blocks - group * GROUP)
    }

    fn block_bitmap(&self, group: u64) -> Vec<u8> {
        let mut bitmap = Bytes::new(BLOCK);
        // What would be behind the last block is taken.
        bitmap.set_bits(0..self.used(group)).set_bits(self.length(group)..GROUP);
        bitmap.0
    }

    fn group_descriptors(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for group in 0..self.groups {
            let used = if group == 0 { LOST_AND_FOUND } else { 0 };
            let is_last = group + 1 == self.groups;
            let flags = match (group, is_last) {
                (0, _) => TABLE_ZEROED,
                // Its bitmap says where it ends.
                (_, true) => TABLE_ZEROED | INODES_UNUSED,
                (_, false) => TABLE_ZEROED | INODES_UNUSED | BLOCKS_UNUSED,
            };
            let bitmap = self.bitmap(group);
            let mut descriptor = Bytes::new(DESCRIPTOR);
            descriptor.u32(0x0, bitmap as u32).u32(0x4, (bitmap + 1) as u32).u32(0x8, (bitmap + 2) as u32);
            descriptor.u16(0xc, (self.length(group) - self.used(group)) as u16).u16(0xe, (INODES - used) as u16);
            descriptor.u16(0x10, if group == 0 { 2 } else { 0 }).u16(0x12, flags).u16(0x1c, (INODES - used) as u16);
            let sum = crc16(crc16(crc16(0xffff, &self.uuid), &(group as u32).to_le_bytes()), &descriptor.0[..0x1e]);
            descriptor.u16(0x1e, sum);
            table.extend(descriptor.0);
        }
        table.resize((self.descriptors * BLOCK) as usize, 0);
        table
    }

    fn superblock(&self, group: u64) -> Vec<u8> {
        let free: u64 = (0..self.groups).map(|group| self.length(group) - self.used(group)).sum();
        let mut block = Bytes::new(1024);
        block.u32(0x0, (INODES * self.groups) as u32).u32(0x4, self.blocks as u32).u32(0xc, free as u32);
        block.u32(0x10, (INODES * self.groups - LOST_AND_FOUND) as u32);
        // Blocks, and clusters of blocks, of 2^(10 + 2) bytes.
        block.u32(0x18, 2).u32(0x1c, 2).u32(0x20, GROUP as u32).u32(0x24, GROUP as u32).u32(0x28, INODES as u32);
        // Written now; never to be checked for having been mounted often; clean; go on after an error.
        block.u32(0x30, self.now).u16(0x36, u16::MAX).u16(0x38, 0xef53).u16(0x3a, 1).u16(0x3c, 1).u32(0x40, self.now);
        block.u32(0x4c, 1).u32(0x54, LOST_AND_FOUND as u32).u16(0x58, INODE as u16).u16(0x5a, group as u16);
        block.u32(0x5c, COMPATIBLE).u32(0x60, INCOMPATIBLE).u32(0x64, READ_ONLY_COMPATIBLE).put(0x68, &self.uuid);
        // Hashes of names in large directories: by half MD4 of signed characters, from a seed that is nobody else's.
        block.u32(0xe0, JOURNAL as u32).put(0xec, &self.uuid).put(0xfc, &[1]).u32(0x160, 1);
        // Extended attributes and ACLs; where the journal is, for who finds its inode damaged.
        block.u32(0x100, 0xc).u32(0x108, self.now).put(0xfd, &[1]);
        block.put(0x10c, &extent(self.data() + 2, self.journal)).u32(0x14c, (self.journal * BLOCK) as u32);
        block.u16(0x15c, 32).u16(0x15e, 32);
        block.0
    }

    fn inodes(&self) -> [(u64, Vec<u8>); 3] {
        let inode = |mode: u16, links: u16, at: u64, blocks: u64| {
            let mut inode = Bytes::new(INODE);
            inode
                .u16(0x0, mode)
                .u32(0x4, (blocks * BLOCK) as u32)
                .u16(0x1a, links)
                .u32(0x1c, (blocks * BLOCK / 512) as u32);
            for time in [0x8, 0xc, 0x10, 0x90] {
                inode.u32(time, self.now);
            }
            // By extents.
            inode.u32(0x20, 0x80000).put(0x28, &extent(at, blocks)).u16(0x80, 32);
            inode.0
        };
        [
            (ROOT, inode(0o040_755, 3, self.data(), 1)),
            (JOURNAL, inode(0o100_600, 1, self.data() + 2, self.journal)),
            (LOST_AND_FOUND, inode(0o040_700, 2, self.data() + 1, 1)),
        ]
    }

    /// The first block of a journal with nothing in it (jbd2.h, `journal_superblock_t`), the highest byte first.
    fn journal_superblock(&self) -> Vec<u8> {
        let mut block = Bytes::new(BLOCK);
        let fields = [
            (0x0, 0xc03b_3998),
            (0x4, 4),
            (0xc, BLOCK as u32),
            (0x10, self.journal as u32),
            (0x14, 1),
            (0x18, 1),
            (0x40, 1),
        ];
        for (at, value) in fields {
            block.put(at, &u32::to_be_bytes(value));
        }
        block.put(0x30, &self.uuid);
        block.0
    }
}

/// What an inode of one extent has instead of blocks: a header and the extent, of its first block, and at most 32768 blocks.
fn extent(at: u64, blocks: u64) -> Vec<u8> {
    let mut bytes = Bytes::new(60);
    bytes.u16(0, 0xf30a).u16(2, 1).u16(4, 4).u16(16, blocks as u16).u32(20, at as u32);
    bytes.0
}

/// A directory of one block with directories in it. The last entry has what is left.
fn directory(entries: &[(u64, &str)]) -> Vec<u8> {
    let mut block = Bytes::new(BLOCK);
    let mut at = 0;
    for (number, (inode, name)) in entries.iter().enumerate() {
        let length = match number + 1 == entries.len() {
            true => BLOCK as usize - at,
            false => (8 + name.len()).next_multiple_of(4),
        };
        block
            .u32(at, *inode as u32)
            .u16(at + 4, length as u16)
            .put(at + 6, &[name.len() as u8, 2])
            .put(at + 8, name.as_bytes());
        at += length;
    }
    block.0
}

/// CRC-16 with the polynomial 0x8005, the lowest bit first, as Linux's lib/crc16.c has it.
fn crc16(sum: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(sum, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xa001 } else { sum >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;
    use rustix::mount::{UnmountFlags, unmount};

    use super::*;

    fn formatted(directory: &Path, size: u64) -> std::path::PathBuf {
        let path = directory.join("disk");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        format(&file, size, *b"0123456789abcdef").unwrap();
        path
    }

    /// e2fsprogs finds nothing to mend.
    fn check(disk: &Path) {
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(disk).output().expect("e2fsprogs is installed");
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
        assert!(!said.contains("? no"), "{said}");
    }

    #[test]
    fn the_sum_is_that_of_others() {
        // The check value of CRC-16/ARC.
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }

    #[test]
    fn the_kernel_takes_it_and_fills_it_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        // A whole group, and a part of one; without that; less than one.
        for mib in [200, 256, 40] {
            let disk = formatted(directory.path(), mib << 20);
            check(&disk);
            let target = directory.path().join("mounted");
            fs::create_dir_all(&target).unwrap();
            let mounted = Command::new("mount").args(["-o", "loop"]).arg(&disk).arg(&target).output().unwrap();
            assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
            fs::create_dir(target.join("upper")).unwrap();
            for number in 0..2000 {
                fs::write(target.join(format!("upper/{number}")), number.to_string()).unwrap();
            }
            let full = (0..).find_map(|number| fs::write(target.join(format!("{number}.big")), vec![7; 1 << 20]).err());
            assert_eq!(full.unwrap().raw_os_error(), Some(28), "no space left");
            unmount(&target, UnmountFlags::empty()).unwrap();
            check(&disk);
        }
    }

    #[test]
    fn a_large_one_takes_little() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        for (size, most) in [(10 << 30, 200 << 10), (1 << 40, 8 << 20)] {
            let disk = formatted(directory.path(), size);
            let takes = fs::metadata(&disk).unwrap().blocks() * 512;
            assert!(takes < most, "{takes} bytes for one of {size}");
        }
        check(&formatted(directory.path(), 10 << 30));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_size_is_whole(size in crate::disk::SMALLEST..6 << 30) {
            let directory = tempfile::tempdir().unwrap();
            check(&formatted(directory.path(), size));
        }
    }
}

//! What of EROFS' format is written here: `fs/erofs/erofs_fs.h` of the kernel, and its Documentation/filesystems/erofs.rst. All numbers are
//! little-endian.

use crate::Digest;
use rustix::fs::FileType;

/// Bytes of a block, of files and of directories.
pub(super) const BLOCK: usize = 4096;
/// The same, as a power of two.
const BLOCK_BITS: u8 = 12;
/// Inodes begin at multiples of this, and are numbered so.
pub(super) const SLOT: u64 = 32;
/// Bytes of an inode of the extended form, which has owners of 32 bits and a time of its own.
pub(super) const INODE: usize = 64;
/// Where in an inode the count of its names is.
pub(super) const INODE_LINKS: u64 = 44;
/// Bytes of an entry of a directory, without its name.
pub(super) const ENTRY: usize = 12;
/// Where the superblock is.
pub(super) const SUPER_AT: usize = 1024;
/// Bytes of the superblock.
pub(super) const SUPER: usize = 128;
/// The block of a chunk that has none: it reads as zeros.
pub(super) const HOLE: u32 = u32::MAX;

const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM` and `_MTIME`.
const COMPATIBLE: u32 = 0x1 | 0x2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
const CHUNKED_FILES: u32 = 0x4;

/// Where the bytes of a file, a link or a directory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In blocks that follow one another, of which this is the first.
    Plain(u32),
    /// The same, but for those that do not fill a block, which follow the inode.
    Inline(u32),
    /// In chunks of a number of blocks that is this power of two; the first block of each follows the inode.
    Chunks(u8),
    /// It has none, and is a device: its number.
    Device(u32),
}

/// An inode.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) layout: Layout,
    /// Bytes of extended attributes that follow it.
    pub(super) attributes: usize,
    /// Kind and permissions, as in `st_mode`.
    pub(super) mode: u32,
    pub(super) size: u64,
    /// A number for programs that know none of 64 bits.
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified: i64,
    pub(super) nanoseconds: u32,
    /// Names that it has.
    pub(super) links: u32,
}

impl Inode {
    pub(super) fn encode(&self) -> [u8; INODE] {
        const EXTENDED: u16 = 1;
        let (layout, place) = match self.layout {
            Layout::Plain(block) => (0, block),
            Layout::Inline(block) => (2, block),
            Layout::Chunks(bits) => (4, u32::from(bits)),
            Layout::Device(number) => (0, number),
        };
        let mut bytes = [0; INODE];
        put(&mut bytes, 0, &(EXTENDED | layout << 1).to_le_bytes());
        put(&mut bytes, 2, &attribute_words(self.attributes).to_le_bytes());
        put(&mut bytes, 4, &((self.mode & 0xffff) as u16).to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &place.to_le_bytes());
        put(&mut bytes, 20, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.uid.to_le_bytes());
        put(&mut bytes, 28, &self.gid.to_le_bytes());
        put(&mut bytes, 32, &self.modified.to_le_bytes());
        put(&mut bytes, 40, &self.nanoseconds.to_le_bytes());
        put(&mut bytes, INODE_LINKS as usize, &self.links.to_le_bytes());
        bytes
    }
}

/// How an inode says how many bytes of attributes follow it: their header's 12 count as one word of 4.
fn attribute_words(bytes: usize) -> u16 {
    const HEADER: usize = 12;
    if bytes == 0 { 0 } else { ((bytes - HEADER) / 4 + 1) as u16 }
}

/// A device's number as the kernel encodes it: `new_encode_dev` of include/linux/kdev_t.h.
pub(super) fn device(number: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// How an entry of a directory says what it is of.
pub(super) fn kind(kind: FileType) -> u8 {
    match kind {
        FileType::RegularFile => 1,
        FileType::Directory => 2,
        FileType::CharacterDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Unknown => 0,
    }
}

/// What a superblock says.
#[derive(Clone, Debug)]
pub(super) struct Super {
    /// The number of the root directory's inode.
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    /// The first block of attributes that several inodes share; 0: there are none.
    pub(super) shared: u32,
    /// Whether a file has chunks.
    pub(super) has_chunks: bool,
    /// Whose content it is.
    pub(super) identity: Digest,
}

impl Super {
    /// Writes it into the first block, of which all else is there already, as its checksum is one of that, too.
    pub(super) fn seal(&self, first: &mut [u8; BLOCK]) {
        let to = &mut first[SUPER_AT..];
        to[..SUPER].fill(0);
        put(to, 0, &MAGIC.to_le_bytes());
        put(to, 8, &COMPATIBLE.to_le_bytes());
        put(to, 12, &[BLOCK_BITS]);
        put(to, 14, &self.root.to_le_bytes());
        put(to, 16, &self.inodes.to_le_bytes());
        put(to, 36, &self.blocks.to_le_bytes());
        put(to, 44, &self.shared.to_le_bytes());
        put(to, 48, &uuid(&self.identity));
        put(to, 80, &(if self.has_chunks { CHUNKED_FILES } else { 0 }).to_le_bytes());
        let checksum = crc32c(to);
        put(to, 4, &checksum.to_le_bytes());
    }
}

/// A UUID that is a digest's: of the form that RFC 9562 leaves to whoever makes it (version 8).
fn uuid(digest: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// The sum that the kernel takes: CRC-32C from all ones on, and not inverted at its end. It is one of 3 KiB a file.
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82F6_3B78;
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (REVERSED_POLYNOMIAL & 0u32.wrapping_sub(sum & 1)))
    })
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard_but_for_the_last_inversion() {
        // The check value of CRC-32C: RFC 3720, B.4, has more of the kind.
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(!crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn devices_have_the_numbers_that_the_kernel_gives_them() {
        assert_eq!(device(rustix::fs::makedev(1, 3)), 0x103);
        assert_eq!(device(rustix::fs::makedev(259, 0x12345)), 0x1231_0345);
    }
}

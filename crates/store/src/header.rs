//! Whether the newest commit of a file is the one that redb will open.
//!
//! redb's file begins with two slots (its file format 3): the newest commit and the one before, each with a checksum, and a bit
//! that says which is which. Where the newest is damaged redb goes on with the one before, which is whole, and so a single flipped bit
//! would silently take back what somebody was told is done. It does so for disks that tear a write: but all of this lies in the first
//! 320 bytes, within one sector, which a disk writes as a whole. So here damage is damage.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use twox_hash::XxHash3_128;

/// What comes before the slots.
const PREFIX: usize = 64;
/// A slot: what the commit is, and the checksum of that.
const SLOT: usize = 128;
const CHECKSUM: usize = 16;
/// Its lowest bit is the number of the slot with the newest commit.
const FLAGS: usize = 9;

/// Why the newest commit of `file` can't be read, where it can't. A file that is no database at all is left for redb to tell.
pub(crate) fn damage(file: &File) -> io::Result<Option<String>> {
    let mut header = [0; PREFIX + 2 * SLOT];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let slot = &header[PREFIX..][usize::from(header[FLAGS] & 1) * SLOT..][..SLOT];
    let (commit, checksum) = slot.split_at(SLOT - CHECKSUM);
    let is_whole = checksum == XxHash3_128::oneshot(commit).to_le_bytes();
    Ok((!is_whole).then(|| "its newest commit is damaged".to_owned()))
}

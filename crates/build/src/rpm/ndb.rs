//! `Packages.db`: slots at the beginning say where each header is, in blocks of sixteen bytes (lib/backend/ndb/rpmpkg.c of RPM has the
//! only description). Numbers have their lowest byte first.

use super::{Error, Headers, Left, MOST_OF_A_HEADER, Result, Stored, le32};

pub(super) const MAGIC: &[u8] = b"RpmP";
const SLOT_MAGIC: &[u8] = b"Slot";
const BLOB_MAGIC: &[u8] = b"BlbS";

const PAGE: u64 = 4096;
const BLOCK: u64 = 16;
/// What a slot has, and what is before a header, and at the beginning of the file twice that.
const SLOT: usize = 16;

/// Goes through all headers.
pub(super) fn headers(file: &dyn Stored, each: &mut Headers<'_>) -> Result<()> {
    let mut head = [0; 2 * SLOT];
    file.read_at(&mut head, 0)?;
    if le32(&head, 4)? != 0 {
        return Err(Error::Unknown);
    }
    let pages = u64::from(le32(&head, 12)?);
    if pages == 0 || pages > file.size()? / PAGE {
        return Err(Error::Damaged("it has more slots than bytes"));
    }
    let mut left = Left::of(file.size()?);
    let mut page = vec![0; PAGE as usize];
    for number in 0..pages {
        file.read_at(&mut page, number * PAGE)?;
        let first = if number == 0 { head.len() } else { 0 };
        for slot in page[first..].chunks_exact(SLOT) {
            if !slot.starts_with(SLOT_MAGIC) {
                return Err(Error::Damaged("a slot is none"));
            }
            // A slot of no package is free.
            let (package, block, blocks) = (le32(slot, 4)?, le32(slot, 8)?, le32(slot, 12)?);
            if package != 0 && block != 0 {
                let (at, room) = (u64::from(block) * BLOCK, u64::from(blocks) * BLOCK);
                each(&header(file, package, at, room, &mut left)?)?;
            }
        }
    }
    Ok(())
}

/// A package's header, which has a head of its own before it.
fn header(file: &dyn Stored, package: u32, at: u64, room: u64, left: &mut Left) -> Result<Vec<u8>> {
    let mut head = [0; SLOT];
    file.read_at(&mut head, at)?;
    if !head.starts_with(BLOB_MAGIC) || le32(&head, 4)? != package {
        return Err(Error::Damaged("a slot leads to no header"));
    }
    let size = u64::from(le32(&head, 12)?);
    if size > room || size > MOST_OF_A_HEADER as u64 || at + SLOT as u64 + size > file.size()? {
        return Err(Error::Damaged("a header is longer than its room"));
    }
    left.take(SLOT + size as usize)?;
    let mut header = vec![0; size as usize];
    file.read_at(&mut header, at + SLOT as u64)?;
    Ok(header)
}

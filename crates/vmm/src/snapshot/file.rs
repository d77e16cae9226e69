//! A snapshot's file of everything but the memory: a header of 40 bytes, and what it says in `postcard`'s form.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `STRASNAP` |
//! | 4 | the version of what follows, little-endian: what another one wrote is not read |
//! | 4 | zeros |
//! | 8 | how many bytes follow the header, little-endian |
//! | 16 | their XXH3 of 128 bits, little-endian |

use super::Saved;
use crate::error::{Error, Result};
use crate::processor::Processor;
use std::fs::File;
use std::os::unix::fs::FileExt;
use twox_hash::XxHash3_128;

const MAGIC: [u8; 8] = *b"STRASNAP";
const VERSION: u32 = 3;
/// Before there was a choice of processors: it ends before that.
const WITHOUT_PROCESSOR: u32 = 2;
const HEADER: usize = 40;
/// No machine's is longer: 64 processors have some 10 KiB each.
const MOST: u64 = 64 << 20;

fn header(body: &[u8], version: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    header[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[24..].copy_from_slice(&XxHash3_128::oneshot(body).to_le_bytes());
    header
}

/// Writes it.
pub(super) fn write(saved: &Saved, to: &File) -> Result<()> {
    let failed = "write the state of a snapshot";
    let body = postcard::to_stdvec(saved).map_err(|error| Error::Snapshot(format!("{failed}: {error}")))?;
    to.write_all_at(&header(&body, VERSION), 0).map_err(Error::host(failed))?;
    to.write_all_at(&body, HEADER as u64).map_err(Error::host(failed))
}

/// Reads it, if it is whole.
pub(super) fn read(from: &File) -> Result<Saved> {
    let failed = "read the state of a snapshot";
    let mut found = [0; HEADER];
    match from.read_exact_at(&mut found, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(wrong("it is too short")),
        Err(error) => return Err(Error::host(failed)(error)),
    }
    if found[..8] != MAGIC {
        return Err(wrong("it does not begin as one"));
    }
    let version = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
    if ![WITHOUT_PROCESSOR, VERSION].contains(&version) {
        return Err(wrong(&format!("it is of version {version}, and this reads version {VERSION}: make it again")));
    }
    let length = from.metadata().map_err(Error::host(failed))?.len().saturating_sub(HEADER as u64);
    if length > MOST {
        return Err(wrong("it is longer than any"));
    }
    let mut body = vec![0; length as usize];
    from.read_exact_at(&mut body, HEADER as u64).map_err(Error::host(failed))?;
    if header(&body, version) != found {
        return Err(wrong("it is damaged"));
    }
    if version == WITHOUT_PROCESSOR {
        // All had the host's.
        body.push(Processor::Host as u8);
    }
    postcard::from_bytes(&body).map_err(|error| wrong(&error.to_string()))
}

fn wrong(why: &str) -> Error {
    Error::Snapshot(format!("the state of a snapshot can't be read: {why}"))
}

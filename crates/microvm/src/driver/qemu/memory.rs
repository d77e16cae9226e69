//! The guest's memory, and a snapshot's: files with holes where nothing was written yet.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Copies a machine's memory into an empty file.
pub(super) fn save(memory: &Path, into: &File) -> Result<()> {
    let copied = File::open(memory).and_then(|memory| copy(&memory, into));
    copied.map_err(|source| Error::Copy { what: "the guest's memory", path: memory.to_owned(), source })
}

/// Makes a machine's memory as it was saved.
pub(super) fn go_on(saved: &File, memory: &Path) -> Result<()> {
    let made = File::options().read(true).write(true).create_new(true).open(memory);
    let copied = made.and_then(|memory| copy(saved, &memory));
    copied.map_err(|source| Error::Copy { what: "a snapshot's memory", path: memory.to_owned(), source })
}

/// Copies all but holes (lseek(2), `SEEK_DATA`).
fn copy(mut from: &File, mut to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No more data.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        rustix::fs::seek(from, SeekFrom::Start(start))?;
        rustix::fs::seek(to, SeekFrom::Start(start))?;
        let copied = io::copy(&mut io::Read::take(&mut from, end - start), &mut to)?;
        if copied != end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    Ok(())
}

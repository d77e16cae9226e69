//! Files that exist in memory only, and never change.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};

/// What makes a file's content final (memfd_create(2), fcntl(2)).
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A sealed file with these bytes, which is closed on exec. `name` is what /proc shows.
pub fn sealed(name: &CStr, bytes: &[u8]) -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).ok_or(Errno::IO)?;
    }
    rustix::fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

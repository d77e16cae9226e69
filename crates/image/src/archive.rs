//! Archives of subtrees, out of and into a root file system that its owner may be changing.
//!
//! Paths are the container's: looked up from the root's descriptor as the container itself would see them, whatever
//! links it puts in the way meanwhile. All functions block.

mod entries;
mod read;

pub(crate) use entries::Packer;
pub use entries::attributes;
pub use read::{PathStat, ReadOptions, read_path, read_roots, stat_path, target};

use crate::compression::{Compression, MAGIC};
use crate::tree::TreeSize;
use crate::unpack::{self, Options, Whiteouts};
use crate::{Error, IdRange, PathReason, Result, UnpackLimits, tree};
use rustix::fd::BorrowedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// How an archive is written into a root file system.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Refuses to replace a directory by something else, and something else by a directory.
    pub keep_kinds: bool,
    /// Whose everything becomes; `None` for what the archive says.
    pub owner: Option<(u32, u32)>,
    /// The user namespace that the root file system is of, where that has identifiers of its own: the archive's are of it.
    pub ids: Option<IdRange>,
    /// The most that it may hold.
    pub most: TreeSize,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { keep_kinds: false, owner: None, ids: None, most: TreeSize::ENDLESS }
    }
}

/// Unpacks an archive, in any compression, into the directory at `path`, which must be there.
pub fn write_path(root: BorrowedFd<'_>, path: &Path, archive: impl Read + Send, options: &WriteOptions) -> Result<()> {
    let names = tree::components(path.as_os_str().as_bytes());
    let base = names.map_err(|tree::Escape| at(path, PathReason::NotFound))?.join(&b'/');
    tree::open(root, &base, OFlags::PATH | OFlags::DIRECTORY).map_err(|errno| explain(path, errno))?;
    let TreeSize { bytes, entries } = options.most;
    let limits = UnpackLimits { bytes, entries, ..UnpackLimits::default() };
    let options = Options {
        whiteouts: Whiteouts::Verbatim,
        limits: &limits,
        base: &base,
        below: None,
        owner: options.owner,
        ids: options.ids,
        keep_kinds: options.keep_kinds,
        keep_top: true,
        packed: None,
    };
    let archive = decompressed(archive, "the archive")?;
    unpack::unpack(root, BufReader::with_capacity(crate::pipeline::BUFFER, archive), &options).map(drop)
}

/// Whether a stream begins as a tar archive does, in whatever compression.
pub fn is_archive(stream: impl Read + Send) -> bool {
    let Ok(stream) = decompressed(stream, "a file") else { return false };
    matches!(crate::tar::TarReader::new(BufReader::new(stream)).next_entry(), Ok(Some(_)))
}

/// A stream without its compression, whichever it has.
pub(crate) fn decompressed<'a>(archive: impl Read + Send + 'a, what: &str) -> Result<Box<dyn Read + Send + 'a>> {
    let failed = |e| Error::io(format!("reading {what}"), e);
    let mut first = [0; MAGIC];
    let mut archive = BufReader::with_capacity(crate::pipeline::BUFFER, archive);
    let got = crate::compression::read_full(&mut archive, &mut first).map_err(failed)?;
    let compression = Compression::of(&first[..got]);
    let whole = std::io::Cursor::new(first[..got].to_vec()).chain(archive);
    if compression == Compression::None {
        return Ok(Box::new(whole));
    }
    let mut whole = BufReader::with_capacity(crate::pipeline::BUFFER, whole);
    whole.fill_buf().map_err(failed)?;
    compression.decoder(whole).map_err(failed)
}

fn at(path: &Path, reason: PathReason) -> Error {
    Error::Path { path: path.to_owned(), reason }
}

fn explain(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::NOENT => at(path, PathReason::NotFound),
        Errno::NOTDIR => at(path, PathReason::NotADirectory),
        Errno::LOOP => at(path, PathReason::SymlinkLoop),
        other => Error::io(format!("looking up {}", path.display()), other),
    }
}

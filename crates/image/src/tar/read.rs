//! Reading an archive, entry by entry.

use super::header::{Format, Header, at};
use super::sparse;
use super::{BLOCK, Entry, Kind, Time, padding, pax};
use crate::{Error, Result};
use std::io::BufRead;

/// The most bytes of an extension header (long names, pax records): 1 MiB, as Go's reader has it.
const MAX_EXTENSION: u64 = 1 << 20;

/// Reads an archive from a stream. Contents that are not asked for are skipped.
pub struct TarReader<R> {
    input: R,
    /// Bytes taken from the stream.
    offset: u64,
    /// Bytes of the present entry's contents that were not taken yet.
    data: u64,
    /// Bytes after the contents, up to a whole block.
    padding: u64,
}

/// What a header in front of an entry's own said.
#[derive(Default)]
struct Extensions {
    pax: Option<pax::Records>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> TarReader<R> {
        TarReader { input, offset: 0, data: 0, padding: 0 }
    }

    /// The next entry; `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip(self.data)?;
        self.data = 0;
        self.skip_padding()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else {
                if extensions.pax.is_some() || extensions.path.is_some() || extensions.link.is_some() {
                    return Err(self.malformed("it ends after an extension header"));
                }
                return Ok(None);
            };
            match header.0[at::TYPE] {
                b'x' | b'X' => {
                    let bytes = self.extension(&header)?;
                    extensions.pax = Some(pax::parse(&bytes).map_err(|reason| self.malformed(reason))?);
                }
                b'L' => extensions.path = Some(c_string(self.extension(&header)?)),
                b'K' => extensions.link = Some(c_string(self.extension(&header)?)),
                // Global headers and volume labels say nothing about files that anybody relies on.
                b'g' | b'V' => drop(self.extension(&header)?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The next bytes of the present entry's stored contents, as many as are at hand; empty at their end.
    /// [`TarReader::consume`] takes them.
    pub fn fill(&mut self) -> Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let bytes = self.input.fill_buf().map_err(|e| Error::io("reading a tar archive", e))?;
        if bytes.is_empty() {
            return Err(Error::MalformedTar { offset, reason: "it ends in the middle of a file".into() });
        }
        Ok(&bytes[..usize::try_from(self.data).unwrap_or(usize::MAX).min(bytes.len())])
    }

    /// Takes bytes that [`TarReader::fill`] gave.
    pub fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes as u64 <= self.data);
        self.input.consume(bytes);
        self.offset += bytes as u64;
        self.data -= bytes as u64;
    }

    /// All the stored contents of the present entry, if they are no more than `limit` bytes.
    pub fn contents(&mut self, limit: u64) -> Result<Vec<u8>> {
        if self.data > limit {
            return Err(self.malformed(format!("a document has {} bytes, and at most {limit} are taken", self.data)));
        }
        let mut all = Vec::with_capacity(usize::try_from(self.data).unwrap_or(0));
        while self.data > 0 {
            let taken = {
                let bytes = self.fill()?;
                all.extend_from_slice(bytes);
                bytes.len()
            };
            self.consume(taken);
        }
        Ok(all)
    }

    /// Bytes of the stream that were taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream, behind the last thing read.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::MalformedTar { offset: self.offset, reason: reason.into() }
    }

    /// The next header; `None` at the archive's end: two blocks of zeros, or the stream's end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut zeros = 0;
        loop {
            let mut block = [0; BLOCK as usize];
            let got = self.read(&mut block)?;
            if got == 0 {
                return Ok(None);
            }
            if got < block.len() {
                return Err(self.malformed("it ends in the middle of a header"));
            }
            if block.iter().all(|b| *b == 0) {
                zeros += 1;
                if zeros == 2 {
                    return Ok(None);
                }
                continue;
            }
            let header = Header(block);
            if zeros > 0 || !header.checksum_fits() {
                return Err(self.malformed("this is no tar header"));
            }
            return Ok(Some(header));
        }
    }

    /// The contents of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.length(at::SIZE).ok_or_else(|| self.malformed("a size is no number"))?;
        if size > MAX_EXTENSION {
            return Err(
                self.malformed(format!("an extension header has {size} bytes: at most {MAX_EXTENSION} are taken"))
            );
        }
        (self.data, self.padding) = (size, padding(size));
        let bytes = self.contents(MAX_EXTENSION)?;
        self.skip(self.padding)?;
        self.padding = 0;
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry> {
        let pax = extensions.pax.unwrap_or_default();
        let header_path = header_path(header);
        let path = pax.sparse.name.clone().or(pax.path).or(extensions.path).unwrap_or(header_path);
        if path.is_empty() {
            return Err(self.malformed("an entry has no name"));
        }
        let hostile = |reason: &str| Error::HostileEntry {
            entry: String::from_utf8_lossy(&path).into_owned(),
            reason: reason.into(),
        };
        let link = pax.link.or(extensions.link).unwrap_or_else(|| header.text(at::LINK).to_vec());
        let kind = kind(header, &path)
            .ok_or_else(|| hostile(&format!("its type {:?} is not known", char::from(header.0[at::TYPE]))))?;
        let owner = |claimed: Option<u64>, field| {
            let id = claimed.or_else(|| header.length(field));
            id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX)
        };
        let uid = owner(pax.uid, at::UID).ok_or_else(|| hostile("its owner is out of range"))?;
        let gid = owner(pax.gid, at::GID).ok_or_else(|| hostile("its group is out of range"))?;
        let mode = header.number(at::MODE).ok_or_else(|| hostile("its mode is no number"))? & 0o7777;
        let seconds = header.number(at::MTIME).ok_or_else(|| hostile("its time is no number"))?;
        let stored = pax.size.or_else(|| header.length(at::SIZE)).ok_or_else(|| hostile("its size is no number"))?;
        let mut entry = Entry {
            path,
            link: if matches!(kind, Kind::HardLink | Kind::Symlink) { link } else { Vec::new() },
            kind,
            mode: mode as u32,
            uid,
            gid,
            mtime: pax.mtime.unwrap_or(Time { seconds, nanoseconds: 0 }),
            size: 0,
            extents: None,
            xattrs: pax.xattrs,
        };
        // Only files have contents, whatever a header claims.
        if entry.kind == Kind::File {
            if stored > i64::MAX as u64 {
                return Err(self.malformed(format!("{} claims {stored} bytes", entry.name())));
            }
            (self.data, self.padding) = (stored, padding(stored));
            entry.size = stored;
            self.sparse(header, pax.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    /// Finds the map of a sparse file, in whichever of the four places it is.
    fn sparse(&mut self, header: &Header, sparse: pax::Sparse, entry: &mut Entry) -> Result<()> {
        let mut stored = self.data;
        let (extents, real_size) = if header.0[at::TYPE] == b'S' {
            let (mut extents, mut more) =
                sparse::of_header(header).ok_or_else(|| self.malformed("the map of a sparse file is malformed"))?;
            while more {
                let mut block = [0; BLOCK as usize];
                if self.read(&mut block)? < block.len() {
                    return Err(self.malformed("it ends in the map of a sparse file"));
                }
                sparse::gnu_extents(&block[..504], &mut extents)
                    .ok_or_else(|| self.malformed("the map of a sparse file is malformed"))?;
                more = block[504] != 0;
            }
            let real_size = header.length(at::GNU_REAL_SIZE);
            (extents, real_size.ok_or_else(|| self.malformed("the size of a sparse file is no number"))?)
        } else if sparse.major == Some(1) {
            let (extents, taken) =
                sparse::map_in_data(|| self.data_byte().map_err(SparseError::Read)).map_err(|e| match e {
                    SparseError::Read(error) => error,
                    SparseError::Map(reason) => Error::MalformedTar { offset: self.offset, reason },
                })?;
            stored -= taken;
            (extents, sparse.real_size.ok_or_else(|| self.malformed("a sparse file has no size"))?)
        } else if sparse.has_map {
            (sparse.extents, sparse.real_size.ok_or_else(|| self.malformed("a sparse file has no size"))?)
        } else {
            return Ok(());
        };
        sparse::check(&extents, real_size, stored)
            .map_err(|reason| Error::HostileEntry { entry: entry.name(), reason })?;
        entry.size = real_size;
        entry.extents = Some(extents);
        Ok(())
    }

    fn data_byte(&mut self) -> Result<u8> {
        let byte = self.fill()?.first().copied();
        let byte = byte.ok_or_else(|| self.malformed("a file ends in the map of its extents"))?;
        self.consume(1);
        Ok(byte)
    }

    /// Fills `into` as far as the stream goes.
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut got = 0;
        while got < into.len() {
            let bytes = self.input.fill_buf().map_err(|e| Error::io("reading a tar archive", e))?;
            if bytes.is_empty() {
                break;
            }
            let taken = bytes.len().min(into.len() - got);
            into[got..got + taken].copy_from_slice(&bytes[..taken]);
            self.input.consume(taken);
            got += taken;
        }
        self.offset += got as u64;
        Ok(got)
    }

    /// Some end an archive with its last file, and fill up no block: the docker client with a Dockerfile of its own.
    fn skip_padding(&mut self) -> Result<()> {
        let padding = std::mem::take(&mut self.padding);
        match self.input.fill_buf().map_err(|e| Error::io("reading a tar archive", e))? {
            [] => Ok(()),
            _ => self.skip(padding),
        }
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let at_hand = self.input.fill_buf().map_err(|e| Error::io("reading a tar archive", e))?.len();
            if at_hand == 0 {
                return Err(self.malformed("it ends in the middle of a file"));
            }
            let taken = usize::try_from(bytes).unwrap_or(usize::MAX).min(at_hand);
            self.input.consume(taken);
            self.offset += taken as u64;
            bytes -= taken as u64;
        }
        Ok(())
    }
}

/// Why a map in front of the data could not be read.
enum SparseError {
    Read(Error),
    Map(String),
}

impl From<String> for SparseError {
    fn from(reason: String) -> SparseError {
        SparseError::Map(reason)
    }
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn header_path(header: &Header) -> Vec<u8> {
    let name = header.text(at::NAME);
    let prefix = if header.format() == Format::Ustar { header.text(at::PREFIX) } else { &[] };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn kind(header: &Header, path: &[u8]) -> Option<Kind> {
    let device = || {
        let number = |field| header.length(field).and_then(|n| u32::try_from(n).ok());
        Some((number(at::MAJOR)?, number(at::MINOR)?))
    };
    Some(match header.0[at::TYPE] {
        // Before ustar, a directory was a file whose name ends in a slash.
        b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
        b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return None,
    })
}

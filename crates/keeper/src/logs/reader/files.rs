//! The files of one log: which there are, and where in them to begin.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::decode::{Decoded, Format};
use super::{CHUNK, ReadError};
use crate::logs::compress::Origin;
use crate::logs::rotate::rotated_path;
use crate::protocol::UnixNanos;

/// What is compared to know a compressed copy from its original, if numbers and times are equal: longer than any entry, so that it
/// contains a time, which no two files have at the same place.
const BEGINNING: u64 = 256 << 10;

/// An open file of a log.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) modified: UnixNanos,
    /// Entries to be left out before the first one that is wanted.
    pub(super) skip: u64,
    device: u64,
    inode: u64,
    content: Content,
}

enum Content {
    Plain(Positioned),
    Compressed { decoder: Box<MultiGzDecoder<Positioned>>, origin: Option<Origin> },
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Plain(file) => write!(f, "Plain(at {})", file.offset),
            Content::Compressed { origin, .. } => write!(f, "Compressed({origin:?})"),
        }
    }
}

/// A file that is read at a place of its reader's own.
struct Positioned {
    file: File,
    offset: u64,
}

impl Positioned {
    fn at_beginning(file: &File) -> io::Result<Positioned> {
        Ok(Positioned { file: file.try_clone()?, offset: 0 })
    }
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Source {
    fn open(path: &Path, compressed: bool) -> Result<Option<Source>, ReadError> {
        let file = match File::open(path) {
            Ok(file) => Positioned { file, offset: 0 },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ReadError::file("open", path)(error)),
        };
        let metadata = file.file.metadata().map_err(ReadError::file("look at", path))?;
        let content = if compressed {
            let decoder = Box::new(MultiGzDecoder::new(file));
            let origin = decoder.header().and_then(Origin::read);
            Content::Compressed { decoder, origin }
        } else {
            Content::Plain(file)
        };
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(Some(Source { modified: modified(&metadata), skip: 0, device, inode, content }))
    }

    /// Appends up to `length` bytes. 0: there are no more for now.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>, length: usize) -> io::Result<usize> {
        let from = buffer.len();
        buffer.resize(from + length, 0);
        let read = loop {
            let result = match &mut self.content {
                Content::Plain(file) => file.read(&mut buffer[from..]),
                Content::Compressed { decoder, .. } => decoder.read(&mut buffer[from..]),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        buffer.truncate(from + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Whether two are the same file, or one is the compressed copy of the other.
    pub(super) fn is_same(&self, other: &Source) -> bool {
        match (&self.content, &other.content) {
            (Content::Plain(plain), Content::Compressed { decoder, origin: Some(origin) })
            | (Content::Compressed { decoder, origin: Some(origin) }, Content::Plain(plain)) => {
                plain.file.metadata().is_ok_and(|metadata| {
                    let copy = &decoder.get_ref().file;
                    let same_time = copy.metadata().is_ok_and(|copy| modified(&copy) == modified(&metadata));
                    Origin::of(&metadata) == *origin && same_time && begin_alike(&plain.file, copy).unwrap_or(false)
                })
            }
            _ => (self.device, self.inode) == (other.device, other.inode),
        }
    }

    /// Whether the file is shorter by now than what was read of it: it was started anew.
    pub(super) fn was_cut(&self) -> bool {
        match &self.content {
            Content::Plain(file) => file.file.metadata().is_ok_and(|metadata| metadata.len() < file.offset),
            Content::Compressed { .. } => false,
        }
    }

    /// When the file was changed last.
    pub(super) fn modified_now(&self) -> UnixNanos {
        match &self.content {
            Content::Plain(file) => file.file.metadata().map_or(self.modified, |metadata| modified(&metadata)),
            Content::Compressed { .. } => self.modified,
        }
    }

    /// Begins at the beginning.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        match &mut self.content {
            Content::Plain(file) => file.offset = 0,
            Content::Compressed { decoder, .. } => {
                **decoder = MultiGzDecoder::new(Positioned::at_beginning(&decoder.get_ref().file)?);
            }
        }
        Ok(())
    }

    /// Whether this is still the file that is being written.
    pub(super) fn is_current(&self, path: &Path) -> Result<bool, ReadError> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok((self.device, self.inode) == (metadata.dev(), metadata.ino())),
            // Between two steps of a rotation, or removed: nothing follows yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(ReadError::file("look at", path)(error)),
        }
    }
}

fn begin_alike(plain: &File, copy: &File) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    Positioned::at_beginning(plain)?.take(BEGINNING).read_to_end(&mut left)?;
    MultiGzDecoder::new(Positioned::at_beginning(copy)?).take(BEGINNING).read_to_end(&mut right)?;
    Ok(left == right)
}

fn modified(metadata: &Metadata) -> UnixNanos {
    UnixNanos(metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()))
}

/// Opens all files of a log, oldest first, while they may be rotated.
///
/// They are opened newest first, and no gap in their numbers ends the search: a rotation moves files to higher numbers only, the oldest
/// ones first, so that none is missed. One that was moved past this search is met twice; what was found between its two meetings is
/// newer, or will be met again too.
pub(super) fn open_all(path: &Path, max_files: u32) -> Result<VecDeque<Source>, ReadError> {
    let mut newest_first: Vec<Source> = Source::open(path, false)?.into_iter().collect();
    for number in 1..max_files {
        let source = match Source::open(&rotated_path(path, number, false), false)? {
            Some(source) => Some(source),
            None => Source::open(&rotated_path(path, number, true), true)?,
        };
        let Some(source) = source else { continue };
        match newest_first.iter().position(|known| known.is_same(&source)) {
            Some(at) => newest_first.truncate(at + 1),
            None => newest_first.push(source),
        }
    }
    Ok(newest_first.into_iter().rev().collect())
}

/// Leaves out everything before the last `count` entries.
pub(super) fn seek_tail(sources: &mut VecDeque<Source>, format: Format, count: u64) -> Result<(), ReadError> {
    let mut missing = count;
    let mut wanted = sources.len();
    while wanted > 0 && (missing > 0 || wanted == sources.len()) {
        let source = &mut sources[wanted - 1];
        let found = seek_last(source, format, missing).map_err(ReadError::file("read", "of a rotated set"))?;
        missing -= found;
        wanted -= 1;
    }
    sources.drain(..wanted);
    Ok(())
}

/// Moves to the last `count` entries of a file, and tells how many there are of those.
fn seek_last(source: &mut Source, format: Format, count: u64) -> io::Result<u64> {
    if let Content::Plain(file) = &mut source.content {
        let end = file.file.metadata()?.len();
        let found = match format {
            Format::JsonFile => last_lines(&file.file, end, count)?,
            Format::Local => last_frames(&file.file, end, count)?,
        };
        if let Some((found, start)) = found {
            file.offset = start;
            return Ok(found);
        }
    }
    let total = count_entries(source, format)?;
    source.rewind()?;
    source.skip = total.saturating_sub(count);
    Ok(total.min(count))
}

/// Lines are counted by their ends, from the end of the file: how many of those wanted there are, and where they begin.
fn last_lines(file: &File, end: u64, count: u64) -> io::Result<Option<(u64, u64)>> {
    let mut chunk = vec![0; CHUNK];
    let mut newlines = 0;
    let mut to = end;
    while to > 0 {
        let from = to.saturating_sub(CHUNK as u64);
        let piece = &mut chunk[..(to - from) as usize];
        file.read_exact_at(piece, from)?;
        for (at, byte) in piece.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            if newlines == count {
                return Ok(Some((count, from + at as u64 + 1)));
            }
            newlines += 1;
        }
        to = from;
    }
    Ok(Some((newlines.min(count), 0)))
}

/// Frames have their length at their end too. `None`: the file does not end with a whole one.
fn last_frames(file: &File, end: u64, count: u64) -> io::Result<Option<(u64, u64)>> {
    let mut at = end;
    for found in 0..count {
        if at == 0 {
            return Ok(Some((found, 0)));
        }
        let mut length = [0; 4];
        let Some(tail) = at.checked_sub(4) else { return Ok(None) };
        file.read_exact_at(&mut length, tail)?;
        let Some(start) = tail.checked_sub(u64::from(u32::from_be_bytes(length)) + 4) else { return Ok(None) };
        let mut copy = [0; 4];
        file.read_exact_at(&mut copy, start)?;
        if copy != length {
            return Ok(None);
        }
        at = start;
    }
    Ok(Some((count, at)))
}

fn count_entries(source: &mut Source, format: Format) -> io::Result<u64> {
    source.rewind()?;
    let mut buffer = Vec::new();
    let mut total = 0;
    while source.read(&mut buffer, CHUNK)? > 0 {
        let mut decoded = 0;
        while let Decoded::Entry(_, length) | Decoded::Damaged(length) = format.decode(&buffer[decoded..]) {
            decoded += length;
            total += 1;
        }
        buffer.drain(..decoded);
    }
    Ok(total)
}

//! Writing an archive: ustar, with pax records where a header has no room. The same entries make the same bytes.

use super::header::{Header, at};
use super::{BLOCK, Entry, Kind, padding, pax};
use std::io::{self, Read, Write};

/// Writes an archive to a stream.
pub struct TarWriter<W> {
    output: W,
    /// What was read of a file; as long as it is to be once there was one.
    buffer: Vec<u8>,
}

/// Bytes of a file that are read at a time: most files are read at once.
const PIECE: usize = 64 << 10;

impl<W: Write> TarWriter<W> {
    /// Writes to `output`, in small pieces: give it one that buffers.
    pub fn new(output: W) -> TarWriter<W> {
        TarWriter { output, buffer: Vec::new() }
    }

    /// Where it writes to; nothing of an entry waits in between.
    pub(crate) fn output(&mut self) -> &mut W {
        &mut self.output
    }

    /// An entry without contents.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        self.append_file(entry, &mut io::empty())
    }

    /// An entry with contents: exactly `entry.size` bytes of `contents`, if it is a file. A file that got shorter
    /// meanwhile is filled up with zeros, a longer one is cut: its size was promised in the header.
    pub fn append_file(&mut self, entry: &Entry, contents: &mut dyn Read) -> io::Result<()> {
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        self.header(entry, size)?;
        let mut left = size;
        if size > 0 {
            self.buffer.resize(PIECE, 0);
        }
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            match contents.read(&mut self.buffer[..most]) {
                Ok(0) => break,
                Ok(read) => {
                    self.output.write_all(&self.buffer[..read])?;
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.zeros(left + padding(size))
    }

    /// Ends the archive, and gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK)?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn zeros(&mut self, mut bytes: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while bytes > 0 {
            let piece = bytes.min(ZEROS.len() as u64);
            self.output.write_all(&ZEROS[..piece as usize])?;
            bytes -= piece;
        }
        Ok(())
    }

    fn header(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        let mut records = Vec::new();
        let mut header = Header([0; BLOCK as usize]);
        header.0[at::MAGIC].copy_from_slice(b"ustar\x0000");
        match split_path(&entry.path) {
            Some((prefix, name)) => {
                put_text(&mut header, at::PREFIX, prefix);
                put_text(&mut header, at::NAME, name);
            }
            None => {
                put_text(&mut header, at::NAME, &entry.path[..at::NAME.len()]);
                pax::write(&mut records, b"path", &entry.path);
            }
        }
        if entry.link.len() > at::LINK.len() {
            pax::write(&mut records, b"linkpath", &entry.link);
        }
        put_text(&mut header, at::LINK, &entry.link[..entry.link.len().min(at::LINK.len())]);
        put_octal(&mut header, at::MODE, u64::from(entry.mode));
        for (key, field, id) in [("uid", at::UID, entry.uid), ("gid", at::GID, entry.gid)] {
            if !put_octal(&mut header, field, u64::from(id)) {
                pax::write(&mut records, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if !put_octal(&mut header, at::SIZE, size) {
            pax::write(&mut records, b"size", size.to_string().as_bytes());
        }
        // Whole seconds only, as Docker writes them: a record for each file's nanoseconds would add a kilobyte to it.
        let seconds = entry.mtime.seconds;
        if !u64::try_from(seconds).is_ok_and(|seconds| put_octal(&mut header, at::MTIME, seconds)) {
            put_octal(&mut header, at::MTIME, 0);
            pax::write(&mut records, b"mtime", seconds.to_string().as_bytes());
        }
        let (kind, device) = match entry.kind {
            Kind::File => (b'0', None),
            Kind::HardLink => (b'1', None),
            Kind::Symlink => (b'2', None),
            Kind::CharDevice { major, minor } => (b'3', Some((major, minor))),
            Kind::BlockDevice { major, minor } => (b'4', Some((major, minor))),
            Kind::Directory => (b'5', None),
            Kind::Fifo => (b'6', None),
        };
        header.0[at::TYPE] = kind;
        let (major, minor) = device.unwrap_or_default();
        if !put_octal(&mut header, at::MAJOR, u64::from(major)) || !put_octal(&mut header, at::MINOR, u64::from(minor))
        {
            return Err(io::Error::other(format!("{}: device numbers do not fit into a tar header", entry.name())));
        }
        for (name, value) in &entry.xattrs {
            pax::write(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            let mut extension = Header([0; BLOCK as usize]);
            extension.0[at::MAGIC].copy_from_slice(b"ustar\x0000");
            put_text(&mut extension, at::NAME, b"././@PaxHeader");
            put_octal(&mut extension, at::MODE, 0o644);
            put_octal(&mut extension, at::SIZE, records.len() as u64);
            for field in [at::UID, at::GID, at::MTIME, at::MAJOR, at::MINOR] {
                put_octal(&mut extension, field, 0);
            }
            extension.0[at::TYPE] = b'x';
            self.output.write_all(&sealed(extension).0)?;
            self.output.write_all(&records)?;
            self.zeros(padding(records.len() as u64))?;
        }
        self.output.write_all(&sealed(header).0)
    }
}

/// Prefix and name, if the path fits into the two.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= at::NAME.len() {
        return Some((&[], path));
    }
    if path.len() > at::NAME.len() + at::PREFIX.len() + 1 {
        return None;
    }
    // The last slash that leaves room for the prefix; a slash at the end belongs to the name.
    let slash =
        path[..path.len() - 1].iter().take(at::PREFIX.len() + 1).rposition(|b| *b == b'/').filter(|at| *at > 0)?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (name.len() <= at::NAME.len()).then_some((prefix, name))
}

fn put_text(header: &mut Header, field: std::ops::Range<usize>, text: &[u8]) {
    header.0[field][..text.len()].copy_from_slice(text);
}

/// Octal digits and a NUL; `false`, and nothing, where there is no room.
fn put_octal(header: &mut Header, field: std::ops::Range<usize>, number: u64) -> bool {
    let width = field.len() - 1;
    let digits = format!("{number:0width$o}");
    let fits = digits.len() == width;
    if fits {
        header.0[field][..width].copy_from_slice(digits.as_bytes());
    }
    fits
}

fn sealed(mut header: Header) -> Header {
    header.0[at::CHECKSUM].fill(b' ');
    let sum: u64 = header.0.iter().map(|b| u64::from(*b)).sum();
    let digits = format!("{sum:06o}\0 ");
    header.0[at::CHECKSUM].copy_from_slice(digits.as_bytes());
    header
}

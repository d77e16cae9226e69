//! An archive whose entries get another first name.

use std::io::{self, BufReader, BufWriter, Read, Write};

use image::tar::{Extent, Kind, TarReader, TarWriter};

use super::super::error::{Error, Result};

/// Bytes that are read and written at once.
const BUFFER: usize = 256 << 10;

/// The first name of each entry, before and after; `None` where there is none.
pub(super) struct Names {
    pub(super) from: Option<Vec<u8>>,
    pub(super) to: Option<Vec<u8>>,
}

impl Names {
    /// An entry's path under its new name; `None` for one that is not below the old one.
    fn apply(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        if let Some(from) = &self.from {
            (parts.next()? == from.as_slice()).then_some(())?;
        }
        let parts: Vec<&[u8]> = self.to.as_deref().into_iter().chain(parts).collect();
        // The directory itself, where only its contents are wanted.
        Some(if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') })
    }
}

/// Copies an archive with its entries renamed.
pub(super) fn rename(from: impl Read, to: impl Write, names: &Names) -> Result<()> {
    let mut reader = TarReader::new(BufReader::with_capacity(BUFFER, from));
    let mut writer = TarWriter::new(BufWriter::with_capacity(BUFFER, to));
    let failed = || Error::io("unpacking the archive");
    while let Some(mut entry) = reader.next_entry()? {
        let astray = || Error::Answer("its archive holds something else than what was asked for".into());
        entry.path = names.apply(&entry.path).ok_or_else(astray)?;
        if entry.kind == Kind::HardLink {
            entry.link = names.apply(&entry.link).ok_or_else(astray)?;
        }
        if entry.kind != Kind::File {
            writer.append(&entry).map_err(failed())?;
            continue;
        }
        let mut contents = Contents { reader: &mut reader, extents: entry.extents.take(), at: 0, size: entry.size };
        writer.append_file(&entry, &mut contents).map_err(failed())?;
    }
    writer.finish().and_then(|mut output| output.flush()).map_err(failed())
}

/// A file's contents, with its holes filled.
struct Contents<'r, R> {
    reader: &'r mut TarReader<R>,
    /// The parts that are stored, where that is not all.
    extents: Option<Vec<Extent>>,
    at: u64,
    size: u64,
}

impl<R: io::BufRead> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = |left: u64, buffer: &[u8]| usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let mut stored = self.size - self.at;
        if let Some(extents) = &self.extents {
            let here = extents.iter().find(|extent| extent.offset + extent.length > self.at);
            let hole = here.map_or(self.size, |extent| extent.offset.max(self.at)) - self.at;
            if hole > 0 {
                let count = most(hole, buffer);
                buffer[..count].fill(0);
                self.at += count as u64;
                return Ok(count);
            }
            stored = here.map_or(0, |extent| extent.offset + extent.length - self.at);
        }
        let piece = self.reader.fill().map_err(io::Error::other)?;
        let count = most(stored, buffer).min(piece.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        self.reader.consume(count);
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use image::tar::Entry;

    use super::*;

    #[test]
    fn entries_get_another_first_name() {
        let mut writer = TarWriter::new(Vec::new());
        writer.append(&Entry::new("d/", Kind::Directory, 0o755)).expect("written");
        let mut file = Entry::new("d/f", Kind::File, 0o644);
        file.size = 5;
        writer.append_file(&file, &mut &b"hello"[..]).expect("written");
        let mut link = Entry::new("d/g", Kind::HardLink, 0o644);
        link.link = b"d/f".to_vec();
        writer.append(&link).expect("written");
        let archive = writer.finish().expect("written");

        let mut renamed = Vec::new();
        let names = Names { from: Some(b"d".to_vec()), to: Some(b"n".to_vec()) };
        rename(&archive[..], &mut renamed, &names).expect("renamed");
        let mut reader = TarReader::new(&renamed[..]);
        let mut seen = Vec::new();
        while let Some(entry) = reader.next_entry().expect("an archive") {
            let contents = reader.contents(100).expect("contents");
            seen.push((entry.name(), String::from_utf8_lossy(&entry.link).into_owned(), contents));
        }
        let name = |text: &str| text.to_owned();
        assert_eq!(seen[1], (name("n/f"), name(""), b"hello".to_vec()));
        assert_eq!(seen[2], (name("n/g"), name("n/f"), Vec::new()));
        assert_eq!(seen[0].0.trim_end_matches('/'), "n");
    }

    #[test]
    fn what_is_elsewhere_is_refused() {
        let names = Names { from: Some(b"d".to_vec()), to: None };
        assert_eq!(names.apply(b"d/a/b"), Some(b"a/b".to_vec()));
        assert_eq!(names.apply(b"./d"), Some(b".".to_vec()));
        assert_eq!(names.apply(b"etc/passwd"), None);
    }
}

//! How a context is told: all that is in a directory, then which contents are wanted, then those.
//!
//! ```text
//! client   entries, each behind its length in two bytes; a length of 0 ends them
//! daemon   places of those that are wanted, four bytes each, ascending; the last is no place (all ones)
//! client   for each of them: its contents in pieces, and a verdict behind its length
//! ```
//! Numbers of a fixed size are little-endian. An entry's path says how much of it is as in the one before.

use build::{Listed, Verdict, What};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

use crate::wire::{PieceReader, refused};

/// What ends the list of those that are wanted.
const END: u32 = u32::MAX;

/// An entry as it is written.
#[derive(Serialize, Deserialize)]
struct Entry<'e> {
    /// Bytes of the path that are those of the former one.
    shared: u16,
    #[serde(borrow)]
    rest: &'e [u8],
    mode: u16,
    what: What,
}

/// A verdict as it is written.
#[derive(Serialize, Deserialize)]
enum Ended<'e> {
    Same(#[serde(borrow)] &'e [u8], bool),
    Changed,
    Gone,
}

/// Writes entries one after the other.
pub(crate) struct EntryWriter<W> {
    to: W,
    before: Vec<u8>,
}

impl<W: Write> EntryWriter<W> {
    pub(crate) fn new(to: W) -> EntryWriter<W> {
        EntryWriter { to, before: Vec::new() }
    }

    pub(crate) fn write(&mut self, entry: &Listed) -> io::Result<()> {
        let shared = entry.path.iter().zip(&self.before).take_while(|(a, b)| a == b).count();
        let shared = u16::try_from(shared).unwrap_or(u16::MAX);
        let mode = u16::try_from(entry.mode & 0o7777).map_err(refused)?;
        let written = Entry { shared, rest: &entry.path[usize::from(shared)..], mode, what: entry.what.clone() };
        put(&mut self.to, &written)?;
        self.before.clone_from(&entry.path);
        Ok(())
    }

    /// That was all.
    pub(crate) fn end(mut self) -> io::Result<W> {
        self.to.write_all(&0_u16.to_le_bytes())?;
        Ok(self.to)
    }
}

/// Reads entries to their end.
pub(crate) fn read_entries(from: &mut impl Read, mut each: impl FnMut(Listed) -> io::Result<()>) -> io::Result<()> {
    let (mut before, mut buffer) = (Vec::new(), Vec::new());
    while let Some(entry) = get::<Entry<'_>>(from, &mut buffer)? {
        let kept =
            before.get(..usize::from(entry.shared)).ok_or_else(|| refused("a path shares more than there is"))?;
        let path = [kept, entry.rest].concat();
        before.clone_from(&path);
        each(Listed { path, mode: u32::from(entry.mode), what: entry.what })?;
    }
    Ok(())
}

/// Writes which contents are wanted.
pub(crate) fn write_wanted(to: &mut impl Write, wanted: &[u32]) -> io::Result<()> {
    for place in wanted.iter().chain([&END]) {
        to.write_all(&place.to_le_bytes())?;
    }
    to.flush()
}

/// Reads the next one that is wanted; `None`: there is none any more.
pub(crate) fn read_wanted(from: &mut impl Read) -> io::Result<Option<u32>> {
    let mut place = [0; 4];
    from.read_exact(&mut place)?;
    Ok(Some(u32::from_le_bytes(place)).filter(|place| *place != END))
}

/// Writes what became of a file, behind its contents.
pub(crate) fn write_verdict(to: &mut impl Write, verdict: &Verdict) -> io::Result<()> {
    let ended = match verdict {
        Verdict::Same { capabilities, settled } => Ended::Same(capabilities, *settled),
        Verdict::Changed => Ended::Changed,
        Verdict::Gone => Ended::Gone,
    };
    put(to, &ended)
}

/// Reads a file's contents into something, and what became of it.
pub(crate) fn read_file<R: Read>(from: R, into: &mut impl Write) -> io::Result<Verdict> {
    let mut pieces = PieceReader::new(from);
    io::copy(&mut pieces, into)?;
    let mut from = pieces.into_inner();
    let mut buffer = Vec::new();
    match get::<Ended<'_>>(&mut from, &mut buffer)? {
        Some(Ended::Same(capabilities, settled)) => Ok(Verdict::Same { capabilities: capabilities.to_vec(), settled }),
        Some(Ended::Changed) => Ok(Verdict::Changed),
        Some(Ended::Gone) => Ok(Verdict::Gone),
        None => Err(refused("a file without a word on what became of it")),
    }
}

fn put(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(what).map_err(refused)?;
    let length = u16::try_from(bytes.len()).map_err(refused)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)
}

fn get<'b, T: Deserialize<'b>>(from: &mut impl Read, buffer: &'b mut Vec<u8>) -> io::Result<Option<T>> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length == 0 {
        return Ok(None);
    }
    buffer.resize(length, 0);
    from.read_exact(buffer)?;
    match postcard::take_from_bytes(buffer) {
        Ok((what, [])) => Ok(Some(what)),
        Ok(_) => Err(refused("more bytes than were meant")),
        Err(error) => Err(refused(error)),
    }
}

/// What a stranger can send as a list of files and their contents.
pub(crate) fn fuzz(data: &[u8]) {
    let mut from = data;
    let mut list = build::List::default();
    let read = read_entries(&mut from, |entry| list.push(entry).map_err(refused));
    for entry in list.entries() {
        assert!(image::tree::components(&entry.path).is_ok_and(|names| names.join(&b'/') == entry.path), "{entry:?}");
    }
    while read.is_ok() && !from.is_empty() {
        let mut kept = Vec::new();
        if read_file(&mut from, &mut kept).is_err() {
            break;
        }
        assert!(kept.len() <= data.len(), "more came than was sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use build::Stamp;
    use proptest::prelude::*;

    fn what() -> impl Strategy<Value = What> {
        let stamp = (any::<u64>(), any::<(i64, u32)>(), any::<(i64, u32)>(), any::<u64>(), any::<u64>());
        let stamp = stamp.prop_map(|(size, modified, changed, inode, device)| {
            What::File(Stamp { size, modified, changed, inode, device })
        });
        let link = proptest::collection::vec(any::<u8>(), 0..40).prop_map(What::Link);
        let device = any::<(bool, u64)>().prop_map(|(block, device)| What::Device { block, device });
        prop_oneof![stamp, Just(What::Directory), link, Just(What::Pipe), device]
    }

    fn entry() -> impl Strategy<Value = Listed> {
        let path = proptest::collection::vec(any::<u8>(), 0..40);
        (path, 0_u32..0o10000, what()).prop_map(|(path, mode, what)| Listed { path, mode, what })
    }

    proptest! {
        #[test]
        fn entries_come_as_they_went(entries in proptest::collection::vec(entry(), 0..20)) {
            let mut writer = EntryWriter::new(Vec::new());
            entries.iter().for_each(|entry| writer.write(entry).expect("memory"));
            let bytes = writer.end().expect("memory");
            let mut came = Vec::new();
            let mut from = &bytes[..];
            read_entries(&mut from, |entry| { came.push(entry); Ok(()) }).expect("entries");
            prop_assert_eq!(came, entries);
            prop_assert!(from.is_empty());
        }

        #[test]
        fn files_come_as_they_went(contents in proptest::collection::vec(any::<u8>(), 0..200_000), capabilities in proptest::collection::vec(any::<u8>(), 0..30), settled: bool) {
            let mut pieces = crate::wire::PieceWriter::new(Vec::new());
            pieces.write_all(&contents).expect("memory");
            let mut bytes = pieces.end().expect("memory");
            let verdict = Verdict::Same { capabilities, settled };
            write_verdict(&mut bytes, &verdict).expect("memory");
            let mut kept = Vec::new();
            prop_assert_eq!(read_file(&bytes[..], &mut kept).expect("a file"), verdict);
            prop_assert_eq!(kept, contents);
        }

        #[test]
        fn anything_is_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&data);
        }
    }
}

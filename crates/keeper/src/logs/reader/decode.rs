//! Bytes become entries.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::LogEntry;
use crate::logs::timestamp;
use crate::protocol::{Stream, UnixNanos};

/// No entry is longer: a line's piece is 16 KiB, which JSON can make six times as long, and attributes come from a command line.
const MAX_ENTRY: usize = 4 << 20;

/// The two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    JsonFile,
    Local,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// An entry of this many bytes.
    Entry(LogEntry, usize),
    /// So many bytes that are no entry.
    Damaged(usize),
    /// The beginning of something.
    Incomplete,
}

impl Format {
    pub(super) fn decode(self, bytes: &[u8]) -> Decoded {
        match self {
            Format::JsonFile => decode_json(bytes),
            Format::Local => decode_local(bytes),
        }
    }
}

#[derive(Deserialize)]
struct JsonLine {
    #[serde(default)]
    log: String,
    stream: String,
    time: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

fn decode_json(bytes: &[u8]) -> Decoded {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() > MAX_ENTRY { Decoded::Damaged(bytes.len()) } else { Decoded::Incomplete };
    };
    match json_entry(&bytes[..end]) {
        Some(entry) => Decoded::Entry(entry, end + 1),
        None => Decoded::Damaged(end + 1),
    }
}

fn json_entry(line: &[u8]) -> Option<LogEntry> {
    let line: JsonLine = serde_json::from_slice(line).ok()?;
    let mut bytes = line.log.into_bytes();
    let ends_line = bytes.last() == Some(&b'\n');
    bytes.truncate(bytes.len() - usize::from(ends_line));
    Some(LogEntry {
        stream: stream(line.stream.as_bytes())?,
        time: timestamp::parse(line.time.as_bytes())?,
        bytes,
        ends_line,
        attributes: line.attrs.into_iter().collect(),
    })
}

fn stream(name: &[u8]) -> Option<Stream> {
    match name {
        b"stdout" => Some(Stream::Stdout),
        b"stderr" => Some(Stream::Stderr),
        _ => None,
    }
}

/// Nothing but its frames tells where an entry of this format begins, so damage makes the rest of what is there unreadable.
fn decode_local(bytes: &[u8]) -> Decoded {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Decoded::Incomplete };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_ENTRY {
        return Decoded::Damaged(bytes.len());
    }
    let (Some(message), Some(copy)) = (rest.get(..length), rest.get(length..length + 4)) else {
        return Decoded::Incomplete;
    };
    if copy != &bytes[..4] {
        return Decoded::Damaged(bytes.len());
    }
    match local_entry(message) {
        Some(entry) => Decoded::Entry(entry, length + 8),
        None => Decoded::Damaged(length + 8),
    }
}

fn local_entry(message: &[u8]) -> Option<LogEntry> {
    let mut entry = LogEntry {
        stream: Stream::Stdout,
        time: UnixNanos(0),
        bytes: Vec::new(),
        ends_line: true,
        attributes: Vec::new(),
    };
    let mut partial = false;
    let mut last = false;
    fields(message, |number, value| {
        match (number, value) {
            (1, Value::Bytes(name)) => entry.stream = stream(name)?,
            (2, Value::Number(nanos)) => entry.time = UnixNanos(nanos.cast_signed()),
            (3, Value::Bytes(line)) => entry.bytes = line.to_vec(),
            (4, Value::Number(flag)) => partial = flag != 0,
            (5, Value::Bytes(metadata)) => fields(metadata, |number, value| {
                if let (1, Value::Number(flag)) = (number, value) {
                    last = flag != 0;
                }
                Some(())
            })?,
            _ => {}
        }
        Some(())
    })?;
    entry.ends_line = !partial || last;
    Some(entry)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Goes through a protobuf message's fields. `None`: it is none, or the visitor did not like it.
fn fields<'a>(mut rest: &'a [u8], mut each: impl FnMut(u64, Value<'a>) -> Option<()>) -> Option<()> {
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        each(tag >> 3, value)?;
    }
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::logs::lines::{Line, Piece};
    use crate::logs::{json_file, local};

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            bytes in "[^\n]{0,80}", nanos in 0i64.., err in any::<bool>(), piece in proptest::option::of(any::<bool>()),
        ) {
            let stream = if err { Stream::Stderr } else { Stream::Stdout };
            let piece = piece.map(|last| Piece { id: [7; 32], ordinal: 3, last });
            let line = Line { stream, time: UnixNanos(nanos), bytes: bytes.as_bytes(), piece };
            let expected = LogEntry {
                stream,
                time: UnixNanos(nanos),
                bytes: bytes.clone().into_bytes(),
                ends_line: line.ends_line(),
                attributes: Vec::new(),
            };
            let (mut json, mut framed) = (Vec::new(), Vec::new());
            json_file::encode(&line, b"", &mut json);
            local::encode(&line, &mut framed);
            for (format, encoded) in [(Format::JsonFile, json), (Format::Local, framed)] {
                prop_assert_eq!(format.decode(&encoded), Decoded::Entry(expected.clone(), encoded.len()));
                for cut in 0..encoded.len() {
                    prop_assert_eq!(format.decode(&encoded[..cut]), Decoded::Incomplete);
                }
            }
        }

        #[test]
        fn nothing_makes_the_decoders_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            _ = decode_json(&bytes);
            _ = decode_local(&bytes);
            _ = local_entry(&bytes);
        }
    }
}

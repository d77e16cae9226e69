//! Docker's `local` format: each line is a protobuf message between two copies of its length (big-endian `u32`), so that a file can be
//! read from both ends.
//!
//! ```proto
//! message LogEntry {
//!   string source = 1;
//!   int64 time_nano = 2;
//!   bytes line = 3;
//!   bool partial = 4;
//!   PartialLogEntryMetadata partial_log_metadata = 5;
//! }
//! message PartialLogEntryMetadata { bool last = 1; string id = 2; int32 ordinal = 3; }
//! ```

use super::lines::{Line, Piece};

/// Appends a line's frame.
pub fn encode(line: &Line<'_>, out: &mut Vec<u8>) {
    let from = out.len();
    out.extend_from_slice(&[0; 4]);
    bytes_field(1, line.stream.name().as_bytes(), out);
    if line.time.0 != 0 {
        out.push(2 << 3);
        varint(line.time.0.cast_unsigned(), out);
    }
    if !line.bytes.is_empty() {
        bytes_field(3, line.bytes, out);
    }
    if let Some(piece) = line.piece {
        out.extend_from_slice(&[4 << 3, 1]);
        let mut metadata = Vec::with_capacity(80);
        piece_message(&piece, &mut metadata);
        bytes_field(5, &metadata, out);
    }
    let length = u32::try_from(out.len() - from - 4).unwrap_or(u32::MAX).to_be_bytes();
    out[from..from + 4].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

fn piece_message(piece: &Piece, out: &mut Vec<u8>) {
    if piece.last {
        out.extend_from_slice(&[1 << 3, 1]);
    }
    let mut id = [0; 64];
    for (digits, byte) in id.chunks_exact_mut(2).zip(piece.id) {
        digits[0] = char::from_digit(u32::from(byte >> 4), 16).map_or(b'0', |digit| digit as u8);
        digits[1] = char::from_digit(u32::from(byte & 15), 16).map_or(b'0', |digit| digit as u8);
    }
    bytes_field(2, &id, out);
    out.push(3 << 3);
    varint(u64::from(piece.ordinal), out);
}

/// Field number and wire type 2: a length and that many bytes.
fn bytes_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Stream, UnixNanos};

    #[test]
    fn a_line_is_framed_at_both_ends() {
        let mut out = Vec::new();
        encode(&Line { stream: Stream::Stdout, time: UnixNanos(300), bytes: b"hi", piece: None }, &mut out);
        let message = b"\x0a\x06stdout\x10\xac\x02\x1a\x02hi";
        let mut expected = vec![0, 0, 0, message.len() as u8];
        expected.extend_from_slice(message);
        expected.extend_from_slice(&[0, 0, 0, message.len() as u8]);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_piece_says_which_it_is() {
        let mut out = Vec::new();
        let piece = Some(Piece { id: [0xab; 32], ordinal: 2, last: true });
        encode(&Line { stream: Stream::Stderr, time: UnixNanos(1), bytes: b"", piece }, &mut out);
        let mut message = b"\x0a\x06stderr\x10\x01\x20\x01\x2a\x46\x08\x01\x12\x40".to_vec();
        message.extend_from_slice("ab".repeat(32).as_bytes());
        message.extend_from_slice(b"\x18\x02");
        assert_eq!(out[4..out.len() - 4], message);
    }
}

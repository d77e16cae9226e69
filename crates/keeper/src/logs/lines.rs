//! Cuts a stream of bytes into lines. A line longer than [`MAX_LINE`] bytes becomes several pieces, at the same places where dockerd
//! cuts it, whatever pieces it arrives in.

use serde::{Deserialize, Serialize};

use crate::protocol::{Stream, UnixNanos};

/// The longest piece of a line, in bytes.
pub const MAX_LINE: usize = 16 << 10;

/// A line, or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Where it was written.
    pub stream: Stream,
    /// When it was read; the pieces of one line all have the time of the first.
    pub time: UnixNanos,
    /// Its bytes, without a newline at the end.
    pub bytes: &'a [u8],
    /// For a piece of a line.
    pub piece: Option<Piece>,
}

impl Line<'_> {
    /// Whether a newline followed: this is a whole line, or the last piece of one.
    pub fn ends_line(&self) -> bool {
        self.piece.is_none_or(|piece| piece.last)
    }
}

/// Which piece of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The same for all pieces of a line.
    pub id: [u8; 32],
    /// 1 for the first.
    pub ordinal: u32,
    /// Whether the line ends with it.
    pub last: bool,
}

/// One stream's unfinished line. Can be stored and taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineSplitter {
    stream: Stream,
    /// What came after the last newline; always shorter than [`MAX_LINE`].
    rest: Vec<u8>,
    /// The latest piece of the present line, and the time of its first.
    cut: Option<(Piece, UnixNanos)>,
}

impl LineSplitter {
    /// Starts at the beginning of a line.
    pub fn new(stream: Stream) -> LineSplitter {
        LineSplitter { stream, rest: Vec::new(), cut: None }
    }

    /// Takes what was read at a time, and hands on what is complete.
    pub fn feed(&mut self, mut chunk: &[u8], now: UnixNanos, mut sink: impl FnMut(Line<'_>)) {
        while !chunk.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let newline = chunk[..room.min(chunk.len())].iter().position(|byte| *byte == b'\n');
            let (taken, skipped) = match newline {
                Some(at) => (at, 1),
                None if chunk.len() >= room => (room, 0),
                None => {
                    self.rest.extend_from_slice(chunk);
                    return;
                }
            };
            let (head, tail) = chunk.split_at(taken);
            self.emit(head, newline.is_some(), now, &mut sink);
            chunk = &tail[skipped..];
        }
    }

    /// The stream has ended: hands on a last line that has no newline.
    pub fn finish(&mut self, now: UnixNanos, mut sink: impl FnMut(Line<'_>)) {
        if !self.rest.is_empty() {
            self.emit(&[], false, now, &mut sink);
        }
        self.cut = None;
    }

    fn emit(&mut self, head: &[u8], newline: bool, now: UnixNanos, sink: &mut impl FnMut(Line<'_>)) {
        let cut = match self.cut.take() {
            Some((piece, since)) => {
                Some((Piece { ordinal: piece.ordinal.saturating_add(1), last: newline, ..piece }, since))
            }
            None if newline => None,
            None => Some((Piece { id: random_id(), ordinal: 1, last: false }, now)),
        };
        let (piece, time) = cut.map_or((None, now), |(piece, since)| (Some(piece), since));
        if self.rest.is_empty() {
            sink(Line { stream: self.stream, time, bytes: head, piece });
        } else {
            let mut whole = std::mem::take(&mut self.rest);
            whole.extend_from_slice(head);
            sink(Line { stream: self.stream, time, bytes: &whole, piece });
        }
        if !newline {
            self.cut = cut;
        }
    }
}

/// Random, or zeros before the kernel has collected entropy: an id need only differ from its neighbours'.
fn random_id() -> [u8; 32] {
    let mut id = [0; 32];
    _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::NONBLOCK);
    id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<u8>, bool, Option<(u32, bool)>);

    fn split(chunks: &[&[u8]]) -> Vec<Owned> {
        let mut splitter = LineSplitter::new(Stream::Stdout);
        let mut lines = Vec::new();
        let mut keep = |line: Line<'_>| {
            lines.push((line.bytes.to_vec(), line.ends_line(), line.piece.map(|piece| (piece.ordinal, piece.last))));
        };
        for chunk in chunks {
            splitter.feed(chunk, UnixNanos(0), &mut keep);
        }
        splitter.finish(UnixNanos(0), &mut keep);
        lines
    }

    /// How dockerd does it: fill a buffer of 16 KiB, take the lines out of it, and cut when it is full and has no newline.
    fn reference(input: &[u8]) -> Vec<Owned> {
        let mut lines: Vec<Owned> = Vec::new();
        let mut ordinal = 0;
        let mut from = 0;
        while from < input.len() {
            let window = &input[from..input.len().min(from + MAX_LINE)];
            if let Some(at) = window.iter().position(|byte| *byte == b'\n') {
                let piece = (ordinal > 0).then_some((ordinal + 1, true));
                lines.push((window[..at].to_vec(), true, piece));
                ordinal = 0;
                from += at + 1;
            } else {
                ordinal += 1;
                lines.push((window.to_vec(), false, Some((ordinal, false))));
                from += window.len();
            }
        }
        lines
    }

    #[test]
    fn a_last_line_without_newline_is_kept() {
        assert_eq!(
            split(&[b"a\n", b"", b"b"]),
            [(b"a".to_vec(), true, None), (b"b".to_vec(), false, Some((1, false))),]
        );
    }

    #[test]
    fn a_line_that_just_fits_is_cut_and_ended_by_an_empty_piece() {
        let mut input = vec![b'x'; MAX_LINE];
        input.push(b'\n');
        let lines = split(&[&input]);
        assert_eq!(lines[0].2, Some((1, false)));
        assert_eq!(lines[1], (Vec::new(), true, Some((2, true))));
    }

    /// Runs of one byte, long enough to cross the limit, and newlines.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let run = (any::<u8>(), prop_oneof![0usize..40, 16_300usize..16_500, 30_000usize..40_000], any::<bool>());
        proptest::collection::vec(run, 0..12).prop_map(|runs| {
            let mut output = Vec::new();
            for (byte, length, newline) in runs {
                output.extend(std::iter::repeat_n(byte, length));
                output.extend(newline.then_some(b'\n'));
            }
            output
        })
    }

    proptest! {
        #[test]
        fn pieces_do_not_depend_on_how_the_bytes_arrive(
            input in output(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(&chunks), reference(&input));
        }
    }
}

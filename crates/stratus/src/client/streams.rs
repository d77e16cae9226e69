//! A container's output: raw from a terminal, in frames otherwise.
//!
//! A frame is a stream's number, three zeros, a length in four bytes (big-endian), and so many bytes.

use std::io::{self, Write};

use super::error::{Error, Result};
use super::output::written;

/// Writes output where it belongs.
pub(super) enum Output {
    /// As it comes.
    Raw,
    /// In frames, to standard output and error.
    Frames(Frames),
    /// As documents of lines that begin with their times; the frames of what is in frames.
    Lines(Lines, Option<Frames>),
}

impl Output {
    /// For programs: each line of a log with times as `{"stream": …, "time": …, "line": …}`.
    pub(super) fn lines(tty: bool) -> Output {
        Output::Lines(Lines::default(), (!tty).then(Frames::default))
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) -> Result<()> {
        match self {
            Output::Lines(lines, _) => lines.end(),
            Output::Raw | Output::Frames(_) => Ok(()),
        }
    }

    /// For a process that has a terminal, or none.
    pub(super) fn of(tty: bool) -> Output {
        if tty { Output::Raw } else { Output::Frames(Frames::default()) }
    }

    /// Writes what has come.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Output::Raw => put(Stream::Output, bytes),
            Output::Frames(frames) => frames.feed(bytes, put),
            Output::Lines(lines, Some(frames)) => frames.feed(bytes, |stream, bytes| lines.feed(stream, bytes)),
            Output::Lines(lines, None) => lines.feed(Stream::Output, bytes),
        }
    }
}

fn put(stream: Stream, bytes: &[u8]) -> Result<()> {
    let outcome = match stream {
        Stream::Output => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Stream::Error => io::stderr().lock().write_all(bytes),
    };
    outcome.map_err(written)
}

/// A stream that a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// Lines that are not whole yet, by stream.
#[derive(Debug, Default)]
pub(super) struct Lines {
    output: Vec<u8>,
    error: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let begun = if stream == Stream::Output { &mut self.output } else { &mut self.error };
        begun.extend_from_slice(bytes);
        while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
            super::output::document_line(&told(stream, &begun[..end]))?;
            begun.drain(..=end);
        }
        Ok(())
    }

    /// What ends without a newline.
    fn end(&mut self) -> Result<()> {
        for (stream, rest) in [(Stream::Output, &self.output), (Stream::Error, &self.error)] {
            if !rest.is_empty() {
                super::output::document_line(&told(stream, rest))?;
            }
        }
        Ok(())
    }
}

/// A line with the time before it, as a document.
fn told(stream: Stream, line: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(line);
    let text = text.strip_suffix('\r').unwrap_or(&text);
    let (time, line) = text.split_once(' ').unwrap_or((text, ""));
    let stream = if stream == Stream::Output { "stdout" } else { "stderr" };
    serde_json::json!({ "stream": stream, "time": time, "line": line })
}

/// Takes frames apart, however they are cut.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; 8],
    /// Bytes of the header that are there.
    filled: usize,
    /// Bytes of the frame that are still to come, once its header is there.
    left: usize,
}

impl Frames {
    /// Gives `put` what is in `bytes`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut put: impl FnMut(Stream, &[u8]) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let taken = bytes.len().min(self.header.len() - self.filled);
                self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                self.filled += taken;
                bytes = &bytes[taken..];
                if self.filled == self.header.len() {
                    let [.., a, b, c, d] = self.header;
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.filled = 0;
                }
                continue;
            }
            let stream = match self.header[0] {
                0 | 1 => Stream::Output,
                2 => Stream::Error,
                // The daemon's own words, where it fails in the middle.
                3 => {
                    let taken = self.left.min(bytes.len());
                    return Err(Error::Failed(String::from_utf8_lossy(&bytes[..taken]).trim().to_owned()));
                }
                other => return Err(Error::Answer(format!("its output has a stream {other}"))),
            };
            let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
            put(stream, now)?;
            self.left -= now.len();
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).expect("short").to_be_bytes();
        [&[stream, 0, 0, 0], &length[..], text.as_bytes()].concat()
    }

    #[test]
    fn frames_are_taken_apart_however_they_are_cut() {
        let all = [frame(1, "out"), frame(2, "err"), frame(1, ""), frame(1, "more")].concat();
        for piece in 1..all.len() {
            let (mut output, mut error) = (Vec::new(), Vec::new());
            let mut frames = Frames::default();
            for bytes in all.chunks(piece) {
                frames
                    .feed(bytes, |stream, bytes| {
                        if stream == Stream::Output {
                            output.extend(bytes)
                        } else {
                            error.extend(bytes)
                        }
                        Ok(())
                    })
                    .expect("frames");
            }
            assert_eq!((output, error), (b"outmore".to_vec(), b"err".to_vec()), "in pieces of {piece}");
        }
    }

    #[test]
    fn lines_are_documents() {
        let line = told(Stream::Error, b"2026-01-01T00:00:00.5Z two words\r");
        assert_eq!(
            line,
            serde_json::json!({"stream": "stderr", "time": "2026-01-01T00:00:00.5Z", "line": "two words"})
        );
        assert_eq!(told(Stream::Output, b"2026-01-01T00:00:00Z ")["line"], "");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(Frames::default().feed(b"HTTP/1.1 200 OK", |_, _| Ok(())).is_err());
        let error = Frames::default().feed(&frame(3, "disk full"), |_, _| Ok(())).expect_err("the daemon's words");
        assert_eq!(error.to_string(), "disk full");
    }
}

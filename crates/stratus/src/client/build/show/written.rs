//! What a command writes, as lines: bytes come as they come, in the middle of a line or of a character.

use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of a line that is not ended, from which on it is taken for one.
const LONGEST: usize = 64 << 10;

/// The most bytes that are kept for whoever wants to see all of it.
const MOST: usize = 4 << 20;

/// A line, and when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) at: Duration,
    pub(super) text: String,
}

/// Lines as they come, and the last of them.
#[derive(Debug, Default)]
pub(super) struct Written {
    kept: VecDeque<Line>,
    held: usize,
    /// Some that came first are kept no more.
    clipped: bool,
    part: Vec<u8>,
    part_began: Duration,
}

impl Written {
    /// Takes what was written. The lines that it ends.
    pub(super) fn take(&mut self, at: Duration, bytes: &[u8]) -> Vec<Line> {
        let mut ended = Vec::new();
        for mut piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            while !piece.is_empty() {
                if self.part.is_empty() {
                    self.part_began = at;
                }
                let (now, rest) = piece.split_at(piece.len().min(LONGEST - self.part.len()));
                self.part.extend_from_slice(now);
                piece = rest;
                if now.ends_with(b"\n") || self.part.len() >= LONGEST {
                    ended.extend(self.end());
                }
            }
        }
        ended
    }

    /// Ends the line that is not ended, as nothing more comes.
    pub(super) fn end(&mut self) -> Option<Line> {
        if self.part.is_empty() {
            return None;
        }
        let line = Line { at: self.part_began, text: text(&self.part) };
        self.part.clear();
        self.held += line.text.len() + size_of::<Line>();
        self.kept.push_back(line.clone());
        while self.held > MOST {
            let Some(first) = self.kept.pop_front() else { break };
            self.held -= first.text.len() + size_of::<Line>();
            self.clipped = true;
        }
        Some(line)
    }

    /// The last lines, the one that is not ended included.
    pub(super) fn last(&self, most: usize) -> Vec<String> {
        let part = (!self.part.is_empty()).then(|| text(&self.part));
        let mut last: Vec<String> =
            part.into_iter().chain(self.kept.iter().rev().map(|line| line.text.clone())).take(most).collect();
        last.reverse();
        last
    }

    /// All that is kept.
    pub(super) fn all(&self) -> impl Iterator<Item = &Line> {
        self.kept.iter()
    }

    /// Whether that is not all there was.
    pub(super) fn is_clipped(&self) -> bool {
        self.clipped
    }
}

/// A line's text without its end. Of what wrote over itself on a terminal, as bars do, the last.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    text.rsplit('\r').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut written = Written::default();
        let at = Duration::from_millis(5);
        assert_eq!(texts(&written.take(at, b"one\ntw")), ["one"]);
        assert_eq!(written.last(6), ["one", "tw"]);
        let (first, second) = "ö\r\n10%\r20%\n".as_bytes().split_at(1);
        assert!(written.take(Duration::from_millis(9), first).is_empty());
        let ended = written.take(Duration::from_millis(12), second);
        assert_eq!(texts(&ended), ["twö", "20%"]);
        assert_eq!(ended[0].at, at);
        assert_eq!(written.end(), None);
        assert_eq!(written.last(2), ["twö", "20%"]);
    }

    #[test]
    fn what_is_kept_has_an_end() {
        let mut written = Written::default();
        let lines = written.take(Duration::ZERO, &vec![b'x'; MOST * 2]);
        assert!(lines.len() >= MOST * 2 / LONGEST && written.held <= MOST && written.is_clipped());
    }
}

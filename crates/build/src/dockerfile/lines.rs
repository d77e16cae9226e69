//! Physical lines become logical ones: continuations joined, comments left out, every character's place remembered.

use super::source::{Position, Source, Span};
use std::ops::Range;

/// The character that escapes another, and at the end of a line continues it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Escape {
    /// `\`
    #[default]
    Backslash,
    /// `` ` ``, for paths of Windows
    Backtick,
}

impl Escape {
    /// The character.
    pub fn char(self) -> char {
        match self {
            Escape::Backslash => '\\',
            Escape::Backtick => '`',
        }
    }
}

/// A piece of a logical line that stands on one physical line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Where it begins in the logical line, in bytes.
    at: usize,
    /// Where it begins in the file.
    start: Position,
}

/// An instruction's text: one line, however many it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logical {
    pub(super) text: String,
    segments: Vec<Segment>,
    /// The last physical line, that of heredocs not included.
    pub(super) last: u32,
    /// The comments directly above it, without their `#`.
    pub(super) comments: Vec<String>,
    /// The first empty line within it.
    pub(super) empty_line: Option<u32>,
}

impl Logical {
    /// Where a byte of the text stands in the file.
    pub(super) fn position(&self, offset: usize) -> Position {
        let index = self.segments.partition_point(|segment| segment.at <= offset).saturating_sub(1);
        let Some(segment) = self.segments.get(index) else { return Position { line: self.last, column: 1 } };
        let before = self.text.get(segment.at..offset.min(self.text.len())).unwrap_or_default();
        let columns = u32::try_from(before.chars().count()).unwrap_or(u32::MAX);
        Position { line: segment.start.line, column: segment.start.column.saturating_add(columns) }
    }

    /// Where a part of the text stands in the file.
    pub(super) fn span(&self, range: Range<usize>) -> Span {
        let start = self.position(range.start);
        // The end of a part that ends with a line is on that line, not at the begin of the next one.
        let end = match self.text.get(range.clone()).and_then(|part| part.chars().next_back()) {
            None => start,
            Some(last) => {
                let last = self.position(range.end - last.len_utf8());
                Position { line: last.line, column: last.column.saturating_add(1) }
            }
        };
        Span { start, end }
    }
}

/// Reads a file's lines, from the first to the last.
pub(super) struct Lines<'a> {
    lines: Vec<&'a str>,
    next: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(source: &'a Source) -> Lines<'a> {
        Lines { lines: source.text().split_inclusive('\n').collect(), next: 0 }
    }

    /// The number of the line that is read next.
    pub(super) fn number(&self) -> u32 {
        u32::try_from(self.next + 1).unwrap_or(u32::MAX)
    }

    /// The next line as it is, with its end.
    pub(super) fn raw(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some(line)
    }

    /// The next line as it is, which stays the next one.
    pub(super) fn peek(&self) -> Option<&'a str> {
        self.lines.get(self.next).copied()
    }

    /// The next instruction's text.
    pub(super) fn logical(&mut self, escape: Escape) -> Option<Logical> {
        let mut comments = Vec::new();
        loop {
            let number = self.number();
            let line = trim_end(self.raw()?);
            let text = line.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            if text.is_empty() {
                comments.clear();
                continue;
            }
            let mut logical =
                Logical { text: String::new(), segments: Vec::new(), last: number, comments, empty_line: None };
            let indent = line.chars().count() - text.chars().count();
            if self.append(&mut logical, number, indent, text, escape) {
                self.continue_with(&mut logical, escape);
            }
            if logical.text.trim().is_empty() {
                comments = Vec::new();
                continue;
            }
            return Some(logical);
        }
    }

    /// Reads the lines that continue a line.
    fn continue_with(&mut self, logical: &mut Logical, escape: Escape) {
        loop {
            let number = self.number();
            let Some(line) = self.raw().map(trim_end) else { return };
            let text = line.trim_start();
            if text.starts_with('#') {
                continue;
            }
            if text.is_empty() {
                logical.empty_line.get_or_insert(number);
                continue;
            }
            logical.last = number;
            // Blanks at the begin stay: they may be what parts two words.
            if !self.append(logical, number, 0, line, escape) {
                return;
            }
        }
    }

    /// Adds a line's text; whether the next line continues it.
    fn append(&self, logical: &mut Logical, line: u32, indent: usize, text: &str, escape: Escape) -> bool {
        let (text, goes_on) = match continued(text, escape) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let column = u32::try_from(indent + 1).unwrap_or(u32::MAX);
        logical.segments.push(Segment { at: logical.text.len(), start: Position { line, column } });
        logical.text.push_str(text);
        goes_on
    }
}

/// The text before a line's continuation: an escape character at its end, behind which only blanks are. Two of them
/// are one that is meant as it is.
fn continued(text: &str, escape: Escape) -> Option<&str> {
    let before = text.trim_end_matches([' ', '\t']).strip_suffix(escape.char())?;
    (!before.ends_with(escape.char())).then_some(before)
}

/// A line without its end.
pub(super) fn trim_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Logical> {
        let source = Source::new("f", text);
        let mut lines = Lines::new(&source);
        std::iter::from_fn(|| lines.logical(Escape::Backslash)).collect()
    }

    #[test]
    fn continuations_are_joined_without_comments_and_empty_lines() {
        let lines = all("\n# one\n  RUN a \\\n# in between\n\n   b\\ \t\r\nc\nUSER x");
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["RUN a    bc", "USER x"]);
        assert_eq!(lines[0].comments, ["one"]);
        assert_eq!((lines[0].empty_line, lines[0].last), (Some(5), 7));
        assert_eq!(lines[0].position(0), Position { line: 3, column: 3 });
        assert_eq!(lines[0].position(9), Position { line: 6, column: 4 });
        assert_eq!(lines[0].position(10), Position { line: 7, column: 1 });
        assert_eq!(lines[0].span(9..10).end, Position { line: 6, column: 5 });
        assert_eq!(lines[1].comments, [""; 0]);
    }

    #[test]
    fn a_comment_is_above_its_instruction_only_without_a_gap() {
        assert_eq!(all("# a\n\nARG x")[0].comments, [""; 0]);
        assert_eq!(all("# a\n#\nARG x")[0].comments, [""; 0]);
        assert_eq!(all("# a\n # b \nARG x")[0].comments, ["a", "b"]);
    }

    #[test]
    fn an_escaped_escape_and_one_in_the_middle_continue_nothing() {
        let texts = |text| all(text).into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts("RUN a \\\\\nUSER x"), ["RUN a \\\\", "USER x"]);
        assert_eq!(texts("RUN a \\b\nUSER x"), ["RUN a \\b", "USER x"]);
        assert_eq!(texts("\\\nUSER x"), ["USER x"]);
        assert_eq!(texts("USER x \\"), ["USER x "]);
        assert_eq!(texts("\\\n\n"), [""; 0]);
    }
}

//! A Dockerfile's text, places in it, and mistakes that are told with the line and a caret.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// A place in a file: both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

/// From a place up to another, which does not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first character.
    pub start: Position,
    /// Behind the last character.
    pub end: Position,
}

impl Span {
    /// All of a line, where nothing in it is at fault more than the rest.
    pub fn line(line: u32) -> Span {
        Span { start: Position { line, column: 1 }, end: Position { line, column: 1 } }
    }
}

/// Something read, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// What it is.
    pub value: T,
    /// Where it is.
    pub span: Span,
}

/// A file's text, and the name that people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
    /// Where each line begins.
    starts: Vec<usize>,
    /// Whether some bytes were no UTF-8, and are not in the text.
    lossy: bool,
}

impl Source {
    /// A text, and its name as mistakes are to tell it. A byte order mark at the begin is no part of it.
    pub fn new(name: impl Into<String>, text: impl AsRef<str>) -> Source {
        let text = text.as_ref();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        Source { name: name.into(), text, starts, lossy: false }
    }

    /// A file's bytes. What is not UTF-8 is a mistake only where it matters: many an old comment is Latin-1.
    pub fn from_bytes(name: impl Into<String>, bytes: &[u8]) -> Source {
        let text = String::from_utf8_lossy(bytes);
        let lossy = matches!(text, std::borrow::Cow::Owned(_));
        Source::with_losses(name, text, lossy)
    }

    /// A text of which some bytes may not have been UTF-8, and are replaced.
    pub fn with_losses(name: impl Into<String>, text: impl AsRef<str>, lossy: bool) -> Source {
        Source { lossy, ..Source::new(name, text) }
    }

    /// Whether some bytes were no UTF-8.
    pub(super) fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A line by its number, without its end; empty where there is none.
    pub fn line(&self, number: u32) -> &str {
        let index = (number as usize).saturating_sub(1);
        let Some(start) = self.starts.get(index) else { return "" };
        let end = self.starts.get(index + 1).copied().unwrap_or(self.text.len());
        self.text[*start..end].trim_end_matches(['\r', '\n'])
    }

    /// How many lines it has.
    pub fn line_count(&self) -> u32 {
        // Behind the end of the last line is no further one.
        let lines = self.starts.partition_point(|start| *start < self.text.len());
        u32::try_from(lines).unwrap_or(u32::MAX)
    }

    /// Where a text stands first within a place on one line.
    pub(super) fn find(&self, text: &str, within: Span) -> Option<Span> {
        let Span { start: Position { line, column }, end } = within;
        if end.line != line || text.is_empty() {
            return None;
        }
        let offset =
            |column: u32| self.line(line).char_indices().nth(column.checked_sub(1)? as usize).map(|(at, _)| at);
        let start = offset(column)?;
        let part = &self.line(line)[start..offset(end.column).unwrap_or(self.line(line).len()).max(start)];
        let at = part.find(text)?;
        let columns = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        let start = Position { line, column: column.saturating_add(columns(&part[..at])) };
        let end = Position { line, column: start.column.saturating_add(columns(text)) };
        Some(Span { start, end })
    }

    /// A mistake in this file.
    pub fn mistake(&self, span: Span, message: impl Into<String>) -> Mistake {
        Mistake {
            file: self.name.clone(),
            span,
            text: self.line(span.start.line).to_owned(),
            message: message.into(),
            suggestion: None,
        }
    }
}

/// A mistake, told with the file, the line, the line's text and a caret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Mistake {
    /// The file's name.
    pub file: String,
    /// Where it is.
    pub span: Span,
    /// The text of its first line.
    pub text: String,
    /// What is wrong.
    pub message: String,
    /// What was likely meant.
    pub suggestion: Option<String>,
}

impl Mistake {
    /// The same, with what was likely meant, if anything comes close.
    pub fn meant(mut self, suggestion: Option<impl Into<String>>) -> Mistake {
        self.suggestion = suggestion.map(Into::into);
        self
    }

    /// Where it is: the file, the line, its text and a caret, without what is wrong.
    pub fn place(&self) -> String {
        let Position { line, column } = self.span.start;
        format!("{}:{line}:{column}\n{}", harmless(&self.file), Excerpt(self))
    }

    /// What is wrong in one line, with what was likely meant.
    pub fn summary(&self) -> String {
        match &self.suggestion {
            Some(suggestion) => format!("{} (did you mean {suggestion}?)", harmless(&self.message)),
            None => harmless(&self.message),
        }
    }
}

/// The most characters of a line that are shown.
const WIDEST: usize = 240;

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.span.start;
        write!(f, "{}:{line}:{column}: {}\n{}", harmless(&self.file), self.summary(), Excerpt(self))
    }
}

/// A text that does nothing to a terminal: strangers write Dockerfiles, too. Each character stays one, as a caret is to stand below it.
fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\t' | '\n') { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

/// A mistake's line, and a caret below it.
struct Excerpt<'m>(&'m Mistake);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excerpt(mistake) = self;
        let Position { line, column } = mistake.span.start;
        // Of a line that no terminal is wide enough for, what is around the caret.
        let column_in_text = column.saturating_sub(1) as usize;
        let skipped = column_in_text.saturating_sub(WIDEST / 2);
        let shown: String = mistake.text.chars().skip(skipped).take(WIDEST).collect();
        write!(f, "{line:>4} | {}", harmless(&shown))?;
        let before = shown.chars().take(column_in_text - skipped);
        // A tab before the caret is a tab below it, however wide the terminal makes it.
        let blank: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let rest = shown.chars().count().saturating_sub(column_in_text - skipped);
        let wide = if mistake.span.end.line == line {
            (mistake.span.end.column.saturating_sub(column) as usize).min(rest)
        } else {
            rest
        };
        match wide {
            0 if column == 1 => Ok(()),
            wide => write!(f, "\n     | {blank}{}", "^".repeat(wide.max(1))),
        }
    }
}

/// All mistakes of a file, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Error)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// More than these tell nobody anything: the first of them made the others.
    const MOST: usize = 20;

    pub(super) fn add(&mut self, mistake: Mistake) {
        if self.0.len() < Self::MOST {
            self.0.push(mistake);
        }
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Mistake> for Mistakes {
    fn from_iter<I: IntoIterator<Item = Mistake>>(mistakes: I) -> Mistakes {
        Mistakes(mistakes.into_iter().take(Mistakes::MOST).collect())
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            write!(f, "{}{mistake}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, from: u32, to: u32) -> Span {
        Span { start: Position { line, column: from }, end: Position { line, column: to } }
    }

    #[test]
    fn a_mistake_shows_the_line_and_a_caret() {
        let source = Source::new("Dockerfile", "\u{feff}FROM a\r\nRUN\t--nope x\n");
        let mistake = source.mistake(at(2, 5, 11), "unknown flag: --nope").meant(Some("--mount"));
        assert_eq!(
            mistake.to_string(),
            "Dockerfile:2:5: unknown flag: --nope (did you mean --mount?)\n   2 | RUN\t--nope x\n     |    \t^^^^^^"
        );
        assert_eq!(source.mistake(Span::line(1), "no").to_string(), "Dockerfile:1:1: no\n   1 | FROM a");
    }

    #[test]
    fn of_a_long_line_the_part_around_the_caret_is_shown() {
        let source = Source::new("f", format!("{}{}", "a".repeat(1000), "b".repeat(1000)));
        let text = source.mistake(at(1, 1001, 1003), "no").to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], format!("   1 | {}{}", "a".repeat(120), "b".repeat(120)));
        assert_eq!(lines[2], format!("     | {}^^", " ".repeat(120)));
    }

    #[test]
    fn a_text_is_found_within_a_place() {
        let source = Source::new("f", "x\né=a é=b\n");
        assert_eq!(source.find("é", at(2, 2, 8)), Some(at(2, 5, 6)));
        assert_eq!(source.find("b", at(2, 1, 7)), None);
        assert_eq!(source.find("x", Span { start: at(1, 1, 1).start, end: at(2, 1, 1).end }), None);
        assert_eq!(source.find("x", at(9, 9, 9)), None);
    }

    #[test]
    fn a_place_outside_of_the_file_is_no_panic() {
        let source = Source::new("f", "a");
        assert_eq!(source.mistake(at(9, 7, 3), "no").to_string(), "f:9:7: no\n   9 | \n     | ^");
    }
}

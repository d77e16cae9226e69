//! Heredocs: `<<NAME` in an instruction, and the lines that follow it up to one that is `NAME`.

use super::lines::{Lines, trim_end};
use super::source::Span;
use std::ops::Range;

/// A heredoc's contents, and how it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, which is also the file's name where it is copied.
    pub name: String,
    /// Its lines. Of `<<-NAME` without the tabs that they begin with.
    pub body: String,
    /// Whether variables in it are expanded: unless a part of the delimiter was quoted.
    pub expand: bool,
    /// The descriptor, of `3<<NAME`.
    pub descriptor: Option<u32>,
    /// Where `<<NAME` stands.
    pub span: Span,
}

/// What asks for a heredoc, found in an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// All of `<<NAME`.
    pub(super) range: Range<usize>,
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) descriptor: Option<u32>,
    /// Whether tabs at lines' begins are left out.
    strip_tabs: bool,
}

/// A heredoc's lines as they are in the file, and without their tabs where that was asked for.
pub(super) struct Body {
    pub(super) raw: String,
    pub(super) stripped: String,
    /// The line of the delimiter.
    pub(super) last: u32,
}

/// A delimiter whose quotes are not closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclosed(pub(super) Range<usize>);

impl Marker {
    /// Reads its lines; none if no line is the delimiter.
    pub(super) fn read(&self, lines: &mut Lines<'_>) -> Option<Body> {
        let mut body = Body { raw: String::new(), stripped: String::new(), last: 0 };
        loop {
            body.last = lines.number();
            let line = lines.raw()?;
            let stripped = if self.strip_tabs { line.trim_start_matches('\t') } else { line };
            if trim_end(stripped) == self.name {
                return Some(body);
            }
            body.raw.push_str(line);
            body.stripped.push_str(stripped);
        }
    }
}

/// Finds what asks for heredocs from a place on. Where the words are a `shell`'s, an operator ends a delimiter, as in
/// `cat <<EOF>file`.
pub(super) fn find(text: &str, from: usize, shell: bool) -> Result<Vec<Marker>, Unclosed> {
    let mut scan = Scan { text, at: from, shell };
    let mut markers = Vec::new();
    let mut word_begins = true;
    // `$((1 << 2))` shifts.
    let mut arithmetic = false;
    while let Some(c) = scan.peek() {
        if word_begins
            && !arithmetic
            && let Some(marker) = scan.marker()?
        {
            markers.push(marker);
            word_begins = false;
            continue;
        }
        let rest = &text[scan.at..];
        arithmetic = (arithmetic || rest.starts_with("((")) && !rest.starts_with("))");
        word_begins = c.is_whitespace();
        match c {
            '\'' | '"' => {
                if scan.quoted().is_none() {
                    // No shell would make sense of it either, and whatever it was to be, it is no heredoc.
                    return Ok(Vec::new());
                }
            }
            '\\' => scan.at += c.len_utf8() + text[scan.at + 1..].chars().next().map_or(0, char::len_utf8),
            c => scan.at += c.len_utf8(),
        }
    }
    Ok(markers)
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    shell: bool,
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    /// Takes `3<<-NAME`, if that stands here.
    fn marker(&mut self) -> Result<Option<Marker>, Unclosed> {
        let start = self.at;
        let rest = &self.text[start..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Some(behind) = rest[digits..].strip_prefix("<<").filter(|behind| !behind.starts_with('<')) else {
            return Ok(None);
        };
        let (behind, strip_tabs) = match behind.strip_prefix('-') {
            Some(behind) => (behind, true),
            None => (behind, false),
        };
        let name_at = self.text.len() - behind.trim_start().len();
        self.at = name_at;
        let Some((name, quoted)) = self.delimiter() else { return Err(Unclosed(start..self.text.len())) };
        if name.is_empty() {
            self.at = start;
            return Ok(None);
        }
        let descriptor = rest[..digits].parse().ok();
        Ok(Some(Marker { range: start..self.at, name, expand: !quoted, descriptor, strip_tabs }))
    }

    /// Takes a delimiter without its quotes, and whether it had some; none if they are not closed.
    fn delimiter(&mut self) -> Option<(String, bool)> {
        let (mut name, mut quoted) = (String::new(), false);
        while let Some(c) = self.peek() {
            match c {
                c if c.is_whitespace() => break,
                '|' | '&' | ';' | '<' | '>' | '(' | ')' if self.shell => break,
                '\'' | '"' => {
                    name.push_str(self.quoted()?);
                    quoted = true;
                }
                '\\' => {
                    self.at += 1;
                    let escaped = self.peek();
                    self.at += escaped.map_or(0, char::len_utf8);
                    name.extend(escaped);
                }
                c => {
                    name.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
        Some((name, quoted))
    }

    /// Takes what stands in quotes, without them; none if they are not closed.
    fn quoted(&mut self) -> Option<&str> {
        let quote = self.peek()?;
        let start = self.at + quote.len_utf8();
        let mut escaped = false;
        for (index, c) in self.text[start..].char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quote == '"' => escaped = true,
                c if c == quote => {
                    self.at = start + index + c.len_utf8();
                    return Some(&self.text[start..start + index]);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::source::Source;

    fn names(text: &str) -> Vec<String> {
        find(text, 0, true).unwrap().into_iter().map(|marker| marker.name).collect()
    }

    #[test]
    fn delimiters_are_found() {
        for (text, expected) in [
            ("<<EOF", &["EOF"][..]),
            ("cat <<EOF > x", &["EOF"]),
            ("cat <<EOF>x", &["EOF"]),
            ("<<A <<B", &["A", "B"]),
            ("<<-EOF", &["EOF"]),
            ("<<  EOF  > foo", &["EOF"]),
            ("<<- EOF", &["EOF"]),
            ("<< -EOF", &["-EOF"]),
            ("3<<EOF", &["EOF"]),
            ("<<'one two'", &["one two"]),
            ("<<'e'o\\'f", &["eo'f"]),
            ("<<EO\"F\"", &["EOF"]),
            ("<<$EOF", &["$EOF"]),
            ("'<<EOF' \"<<EOF\" \\<<EOF", &[]),
            ("<<<EOF", &[]),
            ("<<", &[]),
            ("<<''", &[]),
            ("echo $((1 << 2)) <<X", &["X"]),
            ("a<<EOF", &[]),
            ("echo don't <<EOF", &[]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
        assert!(find("<<'EOF", 0, true).is_err());
    }

    #[test]
    fn what_is_copied_may_have_any_name() {
        let markers = find("<<a(1).txt /to", 0, false).unwrap();
        assert_eq!((markers[0].name.as_str(), markers[0].range.clone()), ("a(1).txt", 0..10));
    }

    #[test]
    fn quotes_keep_variables_and_a_dash_takes_tabs_away() {
        let marker = |text| find(text, 0, true).unwrap().remove(0);
        assert!(marker("<<EOF").expand && marker("<<eo\\'f").expand);
        assert!(!marker("<<'EOF'").expand && !marker("<<E\"O\"F").expand);
        assert_eq!((marker("<<EOF").descriptor, marker("12<<EOF").descriptor), (None, Some(12)));

        let source = Source::new("f", "\ta\n b\r\n\tEOF\nx");
        let mut lines = Lines::new(&source);
        let body = marker("<<-EOF").read(&mut lines).unwrap();
        assert_eq!((body.raw.as_str(), body.stripped.as_str(), body.last), ("\ta\n b\r\n", "a\n b\r\n", 3));
        assert!(marker("<<EOF").read(&mut lines).is_none());
    }
}

//! How an instruction's arguments are parted into words.

use super::flags::Place;
use super::heredoc::Marker;
use super::instruction::Word;
use super::source::Mistake;
use std::ops::Range;

impl Place<'_> {
    /// A part of the text as a word.
    pub(super) fn word(&self, range: Range<usize>) -> Word {
        Word { raw: self.logical.text[range.clone()].to_owned(), span: self.span(range) }
    }

    /// What stands from a place on, without blanks around it.
    pub(super) fn rest(&self, from: usize) -> Range<usize> {
        let text = &self.logical.text[from..];
        let start = from + (text.len() - text.trim_start().len());
        start..(start + text.trim().len())
    }
}

/// The words between blanks, whatever is in them; each heredoc is one.
pub(super) fn between_blanks(text: &str, from: usize, heredocs: &[Marker]) -> Vec<Range<usize>> {
    let (mut words, mut start, mut at) = (Vec::new(), None, from);
    while let Some(c) = text[at..].chars().next() {
        if let Some(heredoc) = heredoc_at(heredocs, at) {
            start.get_or_insert(at);
            at = heredoc.range.end;
            continue;
        }
        if c.is_whitespace() {
            words.extend(start.take().map(|start| start..at));
        } else {
            start.get_or_insert(at);
        }
        at += c.len_utf8();
    }
    words.extend(start.map(|start| start..at));
    words
}

/// The heredoc that is asked for at a place; they are in their order.
pub(super) fn heredoc_at(heredocs: &[Marker], at: usize) -> Option<&Marker> {
    let index = heredocs.binary_search_by_key(&at, |heredoc| heredoc.range.start).ok()?;
    heredocs.get(index)
}

/// The words between blanks that stand neither in quotes nor behind an escape. Quotes and escapes stay.
pub(super) fn quoted(text: &str, from: usize, escape: char) -> Vec<Range<usize>> {
    let (mut words, mut start, mut quote) = (Vec::new(), None, None);
    let mut chars = text[from..].char_indices();
    while let Some((index, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                words.extend(start.take().map(|start| start..from + index));
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (quote, c) if c == escape && quote != Some('\'') => {
                chars.next();
            }
            _ => {}
        }
        start.get_or_insert(from + index);
    }
    words.extend(start.map(|start| start..text.len()));
    words
}

/// The strings of a JSON array; none if it is not one, and then it is a line for the shell.
pub(super) fn json(place: Place<'_>, range: Range<usize>) -> Result<Option<Vec<String>>, Mistake> {
    let text = &place.logical.text[range.clone()];
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        other => Err(place.mistake(
            range.clone(),
            format!("when using JSON array syntax, arrays must be comprised of strings only: {other} is none"),
        )),
    });
    strings.collect::<Result<Vec<_>, _>>().map(Some)
}

//! Flags of an instruction: `--NAME` and `--NAME=VALUE` before its arguments.

use super::lines::{Escape, Logical};
use super::source::{Mistake, Source, Span, Spanned};
use crate::suggest::nearest;
use std::ops::Range;

/// An instruction's text and the file that it stands in: what a mistake is told with.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) source: &'a Source,
    pub(super) logical: &'a Logical,
    pub(super) escape: Escape,
}

impl Place<'_> {
    pub(super) fn span(&self, range: Range<usize>) -> Span {
        self.logical.span(range)
    }

    pub(super) fn mistake(&self, range: Range<usize>, message: impl Into<String>) -> Mistake {
        self.source.mistake(self.span(range), message)
    }
}

struct Flag {
    name: String,
    /// Without its quotes and escapes.
    value: Option<String>,
    range: Range<usize>,
}

/// The flags of an instruction, of which each reader takes its own.
pub(super) struct Flags<'a> {
    place: Place<'a>,
    flags: Vec<Flag>,
    known: Vec<&'static str>,
    /// Where the arguments begin.
    pub(super) rest: usize,
}

impl<'a> Flags<'a> {
    /// Reads what stands from a place on, up to the first word that is no flag.
    pub(super) fn read(place: Place<'a>, from: usize) -> Flags<'a> {
        let text = &place.logical.text;
        let (mut flags, mut at) = (Vec::new(), from);
        loop {
            at += text[at..].len() - text[at..].trim_start().len();
            if !text[at..].starts_with("--") {
                break;
            }
            let (word, end) = unquoted_word(text, at, place.escape);
            let range = std::mem::replace(&mut at, end)..end;
            match word.get(2..).unwrap_or_default() {
                "" => break,
                flag => {
                    let (name, value) = match flag.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (flag, None),
                    };
                    flags.push(Flag { name: name.to_owned(), value, range });
                }
            }
        }
        at += text[at..].len() - text[at..].trim_start().len();
        Flags { place, flags, known: Vec::new(), rest: at }
    }

    /// All values of a flag that may be given several times.
    pub(super) fn many(&mut self, name: &'static str) -> Result<Vec<Spanned<String>>, Mistake> {
        self.known.push(name);
        let (taken, left) = std::mem::take(&mut self.flags).into_iter().partition(|flag: &Flag| flag.name == name);
        self.flags = left;
        let taken: Vec<Flag> = taken;
        let value = |flag: Flag| match flag.value {
            Some(value) => Ok(Spanned { value, span: self.place.span(flag.range) }),
            None => Err(self.place.mistake(flag.range, format!("missing a value on flag: {name}"))),
        };
        taken.into_iter().map(value).collect()
    }

    /// The value of a flag that may be given once.
    pub(super) fn one(&mut self, name: &'static str) -> Result<Option<Spanned<String>>, Mistake> {
        self.once(name)?;
        Ok(self.many(name)?.pop())
    }

    /// What a flag that needs no value says.
    pub(super) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, Mistake> {
        self.once(name)?;
        self.known.push(name);
        let Some(index) = self.flags.iter().position(|flag| flag.name == name) else { return Ok(None) };
        let flag = self.flags.remove(index);
        match flag.value.as_deref().map(str::to_lowercase).as_deref() {
            None | Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some("") => Err(self.place.mistake(flag.range, format!("missing a value on flag: {name}"))),
            Some(other) => {
                let message = format!("expecting boolean value for flag {name}, not: {other}");
                Err(self.place.mistake(flag.range, message))
            }
        }
    }

    fn once(&self, name: &str) -> Result<(), Mistake> {
        match self.flags.iter().filter(|flag| flag.name == name).nth(1) {
            Some(again) => Err(self.place.mistake(again.range.clone(), format!("duplicate flag specified: {name}"))),
            None => Ok(()),
        }
    }

    /// Refuses those that nobody took; where the arguments begin.
    pub(super) fn end(self) -> Result<usize, Mistake> {
        let Some(flag) = self.flags.into_iter().next() else { return Ok(self.rest) };
        // The caret is for the name: a value may be long.
        let name = flag.range.start..(flag.range.start + 2 + flag.name.len()).min(flag.range.end);
        let meant = nearest(&flag.name, self.known).map(|meant| format!("--{meant}"));
        Err(self.place.mistake(name, format!("unknown flag: --{}", flag.name)).meant(meant))
    }
}

/// A word without its quotes and escapes, and where it ends.
fn unquoted_word(text: &str, from: usize, escape: Escape) -> (String, usize) {
    let (mut word, mut quote) = (String::new(), None);
    let mut chars = text[from..].char_indices();
    while let Some((index, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return (word, from + index),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (quote, c) if c == escape.char() && quote != Some('\'') => word.extend(chars.next().map(|(_, c)| c)),
            (_, c) => word.push(c),
        }
    }
    (word, text.len())
}

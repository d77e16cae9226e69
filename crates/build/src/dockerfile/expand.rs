//! Words with quotes, escapes and variables become what they mean.

use super::instruction::Word;
use super::lines::Escape;
use super::pattern::Pattern;
use super::source::{Mistake, Source};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// What variables are.
pub trait Variables {
    /// A variable's value; none if it is not set.
    fn value(&self, name: &str) -> Option<Cow<'_, str>>;
}

impl Variables for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// What a text is that has variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word of an instruction: quotes hold it together, and are no part of it.
    Word,
    /// A heredoc's lines: quotes are quotes.
    Heredoc,
}

/// What a text means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// All of it.
    pub text: String,
    /// The same, parted at blanks that were not quoted: `EXPOSE $PORTS` exposes several.
    pub words: Vec<String>,
    /// The variables that were read and are set: with their values, all that the text depends on but itself.
    pub read: BTreeSet<String>,
    /// Those that were read and are not set.
    pub unset: BTreeSet<String>,
    /// Those of the unset ones that the text makes no provision for, as `${NAME:-default}` does.
    pub missing: BTreeSet<String>,
}

/// Why a text means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ExpandError(String);

/// How deep one variable's default may be in another's.
const DEPTH: usize = 50;
/// How many bytes a text may become longer: a value that holds others several times doubles fast. No program takes a
/// variable of more.
const GROWTH: usize = 1 << 20;

/// What a text means.
pub fn expand(
    text: &str,
    kind: Kind,
    escape: Escape,
    variables: &(impl Variables + ?Sized),
) -> Result<Expansion, ExpandError> {
    let mut reader = Reader {
        rest: text,
        kind,
        escape: escape.char(),
        variables: &|name| variables.value(name).map(Cow::into_owned),
        expansion: Expansion::default(),
        depth: 0,
        most: text.len().saturating_add(GROWTH),
    };
    let pieces = reader.until(None, Escapes::Taken)?;
    let mut expansion = reader.expansion;
    (expansion.text, expansion.words) = pieces.finish();
    Ok(expansion)
}

impl Word {
    /// As much of it as a message has room for.
    fn shown(&self) -> String {
        const ROOM: usize = 80;
        match self.raw.char_indices().nth(ROOM) {
            Some((end, _)) => format!("{}…", &self.raw[..end]),
            None => self.raw.clone(),
        }
    }

    /// What it means; a mistake shows where it stands.
    pub fn expand(
        &self,
        source: &Source,
        escape: Escape,
        variables: &(impl Variables + ?Sized),
    ) -> Result<Expansion, Mistake> {
        expand(&self.raw, Kind::Word, escape, variables)
            .map_err(|why| source.mistake(self.span, format!("failed to process {:?}: {why}", self.shown())))
    }
}

/// What becomes of an escape character outside of quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// What follows it is taken as it is.
    Taken,
    /// It stays with what follows it, for a pattern to read.
    Kept,
}

/// A text in the making, and its words.
#[derive(Default)]
struct Pieces {
    text: String,
    words: Vec<String>,
    word: String,
}

impl Pieces {
    /// Adds what is parted at blanks.
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
        for c in text.chars() {
            match c {
                c if c.is_whitespace() => self.end_word(),
                c => self.word.push(c),
            }
        }
    }

    /// Adds what is not.
    fn whole(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> (String, Vec<String>) {
        self.end_word();
        (self.text, self.words)
    }
}

struct Reader<'a> {
    rest: &'a str,
    kind: Kind,
    escape: char,
    variables: &'a dyn Fn(&str) -> Option<String>,
    expansion: Expansion,
    depth: usize,
    /// The most bytes that the text may become.
    most: usize,
}

fn error<T>(message: impl Into<String>) -> Result<T, ExpandError> {
    Err(ExpandError(message.into()))
}

fn too_long<T>() -> Result<T, ExpandError> {
    error(format!("it becomes longer by more than {GROWTH} bytes"))
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Reads up to a character outside of quotes, which is taken, or to the text's end.
    fn until(&mut self, stop: Option<char>, escapes: Escapes) -> Result<Pieces, ExpandError> {
        let mut pieces = Pieces::default();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == stop => return Ok(pieces),
                '$' => {
                    let value = self.variable()?;
                    pieces.plain(&value);
                }
                '\'' if self.kind == Kind::Word => pieces.whole(&self.single_quoted()?),
                '"' if self.kind == Kind::Word => pieces.whole(&self.double_quoted(escapes)?),
                c if c == self.escape => {
                    let mut kept = String::new();
                    if escapes == Escapes::Kept {
                        kept.push(c);
                    }
                    kept.extend(self.next());
                    pieces.whole(&kept);
                }
                c => pieces.plain(c.encode_utf8(&mut [0; 4])),
            }
            if pieces.text.len() > self.most {
                return too_long();
            }
        }
        match stop {
            None => Ok(pieces),
            Some('/') => error("syntax error: missing '/' in ${}"),
            Some(_) => error("syntax error: missing '}'"),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let Some((text, rest)) = self.rest.split_once('\'') else {
            return error("unexpected end of statement while looking for matching single-quote");
        };
        let text = text.to_owned();
        self.rest = rest;
        Ok(text)
    }

    fn double_quoted(&mut self, escapes: Escapes) -> Result<String, ExpandError> {
        let mut text = String::new();
        loop {
            match self.next() {
                None => return error("unexpected end of statement while looking for matching double-quote"),
                Some('"') => return Ok(text),
                Some('$') => text.push_str(&self.variable()?),
                Some(c) if c == self.escape => match self.peek() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        if escapes == Escapes::Kept {
                            text.push(c);
                        }
                        text.extend(self.next());
                    }
                    // Anything else is not escaped.
                    Some(_) => text.push(c),
                    None => {}
                },
                Some(c) => text.push(c),
            }
            if text.len() > self.most {
                return too_long();
            }
        }
    }

    /// Reads a variable behind its `$`.
    fn variable(&mut self) -> Result<String, ExpandError> {
        if self.peek() != Some('{') {
            return match self.name() {
                name if name.is_empty() => Ok("$".to_owned()),
                name => Ok(self.get(&name, true).unwrap_or_default()),
            };
        }
        self.next();
        match self.peek() {
            None => return error("syntax error: missing '}'"),
            Some('{' | '}' | ':') => return error("syntax error: bad substitution"),
            Some(_) => {}
        }
        if self.depth >= DEPTH {
            return error("too many variables within variables");
        }
        self.depth += 1;
        let value = self.braced();
        self.depth -= 1;
        value
    }

    /// Reads a variable behind its `${`.
    fn braced(&mut self) -> Result<String, ExpandError> {
        let name = self.name();
        let (colon, operator) = match self.next() {
            Some(':') => (true, self.next()),
            other => (false, other),
        };
        match (colon, operator) {
            (false, Some('}')) => Ok(self.get(&name, true).unwrap_or_default()),
            (colon, Some(operator @ ('-' | '+' | '?'))) => self.with_default(&name, colon, operator),
            (false, Some(operator @ ('#' | '%'))) => self.trimmed(&name, operator),
            (false, Some('/')) => self.replaced(&name),
            (_, None) => error("syntax error: missing '}'"),
            (colon, Some(operator)) => {
                let colon = if colon { ":" } else { "" };
                error(format!("unsupported modifier ({colon}{operator}) in substitution"))
            }
        }
    }

    /// `${NAME-WORD}`, `${NAME+WORD}`, `${NAME?WORD}`, and with a colon, which takes an empty value for none.
    fn with_default(&mut self, name: &str, colon: bool, operator: char) -> Result<String, ExpandError> {
        let (word, _) = self.until(Some('}'), Escapes::Taken)?.finish();
        let value = self.get(name, false);
        let set = value.as_ref().is_some_and(|value| !colon || !value.is_empty());
        match (operator, set) {
            ('-', false) | ('+', true) => Ok(word),
            ('+', false) => Ok(String::new()),
            ('?', false) => error(match (word.as_str(), value) {
                ("", None) => format!("{name}: is not allowed to be unset"),
                ("", Some(_)) => format!("{name}: is not allowed to be empty"),
                (word, _) => format!("{name}: {word}"),
            }),
            _ => Ok(value.unwrap_or_default()),
        }
    }

    /// `${NAME#PATTERN}`, `${NAME%PATTERN}`, and with two of them, for the longest.
    fn trimmed(&mut self, name: &str, operator: char) -> Result<String, ExpandError> {
        let (word, _) = self.until(Some('}'), Escapes::Kept)?.finish();
        let value = self.get(name, true).unwrap_or_default();
        let (word, longest) = match word.strip_prefix(operator) {
            Some(word) => (word, true),
            None => (word.as_str(), false),
        };
        let pattern = self.pattern(word)?;
        Ok(match operator {
            '#' => pattern.without_prefix(&value, longest),
            _ => pattern.without_suffix(&value, longest),
        })
    }

    /// `${NAME/PATTERN/TEXT}`, and with two of the first, for all of them.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let (pattern, _) = self.until(Some('/'), Escapes::Kept)?.finish();
        let (text, _) = self.until(Some('}'), Escapes::Kept)?.finish();
        let value = self.get(name, true).unwrap_or_default();
        self.pattern(&pattern)?.replace(&value, &text, all, self.most).map_or_else(too_long, Ok)
    }

    fn pattern(&self, text: &str) -> Result<Pattern, ExpandError> {
        Pattern::parse(text, self.escape)
            .map_err(|why| ExpandError(format!("invalid pattern ({text}) in substitution: {why}")))
    }

    /// Reads a variable's name: letters, digits and `_`, or digits, or one character that is special to a shell.
    fn name(&mut self) -> String {
        let Some(first) = self.peek() else { return String::new() };
        let end = match first {
            first if first.is_ascii_digit() => self.rest.find(|c: char| !c.is_ascii_digit()),
            '@' | '*' | '#' | '?' | '-' | '$' | '!' => Some(1),
            _ => self.rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
        };
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        name.to_owned()
    }

    /// A variable's value, which is remembered as read.
    fn get(&mut self, name: &str, needed: bool) -> Option<String> {
        let value = (self.variables)(name);
        match value {
            Some(_) => drop(self.expansion.read.insert(name.to_owned())),
            None => {
                self.expansion.unset.insert(name.to_owned());
                if needed {
                    self.expansion.missing.insert(name.to_owned());
                }
            }
        }
        value
    }
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;

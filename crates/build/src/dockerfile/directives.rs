//! Parser directives: `# NAME=VALUE` in a file's first lines.

use super::lines::{Escape, Lines, trim_end};
use super::source::{Mistakes, Position, Source, Span, Spanned};
use std::collections::BTreeSet;

/// What a file's directives say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `syntax`: an image that would parse the file. It is never fetched: this is what parses it.
    pub syntax: Option<Spanned<String>>,
    /// `escape`
    pub escape: Escape,
    /// `check`
    pub check: Option<Spanned<CheckOptions>>,
}

/// Which checks are made, and what follows from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// `skip`: these are not made.
    pub skip: Checks,
    /// `experimental`: these are made too.
    pub experimental: Checks,
    /// `error`: a warning ends the build.
    pub error: bool,
}

/// Some of the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checks {
    /// All of them.
    All,
    /// Those of these names, in small letters.
    Named(BTreeSet<String>),
}

impl Default for Checks {
    fn default() -> Checks {
        Checks::Named(BTreeSet::new())
    }
}

impl Checks {
    /// Whether one is among them.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Checks::All => true,
            Checks::Named(names) => names.contains(&name.to_ascii_lowercase()),
        }
    }

    fn parse(text: &str) -> Checks {
        let names: BTreeSet<String> = text.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        if names.contains("all") { Checks::All } else { Checks::Named(names) }
    }
}

impl CheckOptions {
    /// Reads `skip=NAME,NAME;error=true;experimental=NAME`.
    pub fn parse(text: &str) -> Result<CheckOptions, String> {
        let mut options = CheckOptions::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!(
                    "invalid check option {part:?}: expected skip=NAMES, experimental=NAMES or error=true"
                ));
            };
            match key.trim() {
                "skip" => options.skip = Checks::parse(value),
                "experimental" => options.experimental = Checks::parse(value),
                "error" => {
                    options.error = match value.trim().to_ascii_lowercase().as_str() {
                        "true" | "t" | "1" => true,
                        "false" | "f" | "0" => false,
                        other => {
                            return Err(format!(
                                "failed to parse check option error: {other:?} is neither true nor false"
                            ));
                        }
                    }
                }
                other => return Err(format!("invalid check option {other:?}: there are skip, experimental and error")),
            }
        }
        Ok(options)
    }
}

/// Reads a file's directives. They end with the first line that is none.
pub(super) fn read(lines: &mut Lines<'_>, source: &Source, mistakes: &mut Mistakes) -> Directives {
    let mut directives = Directives::default();
    let mut seen = BTreeSet::new();
    if lines.peek().is_some_and(|line| line.starts_with("#!")) {
        lines.raw();
    }
    while let Some((name, value, span)) = lines.peek().and_then(|line| directive(trim_end(line), lines.number())) {
        // A comment above the first instruction may look like one: whatever is not known is a comment.
        let refused = match name.as_str() {
            _ if !matches!(name.as_str(), "syntax" | "escape" | "check") => break,
            _ if !seen.insert(name.clone()) => Some(format!("only one {name} parser directive can be used")),
            "syntax" => {
                directives.syntax = Some(Spanned { value, span });
                None
            }
            "escape" => match value.as_str() {
                "\\" => None,
                "`" => {
                    directives.escape = Escape::Backtick;
                    None
                }
                _ => Some(format!("invalid escape token '{value}' does not match ` or \\")),
            },
            _ => match CheckOptions::parse(&value) {
                Ok(value) => {
                    directives.check = Some(Spanned { value, span });
                    None
                }
                Err(why) => Some(why),
            },
        };
        if let Some(message) = refused {
            mistakes.add(source.mistake(span, message));
        }
        lines.raw();
    }
    directives
}

/// The name in small letters, the value and its place, of a line that looks like a directive.
fn directive(line: &str, number: u32) -> Option<(String, String, Span)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let (name, value_trimmed) = (name.trim(), value.trim());
    let well_formed =
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !well_formed || value_trimmed.is_empty() {
        return None;
    }
    let column = |offset: usize| u32::try_from(line[..offset].chars().count() + 1).unwrap_or(u32::MAX);
    let start = line.len() - value.trim_start().len();
    let place = |offset| Position { line: number, column: column(offset) };
    let span = Span { start: place(start), end: place(start + value_trimmed.len()) };
    Some((name.to_ascii_lowercase(), value_trimmed.to_owned(), span))
}

//! Patterns of paths: what Go's `filepath.Match` takes, with `**` where it means something.

use std::fmt;
use thiserror::Error;

/// What `**` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stars {
    /// The same as `*`, as in Go's `filepath.Match`.
    Plain,
    /// As a whole component of a path, any number of components: what `COPY` and `ADD` take.
    Components,
    /// What `.dockerignore` takes: at a pattern's end anything, elsewhere any number of directories, with a slash behind it
    /// or not. Before a name without wildcards (`**name`) it is also the begin of the name.
    Anywhere,
}

/// A pattern that is none: a `[` without its `]`, a range without its end, a `\` at the end.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("syntax error in pattern {pattern:?}: {problem}")]
pub struct GlobError {
    pattern: String,
    problem: &'static str,
}

/// A pattern of paths.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    pattern: String,
    steps: Vec<Step>,
}

/// What takes characters, one after the other. A path that has come to the end of the steps fits.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Character(char),
    /// Any but a slash.
    Any,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Any number of characters but slashes.
    Star,
    /// Any number of any characters.
    Everything,
    /// Nothing, or any characters of which the last is a slash: the step behind it takes them.
    Directories,
    /// Any characters, of which the last is a slash. It is always behind `Directories`, which may pass it over.
    WithinDirectories,
}

/// The most bytes of a pattern: no path is longer (`PATH_MAX`).
const LONGEST: usize = 4096;

impl Glob {
    /// Reads a pattern.
    pub fn parse(pattern: &str, stars: Stars) -> Result<Glob, GlobError> {
        let fail = |problem| GlobError { pattern: pattern.to_owned(), problem };
        if pattern.len() > LONGEST {
            return Err(GlobError {
                pattern: format!("{}…", pattern.chars().take(40).collect::<String>()),
                problem: "it is too long",
            });
        }
        let mut steps = Vec::new();
        let mut rest = pattern;
        while let Some(c) = rest.chars().next() {
            let begins = rest.len() == pattern.len() || pattern[..pattern.len() - rest.len()].ends_with('/');
            rest = &rest[c.len_utf8()..];
            match c {
                '*' if rest.starts_with('*') && stars == Stars::Components => {
                    let behind = rest.trim_start_matches('*');
                    rest = match behind.strip_prefix('/') {
                        Some(behind) if begins => {
                            steps.extend([Step::Directories, Step::WithinDirectories]);
                            behind
                        }
                        None if begins && behind.is_empty() => {
                            steps.push(Step::Everything);
                            behind
                        }
                        _ => {
                            steps.push(Step::Star);
                            behind
                        }
                    };
                }
                '*' if rest.starts_with('*') && stars == Stars::Anywhere => {
                    let behind = &rest[1..];
                    let slash = behind.strip_prefix('/');
                    let first = rest.len() + 1 == pattern.len();
                    rest = slash.unwrap_or(behind);
                    if rest.is_empty() || (first && slash.is_none() && !rest.contains(['*', '?', '[', ']', '\\'])) {
                        steps.push(Step::Everything);
                    } else {
                        steps.extend([Step::Directories, Step::WithinDirectories]);
                    }
                }
                '*' => steps.push(Step::Star),
                '?' => steps.push(Step::Any),
                '[' => {
                    let (class, behind) = class(rest).map_err(fail)?;
                    steps.push(class);
                    rest = behind;
                }
                '\\' => {
                    let escaped = rest.chars().next().ok_or_else(|| fail("a \\ at its end escapes nothing"))?;
                    steps.push(Step::Character(escaped));
                    rest = &rest[escaped.len_utf8()..];
                }
                c => steps.push(Step::Character(c)),
            }
        }
        Ok(Glob { pattern: pattern.to_owned(), steps })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// The one path that fits, if no other can.
    pub fn literal(&self) -> Option<String> {
        let character = |step: &Step| match step {
            Step::Character(c) => Some(*c),
            _ => None,
        };
        self.steps.iter().map(character).collect()
    }

    /// Whether a path fits.
    pub fn matches(&self, path: &str) -> bool {
        self.after(path.chars()).is_some_and(|states| states[self.steps.len()])
    }

    /// Whether a path below a directory may fit.
    pub fn may_match_below(&self, directory: &str) -> bool {
        let slash = if directory.is_empty() { None } else { Some('/') };
        self.after(directory.chars().chain(slash)).is_some_and(|states| states[..self.steps.len()].contains(&true))
    }

    /// The steps that are next after some characters; none if none can be.
    fn after(&self, path: impl Iterator<Item = char>) -> Option<Vec<bool>> {
        let mut states = vec![false; self.steps.len() + 1];
        self.enter(&mut states, 0);
        for c in path {
            let mut next = vec![false; states.len()];
            for (index, step) in self.steps.iter().enumerate().filter(|(index, _)| states[*index]) {
                match step {
                    Step::Character(own) if *own == c => self.enter(&mut next, index + 1),
                    Step::Any if c != '/' => self.enter(&mut next, index + 1),
                    Step::Class { negated, ranges } => {
                        if ranges.iter().any(|(low, high)| (low..=high).contains(&&c)) != *negated {
                            self.enter(&mut next, index + 1);
                        }
                    }
                    Step::Star if c != '/' => self.enter(&mut next, index),
                    Step::Everything => self.enter(&mut next, index),
                    Step::WithinDirectories => {
                        next[index] = true;
                        if c == '/' {
                            self.enter(&mut next, index + 1);
                        }
                    }
                    Step::Character(_) | Step::Any | Step::Star | Step::Directories => {}
                }
            }
            if !next.contains(&true) {
                return None;
            }
            states = next;
        }
        Some(states)
    }

    /// Makes a step the next one, and those behind it that are so too, as it may take nothing.
    fn enter(&self, states: &mut [bool], mut index: usize) {
        loop {
            states[index] = true;
            index += match self.steps.get(index) {
                Some(Step::Star | Step::Everything) => 1,
                Some(Step::Directories) => {
                    states[index + 1] = true;
                    2
                }
                _ => return,
            };
        }
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.pattern)
    }
}

/// Reads a class behind its `[`; and what stands behind its `]`.
fn class(text: &str) -> Result<(Step, &str), &'static str> {
    const OPEN: &str = "a [ without its ]";
    let (mut rest, negated) = match text.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let mut ranges = Vec::new();
    loop {
        if let Some(behind) = rest.strip_prefix(']').filter(|_| !ranges.is_empty()) {
            return Ok((Step::Class { negated, ranges }, behind));
        }
        let (low, behind) = class_character(rest)?;
        let (high, behind) = match behind.strip_prefix('-') {
            Some(behind) => class_character(behind)?,
            None => (low, behind),
        };
        if behind.is_empty() {
            return Err(OPEN);
        }
        ranges.push((low, high));
        rest = behind;
    }
}

fn class_character(text: &str) -> Result<(char, &str), &'static str> {
    let mut chars = text.chars();
    let c = match chars.next() {
        None => return Err("a [ without its ]"),
        Some('-') => return Err("a - in [] that is no range: write \\-"),
        Some(']') => return Err("a ] in [] that ends nothing: write \\]"),
        Some('\\') => chars.next().ok_or("a \\ at its end escapes nothing")?,
        Some(c) => c,
    };
    Ok((c, chars.as_str()))
}

#[cfg(test)]
#[path = "glob_tests.rs"]
mod tests;

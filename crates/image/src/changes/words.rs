//! Words of an instruction: quotes, escapes and variables, as a Dockerfile has them.

use super::ChangeError;

/// Variables, as `KEY=value`; the last of a name counts.
pub(super) struct Environment<'a>(pub(super) &'a [String]);

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|entry| entry.split_once('=').filter(|(key, _)| *key == name).map(|(_, v)| v))
    }
}

/// How deep one variable's default may be in another's.
const DEPTH: usize = 32;

/// A JSON array of strings.
pub(super) fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// Words between blanks. Quotes hold blanks together and stay, as do backslashes: [`expand`] reads them.
pub(super) fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                words.push(std::mem::take(&mut word));
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// A word without its quotes and escapes, and with its variables: `$NAME`, `${NAME}`, `${NAME:-WORD}`,
/// `${NAME:+WORD}`, `${NAME:?WORD}` and those without the colon. Nothing is expanded in single quotes.
pub(super) fn expand(word: &str, environment: &Environment<'_>) -> Result<String, ChangeError> {
    let chars: Vec<char> = word.chars().collect();
    let mut reader = Reader { chars: &chars, at: 0, environment };
    let expanded = reader.until(None, 0)?;
    Ok(expanded)
}

struct Reader<'a> {
    chars: &'a [char],
    at: usize,
    environment: &'a Environment<'a>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// Reads to an unquoted `end`, which is taken, or to the word's end.
    fn until(&mut self, end: Option<char>, depth: usize) -> Result<String, ChangeError> {
        let mut text = String::new();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == end => return Ok(text),
                '\'' => loop {
                    match self.next() {
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err(unterminated("single-quote")),
                    }
                },
                '"' => loop {
                    match self.next() {
                        Some('"') => break,
                        Some('$') => text.push_str(&self.variable(depth)?),
                        Some('\\') => match self.next() {
                            Some(c @ ('"' | '$' | '\\')) => text.push(c),
                            Some(c) => text.extend(['\\', c]),
                            None => return Err(unterminated("double-quote")),
                        },
                        Some(c) => text.push(c),
                        None => return Err(unterminated("double-quote")),
                    }
                },
                '$' => text.push_str(&self.variable(depth)?),
                '\\' => text.extend(self.next()),
                c => text.push(c),
            }
        }
        match end {
            None => Ok(text),
            Some(_) => Err(ChangeError("syntax error: missing '}' of a variable".into())),
        }
    }

    /// Reads a variable behind its `$`.
    fn variable(&mut self, depth: usize) -> Result<String, ChangeError> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(self.environment.get(&name).unwrap_or_default().to_owned());
        }
        self.next();
        let name = self.name();
        if name.is_empty() || depth >= DEPTH {
            return Err(ChangeError("syntax error: bad substitution".into()));
        }
        let value = self.environment.get(&name).map(str::to_owned);
        let (colon, operator) = match self.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => (true, self.next()),
            other => (false, other),
        };
        let Some(operator @ ('-' | '+' | '?')) = operator else {
            return Err(ChangeError(format!("unsupported modifier of the variable {name}")));
        };
        let word = self.until(Some('}'), depth + 1)?;
        let set = value.as_ref().is_some_and(|value| !colon || !value.is_empty());
        match (operator, set) {
            ('-', false) | ('+', true) => Ok(word),
            ('+', false) => Ok(String::new()),
            ('?', false) => Err(ChangeError(format!("{name}: {}", if word.is_empty() { "not set" } else { &word }))),
            _ => Ok(value.unwrap_or_default()),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            let fits = c == '_' || c.is_ascii_alphabetic() || (c.is_ascii_digit() && !name.is_empty());
            if !fits {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }
}

fn unterminated(quote: &str) -> ChangeError {
    ChangeError(format!("unexpected end of statement while looking for matching {quote}"))
}

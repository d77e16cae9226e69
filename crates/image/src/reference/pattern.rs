//! Globs over names, as Go's `path.Match` reads them: `*` and `?` never match `/`, `[a-z]` and `[^a-z]` are classes, `\` escapes.

/// The glob can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    AnyOne,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Token::Literal(literal) => *literal == c,
            Token::AnyOne | Token::AnyRun => c != '/',
            Token::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// A glob that was read once and matches many names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

impl Pattern {
    /// Reads a glob.
    pub fn parse(text: &str) -> Result<Pattern, BadPattern> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::AnyRun,
                '?' => Token::AnyOne,
                '\\' => Token::Literal(chars.next().ok_or(BadPattern)?),
                '[' => parse_class(&mut chars)?,
                literal => Token::Literal(literal),
            });
        }
        Ok(Pattern(tokens))
    }

    /// Whether the glob matches the whole name. Takes time in proportion to the product of both lengths at most.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // One row of the classic dynamic program: reachable[i] says that the tokens so far can match name[..i].
        let mut reachable = vec![false; name.len() + 1];
        reachable[0] = true;
        for token in &self.0 {
            if *token == Token::AnyRun {
                for i in 0..name.len() {
                    reachable[i + 1] |= reachable[i] && token.accepts(name[i]);
                }
            } else {
                for i in (0..name.len()).rev() {
                    reachable[i + 1] = reachable[i] && token.accepts(name[i]);
                }
                reachable[0] = false;
            }
        }
        reachable[name.len()]
    }
}

fn parse_class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, BadPattern> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => class_char(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match chars.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern),
        Some(c) => Ok(c),
    }
}

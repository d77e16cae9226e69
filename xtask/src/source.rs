//! Just enough of Rust's grammar to find a word in code, and not in its comments and strings.

/// Whether a crate's root has `#![forbid(unsafe_code)]`, alone or among others.
pub(crate) fn forbids_unsafe(source: &str) -> bool {
    let code: String = code(source).split_whitespace().collect();
    code.match_indices("#![forbid(")
        .any(|(at, start)| code[at + start.len()..].split(')').next().is_some_and(names_unsafe_code))
}

fn names_unsafe_code(lints: &str) -> bool {
    lints.split(',').any(|lint| lint == "unsafe_code")
}

/// The lines, from 1, on which `unsafe` stands as a word of code.
pub(crate) fn lines_with_unsafe(source: &str) -> Vec<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let code = code(source);
    let lines = code.lines().enumerate();
    lines.filter(|(_, line)| line.split(|c| !is_part(c)).any(|word| word == "unsafe")).map(|(n, _)| n + 1).collect()
}

/// The source with everything blank that is no code: comments, strings, characters. Lines stay where they are.
fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = comment(rest).or_else(|| literal(rest, code.chars().next_back()));
        let taken = length.unwrap_or(first.len_utf8()).min(rest.len());
        let (token, after) = rest.split_at(taken);
        match length {
            Some(_) => code.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            None => code.push_str(token),
        }
        rest = after;
    }
    code
}

/// The length of the comment that `text` begins with, if it does. Block comments nest.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return Some(at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(text.len())
}

/// The length of the string or character literal that `text` begins with, if it does; `before` stands before it.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let bytes = text.as_bytes();
    // An `r` at the end of a word begins no raw string.
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_') && bytes[0] != b'"' && bytes[0] != b'\'';
    if in_word {
        return None;
    }
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| text.starts_with(prefix)).unwrap_or("");
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.bytes().take_while(|byte| *byte == b'#').count();
        let end = format!("\"{}", "#".repeat(hashes));
        let content = body[hashes..].strip_prefix('"')?;
        let length = content.find(&end).map_or(content.len(), |at| at + end.len());
        return Some(prefix.len() + hashes + 1 + length);
    }
    match body.as_bytes().first()? {
        b'"' => Some(prefix.len() + quoted(body, b'"')),
        b'\'' => character(body).map(|length| prefix.len() + length),
        _ => None,
    }
}

/// The length up to the quote that ends `text`, which begins with one.
fn quoted(text: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    match chars.next()? {
        (_, '\\') => Some(quoted(text, b'\'')),
        _ => chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_found_in_code_only() {
        let source = r####"
// unsafe
/* unsafe /* unsafe */ unsafe */ fn a() {}
let s = "unsafe \" unsafe"; let r = r#"unsafe " unsafe"#; let b = b"unsafe"; let c = br##"unsafe"##;
let q = '"'; unsafe { f() }
let life: &'static str = x; let e = '\''; unsafe_code(); not_unsafe();
unsafe fn g<'a>(x: &'a u8) {}
let multi = "
unsafe
"; let bar"unsafe"
unsafe
"####;
        assert_eq!(lines_with_unsafe(source), [5, 7, 11]);
    }

    #[test]
    fn the_end_of_the_text_ends_everything() {
        for source in ["/* unsafe", "\"unsafe", "r#\"unsafe", "'", "'\\", "b'", "// unsafe", "r", "b", "é'"] {
            assert_eq!(lines_with_unsafe(source), [0; 0], "{source}");
        }
    }

    #[test]
    fn forbidding_is_understood_as_rust_does() {
        for source in ["#![forbid(unsafe_code)]", "#! [ forbid ( missing_docs , unsafe_code ) ]\n"] {
            assert!(forbids_unsafe(source), "{source}");
        }
        for source in ["#![deny(unsafe_code)]", "// #![forbid(unsafe_code)]", "#![forbid(unsafe_codes)]", ""] {
            assert!(!forbids_unsafe(source), "{source}");
        }
    }
}

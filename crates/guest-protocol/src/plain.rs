//! Texts of a guest's, which are a stranger's, on their way to people: made harmless where they enter, so that nobody behind that has to think of it. What a
//! terminal would obey is written out, and what has no end is cut.

use std::borrow::Cow;

use crate::message::{Failure, Reply};

/// The most bytes of a text.
const LONGEST: usize = 4096;
/// The most warnings of one start.
const WARNINGS: usize = 64;

/// A text without anything that a terminal would obey: control characters, and those that turn the direction of writing, are written as `\n` and `\u{1b}`.
pub fn text(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST && !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::new();
    for c in text.chars() {
        match is_obeyed(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
        if plain.len() >= LONGEST {
            plain.push('…');
            break;
        }
    }
    Cow::Owned(plain)
}

/// A name in a guest, for people.
pub fn name(bytes: &[u8]) -> String {
    text(&String::from_utf8_lossy(bytes)).into_owned()
}

fn is_obeyed(c: char) -> bool {
    // Marks, embeddings, overrides and isolates of the bidirectional algorithm (UAX #9), and separators of lines.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn make_plain(string: &mut String) {
    if let Cow::Owned(plain) = text(string) {
        *string = plain;
    }
}

/// Makes the texts of a failure plain.
pub fn failure(failure: &mut Failure) {
    match failure {
        Failure::Unknown { what: text }
        | Failure::Refused { why: text }
        | Failure::Program { text, .. }
        | Failure::Sandbox { text, .. } => make_plain(text),
        Failure::System { tried, on, .. } => {
            make_plain(tried.to_mut());
            make_plain(on);
        }
        Failure::Died { .. } => {}
    }
}

/// Makes warnings plain.
pub fn warnings(warnings: &mut Vec<String>) {
    warnings.truncate(WARNINGS);
    warnings.iter_mut().for_each(make_plain);
}

/// Makes the texts of an answer plain. Names and contents of files are none: who shows them has to see to that.
pub fn answer(result: &mut Result<Reply, Failure>) {
    match result {
        Ok(Reply::Started { warnings: told }) => warnings(told),
        Ok(Reply::Processes(processes)) => {
            processes.iter_mut().for_each(|process| make_plain(&mut process.command));
        }
        Ok(Reply::Done | Reply::Stats(_) | Reply::File(_) | Reply::Memory(_)) => {}
        Err(refused) => failure(refused),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(text("sh: not found"), "sh: not found");
        assert_eq!(text("\u{1b}]0;title\u{7}\r\nroot#"), "\\u{1b}]0;title\\u{7}\\r\\nroot#");
        assert_eq!(text("a\u{202e}txt.exe"), "a\\u{202e}txt.exe");
        assert_eq!(name(b"\xff\x9b31m"), "\u{fffd}\u{fffd}31m");
        assert_eq!(text("größer — 大"), "größer — 大");
    }

    proptest! {
        #[test]
        fn no_text_is_obeyed_or_endless(given in any::<String>(), times in 1usize..50) {
            let plain = text(&given.repeat(times)).into_owned();
            prop_assert!(plain.len() < LONGEST + 20);
            prop_assert!(!plain.chars().any(is_obeyed));
            let mut refused = Err(Failure::System { tried: Cow::Owned(given.clone()), on: given, errno: 1 });
            answer(&mut refused);
            prop_assert!(!refused.unwrap_err().to_string().chars().any(is_obeyed));
        }
    }
}

//! The user's terminal: whether there is one, its size, its raw mode, its colours.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// How a text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// As it is.
    Plain,
    /// As a title.
    Bold,
    /// As something well.
    Good,
    /// As something that waits, or wants a look.
    Careful,
    /// As something wrong.
    Bad,
    /// As something of no interest.
    Dim,
}

impl Style {
    /// The text in its colour (ECMA-48, section 8.3.117).
    pub(super) fn paint(self, text: &str, colours: bool) -> String {
        let code = match self {
            _ if !colours || text.is_empty() => return text.to_owned(),
            Style::Plain => return text.to_owned(),
            Style::Bold => "1",
            Style::Good => "32",
            Style::Careful => "33",
            Style::Bad => "31",
            Style::Dim => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Whether colours are shown there: on terminals that have them, unless NO_COLOR says otherwise (no-color.org).
pub(super) fn colours(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Rows and columns.
pub(super) type Size = (u16, u16);

/// The width of the terminal that a stream is; `None`: it is none.
pub(super) fn columns(stream: &impl AsFd) -> Option<usize> {
    tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The size of the terminal on standard output or, failing that, input.
pub(super) fn size() -> Option<Size> {
    let of = |fd: BorrowedFd<'_>| tcgetwinsize(fd).ok().map(|size| (size.ws_row, size.ws_col));
    of(io::stdout().as_fd()).or_else(|| of(io::stdin().as_fd())).filter(|size| *size != (0, 0))
}

/// The terminal on standard input in raw mode: every key goes to the container. Ends when it is dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` where standard input is no terminal.
    pub(super) fn enter() -> io::Result<Option<Raw>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Raw { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone: then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// What is typed on standard input is not shown. Ends when it is dropped.
pub(super) struct Hidden {
    before: Termios,
}

impl Hidden {
    pub(super) fn enter() -> io::Result<Hidden> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // But that the line is ended is.
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Hidden { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // The terminal may be gone: then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Clears the screen and goes to its top. What has scrolled out of it (3J) is the user's.
pub(super) fn clear(mut output: impl Write) -> io::Result<()> {
    output.write_all(b"\x1b[H\x1b[2J")
}

/// A text that is on one row, and does nothing to the terminal.
pub(super) fn clean(text: &str) -> String {
    harmless(text, |_| false).replace('\t', "    ")
}

/// The same of a text of several lines.
pub(super) fn clean_lines(text: &str) -> String {
    harmless(text, |character| character == '\n')
}

/// A text without what does something to the terminal, but for tabs and what is to be kept.
fn harmless(text: &str, kept: impl Fn(char) -> bool) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => skip_sequence(&mut characters),
            character if character == '\t' || kept(character) => cleaned.push(character),
            character if character.is_control() || turns(character) => {}
            character => cleaned.push(character),
        }
    }
    cleaned
}

/// Whether it changes the direction of what is beside it (Unicode's annex 9), so that a line reads as another.
fn turns(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Passes over the rest of an escape sequence (ECMA-48, section 5.4; operating system commands end with BEL or ST).
fn skip_sequence(characters: &mut std::str::Chars<'_>) {
    match characters.next() {
        Some('[') => _ = characters.find(|character| ('@'..='~').contains(character)),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(character) = characters.next() {
                match character {
                    '\u{7}' => return,
                    '\u{1b}' => {
                        characters.next();
                        return;
                    }
                    _ => {}
                }
            }
        }
        Some(' '..='/') => _ = characters.find(|character| ('0'..='~').contains(character)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_scrolled_away_is_not_erased() {
        let mut written = Vec::new();
        clear(&mut written).expect("written");
        assert!(!written.is_empty() && !written.windows(4).any(|piece| piece == b"\x1b[3J"));
    }

    #[test]
    fn what_a_command_writes_does_nothing_to_the_terminal() {
        let text =
            "a\u{1b}[31mb\u{1b}[0m\u{7}\tc\u{1b}]0;title\u{7}d\u{1b}(Be\u{1b}]x\u{1b}\\f\u{9b}31mg\n\u{202e}h\u{2069}";
        assert_eq!(clean(text), "ab    cdef31mgh");
        assert_eq!(clean_lines(text), "ab\tcdef31mg\nh");
    }
}

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

/// Clears the screen and goes to its top.
pub(super) fn clear(mut output: impl Write) -> io::Result<()> {
    output.write_all(b"\x1b[H\x1b[2J\x1b[3J")
}

//! The terminal of the process, if it has one: the guest's does all that terminals do, so this one only passes bytes on.

use std::os::fd::OwnedFd;

use guest_protocol::message::TerminalSize;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::{Error, Result};

/// Standard input, as a terminal in raw mode. It is this process's own, and goes with it.
#[derive(Debug)]
pub(crate) struct Terminal;

impl Terminal {
    /// Puts it into raw mode.
    pub(crate) fn raw() -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        let set = || -> Result<(), Errno> {
            let mut modes = tcgetattr(stdin)?;
            modes.make_raw();
            tcsetattr(stdin, OptionalActions::Now, &modes)
        };
        set().map_err(Error::system("set up", "the terminal on standard input"))?;
        Ok(Self)
    }

    /// Its size; one that has none is nobody's.
    pub(crate) fn size(&self) -> TerminalSize {
        let size = tcgetwinsize(rustix::stdio::stdin());
        size.map_or_else(|_| TerminalSize::default(), |size| TerminalSize { rows: size.ws_row, columns: size.ws_col })
    }
}

/// Copies of this process's standard input, where it is wanted, and outputs.
pub(crate) fn standard_streams(stdin: bool, terminal: bool) -> (Option<OwnedFd>, [Option<OwnedFd>; 2]) {
    let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok();
    let input = stdin.then(|| copy(rustix::stdio::stdin())).flatten();
    let error = (!terminal).then(|| copy(rustix::stdio::stderr())).flatten();
    (input, [copy(rustix::stdio::stdout()), error])
}

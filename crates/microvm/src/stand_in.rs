//! A small process on the host that stands for one in a machine: its streams, signals, terminal and exit status are that one's.
//!
//! It hears from the machine's process, which a guest may have taken over: from then on it may do [little](confine).

mod confine;

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use guest_protocol::message::{Exit, Failure, Status, Streams};
use guest_protocol::plain;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sandbox::{Report, Step};

use crate::control::{Connection, ConnectionError, FromMachine, ToMachine};
use crate::error::Error;
use crate::process::{KILLED, OOM_KILLED, Signals, Terminal};

/// What whoever begins needs.
pub(crate) struct Machine<'m> {
    pub(crate) connection: &'m Connection,
    terminal: Option<&'m Terminal>,
}

impl Machine<'_> {
    /// What its streams are; `stdin`: it has a standard input.
    pub(crate) fn streams(&self, stdin: bool) -> Streams {
        match self.terminal {
            Some(terminal) => Streams::Terminal { size: terminal.size() },
            None => Streams::Pipes { stdin },
        }
    }

    /// The descriptors that come along.
    pub(crate) fn fds(&self) -> &'static [BorrowedFd<'static>] {
        match self.terminal {
            Some(_) => &const { [rustix::stdio::stdin()] },
            None => &const { [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] },
        }
    }
}

/// Why a process does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Guest(Failure),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Here(#[from] Error),
}

/// Stands for a process until its end, and returns its exit status. `begin` asks the machine for it, and opens nothing; `report` is told when it runs, or why it does not. `words` is the
/// directory where it is said what else there is to say of its end, if somebody looks for that.
pub(crate) fn run(
    control: &Path,
    words: Option<&Path>,
    terminal: bool,
    report: Report,
    begin: impl FnOnce(&Machine<'_>) -> Result<(), Refusal>,
) -> u8 {
    let mut report = Some(report);
    match stand(control, words.is_some(), terminal, &mut report, begin) {
        Ok(exit) => {
            if let Some(words) = words.filter(|_| exit.oom_killed) {
                // Where that is not possible, nobody is told more than that it was killed.
                let _ = fs::write(words.join(OOM_KILLED), []);
            }
            Status::shell(exit.status)
        }
        Err(failure) => {
            match (report.take(), failure) {
                (Some(report), Refusal::Guest(Failure::Program { errno, text })) => {
                    report.failed(Step::Guest, errno, &text);
                }
                (Some(report), Refusal::Guest(Failure::Sandbox { errno, text })) => {
                    report.failed(Step::InGuest, errno, &text);
                }
                (Some(report), failure) => report.failed(Step::Machine, 0, &failure.to_string()),
                // The machine is gone, and what ran in it.
                (None, _) => {}
            }
            KILLED
        }
    }
}

fn stand(
    control: &Path,
    has_words: bool,
    terminal: bool,
    report: &mut Option<Report>,
    begin: impl FnOnce(&Machine<'_>) -> Result<(), Refusal>,
) -> Result<Exit, Refusal> {
    let mut signals = Signals::block()?;
    let terminal = terminal.then(Terminal::raw).transpose()?;
    let stream = UnixStream::connect(control).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let stream = stream.map_err(ConnectionError::from)?;
    confine::confine(has_words)?;
    let mut machine = Connection::new(stream.into())?;
    begin(&Machine { connection: &machine, terminal: terminal.as_ref() })?;
    loop {
        while let Some(message) = machine.try_receive()? {
            match message {
                FromMachine::Started(mut warnings) => {
                    plain::warnings(&mut warnings);
                    if let Some(report) = report.take() {
                        warnings.iter().for_each(|warning| report.warn(warning));
                        report.executing();
                    }
                }
                FromMachine::Refused(mut failure) => {
                    plain::failure(&mut failure);
                    return Err(Refusal::Guest(failure));
                }
                FromMachine::Exited(exit) => return Ok(exit),
                FromMachine::Answer(_)
                | FromMachine::Saved(_)
                | FromMachine::Resized(_)
                | FromMachine::Networked(_)
                | FromMachine::Touched(_)
                | FromMachine::HasFiles(_) => {}
            }
        }
        let mut fds = [PollFd::new(&machine, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        // An interruption is a signal that nobody could hold back.
        let _ = poll(&mut fds, None);
        while let Some(signal) = signals.next() {
            match &terminal {
                Some(terminal) if signal == nix::libc::SIGWINCH => {
                    machine.send(&ToMachine::Resize(terminal.size()), &[])?;
                }
                _ => machine.send(&ToMachine::Signal(signal), &[])?,
            }
        }
    }
}

//! A small process on the host that stands for one in a machine: its streams, signals, terminal and exit status are that one's.

use std::os::fd::BorrowedFd;
use std::path::Path;

use guest_protocol::message::{Exit, Failure, Status, Streams};
use guest_protocol::plain;
use rustix::event::{PollFd, PollFlags, poll};
use sandbox::{Report, Step};

use crate::control::{Connection, ConnectionError, FromMachine, ToMachine};
use crate::error::Error;
use crate::process::{KILLED, Signals, Terminal};

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

/// Stands for a process until its end, and returns its exit status. `begin` asks the machine for it; `report` is told when it runs, or why it does not; `ended` hears of its end first.
pub(crate) fn run(
    control: &Path,
    terminal: bool,
    report: Report,
    begin: impl FnOnce(&Machine<'_>) -> Result<(), Refusal>,
    ended: impl FnOnce(&Exit),
) -> u8 {
    let mut report = Some(report);
    match stand(control, terminal, &mut report, begin) {
        Ok(exit) => {
            ended(&exit);
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
    terminal: bool,
    report: &mut Option<Report>,
    begin: impl FnOnce(&Machine<'_>) -> Result<(), Refusal>,
) -> Result<Exit, Refusal> {
    let mut signals = Signals::block()?;
    let terminal = terminal.then(Terminal::raw).transpose()?;
    let mut machine = Connection::open(control)?;
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

//! A further process of a container in a machine: a small process on the host that stands for it.

use std::path::PathBuf;

use guest_protocol::message::{Blob, Failure, Status, Streams};
use guest_protocol::plain;
use rustix::event::{PollFd, PollFlags, poll};
use sandbox::{Report, Step};
use serde::{Deserialize, Serialize};

use crate::control::{Connection, ConnectionError, FromMachine, ToMachine};
use crate::error::Error;
use crate::process::{KILLED, Signals, Terminal};

/// What the process is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The machine's socket.
    pub control: PathBuf,
    /// An `ExecPlan` of `sandbox`, made for the guest.
    pub plan: Blob,
    /// Its standard streams are one terminal.
    pub terminal: bool,
    /// It has a standard input.
    pub stdin: bool,
}

impl ExecRequest {
    /// As text for a command line.
    ///
    /// # Errors
    /// It has more of something than can be counted.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        postcard::to_stdvec(self).map_err(Error::Plan)
    }

    /// From what [`ExecRequest::to_bytes`] made.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        postcard::from_bytes(bytes).map_err(Error::Plan)
    }
}

/// Runs a process in a machine, and returns its exit status. `report` is told when it runs, or why it does not.
pub fn exec(request: &ExecRequest, report: Report) -> u8 {
    let mut report = Some(report);
    match run(request, &mut report) {
        Ok(status) => status,
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

/// Why a process does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Guest(Failure),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Here(#[from] Error),
}

fn run(request: &ExecRequest, report: &mut Option<Report>) -> Result<u8, Refusal> {
    let mut signals = Signals::block()?;
    let terminal = request.terminal.then(Terminal::raw).transpose()?;
    let mut machine = Connection::open(&request.control)?;
    let streams = match &terminal {
        Some(terminal) => Streams::Terminal { size: terminal.size() },
        None => Streams::Pipes { stdin: request.stdin },
    };
    let fds: &[_] = match terminal {
        Some(_) => &[rustix::stdio::stdin()],
        None => &[rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()],
    };
    machine.send(&ToMachine::Run { plan: request.plan.clone(), streams }, fds)?;
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
                FromMachine::Exited(exit) => return Ok(Status::shell(exit.status)),
                FromMachine::Answer(_)
                | FromMachine::Saved(_)
                | FromMachine::Resized(_)
                | FromMachine::Networked(_) => {}
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

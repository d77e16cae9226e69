//! A further process of a container in a machine, as it stands for that on the host.

use std::path::PathBuf;

use guest_protocol::message::{Blob, ContainerId};
use sandbox::Report;
use serde::{Deserialize, Serialize};

use crate::control::ToMachine;
use crate::error::Error;
use crate::stand_in;

/// What the process is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The machine's socket.
    pub control: PathBuf,
    /// The container.
    pub container: ContainerId,
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
    let begin = |machine: &stand_in::Machine<'_>| {
        let plan = request.plan.clone();
        let run = ToMachine::Run { container: request.container, plan, streams: machine.streams(request.stdin) };
        Ok(machine.connection.send(&run, machine.fds())?)
    };
    stand_in::run(&request.control, None, request.terminal, report, begin)
}

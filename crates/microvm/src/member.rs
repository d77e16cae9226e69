//! A container that has come into the machine of another one, as a small process on the host stands for it: the first container's network is its own as well.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sandbox::Report;
use serde::{Deserialize, Serialize};

use guest_protocol::configuration::Root;
use guest_protocol::message::{Blob, ContainerId};

use crate::control::{Join, ToMachine};
use crate::error::Error;
use crate::stand_in::{self, Machine, Refusal};

/// What the process is told. Paths are those that it sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberPlan {
    /// The machine's socket.
    pub control: PathBuf,
    /// A directory of its own, for what it has to say ([`OOM_KILLED`](crate::OOM_KILLED)).
    pub words: PathBuf,
    /// A number that no other container in the machine has, had, or will have; the first one's is [`CONTAINER`](crate::container::CONTAINER).
    pub container: ContainerId,
    /// EROFS files, the lowest layer first.
    pub layers: Vec<PathBuf>,
    /// Its root file system; what is said of layers is not looked at.
    pub root: Root,
    /// By how many bytes the machine grows for it.
    pub memory: u64,
    /// An `InitPlan` of `sandbox`, made for the guest's paths.
    pub plan: Blob,
    /// It shares a PID namespace with another one in the machine.
    pub shares_processes: bool,
    /// Its standard streams are one terminal.
    pub terminal: bool,
    /// It has a standard input.
    pub stdin: bool,
}

impl MemberPlan {
    /// As bytes, for a process of the same version.
    ///
    /// # Errors
    /// It has more of something than can be counted.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        postcard::to_stdvec(self).map_err(Error::Plan)
    }

    /// From what [`MemberPlan::to_bytes`] made.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        postcard::from_bytes(bytes).map_err(Error::Plan)
    }
}

/// Has a container run in a machine that runs, and returns its exit status. The plan is in a file; `report` is told when it runs, or why it does not.
#[inline(never)]
pub fn join(plan: &Path, report: Report) -> u8 {
    match read(plan) {
        Ok((plan, layers)) => {
            let begin = |machine: &Machine<'_>| begin(&plan, layers, machine);
            stand_in::run(&plan.control, Some(&plan.words), plan.terminal, report, begin)
        }
        Err(error) => {
            report.failed(sandbox::Step::Machine, 0, &error.to_string());
            crate::process::KILLED
        }
    }
}

/// What is wanted, with the layers' files: later nothing can be opened.
fn read(plan: &Path) -> Result<(MemberPlan, Vec<File>), Error> {
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { what, path, source }
    };
    let bytes = fs::read(plan).map_err(failed("the container's plan", plan))?;
    let plan = MemberPlan::from_bytes(&bytes)?;
    let layers = plan.layers.iter().map(|path| File::open(path).map_err(failed("a layer", path)));
    let layers = layers.collect::<Result<_, _>>()?;
    Ok((plan, layers))
}

/// The machine has the layers then, and this process no more.
fn begin(plan: &MemberPlan, layers: Vec<File>, machine: &Machine<'_>) -> Result<(), Refusal> {
    for layer in layers {
        machine.connection.send(&ToMachine::Layer, &[layer.as_fd()])?;
    }
    let join = Join {
        container: plan.container,
        root: plan.root.clone(),
        memory: plan.memory,
        plan: plan.plan.clone(),
        shares_processes: plan.shares_processes,
        streams: machine.streams(plan.stdin),
    };
    Ok(machine.connection.send(&ToMachine::Join(Box::new(join)), machine.fds())?)
}

//! By what a machine is run: a hypervisor of our own on KVM, or QEMU where there is no KVM that can run ordinary kernels.
//!
//! Nothing beyond this folder knows which it is.

mod kvm;
mod qemu;

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmm::{Backing, MemorySize, SnapshotFiles, WorkingSet};

use crate::error::Result;
use crate::plan::{Card, MachinePlan};

/// By what a machine is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// The hypervisor of this program, on KVM.
    Kvm,
    /// QEMU.
    Qemu {
        /// Its program.
        program: PathBuf,
        /// How it runs the guest's instructions.
        accelerator: Accelerator,
    },
}

impl Driver {
    /// Whether a machine with volumes can be saved and gone on from: QEMU's device for them can't be before version 8.2, nor one that was saved then be read by all.
    pub fn saves_volumes(&self) -> bool {
        matches!(self, Self::Kvm)
    }

    /// Whether a file system for the volumes of containers that come can come again after one has gone. By QEMU (7.2) the guest is shown nothing of the next one that comes to the same port.
    pub fn takes_files_again(&self) -> bool {
        matches!(self, Self::Kvm)
    }

    /// Whether a machine has room for a place for the file system of containers that come, beside everything else that is planned for it.
    pub(crate) fn has_files_place(plan: &MachinePlan) -> bool {
        match &plan.driver {
            Self::Kvm => kvm::has_files_place(plan),
            Self::Qemu { .. } => true,
        }
    }

    /// Whether a machine whose memory comes so can tell which of it was touched.
    pub fn tells_touched(&self, backing: &Backing) -> bool {
        matches!((self, backing), (Self::Kvm, Backing::Faulted { .. }))
    }

    /// The program that is executed besides, if there is one.
    pub fn program(&self) -> Option<&Path> {
        match self {
            Self::Kvm => None,
            Self::Qemu { program, .. } => Some(program),
        }
    }

    /// How large the directory in memory may get that a machine's process has for files of its own, in MiB. `memory` is the most that the guest can have.
    pub fn scratch(&self, memory: MemorySize) -> u64 {
        let guest = match self {
            Self::Kvm => 0,
            // The guest's memory is one of them.
            Self::Qemu { .. } => memory.mib(),
        };
        guest + SCRATCH
    }
}

/// How a driver is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best one that this host can have.
    #[default]
    Auto,
    /// The hypervisor of this program.
    Kvm,
    /// QEMU.
    Qemu,
}

impl Choice {
    /// From `auto`, `kvm` or `qemu`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "auto" => Self::Auto,
            "kvm" => Self::Kvm,
            "qemu" => Self::Qemu,
            _ => return None,
        })
    }

    /// The driver, found out in some milliseconds and without booting anything.
    ///
    /// # Errors
    /// There is none, or not the one that was asked for.
    pub fn driver(self) -> std::result::Result<Driver, Lack> {
        let kvm = match vmm::probe() {
            Ok(vmm::Virtualization::Hardware) => Ok(()),
            // A kernel would be given up after half a minute, at the first instruction that this KVM does not know.
            Ok(vmm::Virtualization::Software) => {
                Err("the KVM here carries out a guest's kernel in software, one instruction at a time".to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        let accelerator = if kvm.is_ok() { Accelerator::Kvm } else { Accelerator::Emulation };
        let qemu = program(QEMU).map(|program| Driver::Qemu { program, accelerator });
        match (self, kvm) {
            (Self::Kvm | Self::Auto, Ok(())) => Ok(Driver::Kvm),
            (Self::Kvm, Err(why)) => Err(Lack::Kvm(why)),
            (Self::Auto, Err(why)) => qemu.ok_or(Lack::Both(why)),
            (Self::Qemu, _) => qemu.ok_or(Lack::Qemu),
        }
    }
}

/// Why a host runs no machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Nobody said by what, and there is nothing.
    #[error(
        "this machine runs no microVMs: it has neither a KVM that runs kernels nor QEMU (install qemu-system-x86, and start the daemon again). Of KVM: {0}"
    )]
    Both(String),
    /// It was to be our own hypervisor.
    #[error(
        "this machine runs no microVMs, as microvm-driver is \"kvm\": {0}. With \"auto\", or \"qemu\", they run by QEMU; once KVM is there, start the daemon again"
    )]
    Kvm(String),
    /// It was to be QEMU.
    #[error(
        "this machine runs no microVMs, as microvm-driver is \"qemu\": there is no qemu-system-x86_64 (install qemu-system-x86, and start the daemon again)"
    )]
    Qemu,
}

impl Lack {
    /// Somebody asked for a driver that is not there.
    pub fn is_of_what_was_asked_for(&self) -> bool {
        !matches!(self, Self::Both(_))
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Qemu { accelerator: Accelerator::Kvm, .. } => "qemu (kvm)",
            Self::Qemu { accelerator: Accelerator::Emulation, .. } => "qemu (emulation)",
        })
    }
}

/// What a machine's process writes for itself, in MiB.
const SCRATCH: u64 = 16;
/// The name of QEMU's program.
const QEMU: &str = "qemu-system-x86_64";

/// Looks for a program where the host's are.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_absolute() && file.is_file())
}

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accelerator {
    /// By the processor's own virtualization.
    Kvm,
    /// By translating them.
    Emulation,
}

/// Where the agent's stream comes from.
pub(crate) enum Link {
    /// It connects, and again when its connection is gone.
    Calls(kvm::Calls),
    /// A port without connections: what is in it may be the rest of another conversation.
    Port(OwnedFd),
}

/// A file on the disk with the layers, which has zeros wherever none is.
#[derive(Debug)]
pub(crate) struct Laid {
    /// Where it begins there, in bytes.
    pub(crate) start: u64,
    /// Where it is found, for a program that opens it itself.
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

/// A machine that was started.
pub(crate) enum Running {
    Kvm(kvm::Running),
    Qemu(Box<qemu::Running>),
}

impl Running {
    /// Readable when it has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kvm(running) => running.ended(),
            Self::Qemu(running) => running.ended(),
        }
    }

    /// Saves all of it into two empty files, as they are read when a machine goes on from them. It rests then, until it is [resumed](Self::resume).
    pub(crate) fn save(&mut self, into: &SnapshotFiles) -> Result<Extent> {
        match self {
            Self::Kvm(running) => running.save(into),
            Self::Qemu(running) => running.save(into).map(|()| Extent::Whole),
        }
    }

    /// Has it go on after it was saved.
    pub(crate) fn resume(&mut self) -> Result<()> {
        match self {
            Self::Kvm(running) => {
                running.resume();
                Ok(())
            }
            Self::Qemu(running) => running.resume(),
        }
    }

    /// Has the guest have so much memory from now on.
    pub(crate) fn resize(&mut self, memory: MemorySize) -> Result<()> {
        match self {
            Self::Kvm(running) => running.resize(memory),
            Self::Qemu(running) => running.resize(memory),
        }
    }

    /// Has a network card come, to a place where none is. The guest finds it when it looks.
    pub(crate) fn plug(&mut self, place: usize, card: &Card) -> Result<()> {
        match self {
            Self::Kvm(running) => running.plug(place, card),
            Self::Qemu(running) => running.plug(place, card),
        }
    }

    /// Has the network card of a place go, which the guest should have left. It is on no network then, also where this fails: its place is not free in that case.
    pub(crate) fn unplug(&mut self, place: usize) -> Result<()> {
        match self {
            Self::Kvm(running) => running.unplug(place),
            Self::Qemu(running) => running.unplug(place),
        }
    }

    /// Has a file system come to the place for one, where none is, whose server is at the other end of a connection. The guest finds it when it looks. Returns what its kernel calls the place.
    pub(crate) fn plug_files(&mut self, tag: &str, server: OwnedFd) -> Result<String> {
        match self {
            Self::Kvm(running) => running.plug_files(tag, server),
            Self::Qemu(running) => running.plug_files(tag, server),
        }
    }

    /// Has it go, which the guest has left. Its server is told by the end of that connection.
    pub(crate) fn unplug_files(&mut self) -> Result<()> {
        match self {
            Self::Kvm(running) => running.unplug_files(),
            Self::Qemu(running) => running.unplug_files(),
        }
    }

    /// Lays files over parts of the disk with the layers, where zeros are, at offsets in bytes; `None`: what was laid there is taken away. On an error some of them may be there. `rests`: the machine
    /// does, and has to go on resting.
    pub(crate) fn lay(&mut self, files: Vec<(u64, Option<File>)>, rests: bool) -> Result<()> {
        match self {
            Self::Kvm(running) => files.into_iter().try_for_each(|(start, file)| running.lay(start, file)),
            Self::Qemu(running) => running.lay(files, rests),
        }
    }

    /// Which pages of what it went on from were touched so far, where they come as they are.
    pub(crate) fn touched(&self) -> Option<WorkingSet> {
        match self {
            Self::Kvm(running) => running.touched(),
            Self::Qemu(_) => None,
        }
    }

    /// Why it ended, for people.
    pub(crate) fn end(&mut self) -> String {
        match self {
            Self::Kvm(running) => running.end(),
            Self::Qemu(running) => running.end(),
        }
    }
}

/// How much a snapshot has of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Of the memory, what changed since the snapshot that the machine went on from: it is read over that one.
    Difference,
}

/// Starts a machine: has it boot, or go on from a snapshot. `layers` are on its disk of that name.
///
/// # Errors
/// It can't be made of its parts, or its driver is not there.
pub(crate) fn start(plan: &MachinePlan, layers: Vec<Laid>) -> Result<(Running, Link)> {
    match &plan.driver {
        Driver::Kvm => kvm::start(plan, layers).map(|(running, calls)| (Running::Kvm(running), Link::Calls(calls))),
        Driver::Qemu { program, accelerator } => {
            let (running, port) = qemu::start(plan, layers, program, *accelerator)?;
            Ok((Running::Qemu(Box::new(running)), Link::Port(port)))
        }
    }
}

/// The files of the one snapshot that a machine of QEMU's goes on from.
fn snapshot(plan: &MachinePlan) -> Result<Option<SnapshotFiles>> {
    let Some(origin) = &plan.origin else { return Ok(None) };
    match origin.snapshots() {
        [directory] => Ok(Some(SnapshotFiles::open(directory)?)),
        _ => Err(crate::Error::Spec("QEMU knows no snapshots that are differences".to_owned())),
    }
}

/// The kernel's command line: `host` is where the agent finds us.
fn command_line(plan: &MachinePlan, host: &str) -> String {
    // A kernel that panics resets the machine, which ends it; one that waits for a person would stand for ever.
    let console = if plan.hardware.console { "console=ttyS0" } else { "quiet" };
    // Where the host is busy, an emulated timer may miss what a kernel holds against it by default, which then panics.
    // No device needs a copy in low memory, for which a kernel that may get memory above 4 GiB would put 64 MiB aside.
    // Memory that comes is the processes', so that it can go again, and is used without being asked for.
    format!(
        "{console} swiotlb=noforce memhp_default_state=online_movable no_timer_check reboot=t panic=-1 stratus.host={host}"
    )
}

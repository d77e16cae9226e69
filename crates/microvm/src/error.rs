//! What can go wrong with a machine's process.

use std::path::PathBuf;

use vmm::Processor;

use guest_protocol::host::Nonsense;
use guest_protocol::message::Failure;
use rustix::io::Errno;

/// Why a machine does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error("{tried} {on}: {}", std::io::Error::from(*errno))]
    System {
        /// What was tried.
        tried: &'static str,
        /// On what.
        on: String,
        /// Its reason.
        errno: Errno,
    },
    /// A file could not be read.
    #[error("read {what} {}: {source}", path.display())]
    File {
        /// What it is.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A container asks for what a machine of its own rules out.
    #[error("{what} can't be had behind a hypervisor: run it with --isolation container")]
    NotBehind {
        /// What.
        what: String,
    },
    /// A container asks for what machines do not have yet.
    #[error("microVMs don't have {what} yet: run it with --isolation container")]
    NotThere {
        /// What.
        what: String,
    },
    /// QEMU has no processors of a level.
    #[error(
        "QEMU has no processors of the level {processor} here: they lack {lacking}; choose a lower level, or {}",
        Processor::Host
    )]
    ProcessorLacks {
        /// The level.
        processor: Processor,
        /// What is lacking, as QEMU calls it.
        lacking: String,
    },
    /// What QEMU can't do, and our own hypervisor can.
    #[error("QEMU has no {what}: leave it away, or run it where KVM runs kernels (--microvm-driver kvm)")]
    NotByQemu {
        /// What.
        what: &'static str,
    },
    /// It was started so that it can't have as much memory.
    #[error("the microVM can have {most} MiB of memory, and not {wanted}, until it is started anew")]
    Most {
        /// How much it can have, in MiB.
        most: u64,
        /// How much it was to have.
        wanted: u64,
    },
    /// A specification could not be made: a fault of this program.
    #[error("make the specification of a machine's process: {0}")]
    Spec(String),
    /// The plan is none, or one of another version.
    #[error("the machine's plan is none of this version: {0}")]
    Plan(postcard::Error),
    /// The hypervisor refused.
    #[error("make the machine: {0}")]
    Machine(#[from] vmm::Error),
    /// The process' own thread could not be confined.
    #[error("confine the microVM's process (seccomp): {0}")]
    Confine(String),
    /// QEMU could not be started.
    #[error("start {}: {source}", program.display())]
    Qemu {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Memory could not be copied.
    #[error("copy {what} {}: {source}", path.display())]
    Copy {
        /// Whose.
        what: &'static str,
        /// The file on the machine's side.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// QEMU refused something, or does not answer.
    #[error("{tried} through QEMU's monitor: {why}")]
    Monitor {
        /// What was tried.
        tried: &'static str,
        /// Its reason.
        why: String,
    },
    /// Something is larger than a machine can have it.
    #[error("{what} take more than {most} bytes, which is what a microVM can have")]
    TooLarge {
        /// What.
        what: &'static str,
        /// In bytes.
        most: u64,
    },
    /// A snapshot is of another machine than the one that was to go on from it.
    #[error("go on from a snapshot: {0}")]
    Origin(&'static str),
    /// What a machine was to go on from is at fault, and nothing of the machine itself.
    #[error(transparent)]
    Saved(Box<Error>),
    /// A machine that went on from something was lost after that, before its program was asked for: what it went on from may be at fault.
    #[error(transparent)]
    Lost(Box<Error>),
    /// The driver can't save a machine together with what its file server knows.
    #[error(
        "a microVM with volumes can be suspended, saved and copied by our own hypervisor alone (--microvm-driver kvm): QEMU does not save which files of them it has open"
    )]
    NotSaved,
    /// Whether a file of a volume is the same after all that time could not be told.
    #[error(
        "a microVM with a volume on a file system of the type {kinds} can't be suspended, saved or copied: that has no handles of files (name_to_handle_at(2)), by which the one that goes on could tell whether it finds the same files; have the volume elsewhere: ext4, XFS, Btrfs and tmpfs have them"
    )]
    NoHandles {
        /// The types of those file systems.
        kinds: String,
    },
    /// The process that serves the container's volumes does not begin, or has ended.
    #[error("serve the container's volumes: {0}")]
    Files(String),
    /// The machine ended by itself.
    #[error("the machine ended by itself: {0}")]
    Ended(String),
    /// A step of its start took too long.
    #[error(
        "{0} took more than {1} s (--microvm-start-timeout of the daemon): where its kernel hangs, the annotation stratus.microvm.console=true shows what that says"
    )]
    Slow(&'static str, u64),
    /// It was told to end before its process ran.
    #[error("it was told to end before its process ran")]
    Interrupted,
    /// What the agent says is no conversation.
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
    /// The agent refused.
    #[error("{tried}: {failure}")]
    Guest {
        /// What it was asked for.
        tried: &'static str,
        /// Its reason.
        failure: Failure,
    },
    /// A request is longer than a message may be.
    #[error("{0} is longer than what can be told the machine's agent")]
    TooLong(&'static str),
    /// Nobody speaks to it: the machine is gone.
    #[error("the microVM is gone")]
    Gone,
}

impl Error {
    /// For a step that the kernel refused.
    pub(crate) fn system(tried: &'static str, on: impl Into<String>) -> impl FnOnce(Errno) -> Error {
        let on = on.into();
        move |errno| Error::System { tried, on, errno }
    }

    /// For what a machine was to go on from.
    pub(crate) fn saved(error: impl Into<Error>) -> Error {
        Error::Saved(Box::new(error.into()))
    }
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

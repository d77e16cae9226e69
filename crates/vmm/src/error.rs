//! What can go wrong, with what was tried on what.

use crate::boot;
use crate::devices::virtio::block::ImageError;
use crate::processor::Processor;
use std::io;
use std::path::PathBuf;

/// The result of something that a machine does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a machine could not be made, or not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that the machine needs can't be opened or read.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What it is to the machine: "the kernel".
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `/dev/kvm` can't be opened.
    #[error(
        "open /dev/kvm: {source}; the processor's virtualization must be switched on, and the module kvm_intel or kvm_amd be there"
    )]
    NoKvm {
        /// What the kernel said.
        source: io::Error,
    },
    /// The host's KVM lacks something that this needs.
    #[error("the host's KVM lacks {0}")]
    KvmLacks(&'static str),
    /// The host's processors lack something of a level.
    #[error(
        "this host's KVM has no processors of the level {processor}: they lack {lacking}; choose a lower level, or {}",
        Processor::Host
    )]
    ProcessorLacks {
        /// The level.
        processor: Processor,
        /// What is lacking, as Linux calls it.
        lacking: String,
    },
    /// A request to KVM failed.
    #[error("ask KVM {what}: {source}")]
    Kvm {
        /// What it was asked for: "for a virtual machine".
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Faults of the guest's memory are not told to this process.
    #[error(
        "have faults of the guest's memory told: {source}; the process has to be able to open /dev/userfaultfd, which Linux has from 6.1 on"
    )]
    NoUserfault {
        /// What the kernel said.
        source: io::Error,
    },
    /// Memory for the guest can't be had.
    #[error("{size} MiB of memory for the guest: {source}")]
    Memory {
        /// How much, in MiB.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something does not fit into the guest's memory.
    #[error("{what} takes {needs} bytes at {at:#x} of the guest's memory, which ends before: give it more")]
    DoesNotFit {
        /// What it is.
        what: &'static str,
        /// Where it was to be.
        at: u64,
        /// How many bytes.
        needs: u64,
    },
    /// What is to be booted is nothing that can be.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// An image is not taken for a disk.
    #[error("the qcow2 image of the disk {serial:?}: {source}")]
    Image {
        /// The disk's serial.
        serial: String,
        /// Why it is not.
        source: ImageError,
    },
    /// A snapshot can't be made, or gone on from.
    #[error("{0}")]
    Snapshot(String),
    /// Something of a machine does not come to rest; it goes on as before.
    #[error("have the machine rest: after {seconds} seconds it still waits for {what}; it goes on")]
    Busy {
        /// What is waited for.
        what: &'static str,
        /// For how long it was.
        seconds: u64,
    },
    /// A file system does not go, as its server does not answer; it goes on as before.
    #[error("have a file system go: after {seconds} s it still waits for {what}; it stays")]
    Stays {
        /// What is waited for.
        what: &'static str,
        /// For how long it was.
        seconds: u64,
    },
    /// A size that no machine has.
    #[error("{0}")]
    Size(String),
    /// The host refused something else.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// What KVM said to a request.
    pub(crate) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
        move |error| Error::Kvm { what, source: io::Error::from_raw_os_error(error.errno()) }
    }

    /// What the host's kernel said to something else.
    pub(crate) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |error| Error::Host { what, source: error.into() }
    }
}

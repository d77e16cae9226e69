//! What a machine's process is told.

use std::path::PathBuf;
use std::time::Duration;

use guest_protocol::configuration::{Disk, Machine, Root};
use guest_protocol::message::Blob;
use serde::{Deserialize, Serialize};
use vmm::{Backing, Limits, MemorySize, Pages, Processor, VcpuCount};

use crate::container::Faults;
use crate::driver::Driver;
use crate::error::{Error, Result};

/// The serial number of the disk with the layers.
pub(crate) const LAYERS: &str = "layers";
/// How large that disk is, in bytes, whatever lies on it: a machine that goes on from a template finds the disk that it knows.
pub(crate) const LAYERS_SIZE: u64 = 1 << 40;
/// The file beside a snapshot, or in a template, with which of its pages were touched by who went on from it ([`vmm::WorkingSet`]).
pub const TOUCHED: &str = "touched";
/// The serial number of the disk that is written to.
pub(crate) const UPPER: &str = "upper";

/// What a machine is made of, and what runs in it. Paths are those that its process sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// By what it is run.
    pub driver: Driver,
    /// Its parts.
    pub hardware: Hardware,
    /// Where it goes on; `None`: it boots. Its parts are those that the saved machine had, with other files, taps and addresses.
    pub origin: Option<Origin>,
    /// How the memory of what it goes on from gets into it.
    pub backing: Backing,
    /// What is to run in it; `None`: nothing ever does. It is a template: once its agent is there it waits to be saved, for others to go on from.
    pub container: Option<Contained>,
    /// For how long one that boots may take for each step of its start ([`MachinePlan::step_timeout`]); `None`: for any time.
    pub start_timeout: Option<Duration>,
    /// The Unix socket that it listens at ([`crate::control`]); its directory is there.
    pub control: PathBuf,
    /// A directory in memory for files of its own, which nobody else needs to see ([`Driver::scratch`] says how large).
    pub scratch: PathBuf,
}

/// Memory at its start from which on a machine that boots has it in huge pages, in MiB. They cost a Debian's kernel some 20 MB, of which 12 are shared else: in a small machine, of
/// which there may be many, that matters more than how often it comes out of the guest while it boots.
const HUGE_FROM: u64 = 256;

impl MachinePlan {
    /// In what pages our own hypervisor has its memory.
    pub(crate) fn pages(&self) -> Pages {
        if self.origin.is_none() && self.hardware.memory.mib() >= HUGE_FROM { Pages::Huge } else { Pages::Small }
    }

    /// For how long its guest may take until its agent is there, and then for the answer to each thing that it is to do before the container's process is started. One that goes on from a template has a third of what others have, as nothing is lost then: it boots.
    pub(crate) fn step_timeout(&self) -> Option<Duration> {
        let goes_on_from_template = matches!(self.origin, Some(Origin::Template(_)));
        self.start_timeout.map(|timeout| if goes_on_from_template { timeout / 3 } else { timeout })
    }

    /// Whether all of it can be saved and gone on from: the files that a server of volumes has open are not always known.
    pub(crate) fn is_saved_whole(&self) -> bool {
        self.hardware.volumes.is_none() || self.driver.saves_volumes()
    }

    /// Whether its process has faults of its own memory told.
    pub fn faults(&self) -> Faults {
        match (&self.driver, &self.backing) {
            (_, Backing::Faulted { .. }) => Faults::Needed,
            (Driver::Kvm, Backing::Mapped) if self.pages() == Pages::Huge => Faults::Useful,
            _ => Faults::Unused,
        }
    }
}

/// The parts of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// Processors.
    pub vcpus: VcpuCount,
    /// What kind of processors. A machine that goes on has those that the saved one had.
    pub processor: Processor,
    /// Memory at its start.
    pub memory: MemorySize,
    /// Memory that it can have while it runs. A machine that goes on has what the saved one could have.
    pub most_memory: MemorySize,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first root file system, with the agent.
    pub initramfs: PathBuf,
    /// EROFS files, the lowest layer first.
    pub layers: Vec<PathBuf>,
    /// A disk that is written to, if it has one. [`Root::upper`] then names it by [`MachinePlan::upper`].
    pub upper: Option<PathBuf>,
    /// How much is read of the layers, and how much is read and written of the other disk, at most.
    pub limits: DiskLimits,
    /// Places for network cards, and what is there. In the others cards may come while it runs ([`crate::control::NetworkWish`]). A machine that goes on has the places of
    /// the saved one, with cards where that had some.
    pub cards: Vec<Option<Card>>,
    /// The directory with what is mounted into the container of the host, each volume by its number: served as one virtio-fs device, by a process
    /// of its own, and seen by nobody else.
    pub volumes: Option<PathBuf>,
    /// Whether there is a place for a file system that comes while it runs, with the volumes of containers that come ([`crate::control::ToMachine::Files`]). A machine that goes on has it where
    /// the saved one had it.
    pub files_place: bool,
    /// Have the kernel write to standard error what it has to say: to find out why one does not boot.
    pub console: bool,
}

/// Places for network cards that a machine has, where it does not begin with more cards. One in which nothing is costs three accesses to its registers when a kernel boots; the
/// lines of interrupts set a limit to how many there can be.
pub(crate) const PLACES: usize = 4;

/// The places of a machine that begins with these cards.
pub fn places(cards: impl IntoIterator<Item = Card>) -> Vec<Option<Card>> {
    let mut places: Vec<_> = cards.into_iter().map(Some).collect();
    places.resize(places.len().max(PLACES), None);
    places
}

/// How much goes through the disks of a machine at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLimits {
    /// The one with the layers.
    pub layers: Limits,
    /// The one that is written to.
    pub upper: Limits,
}

/// What a machine goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The directory of a machine that was saved when nothing had run in it: it goes on as one that has just booted. It is nobody's base: what is
    /// saved later is saved whole, as templates come and go.
    Template(PathBuf),
    /// A snapshot of what ran.
    Snapshot {
        /// Its directory, and before it those of what it is a difference to ([`crate::driver::Extent`]), the first one first.
        snapshots: Vec<PathBuf>,
        /// How much of the container's standard output and error was taken before ([`crate::control::Saved`]).
        outputs: [u64; 2],
    },
}

impl Origin {
    /// The directories that are read, each over the one before.
    pub(crate) fn snapshots(&self) -> &[PathBuf] {
        match self {
            Self::Template(directory) => std::slice::from_ref(directory),
            Self::Snapshot { snapshots, .. } => snapshots,
        }
    }
}

/// The container of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contained {
    /// What its agent makes of the machine: who it is, its network.
    pub configuration: Machine,
    /// The container's root file system. Where it has layers, they are the [`Hardware::layers`], and what is said here of where they lie is
    /// not looked at.
    pub root: Root,
    /// The container's process; `None`: it has none, and the machine is there for its files.
    pub workload: Option<Workload>,
    /// The memory that the machine is to have for it: of one that goes on, it may be another than that at its start.
    pub memory: MemorySize,
}

/// A network card, whose other end is a tap in the network namespace of the machine's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The tap's name.
    pub tap: String,
    /// The card's address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet, without Ethernet's header.
    pub mtu: u16,
    /// How much the guest receives at most. QEMU has no such limit, and refuses it.
    pub receive: Limits,
    /// How much the guest sends at most, likewise.
    pub send: Limits,
}

/// The container's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// An `InitPlan` of `sandbox`, made for the guest's paths ([`guest_protocol::place`]).
    pub plan: Blob,
    /// Its standard streams are one terminal.
    pub terminal: bool,
    /// It has a standard input.
    pub stdin: bool,
}

impl MachinePlan {
    /// By what the agent finds the disk that is written to.
    pub fn upper() -> Disk {
        Disk::Serial(UPPER.to_owned())
    }

    /// As bytes, for a process of the same version.
    ///
    /// # Errors
    /// It has more of something than can be counted.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        postcard::to_stdvec(self).map_err(Error::Plan)
    }

    /// From what [`MachinePlan::to_bytes`] made.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        postcard::from_bytes(bytes).map_err(Error::Plan)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::driver::Accelerator;

    pub(crate) fn plan(mib: u64) -> MachinePlan {
        let memory = MemorySize::from_mib(mib).unwrap();
        MachinePlan {
            driver: Driver::Kvm,
            hardware: Hardware {
                vcpus: VcpuCount::new(1).unwrap(),
                processor: Processor::Host,
                memory,
                most_memory: memory,
                kernel: PathBuf::new(),
                initramfs: PathBuf::new(),
                layers: Vec::new(),
                upper: None,
                limits: DiskLimits::default(),
                cards: Vec::new(),
                volumes: None,
                files_place: true,
                console: false,
            },
            origin: None,
            backing: Backing::Mapped,
            container: None,
            start_timeout: None,
            control: PathBuf::new(),
            scratch: PathBuf::new(),
        }
    }

    #[test]
    fn faults_are_told_where_pages_come_by_them_and_nowhere_else() {
        assert_eq!((plan(256).pages(), plan(256).faults()), (Pages::Huge, Faults::Useful));
        assert_eq!((plan(255).pages(), plan(255).faults()), (Pages::Small, Faults::Unused));
        let origin = Some(Origin::Template(PathBuf::from("/template")));
        let goes_on = MachinePlan { origin, ..plan(512) };
        assert_eq!((goes_on.pages(), goes_on.faults()), (Pages::Small, Faults::Unused));
        let faulted = MachinePlan { backing: Backing::Faulted { ahead: None }, ..goes_on };
        assert_eq!(faulted.faults(), Faults::Needed);
        let driver = Driver::Qemu { program: PathBuf::new(), accelerator: Accelerator::Emulation };
        assert_eq!(MachinePlan { driver, ..plan(512) }.faults(), Faults::Unused);
    }
}

//! Snapshots: all that a machine is at a moment, in two files, and machines that go on from there.
//!
//! One file has the memory ([`crate::memory`]'s `saved`), the other one everything else: what [`file`] writes around a [`Saved`]. The memory is mapped, private to each machine that
//! goes on from it: starting one copies nothing, whatever its size, and what many of them have not written to is there once. So a file of memory must never be written
//! to again. A snapshot may be a difference to the one that its machine went on from, and is then read over that.

mod file;
mod lease;

pub use lease::Writers;

use crate::arch::current::controllers::VmState;
use crate::arch::current::fixed::FixedState;
use crate::arch::current::state::VcpuState;
use crate::config::{MemorySize, VcpuCount};
use crate::devices::virtio::transport::TransportState;
use crate::error::{Error, Result};
use crate::memory::{Memory, Part, Run, WorkingSet};
use crate::processor::Processor;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long whoever can still change what was saved is given to let it go.
const LETS_GO_WITHIN: Duration = Duration::from_secs(1);

/// What tells a snapshot from others.
pub(crate) type Name = [u8; 16];

/// Everything but the memory.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) name: Name,
    pub(crate) vcpus: VcpuCount,
    pub(crate) memory: MemorySize,
    /// How many bytes may come to that, and the addresses of those that have.
    pub(crate) more: u64,
    pub(crate) plugged: Vec<Range<u64>>,
    pub(crate) vm: VmState,
    pub(crate) processors: Vec<VcpuState>,
    pub(crate) fixed: FixedState,
    pub(crate) devices: Vec<TransportState>,
    /// For a difference: to which snapshot, and the pages that its file of memory has.
    pub(crate) difference: Option<(Name, Vec<Run>)>,
    /// What kind of processors it has: the last, as snapshots of version 2 have none.
    pub(crate) processor: Processor,
}

/// The two files of a snapshot: on a disk, or in memory (`memfd_create(2)`) for copies that are made at once.
#[derive(Debug)]
pub struct SnapshotFiles {
    /// All but the memory.
    pub state: File,
    /// The memory, with holes for zeros.
    pub memory: File,
}

impl SnapshotFiles {
    /// Makes `state` and `memory` in a directory, where neither is yet.
    ///
    /// # Errors
    /// A file can't be made, with its path and why.
    pub fn create(directory: &Path) -> Result<SnapshotFiles> {
        SnapshotFiles::by(directory, File::options().read(true).write(true).create_new(true))
    }

    /// Opens `state` and `memory` of a directory, to be read.
    ///
    /// # Errors
    /// A file can't be opened, with its path and why.
    pub fn open(directory: &Path) -> Result<SnapshotFiles> {
        SnapshotFiles::by(directory, File::options().read(true))
    }

    /// Makes sure that what was saved is there after a loss of power: for a machine that is suspended. Who makes copies of one that runs need not wait for that.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> Result<()> {
        for file in [&self.memory, &self.state] {
            file.sync_data().map_err(Error::host("have a snapshot on its disk"))?;
        }
        Ok(())
    }

    /// Who could still change one of them: files that were [opened](SnapshotFiles::open) to be read. Whoever could is given a second to let it go. A file system that knows no leases (fcntl(2)) does not tell. Blocks.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn writers(&self) -> Result<Writers> {
        let of = |file| lease::writers(file, LETS_GO_WITHIN).map_err(Error::host("look who writes to a snapshot"));
        Ok(of(&self.state)?.max(of(&self.memory)?))
    }

    fn by(directory: &Path, options: &std::fs::OpenOptions) -> Result<SnapshotFiles> {
        let open = |name: &str| {
            let path = directory.join(name);
            options.open(&path).map_err(|source| Error::File { what: "a snapshot's file", path, source })
        };
        Ok(SnapshotFiles { state: open("state")?, memory: open("memory")? })
    }
}

/// How a snapshot's memory gets into a machine that goes on from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// The files are mapped, private to the machine: what copies have not written to is there once, in the host's page cache.
    #[default]
    Mapped,
    /// A thread of the machine's reads a page, and some around it, when it is touched first (userfaultfd(2)): for files that can't be mapped, or are slow to be read in small pieces. What was
    /// touched is the machine's own then, and shared with nobody. The process has to be able to open `/dev/userfaultfd`.
    Faulted {
        /// What is read ahead of need, in this order ([`crate::Machine::working_set`]).
        ahead: Option<WorkingSet>,
    },
}

/// A snapshot that was read, from which any number of machines may go on ([`crate::Machine::restore`]).
pub struct Snapshot {
    saved: Saved,
    memory: File,
    /// What it is a difference to.
    base: Option<Arc<Snapshot>>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("vcpus", &self.saved.vcpus)
            .field("memory", &self.saved.memory)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Reads one that has all of its machine's memory.
    ///
    /// # Errors
    /// It is none, of another version, damaged, or a difference.
    pub fn read(files: SnapshotFiles) -> Result<Snapshot> {
        let saved = file::read(&files.state)?;
        if saved.difference.is_some() {
            return Err(Error::Snapshot(
                "this snapshot is a difference to another one, over which it has to be read".to_owned(),
            ));
        }
        Ok(Snapshot { saved, memory: files.memory, base: None })
    }

    /// Reads one that is a difference to `base`.
    ///
    /// # Errors
    /// As [`Snapshot::read`], or it is a difference to another one, or to none.
    pub fn read_over(base: Arc<Snapshot>, files: SnapshotFiles) -> Result<Snapshot> {
        let saved = file::read(&files.state)?;
        match &saved.difference {
            Some((name, _))
                if *name == base.saved.name && (saved.memory, saved.more) == (base.saved.memory, base.saved.more) =>
            {
                Ok(Snapshot { saved, memory: files.memory, base: Some(base) })
            }
            Some(_) => Err(Error::Snapshot("this snapshot is a difference to another one than was given".to_owned())),
            None => Err(Error::Snapshot("this snapshot is no difference: it has all of its memory".to_owned())),
        }
    }

    /// How many processors its machine has.
    pub fn vcpus(&self) -> VcpuCount {
        self.saved.vcpus
    }

    /// What kind of processors those are.
    pub fn processor(&self) -> Processor {
        self.saved.processor
    }

    /// How much memory its machine had at its start.
    pub fn memory(&self) -> MemorySize {
        self.saved.memory
    }

    /// All but the memory.
    pub(crate) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// The files that the memory is in, the first one with all of it, and for each other one the pages that it has.
    pub(crate) fn files(&self) -> Result<Vec<Part<'_>>> {
        let mut files = self.base.as_ref().map_or_else(|| Ok(Vec::new()), |base| base.files())?;
        let memory = self.memory.try_clone().map_err(Error::host("have a descriptor of a snapshot's memory twice"))?;
        files.push((memory, self.saved.difference.as_ref().map(|(_, runs)| &runs[..])));
        Ok(files)
    }

    /// Maps the memory, over that of what it is a difference to.
    pub(crate) fn map(&self, memory: &Memory) -> Result<()> {
        match (&self.base, &self.saved.difference) {
            (Some(base), Some((_, runs))) => {
                base.map(memory)?;
                memory.map_changed(&self.memory, runs)
            }
            _ => memory.map_saved(&self.memory),
        }
    }
}

/// Writes all but the memory.
pub(crate) fn write(saved: &Saved, to: &File) -> Result<()> {
    file::write(saved, to)
}

//! A snapshot of a container's machine, as the store keeps it.

use std::fmt;

use microvm::{MemorySize, Processor, VcpuCount};
use serde::{Deserialize, Serialize};

use super::{ContainerId, Timestamp};

/// The identifier of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(ContainerId);

impl SnapshotId {
    /// A new one.
    pub fn random() -> Self {
        Self(ContainerId::random())
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The first twelve digits, as people write them.
    pub fn short(&self) -> &str {
        self.0.short()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All that a machine was at a moment: its files are beside the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its identifier.
    pub id: SnapshotId,
    /// Of which container. It goes with that.
    pub container: ContainerId,
    /// What people call it, among the container's; `None`: nobody asked for it, and it is there as long as something goes on from it.
    pub name: Option<String>,
    /// When the machine was as it is in it.
    pub created: Timestamp,
    /// The snapshot that it is a difference to.
    pub parent: Option<SnapshotId>,
    /// Bytes that its own files take.
    pub size: u64,
    /// By what the machine was run, which nothing else goes on from ([`microvm::driver::Driver`], for people).
    pub driver: String,
    /// Its processors.
    pub vcpus: VcpuCount,
    /// What kind of processors those are.
    #[serde(default)]
    pub processor: Processor,
    /// Its memory at its start.
    pub memory: MemorySize,
    /// Memory that it can have; `None`: no more than that.
    #[serde(default)]
    pub most_memory: Option<MemorySize>,
    /// The addresses of its network cards as the guest has them.
    pub cards: Vec<[u8; 6]>,
    /// The networks that those are on, by their identifiers.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Where those are in the machine; `None`: one after the other, and it has no other places.
    #[serde(default)]
    pub places: Option<CardPlaces>,
    /// It has a place for the volumes of containers that come into it.
    #[serde(default)]
    pub files_place: bool,
    /// How much of the container's standard output and error had been taken.
    pub outputs: [u64; 2],
    /// It has a copy of the container's disk; else the container has none.
    #[serde(default)]
    pub disk: bool,
    /// It has what was copied into the container while that did not run; else nothing was.
    #[serde(default)]
    pub copied: bool,
}

/// Where the network cards of a machine are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardPlaces {
    /// How many places it has.
    pub count: usize,
    /// That of each card, below `count`, and no two the same.
    pub of_cards: Vec<usize>,
}

//! Who ran, and what it used.

use crate::units::{ByteSize, Seconds};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use thiserror::Error;

/// Who ran: something with an id, of some kind. Both are parts of keys in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Subject {
    kind: String,
    id: String,
}

/// A kind or an id that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} cannot be the kind or the id of what is metered: it must not be empty, nor have a slash or a NUL in it")]
pub struct InvalidSubject(pub String);

impl Subject {
    /// The subject `id` of `kind`, as `container`.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Result<Subject, InvalidSubject> {
        let (kind, id) = (kind.into(), id.into());
        for part in [&kind, &id] {
            if part.is_empty() || part.contains(['/', '\0']) {
                return Err(InvalidSubject(part.clone()));
            }
        }
        Ok(Subject { kind, id })
    }

    /// What kind of thing it is.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Which one.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

/// A subject as it is written down, before it was looked at.
#[derive(Serialize, Deserialize)]
struct Unchecked {
    kind: String,
    id: String,
}

impl From<Subject> for Unchecked {
    fn from(Subject { kind, id }: Subject) -> Unchecked {
        Unchecked { kind, id }
    }
}

impl TryFrom<Unchecked> for Subject {
    type Error = InvalidSubject;

    fn try_from(unchecked: Unchecked) -> Result<Subject, InvalidSubject> {
        Subject::new(unchecked.kind, unchecked.id)
    }
}

/// One run of a subject, from a start to an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who runs.
    pub subject: Subject,
    /// When it started. A subject has one run at a time, so this tells its runs apart.
    pub started: Timestamp,
    /// What it may be looked up and added up by later, when the subject is gone: its name, its image, its owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Run {
    /// A run of `subject`, without labels.
    pub fn new(subject: Subject, started: Timestamp) -> Run {
        Run { subject, started, labels: BTreeMap::new() }
    }

    /// The run with one more label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Run {
        self.labels.insert(name.into(), value.into());
        self
    }
}

/// What was used. What a newer program also counts is zero where an older one counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// How long it ran, in nanoseconds of the machine's being on (`CLOCK_BOOTTIME`).
    pub wall_ns: u64,
    /// Time on CPUs, user and system, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory over time, in bytes × seconds. A real number, as a terabyte for a year is more than 64 bits hold.
    pub memory_byte_seconds: f64,
    /// Bytes read from block devices.
    pub io_read_bytes: u64,
    /// Bytes written to block devices.
    pub io_write_bytes: u64,
    /// Bytes received from networks.
    pub net_rx_bytes: u64,
    /// Bytes sent to networks.
    pub net_tx_bytes: u64,
}

impl Usage {
    /// vCPU-seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_ns as f64 / 1e9
    }

    /// How long it ran, in seconds.
    pub fn wall_seconds(&self) -> f64 {
        self.wall_ns as f64 / 1e9
    }

    /// GiB-seconds: memory over time, in 2³⁰ bytes × seconds.
    pub fn memory_gib_seconds(&self) -> f64 {
        self.memory_byte_seconds / (1u64 << 30) as f64
    }

    /// Its memory in bytes, on average; nothing for what did not run at all.
    pub fn mean_memory_bytes(&self) -> u64 {
        if self.wall_ns == 0 { 0 } else { (self.memory_byte_seconds / self.wall_seconds()) as u64 }
    }
}

impl AddAssign<&Usage> for Usage {
    fn add_assign(&mut self, other: &Usage) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.wall_ns, other.wall_ns);
        add(&mut self.cpu_ns, other.cpu_ns);
        self.memory_byte_seconds += other.memory_byte_seconds;
        add(&mut self.io_read_bytes, other.io_read_bytes);
        add(&mut self.io_write_bytes, other.io_write_bytes);
        add(&mut self.net_rx_bytes, other.net_rx_bytes);
        add(&mut self.net_tx_bytes, other.net_tx_bytes);
    }
}

/// As `2.5 vCPU-s, 5.0 GiB-s, 1.0 MiB read, 0 B written, 0 B received, 0 B sent in 10 s`.
impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} vCPU-s, {:.1} GiB-s, {} read, {} written, {} received, {} sent in {}",
            self.cpu_seconds(),
            self.memory_gib_seconds(),
            ByteSize(self.io_read_bytes),
            ByteSize(self.io_write_bytes),
            ByteSize(self.net_rx_bytes),
            ByteSize(self.net_tx_bytes),
            Seconds(self.wall_seconds()),
        )
    }
}

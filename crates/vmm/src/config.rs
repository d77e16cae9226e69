//! What a machine is made of, by paths.

use crate::error::{Error, Result};
use crate::processor::Processor;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;
use std::path::PathBuf;

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;

/// Everything that a machine is made of, as [`crate::Parts`] but with paths, for who may open them: the first thing that is done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// How many processors.
    pub vcpus: VcpuCount,
    /// What kind of processors.
    pub processor: Processor,
    /// How much memory at its start.
    pub memory: MemorySize,
    /// How much it can have while it runs ([`crate::Machine::resize`]). That it may costs nothing.
    pub most_memory: MemorySize,
    /// In what pages it has its memory.
    pub pages: Pages,
    /// The guest's kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// What the kernel has as its first root file system.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// Where what the guest writes to its serial port goes.
    pub console: Console,
    /// Its disks, in the order in which the guest finds them.
    pub disks: Vec<Disk>,
    /// The places of its network cards, in the order in which the guest finds them. `None`: nothing is there, and a card may come while it runs ([`crate::Machine::plug`]).
    pub cards: Vec<Option<Card>>,
    /// Sockets between it and the host.
    pub vsock: Option<Vsock>,
    /// File systems of the host's, in the order in which the guest finds them.
    pub files: Vec<Files>,
    /// Whether there is a place for another one, which may come while it runs ([`crate::Machine::plug_files`]).
    pub files_place: bool,
    /// Whether the guest gives memory back that it does not need, and can be asked for more of it.
    pub balloon: bool,
}

/// In what pages a machine that boots has its memory. One that goes on from a snapshot has that mapped, in small ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// As the host's policy has them (`/sys/kernel/mm/transparent_hugepage/enabled`), and what the guest starts from in pages of 4 KiB that are mapped from their files: guests share what
    /// they don't write to, and each such page takes a processor out of the guest when it is touched first, and mostly again when it is written to.
    #[default]
    Small,
    /// Of 2 MiB, where the host has them: a guest comes out once for each that it touches, and has all of it to itself. Needs `/dev/userfaultfd`; where the process can't open that, what the
    /// guest starts from is mapped as with [`Pages::Small`].
    Huge,
}

/// A file system of the host's, by virtio-fs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Its name, by which the guest mounts it: 1 to 36 bytes.
    pub tag: String,
    /// The Unix socket of its server, which speaks vhost-user.
    pub server: PathBuf,
}

/// A network card of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The tap that is its other end, by its name in the network namespace of this process.
    pub tap: String,
    /// Its address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet, without Ethernet's header.
    pub mtu: u16,
    /// How much the guest receives at most. What is more waits in the tap, which drops what it has no room for.
    pub receive: Limits,
    /// How much the guest sends at most. What is more waits in the guest.
    pub send: Limits,
}

/// How much may go through a device: bytes of data, and requests of a disk or packets of a card. `None` is as much as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub bytes: Option<Rate>,
    /// Requests or packets.
    pub operations: Option<Rate>,
}

/// How much of something may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// In a second.
    pub per_second: NonZeroU64,
    /// What may go at once beyond that, where less went before.
    pub burst: u64,
}

/// Sockets between a machine and its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// The guest's address, 3 or more.
    pub cid: u32,
    /// The Unix socket that is the host's end, which is made. Who connects to it and writes `CONNECT PORT` is connected to a port of the guest; the host's port P, for
    /// the guest, is whoever listens at this path with `_P` behind it.
    pub path: PathBuf,
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What tells it from others, of 20 bytes at most: the guest has it as `/sys/block/NAME/serial`.
    pub serial: String,
    /// What is on it.
    pub contents: Contents,
    /// How much is read and written at most. What is more waits.
    pub limits: Limits,
}

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// What a file holds, in whole sectors of 512 bytes.
    File {
        /// The file.
        path: PathBuf,
        /// Whether the guest can't write to it.
        read_only: bool,
    },
    /// What a qcow2 image holds, in whole sectors of 512 bytes. It names no other file: one that does is refused.
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// Whether the guest can't write to it.
        read_only: bool,
    },
    /// What several files hold, one behind the other, each from a multiple of [`CONCATENATED_ALIGN`] bytes on; the guest can't write to it.
    Concatenated(Vec<PathBuf>),
}

/// Each file of [`Contents::Concatenated`] begins at a multiple of so many bytes.
pub const CONCATENATED_ALIGN: u64 = MIB;

/// Where what the guest writes to its serial port goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Console {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output.
    Stdout,
    /// To the end of a file, which is made where there is none.
    File(PathBuf),
}

/// How many processors a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// As many as there are numbers for in the tables of an x86 machine whose APICs are not of the extended kind, kept to what is tried out.
    pub const MAX: u8 = 64;

    /// A count from 1 to [`VcpuCount::MAX`].
    pub fn new(count: u8) -> Result<VcpuCount> {
        match count {
            1..=VcpuCount::MAX => Ok(VcpuCount(count)),
            _ => Err(Error::Size(format!("a machine has 1 to {} processors, and not {count}", VcpuCount::MAX))),
        }
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for VcpuCount {
    type Error = Error;

    fn try_from(count: u8) -> Result<VcpuCount> {
        VcpuCount::new(count)
    }
}

impl From<VcpuCount> for u8 {
    fn from(count: VcpuCount) -> u8 {
        count.0
    }
}

/// How much memory a machine has, in whole MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct MemorySize(u64);

impl MemorySize {
    /// Less is too little for what lies at fixed addresses below, and a kernel at 16 MiB.
    pub const MIN_MIB: u64 = 32;
    /// What a guest's physical addresses of 40 bits reach.
    pub const MAX_MIB: u64 = 1 << 20;

    /// A size of so many MiB.
    pub fn from_mib(mib: u64) -> Result<MemorySize> {
        match mib {
            MemorySize::MIN_MIB..=MemorySize::MAX_MIB => Ok(MemorySize(mib)),
            _ => Err(Error::Size(format!(
                "a machine has {} to {} MiB of memory, and not {mib}",
                MemorySize::MIN_MIB,
                MemorySize::MAX_MIB
            ))),
        }
    }

    /// In MiB.
    pub fn mib(self) -> u64 {
        self.0
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0 * MIB
    }
}

impl TryFrom<u64> for MemorySize {
    type Error = Error;

    fn try_from(mib: u64) -> Result<MemorySize> {
        MemorySize::from_mib(mib)
    }
}

impl From<MemorySize> for u64 {
    fn from(size: MemorySize) -> u64 {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_machine_has_are_refused() {
        for count in [0, 65, 255] {
            assert!(VcpuCount::new(count).unwrap_err().to_string().contains(&count.to_string()));
        }
        for mib in [0, 31, MemorySize::MAX_MIB + 1, u64::MAX] {
            assert!(MemorySize::from_mib(mib).is_err());
        }
        assert_eq!(MemorySize::from_mib(128).unwrap().bytes(), 128 << 20);
    }
}

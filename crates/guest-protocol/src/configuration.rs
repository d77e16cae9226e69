//! What a machine is to be: who it is, its network, disks and volumes.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::{Blob, ContainerId};

/// What the whole machine is to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Who it is.
    pub identity: Identity,
    /// What is written below `/proc/sys`: the path there, and the value.
    pub sysctls: Vec<(String, String)>,
    /// Answer at 127.0.0.11, port 53, and have the host asked.
    pub names: bool,
}

/// What differs between clones of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The host name, of the machine and of its containers.
    pub hostname: Option<String>,
    /// The time, in nanoseconds since 1970.
    pub clock: Option<u64>,
    /// Random bytes that nobody else has; the kernel's generator starts anew with them.
    pub entropy: Blob,
    /// All of its network interfaces, but for the loopback.
    pub interfaces: Vec<Interface>,
    /// Files in [`crate::place::FILES`] that are new, or have other contents: who has one open or mounted sees them.
    pub files: Vec<File>,
}

/// The network of a machine that runs, as it is to be from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// All of its interfaces, but for the loopback. Network cards that none of them is for are left, so that they may go.
    pub interfaces: Vec<Interface>,
    /// What is written below `/proc/sys` then: the path there, and the value.
    pub sysctls: Vec<(String, String)>,
    /// Files as in [`Identity::files`].
    pub files: Vec<File>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// By what it is found.
    pub found: Found,
    /// What it is called from then on.
    pub name: String,
    /// The hardware address that it is given, where it has another one.
    pub mac: Option<[u8; 6]>,
    /// The longest packet; `None` leaves it.
    pub mtu: Option<u32>,
    /// All of its addresses, with the length of the network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes over it.
    pub routes: Vec<Route>,
}

/// By what a network interface is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Its hardware address.
    Mac([u8; 6]),
    /// Its name.
    Name(String),
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// To which network: its address, and the length of its prefix.
    pub to: (IpAddr, u8),
    /// By whom; `None`: who is there is reached directly.
    pub by: Option<IpAddr>,
}

/// A file with contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name, without directories.
    pub name: String,
    /// Its permissions (chmod(2)).
    pub mode: u32,
    /// What is in it.
    pub contents: Blob,
}

/// A container's root file system, and what is to be mounted into it by its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Whose.
    pub container: ContainerId,
    /// What is below.
    pub lower: Lower,
    /// What is written to.
    pub upper: Upper,
    /// Volumes, found at [`crate::place::volume`].
    pub volumes: Vec<Volume>,
    /// Files, found at [`crate::place::file`].
    pub files: Vec<File>,
    /// Limits of the container within the machine: files of its control group, and what is written to them (`pids.max`).
    pub limits: Vec<(String, String)>,
}

/// What is below a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lower {
    /// EROFS file systems that lie on one disk, one after the other, the top one first. Each becomes a partition.
    Layers {
        /// The disk.
        disk: Disk,
        /// Where on it each begins and how long it is, in bytes; multiples of 512.
        layers: Vec<(u64, u64)>,
    },
    /// A directory that the guest has. For tests of the agent itself.
    Directory(String),
    /// Nothing.
    Nothing,
}

/// Where a container's changes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upper {
    /// Memory, at most so many bytes.
    Memory {
        /// How many; 0: half of the machine's.
        size: u64,
    },
    /// An ext4 file system on a disk of its own. The guest makes none: whoever makes the disk formats it.
    Disk(Disk),
    /// Nowhere: the root is read-only.
    Nothing,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disk {
    /// By its serial number (virtio-blk: at most 20 bytes).
    Serial(String),
    /// By its name (`vda`).
    Name(String),
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, without directories.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
    /// Nothing in it can be changed.
    pub readonly: bool,
    /// Further options of the file system, as mount(8) has them: `dax,mode=700`.
    pub options: String,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// A virtio-fs device.
    Virtiofs {
        /// Its tag.
        tag: String,
    },
    /// Memory, at most so many bytes; 0: half of the machine's.
    Memory {
        /// How many.
        size: u64,
    },
    /// A virtio-fs device that comes while the machine runs, and goes: it is looked for, and left when no root has it any more. Guests with [`feature::PLUGGED_FILES`](crate::message::feature::PLUGGED_FILES)
    /// know it.
    Plugged {
        /// Its tag.
        tag: String,
        /// What the kernel calls its place: a device of ACPI's, or a port of PCI.
        place: String,
    },
}

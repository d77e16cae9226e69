//! What a machine is made of, opened: descriptors, and no paths.
//!
//! A process that runs a machine has neither files nor rights: whoever starts it gives it these.

use crate::config::{Limits, MemorySize, Pages, VcpuCount};
use crate::processor::Processor;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// Everything that a machine is made of.
#[derive(Debug)]
pub struct Parts {
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
    /// What it starts from.
    pub boot: Boot,
    /// What it has besides.
    pub devices: Devices,
}

/// What a machine starts from.
#[derive(Debug)]
pub struct Boot {
    /// The guest's kernel: an ELF file with a PVH entry, or a bzImage. It is mapped, and must never be written to again.
    pub kernel: File,
    /// What errors call the kernel.
    pub kernel_name: PathBuf,
    /// What the kernel has as its first root file system. As the kernel, it is mapped.
    pub initrd: Option<File>,
    /// The kernel's command line.
    pub command_line: String,
}

/// The devices of a machine, with the host's end of each. A machine that goes on from a snapshot is given the same ones in the same order, with other files, taps and
/// sockets. A disk may have another size, of which the guest is told; a card may have another address, which its driver does not look at again.
#[derive(Debug, Default)]
pub struct Devices {
    /// Where what the guest writes to its serial port goes: a file, which is filled up to 64 MiB,
    /// a pipe, a terminal, a socket. Nobody waits for who reads there.
    pub console: Option<OwnedFd>,
    /// Its disks, in the order in which the guest finds them.
    pub disks: Vec<DiskParts>,
    /// The places of its network cards, in the order in which the guest finds them, and what is there.
    pub cards: Vec<Option<CardParts>>,
    /// Sockets between it and the host.
    pub vsock: Option<VsockParts>,
    /// File systems of the host's, in the order in which the guest finds them. The server of a machine that goes on from a snapshot takes over which files the
    /// guest knew and had open: they are as they are by then, and of those that are gone the guest gets errors.
    pub files: Vec<FilesParts>,
    /// Whether there is a place for another one, which may come while it runs ([`crate::Machine::plug_files`]).
    pub files_place: bool,
    /// Whether the guest gives memory back that it does not need, and can be asked for more of it.
    pub balloon: bool,
}

/// A file system of the host's, by virtio-fs.
#[derive(Debug)]
pub struct FilesParts {
    /// Its name, by which the guest mounts it: 1 to 36 bytes.
    pub tag: String,
    /// The connection to its server, which speaks vhost-user and ends with the machine.
    pub server: UnixStream,
}

/// A disk.
#[derive(Debug)]
pub struct DiskParts {
    /// What tells it from others, of 20 bytes at most: the guest has it as `/sys/block/NAME/serial`.
    pub serial: String,
    /// What is on it.
    pub contents: DiskContents,
    /// How much is read and written at most.
    pub limits: Limits,
}

/// What is on a disk.
#[derive(Debug)]
pub enum DiskContents {
    /// What a file holds, in whole sectors of 512 bytes.
    File {
        /// The file, open for writing too unless the disk is read-only.
        file: File,
        /// Whether the guest can't write to it.
        read_only: bool,
    },
    /// What a qcow2 image holds, in whole sectors of 512 bytes. It names no other file: one that does is refused.
    Qcow2 {
        /// The image, open for writing too unless the disk is read-only.
        file: File,
        /// Whether the guest can't write to it.
        read_only: bool,
    },
    /// What several files hold, one behind the other, each from a multiple of [`crate::CONCATENATED_ALIGN`] bytes on; the guest can't write to it.
    Concatenated(Vec<File>),
}

/// A network card.
#[derive(Debug)]
pub struct CardParts {
    /// `/dev/net/tun`, attached to the tap that is its other end, with a header before each packet (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`).
    pub tap: OwnedFd,
    /// Its address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet, without Ethernet's header.
    pub mtu: u16,
    /// How much the guest receives at most.
    pub receive: Limits,
    /// How much the guest sends at most.
    pub send: Limits,
}

/// Sockets between a machine and its host.
pub struct VsockParts {
    /// The guest's address, 3 or more.
    pub cid: u32,
    /// Where the host connects to the guest: who connects and writes `CONNECT PORT` is connected to that port of the guest, and reads `OK` and a number first.
    pub listener: Option<UnixListener>,
    /// Who is at the host's ports.
    pub dial: Dial,
}

impl fmt::Debug for VsockParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VsockParts").field("cid", &self.cid).field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Asked for the host's end of each connection that the guest makes, with the host's port: a stream, or an error for where nobody is.
///
/// It is called on the thread that serves the guest's queues, under its filter: it may make a pair of Unix sockets, connect to one without waiting, take locks
/// and write to an eventfd, and open nothing. It must not wait.
pub type Dial = Box<dyn FnMut(u32) -> io::Result<UnixStream> + Send>;

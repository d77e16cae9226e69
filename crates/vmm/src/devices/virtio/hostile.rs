//! Devices beside guests that were written to break them: a guest's side of a transport and of its rings, for tests and for fuzzing.

use super::balloon::Balloon;
use super::block::{Block, Disk};
use super::fs::Echo;
use super::memory::Blocks;
use super::net::{Card, Net, Tap};
use super::queue::Interrupt;
use super::rng::Rng;
use super::transport::{NOTIFY, Transport};
use super::vsock::Vsock;
use super::{Attached, Device};
use crate::arch::current::layout;
use crate::bus::Registers;
use crate::config::{self, Limits, MemorySize, Rate};
use crate::end::Ending;
use crate::events::event;
use crate::memory::{Memory, More};
use crate::threads::Wanted;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of memory that may come.
const MOST: u64 = 256 << 20;
/// Where a guest's rings begin, and how far apart those of one queue are.
const RINGS: u64 = 0x10_0000;
const RING: u64 = 0x4000;
/// Where its buffers begin.
const BUFFERS: u64 = 0x20_0000;

/// Where the rings of a queue are.
fn rings(queue: usize) -> u64 {
    RINGS + queue as u64 * 4 * RING
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk of a MiB, in memory.
    Disk,
    /// The same, of which no more than [`LIMITS`] allow is read and written.
    LimitedDisk,
    /// A file system, whose server answers each request with itself.
    Files,
    /// A source of entropy.
    Entropy,
    /// A balloon.
    Balloon,
    /// Memory that comes in blocks.
    Memory,
    /// A network card, whose other end nobody reads.
    Network,
    /// The same, through which no more than [`LIMITS`] allow goes.
    LimitedNetwork,
    /// Sockets to the host, where somebody listens at port 1.
    Vsock,
}

impl Kind {
    fn limits(self) -> Limits {
        match self {
            Kind::LimitedDisk | Kind::LimitedNetwork => LIMITS,
            _ => Limits::default(),
        }
    }

    fn is_network(self) -> bool {
        matches!(self, Kind::Network | Kind::LimitedNetwork)
    }
}

/// So little that a guest waits, and so much that it goes on.
const LIMITS: Limits = Limits {
    bytes: Some(Rate { per_second: NonZeroU64::new(1 << 20).unwrap(), burst: 100 }),
    operations: Some(Rate { per_second: NonZeroU64::new(100).unwrap(), burst: 0 }),
};

/// A guest with one device.
pub(super) struct Guest {
    transport: Transport,
    attached: Attached,
    pub(super) memory: Memory,
    /// What the device speaks with, for as long as the guest lives.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to be connected to"))]
    host: Option<Host>,
    /// The server of its file system.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to serve"))]
    files: Option<Echo>,
    /// The other end of its network card.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to be sent to"))]
    network: Option<UnixDatagram>,
}

/// The host's side of a vsock device.
#[cfg_attr(not(test), expect(dead_code, reason = "it is there to be connected to"))]
struct Host {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

/// The address of a guest with a vsock device.
const CID: u32 = 3;

/// A descriptor, as a guest writes it (2.7.5).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;

impl Guest {
    /// One that has not touched its device yet.
    pub(super) fn new(device: Arc<Mutex<dyn Device>>) -> Guest {
        let size = MemorySize::from_mib(MemorySize::MIN_MIB).unwrap_or_else(|error| panic!("{error}"));
        let memory = Memory::new(size, &layout::memory(size)).unwrap_or_else(|error| panic!("{error}"));
        let event = || event().unwrap_or_else(|error| panic!("{error}"));
        let queues = device.lock().unwrap_or_else(std::sync::PoisonError::into_inner).queues().len();
        let attached = Attached::new(device, Interrupt::new(event()), (0..queues).map(|_| Arc::new(event())).collect());
        attached.want(Wanted::Run);
        Guest {
            transport: Transport::new(attached.clone(), memory.clone()),
            attached,
            memory,
            host: None,
            files: None,
            network: None,
        }
    }

    pub(super) fn of(kind: Kind) -> Guest {
        Guest::new(match kind {
            Kind::Disk | Kind::LimitedDisk => {
                let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
                let disk = file.and_then(|file| {
                    rustix::fs::ftruncate(&file, 1 << 20)?;
                    Ok(file)
                });
                let disk = disk.map_err(std::io::Error::from).and_then(|file| Disk::of_file(file, false, "disk"));
                let ending = Arc::new(Ending::new().unwrap_or_else(|error| panic!("{error}")));
                let device = Block::new(disk.unwrap_or_else(|error| panic!("{error}")), kind.limits(), &ending);
                Arc::new(Mutex::new(device.unwrap_or_else(|error| panic!("{error}"))))
            }
            Kind::Files => {
                let (device, server) = Echo::serve().unwrap_or_else(|error| panic!("{error}"));
                return Guest { files: Some(server), ..Guest::new(Arc::new(Mutex::new(device))) };
            }
            Kind::Entropy => Arc::new(Mutex::new(Rng::default())),
            Kind::Memory => {
                let (guest, blocks) = Guest::with_blocks(MOST);
                guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(MOST / 2)));
                return guest;
            }
            Kind::Balloon => Arc::new(Mutex::new(Balloon::default())),
            Kind::Network | Kind::LimitedNetwork => {
                let (card, other) = UnixDatagram::pair().unwrap_or_else(|error| panic!("{error}"));
                for end in [&card, &other] {
                    end.set_nonblocking(true).unwrap_or_else(|error| panic!("{error}"));
                }
                // Something to be received.
                for length in [100, 1500, 60_000] {
                    other.send(&vec![1; length]).unwrap_or_else(|error| panic!("{error}"));
                }
                let limits = kind.limits();
                let card_ = Card { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, receive: limits, send: limits };
                let device = Net::new(Tap::of_socket(card.into()), card_);
                let device = device.unwrap_or_else(|error| panic!("{error}"));
                return Guest { network: Some(other), ..Guest::new(Arc::new(Mutex::new(device))) };
            }
            Kind::Vsock => {
                let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
                let listener =
                    UnixListener::bind(directory.path().join("v_1")).unwrap_or_else(|error| panic!("{error}"));
                let vsock = config::Vsock { cid: CID, path: directory.path().join("v") };
                let device = vsock.open().unwrap_or_else(|error| panic!("{error}"));
                let device = Vsock::new(device).unwrap_or_else(|error| panic!("{error}"));
                return Guest { host: Some(Host { directory, listener }), ..Guest::new(Arc::new(Mutex::new(device))) };
            }
        })
    }

    /// One that may have so many bytes more than at its start. Returns its device, too.
    pub(super) fn with_blocks(most: u64) -> (Guest, Arc<Mutex<Blocks>>) {
        let size = MemorySize::from_mib(MemorySize::MIN_MIB).unwrap_or_else(|error| panic!("{error}"));
        let more = More { start: layout::more(size), length: most };
        let memory = Memory::growing(size, &layout::memory(size), Some(more)).unwrap_or_else(|error| panic!("{error}"));
        Guest::with_blocks_of(&memory)
    }

    fn with_blocks_of(memory: &Memory) -> (Guest, Arc<Mutex<Blocks>>) {
        let more = memory.more().unwrap_or_else(|| panic!("no memory may come"));
        let blocks = Blocks::new(memory.clone(), more, Box::new(|_, _, _| Ok(())));
        let blocks = Arc::new(Mutex::new(blocks.unwrap_or_else(|error| panic!("{error}"))));
        let mut guest = Guest::new(Arc::clone(&blocks) as _);
        guest.memory = memory.clone();
        guest.transport = Transport::new(guest.attached.clone(), memory.clone());
        (guest, blocks)
    }

    pub(super) fn write(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    pub(super) fn read(&mut self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Goes through all steps (3.1.1), with queues of `size` entries, as far as they may have as many, and with no feature that need not be.
    pub(super) fn set_up(&mut self, size: u16) {
        self.set_up_with(size, 0);
    }

    /// As before, with features of the device's own.
    pub(super) fn set_up_with(&mut self, size: u16, features: u32) {
        self.set_up_at(size, features, RINGS);
    }

    /// As before, with its rings from an address on.
    pub(super) fn set_up_at(&mut self, size: u16, features: u32, start: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        self.write(0x24, 0);
        self.write(0x20, features);
        // Version 1.
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, 11);
        for queue in 0..self.attached.kicks.len() as u32 {
            self.write(0x30, queue);
            let most = self.read(0x34);
            self.write(0x38, most.min(size.into()));
            for (register, ring) in [(0x80, 0), (0x90, 1), (0xa0, 2)] {
                let at = start - RINGS + rings(queue as usize) + ring * RING;
                self.write(register, at as u32);
                self.write(register + 4, (at >> 32) as u32);
            }
            self.write(0x44, 1);
        }
        self.write(0x70, 15);
    }

    pub(super) fn descriptor(&self, queue: usize, number: u16, descriptor: Descriptor) {
        let Descriptor { address, length, flags, next } = descriptor;
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
        self.put(rings(queue) + u64::from(number) * 16, &bytes);
    }

    /// Offers the requests that begin with these descriptors, of all that it ever offered.
    pub(super) fn offer(&self, queue: usize, index: u16, heads: &[u16], size: u16) {
        for (number, head) in heads.iter().enumerate() {
            let slot = (index.wrapping_sub(heads.len() as u16).wrapping_add(number as u16)) % size.max(1);
            self.put(rings(queue) + RING + 4 + u64::from(slot) * 2, &head.to_le_bytes());
        }
        self.put(rings(queue) + RING + 2, &index.to_le_bytes());
    }

    /// How many requests the device has answered.
    #[cfg(test)]
    pub(super) fn answered(&self, queue: usize) -> u16 {
        self.memory.regions().read_obj(GuestAddress(rings(queue) + 2 * RING + 2)).unwrap_or(0)
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        // What does not fit is not there.
        let _ = self.memory.regions().write_slice(bytes, GuestAddress(at));
    }

    /// Tells the device that something is in a queue. It is handled when this returns, or by the device's own thread.
    pub(super) fn notify(&mut self, queue: usize) {
        if self.attached.waited_for().is_empty() {
            // The counter is never full.
            let _ = self.attached.kicks[queue].write(1);
        } else {
            self.attached.notified(queue);
        }
        self.attached.ready();
    }

    /// Saves the device, and goes on with another one of its kind, as in a machine that goes on from a snapshot. What was offered is looked at, as nobody tells of it
    /// again.
    pub(super) fn goes_on(self, kind: Kind) -> Guest {
        self.attached.rest();
        let state = self.transport.save().unwrap_or_else(|why| panic!("{why}"));
        let read = postcard::to_stdvec(&state).and_then(|bytes| postcard::from_bytes(&bytes));
        assert_eq!(read.as_ref(), Ok(&state), "what was saved is not what is read");
        let mut other = match kind {
            Kind::Memory => Guest::with_blocks_of(&self.memory).0,
            kind => Guest::of(kind),
        };
        other.memory = self.memory.clone();
        other.transport = Transport::new(other.attached.clone(), other.memory.clone());
        other.transport.restore(&state).unwrap_or_else(|why| panic!("{why}"));
        other.handle_what_was_told();
        other
    }

    /// What whoever waits for a device's queues does, where it has no thread of its own.
    pub(super) fn handle_what_was_told(&self) {
        let waited_for = self.attached.waited_for().len();
        (0..waited_for)
            .filter(|queue| self.attached.kicks[*queue].read().is_ok())
            .for_each(|queue| self.attached.notified(queue));
    }

    /// Resets the device: whatever it was at is over then.
    pub(super) fn reset(&mut self) {
        self.write(0x70, 0);
    }
}

/// A packet whose addresses are right, and of whose rest little is.
fn packet(next: &mut impl FnMut(usize) -> u64) -> Vec<u8> {
    let ports = [next(1) as u32 % 3, next(1) as u32 % 3];
    let (length, op, flags) = (next(2) as u32, next(1) as u16 % 9, next(1) as u32);
    let mut bytes = [u64::from(CID), 2].iter().flat_map(|cid| cid.to_le_bytes()).collect::<Vec<u8>>();
    bytes.extend(ports.iter().flat_map(|port| port.to_le_bytes()));
    bytes.extend(length.to_le_bytes());
    bytes.extend([1, op].iter().flat_map(|half| half.to_le_bytes()));
    bytes.extend([flags, next(4) as u32, next(4) as u32].iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// Has a device beside a guest whose registers, rings and buffers are made of `data`. It must come to an end, and to no panic.
pub fn run(kind: Kind, data: &[u8]) {
    let mut guest = Guest::of(kind);
    let mut data = data.iter().copied();
    let mut next =
        |count: usize| -> u64 { (0..count).fold(0, |number, _| number << 8 | u64::from(data.next().unwrap_or(0))) };
    let size = 1u16 << (next(1) % 9);
    guest.set_up(size);
    let queues = guest.attached.kicks.len();
    let mut index = vec![0u16; queues];
    for _ in 0..next(1) % 32 {
        let queue = next(1) as usize % queues;
        match next(1) % 8 {
            // Any register, any value.
            0 => {
                let (register, value) = (next(1) << 2 & 0x1fc, next(4) as u32);
                if register != NOTIFY {
                    guest.write(register, value);
                }
                guest.read(register);
            }
            1 => guest.set_up_with(1 << (next(1) % 9), next(4) as u32),
            // A ring that says what it likes.
            2 => guest.offer(queue, next(2) as u16, &[next(2) as u16], size),
            3 => guest = guest.goes_on(kind),
            // Some requests of a form that may be right.
            _ => {
                let first = (next(1) as u16) % size;
                for step in 0..3u16 {
                    let wild = next(1) == 7;
                    let address = if wild { next(8) } else { BUFFERS + (next(2) & 0xfff0) };
                    let length = if wild { next(4) as u32 } else { next(2) as u32 };
                    let plain = match queue {
                        0 if kind == Kind::Vsock || kind.is_network() => [NEXT | WRITE, NEXT | WRITE, WRITE],
                        1 if kind == Kind::Vsock || kind.is_network() => [NEXT, NEXT, 0],
                        _ => [NEXT, NEXT | WRITE, WRITE],
                    };
                    let flags = if wild { next(2) as u16 } else { plain[usize::from(step)] };
                    let number = (first + step) % size;
                    guest.descriptor(queue, number, Descriptor { address, length, flags, next: (number + 1) % size });
                    if kind == Kind::Vsock && step == 0 {
                        guest.put(address, &packet(&mut next));
                    } else {
                        let contents: Vec<u8> = (0..16).map(|_| next(1) as u8).collect();
                        guest.put(address, &contents);
                    }
                }
                index[queue] = index[queue].wrapping_add(1);
                guest.offer(queue, index[queue], &[first], size);
            }
        }
        guest.notify(queue);
    }
    guest.reset();
}

#[cfg(test)]
mod balloon;
#[cfg(test)]
mod cards;
#[cfg(test)]
mod files;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod images;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod logged_file;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod offloads;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod rings;
#[cfg(test)]
mod tests;

//! Devices beside guests that were written to break them: a guest's side of a transport and of its rings, for tests and for fuzzing.

use super::block::{Block, Disk};
use super::net::{Card, Net, Tap};
use super::queue::Interrupt;
use super::rng::Rng;
use super::transport::{NOTIFY, Transport};
use super::vsock::Vsock;
use super::{Attached, Device};
use crate::arch::current::layout;
use crate::bus::Registers;
use crate::config::{self, MemorySize};
use crate::end::Ending;
use crate::events::event;
use crate::memory::Memory;
use crate::threads::Wanted;
use std::fs::File;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

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
    /// A source of entropy.
    Entropy,
    /// A network card, whose other end nobody reads.
    Network,
    /// Sockets to the host, where somebody listens at port 1.
    Vsock,
}

/// A guest with one device.
pub(super) struct Guest {
    transport: Transport,
    attached: Attached,
    pub(super) memory: Memory,
    /// What the device speaks with, for as long as the guest lives.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to be connected to"))]
    host: Option<Host>,
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
            network: None,
        }
    }

    pub(super) fn of(kind: Kind) -> Guest {
        Guest::new(match kind {
            Kind::Disk => {
                let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
                let disk = file.and_then(|file| {
                    rustix::fs::ftruncate(&file, 1 << 20)?;
                    Ok(file)
                });
                let disk = disk.map_err(std::io::Error::from).and_then(|file| Disk::of_file(file, false, "disk"));
                let ending = Arc::new(Ending::new().unwrap_or_else(|error| panic!("{error}")));
                let device = Block::new(disk.unwrap_or_else(|error| panic!("{error}")), &ending);
                Arc::new(Mutex::new(device.unwrap_or_else(|error| panic!("{error}"))))
            }
            Kind::Entropy => Arc::new(Mutex::new(Rng::default())),
            Kind::Network => {
                let (card, other) = UnixDatagram::pair().unwrap_or_else(|error| panic!("{error}"));
                for end in [&card, &other] {
                    end.set_nonblocking(true).unwrap_or_else(|error| panic!("{error}"));
                }
                // Something to be received.
                for length in [100, 1500, 60_000] {
                    other.send(&vec![1; length]).unwrap_or_else(|error| panic!("{error}"));
                }
                let device = Net::new(Tap::of_socket(card.into()), Card { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 });
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
                self.write(register, (rings(queue as usize) + ring * RING) as u32);
                self.write(register + 4, 0);
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
            // Some requests of a form that may be right.
            _ => {
                let first = (next(1) as u16) % size;
                for step in 0..3u16 {
                    let wild = next(1) == 7;
                    let address = if wild { next(8) } else { BUFFERS + (next(2) & 0xfff0) };
                    let length = if wild { next(4) as u32 } else { next(2) as u32 };
                    let plain = if matches!(kind, Kind::Vsock | Kind::Network) && queue == 0 {
                        [NEXT | WRITE, NEXT | WRITE, WRITE]
                    } else {
                        [NEXT, NEXT | WRITE, WRITE]
                    };
                    let plain =
                        if matches!(kind, Kind::Vsock | Kind::Network) && queue == 1 { [NEXT, NEXT, 0] } else { plain };
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_guest_breaks_a_device(kind in prop::sample::select(vec![Kind::Disk, Kind::Entropy, Kind::Network, Kind::Vsock]), data in prop::collection::vec(any::<u8>(), 0..1200)) {
            run(kind, &data);
        }
    }

    /// Waits until the device has answered so many requests: a disk does on a thread of its own.
    fn until_answered(guest: &Guest, count: u16) {
        while guest.answered(0) != count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_device_tells_what_it_is_and_takes_the_steps_in_order() {
        let mut guest = Guest::of(Kind::Disk);
        assert_eq!(guest.read(0x00).to_le_bytes(), *b"virt");
        assert_eq!((guest.read(0x04), guest.read(0x08)), (2, 2));
        // Its size in sectors, and what is beyond its configuration.
        assert_eq!((guest.read(0x100), guest.read(0x100 + 60), guest.read(0xffc)), (2048, 0, 0));
        guest.set_up(8);
        assert_eq!(guest.read(0x70), 15);
        // Only a reset takes a step back.
        guest.write(0x70, 1);
        assert_eq!(guest.read(0x70), 15);
        guest.reset();
        assert_eq!((guest.read(0x70), guest.read(0x44)), (0, 0));
    }

    #[test]
    fn features_that_were_not_offered_are_refused() {
        for (low, high) in [(1 << 0, 1), (0, 0), (0, 1 | 1 << 30)] {
            let mut guest = Guest::of(Kind::Entropy);
            guest.write(0x70, 3);
            for (half, value) in [(0, low), (1, high)] {
                guest.write(0x24, half);
                guest.write(0x20, value);
            }
            guest.write(0x70, 11);
            assert_eq!(guest.read(0x70), 3, "{low:#x} {high:#x}");
        }
    }

    #[test]
    fn entropy_fills_buffers_over_and_over() {
        let mut guest = Guest::of(Kind::Entropy);
        guest.set_up(4);
        for round in 1..=10u16 {
            guest.put(BUFFERS, &[0; 32]);
            guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 32, flags: WRITE, next: 0 });
            guest.offer(0, round, &[0], 4);
            guest.notify(0);
            assert_eq!(guest.answered(0), round);
            let filled: [u8; 32] = guest.memory.regions().read_obj(GuestAddress(BUFFERS)).unwrap();
            assert_ne!(filled, [0; 32]);
        }
        assert_eq!(guest.read(0x60), 1);
        guest.write(0x64, 1);
        assert_eq!(guest.read(0x60), 0);
    }

    #[test]
    fn a_disk_answers_through_its_ring() {
        let mut guest = Guest::of(Kind::Disk);
        guest.set_up(8);
        // The serial number: header, 20 bytes, status.
        guest.put(BUFFERS, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 16, flags: NEXT, next: 1 });
        guest.descriptor(0, 1, Descriptor { address: BUFFERS + 16, length: 20, flags: NEXT | WRITE, next: 2 });
        guest.descriptor(0, 2, Descriptor { address: BUFFERS + 36, length: 1, flags: WRITE, next: 0 });
        guest.put(BUFFERS + 36, &[9]);
        guest.offer(0, 1, &[0], 8);
        guest.notify(0);
        until_answered(&guest, 1);
        let told: [u8; 21] = guest.memory.regions().read_obj(GuestAddress(BUFFERS + 16)).unwrap();
        assert_eq!(&told, b"disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn what_makes_no_sense_needs_a_reset_and_that_is_all() {
        for descriptors in [
            // Not in memory; longer than all memory; a buffer to be read behind one to be written.
            [Descriptor { address: 1 << 40, length: 8, flags: WRITE, next: 0 }; 2],
            [Descriptor { address: BUFFERS, length: u32::MAX, flags: WRITE, next: 0 }; 2],
            [
                Descriptor { address: BUFFERS, length: 8, flags: NEXT | WRITE, next: 1 },
                Descriptor { address: BUFFERS, length: 8, flags: 0, next: 0 },
            ],
        ] {
            let mut guest = Guest::of(Kind::Entropy);
            guest.set_up(4);
            for (number, descriptor) in descriptors.into_iter().enumerate() {
                guest.descriptor(0, number as u16, descriptor);
            }
            guest.offer(0, 1, &[0], 4);
            guest.notify(0);
            assert_eq!((guest.read(0x70), guest.read(0x60), guest.answered(0)), (15 | 64, 2, 0));
            guest.set_up(4);
            assert_eq!(guest.read(0x70), 15);
        }
    }

    #[test]
    fn rings_that_are_not_in_memory_are_never_used() {
        let mut guest = Guest::of(Kind::Entropy);
        guest.set_up(4);
        guest.reset();
        for step in [1, 3] {
            guest.write(0x70, step);
        }
        guest.write(0x24, 1);
        guest.write(0x20, 1);
        guest.write(0x70, 11);
        guest.write(0x38, 4);
        guest.write(0x84, 0xffff);
        guest.write(0x44, 1);
        guest.write(0x70, 15);
        assert_eq!(guest.read(0x70), 15 | 64);
    }

    /// A guest with its sockets, that has offered one buffer to receive into, and knows how many packets it sent and received.
    struct Speaker {
        guest: Guest,
        sent: u16,
        received: u16,
    }

    impl Speaker {
        fn new() -> Speaker {
            let mut guest = Guest::of(Kind::Vsock);
            guest.set_up(16);
            Speaker { guest, sent: 0, received: 0 }
        }

        /// Sends a packet from the guest's port 5 to the host's port 1.
        fn send(&mut self, op: u16, flags: u32, room: u32, data: &[u8]) {
            let mut packet = [3u64, 2].iter().flat_map(|cid| cid.to_le_bytes()).collect::<Vec<u8>>();
            packet.extend([5u32, 1, data.len() as u32].iter().flat_map(|word| word.to_le_bytes()));
            packet.extend([1, op].iter().flat_map(|half| half.to_le_bytes()));
            packet.extend([flags, room, 0].iter().flat_map(|word| word.to_le_bytes()));
            packet.extend(data);
            self.guest.put(BUFFERS, &packet);
            self.guest.descriptor(
                1,
                0,
                Descriptor { address: BUFFERS, length: packet.len() as u32, flags: 0, next: 0 },
            );
            self.sent += 1;
            self.guest.offer(1, self.sent, &[0], 16);
            self.guest.notify(1);
            assert_eq!(self.guest.answered(1), self.sent);
        }

        /// Receives a packet: what it is for, and its data.
        fn receive(&mut self) -> (u16, Vec<u8>) {
            let at = BUFFERS + 0x10_0000;
            self.guest.descriptor(0, 0, Descriptor { address: at, length: 4096, flags: WRITE, next: 0 });
            self.received += 1;
            self.guest.offer(0, self.received, &[0], 16);
            self.guest.notify(0);
            while self.guest.answered(0) != self.received {
                self.guest.attached.ready();
            }
            let mut header = [0; 44];
            self.guest.memory.regions().read_slice(&mut header, GuestAddress(at)).unwrap();
            let length = u32::from_le_bytes(header[24..28].try_into().unwrap());
            let mut data = vec![0; length as usize];
            self.guest.memory.regions().read_slice(&mut data, GuestAddress(at + 44)).unwrap();
            (u16::from_le_bytes(header[30..32].try_into().unwrap()), data)
        }

        /// Connects to the host's port 1. Returns the host's end.
        fn connect(&mut self, room: u32) -> std::os::unix::net::UnixStream {
            self.send(1, 0, room, b"");
            let (stream, _) = self.guest.host.as_ref().unwrap().listener.accept().unwrap();
            assert_eq!(self.receive(), (2, vec![]));
            stream
        }
    }

    #[test]
    fn a_guest_speaks_with_who_listens_on_the_host() {
        use std::io::{Read as _, Write as _};
        let mut speaker = Speaker::new();
        let mut host = speaker.connect(1 << 16);
        speaker.send(5, 0, 1 << 16, b"from the guest");
        let mut heard = [0; 14];
        host.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"from the guest");
        host.write_all(b"from the host").unwrap();
        assert_eq!(speaker.receive(), (5, b"from the host".to_vec()));
        // The guest sends no more; the host reads the end, and can still speak.
        speaker.send(4, 2, 1 << 16, b"");
        assert_eq!(host.read(&mut heard).unwrap(), 0);
        host.write_all(b"more").unwrap();
        drop(host);
        assert_eq!(speaker.receive(), (5, b"more".to_vec()));
        assert_eq!(speaker.receive(), (4, vec![]));
        speaker.send(4, 3, 1 << 16, b"");
        assert_eq!(speaker.receive(), (3, vec![]));
    }

    #[test]
    fn nobody_is_sent_more_than_there_is_room_for() {
        use std::io::Write as _;
        let mut speaker = Speaker::new();
        let mut host = speaker.connect(10);
        host.write_all(b"0123456789abcdef").unwrap();
        assert_eq!(speaker.receive(), (5, b"0123456789".to_vec()));
        // Room for as much again, by the number that says how much in all.
        speaker.send(6, 0, 16, b"");
        assert_eq!(speaker.receive(), (5, b"abcdef".to_vec()));
        // A guest that sends more than the host has room for is cut off.
        let much = vec![7; 60_000];
        for _ in 0..20 {
            speaker.send(5, 0, 1 << 16, &much);
        }
        let mut last = speaker.receive();
        while last.0 == 6 {
            last = speaker.receive();
        }
        assert_eq!(last, (3, vec![]));
    }

    #[test]
    fn a_buffer_that_has_room_for_a_header_alone_is_nonsense_and_nothing_waits_for_more() {
        use std::io::Write as _;
        let mut speaker = Speaker::new();
        let mut host = speaker.connect(1 << 16);
        host.write_all(b"something").unwrap();
        speaker.guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 44, flags: WRITE, next: 0 });
        speaker.guest.offer(0, speaker.received + 1, &[0], 16);
        speaker.guest.notify(0);
        assert_eq!(speaker.guest.read(0x70), 15 | 64);
    }

    /// Offers the card one buffer for each of these lengths, and returns the first bytes of all that it then has answered, with the lengths that it said.
    fn received(guest: &mut Guest, lengths: &[u32]) -> Vec<(u32, Vec<u8>)> {
        let before = guest.answered(0);
        for (number, length) in lengths.iter().enumerate() {
            let address = BUFFERS + number as u64 * 0x2_0000;
            guest.descriptor(0, number as u16, Descriptor { address, length: *length, flags: WRITE, next: 0 });
        }
        let heads: Vec<u16> = (0..lengths.len() as u16).collect();
        guest.offer(0, before + lengths.len() as u16, &heads, 16);
        guest.notify(0);
        let used = |slot: u16| {
            let at = GuestAddress(rings(0) + 2 * RING + 4 + u64::from(slot % 16) * 8);
            let [number, length]: [u32; 2] = guest.memory.regions().read_obj(at).unwrap();
            let mut bytes = vec![0; length as usize];
            guest
                .memory
                .regions()
                .read_slice(&mut bytes, GuestAddress(BUFFERS + u64::from(number) * 0x2_0000))
                .unwrap();
            (length, bytes)
        };
        (before..guest.answered(0)).map(used).collect()
    }

    const MERGED: u32 = 1 << 15;

    #[test]
    fn a_packet_lies_in_as_many_buffers_as_it_needs() {
        let mut guest = Guest::of(Kind::Network);
        guest.set_up_with(16, MERGED);
        let first = received(&mut guest, &[1600]);
        assert_eq!(first.len(), 1, "the first packet of three has come");
        assert_eq!((first[0].0, &first[0].1[10..12]), (100, &[1, 0][..]));
        // The second takes two buffers of these four; the third is larger than any packet of this network, and is cut.
        let second = received(&mut guest, &[1000; 2]);
        assert_eq!(second.iter().map(|(length, _)| *length).collect::<Vec<_>>(), [1000, 500]);
        assert_eq!(second[0].1[10..12], [2, 0]);
        assert!(second[1].1.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn without_room_for_the_largest_packet_nothing_is_received_and_nothing_is_lost() {
        let mut guest = Guest::of(Kind::Network);
        guest.set_up_with(16, MERGED);
        assert_eq!(received(&mut guest, &[500]), []);
        // The one that was put back is filled first.
        guest.descriptor(0, 1, Descriptor { address: BUFFERS + 0x2_0000, length: 1500, flags: WRITE, next: 0 });
        guest.offer(0, 2, &[1], 16);
        guest.notify(0);
        assert_eq!(guest.answered(0), 1);
        let [number, length]: [u32; 2] =
            guest.memory.regions().read_obj(GuestAddress(rings(0) + 2 * RING + 4)).unwrap();
        assert_eq!((number, length), (0, 100));
    }

    #[test]
    fn what_a_guest_sends_is_one_packet_for_each_request() {
        let mut guest = Guest::of(Kind::Network);
        guest.set_up(16);
        for (number, length) in [(1u16, 80u32), (2, 1500)] {
            guest.put(BUFFERS, &vec![number as u8; length as usize]);
            guest.descriptor(1, 0, Descriptor { address: BUFFERS, length: 12, flags: NEXT, next: 1 });
            guest.descriptor(1, 1, Descriptor { address: BUFFERS + 12, length: length - 12, flags: 0, next: 0 });
            guest.offer(1, number, &[0], 16);
            guest.notify(1);
        }
        let mut packet = [0; 2000];
        let other = guest.network.as_ref().unwrap();
        assert_eq!((other.recv(&mut packet).unwrap(), packet[79]), (80, 1));
        assert_eq!((other.recv(&mut packet).unwrap(), packet[1499]), (1500, 2));
        assert!(other.recv(&mut packet).is_err());
    }

    /// Whether the device has something to do, by its own word.
    fn has_something_to_do(speaker: &Speaker) -> bool {
        let wait = |fd: std::os::fd::BorrowedFd<'_>| {
            let no_time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut asked = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut asked, Some(&no_time)).unwrap() > 0
        };
        speaker.guest.attached.waits_for(wait).unwrap()
    }

    #[test]
    fn who_hangs_up_is_noted_once_and_nobody_is_kept_busy_by_it() {
        use std::io::Write as _;
        let mut speaker = Speaker::new();
        // A guest without room never reads what is there; its host is gone.
        let mut host = speaker.connect(0);
        host.write_all(b"nobody reads this").unwrap();
        drop(host);
        speaker.guest.attached.ready();
        speaker.guest.attached.ready();
        assert!(!has_something_to_do(&speaker));
        // With room it gets all, and hears that nobody is there any more.
        speaker.send(6, 0, 100, b"");
        assert_eq!(speaker.receive(), (5, b"nobody reads this".to_vec()));
        assert_eq!(speaker.receive(), (4, vec![]));
        assert!(!has_something_to_do(&speaker));
        // A client that gives up before the guest has answered.
        let path = speaker.guest.host.as_ref().unwrap().directory.path().join("v");
        let mut host = std::os::unix::net::UnixStream::connect(&path).unwrap();
        host.write_all(b"CONNECT 9\n").unwrap();
        assert_eq!(speaker.receive(), (1, vec![]));
        drop(host);
        assert_eq!(speaker.receive(), (3, vec![]));
        assert!(!has_something_to_do(&speaker));
    }

    #[test]
    fn connections_that_come_and_go_leave_nothing() {
        let mut speaker = Speaker::new();
        for _ in 0..100 {
            speaker.send(1, 0, 1 << 16, b"");
            speaker.send(3, 0, 0, b"");
        }
        // The next packet is of the next connection, and of none before.
        let _host = speaker.connect(1 << 16);
    }

    #[test]
    fn chains_that_break_off_or_are_too_long_are_nonsense() {
        for descriptors in [
            vec![Descriptor { address: BUFFERS, length: 8, flags: WRITE | NEXT, next: 99 }],
            vec![Descriptor { address: 1 << 40, length: 16, flags: 4, next: 0 }],
            vec![Descriptor { address: BUFFERS, length: 16 * 9, flags: 4, next: 0 }],
        ] {
            let mut guest = Guest::of(Kind::Entropy);
            guest.set_up(8);
            // A table of nine, each but the last of which goes on.
            for number in 0..9u16 {
                let flags = if number == 8 { WRITE } else { WRITE | NEXT };
                let bytes = [
                    &(BUFFERS + 4096).to_le_bytes()[..],
                    &8u32.to_le_bytes(),
                    &flags.to_le_bytes(),
                    &(number + 1).to_le_bytes(),
                ]
                .concat();
                guest.put(BUFFERS + u64::from(number) * 16, &bytes);
            }
            guest.descriptor(0, 0, descriptors[0]);
            guest.offer(0, 1, &[0], 8);
            guest.notify(0);
            assert_eq!(guest.read(0x70), 15 | 64, "{descriptors:?}");
        }
    }

    #[test]
    fn a_guest_that_offers_more_than_its_ring_gets_its_turn_again() {
        let mut guest = Guest::of(Kind::Entropy);
        guest.set_up(4);
        for number in 0..4 {
            guest.descriptor(0, number, Descriptor { address: BUFFERS, length: 8, flags: WRITE, next: 0 });
        }
        guest.offer(0, 4, &[0, 1, 2, 3], 4);
        guest.notify(0);
        assert_eq!(guest.answered(0), 4);
        // All of a ring: whoever waits is woken once more.
        assert!(guest.attached.kicks[0].read().is_ok());
    }

    #[test]
    fn registers_of_a_queue_stay_and_a_wrong_size_never_gets_ready() {
        let mut guest = Guest::of(Kind::Entropy);
        guest.set_up(4);
        guest.write(0x30, 0);
        assert_eq!((guest.read(0x34), guest.read(0x44)), (64, 1));
        guest.reset();
        for size in [0, 3, 128, 0x1_0004] {
            guest.write(0x30, 0);
            guest.write(0x38, size);
            guest.write(0x44, 1);
            assert_eq!(guest.read(0x44), 0, "{size}");
        }
        guest.write(0x38, 8);
        guest.write(0x44, 1);
        assert_eq!(guest.read(0x44), 1);
    }

    #[test]
    fn where_nobody_listens_and_where_nothing_is_the_answer_is_no() {
        let mut speaker = Speaker::new();
        let directory = speaker.guest.host.as_ref().unwrap().directory.path().to_owned();
        std::fs::remove_file(directory.join("v_1")).unwrap();
        speaker.send(1, 0, 1 << 16, b"");
        assert_eq!(speaker.receive(), (3, vec![]));
        speaker.send(5, 0, 1 << 16, b"to nobody");
        assert_eq!(speaker.receive(), (3, vec![]));
    }

    #[test]
    fn the_host_connects_to_a_port_of_the_guest() {
        use std::io::{Read as _, Write as _};
        let mut speaker = Speaker::new();
        let path = speaker.guest.host.as_ref().unwrap().directory.path().join("v");
        let mut host = std::os::unix::net::UnixStream::connect(&path).unwrap();
        host.write_all(b"CONNECT 5\n").unwrap();
        assert_eq!(speaker.receive(), (1, vec![]));
        // Who says nonsense is not connected to anything.
        let mut other = std::os::unix::net::UnixStream::connect(&path).unwrap();
        other.write_all(b"GET / HTTP/1.1 and so on\n").unwrap();
        speaker.guest.attached.ready();
        speaker.guest.attached.ready();
        let mut nothing = [0];
        assert!(matches!(other.read(&mut nothing), Ok(0) | Err(_)));
    }
}

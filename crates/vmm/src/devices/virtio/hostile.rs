//! Devices beside guests that were written to break them: a guest's side of a transport and of its rings, for tests and for fuzzing.

use super::block::{Block, Disk};
use super::queue::Interrupt;
use super::rng::Rng;
use super::transport::{NOTIFY, Transport};
use super::{Attached, Device};
use crate::arch::current::layout;
use crate::bus::Registers;
use crate::config::MemorySize;
use crate::memory::Memory;
use std::fs::File;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// Where a guest's rings begin, one queue a page of each kind.
const RINGS: u64 = 0x10_0000;
/// Where its buffers begin.
const BUFFERS: u64 = 0x20_0000;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk of a MiB, in memory.
    Disk,
    /// A source of entropy.
    Entropy,
}

/// A guest with one device.
pub(super) struct Guest {
    transport: Transport,
    attached: Attached,
    pub(super) memory: Memory,
}

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
        let event = || EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).unwrap_or_else(|error| panic!("{error}"));
        let queues = device.lock().unwrap_or_else(std::sync::PoisonError::into_inner).queues().len();
        let attached = Attached::new(device, Interrupt::new(event()), (0..queues).map(|_| Arc::new(event())).collect());
        Guest { transport: Transport::new(attached.clone(), memory.clone()), attached, memory }
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
                Arc::new(Mutex::new(Block::new(disk.unwrap_or_else(|error| panic!("{error}")))))
            }
            Kind::Entropy => Arc::new(Mutex::new(Rng::default())),
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

    /// Goes through all steps (3.1.1), with one queue of `size` entries.
    pub(super) fn set_up(&mut self, size: u16) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        // Version 1, and nothing else.
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, 11);
        self.write(0x30, 0);
        self.write(0x38, size.into());
        for (register, ring) in [(0x80, 0), (0x90, 1), (0xa0, 2)] {
            self.write(register, (RINGS + ring * 0x4000) as u32);
            self.write(register + 4, 0);
        }
        self.write(0x44, 1);
        self.write(0x70, 15);
    }

    pub(super) fn descriptor(&self, number: u16, descriptor: Descriptor) {
        let Descriptor { address, length, flags, next } = descriptor;
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
        self.put(RINGS + u64::from(number) * 16, &bytes);
    }

    /// Offers the requests that begin with these descriptors, of all that it ever offered.
    pub(super) fn offer(&self, index: u16, heads: &[u16], size: u16) {
        for (number, head) in heads.iter().enumerate() {
            let slot = (index.wrapping_sub(heads.len() as u16).wrapping_add(number as u16)) % size.max(1);
            self.put(RINGS + 0x4000 + 4 + u64::from(slot) * 2, &head.to_le_bytes());
        }
        self.put(RINGS + 0x4000 + 2, &index.to_le_bytes());
    }

    /// How many requests the device has answered.
    #[cfg(test)]
    pub(super) fn answered(&self) -> u16 {
        self.memory.regions().read_obj(GuestAddress(RINGS + 0x8000 + 2)).unwrap_or(0)
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        // What does not fit is not there.
        let _ = self.memory.regions().write_slice(bytes, GuestAddress(at));
    }

    /// Has the device handle what is in its first queue, on this thread or on its own, and returns when it did.
    pub(super) fn notify(&mut self) {
        let kick = self.transport_kick();
        if self.attached.waited_for().is_empty() {
            let _ = kick.write(1);
        } else {
            self.attached.notified(0);
        }
    }

    fn transport_kick(&self) -> Arc<EventFd> {
        Arc::clone(&self.attached.kicks[0])
    }

    /// Resets the device: whatever it was at is over then.
    pub(super) fn reset(&mut self) {
        self.write(0x70, 0);
    }
}

/// Has a device beside a guest whose registers, rings and buffers are made of `data`. It must come to an end, and to no panic.
pub fn run(kind: Kind, data: &[u8]) {
    let mut guest = Guest::of(kind);
    let mut data = data.iter().copied();
    let mut next =
        |count: usize| -> u64 { (0..count).fold(0, |number, _| number << 8 | u64::from(data.next().unwrap_or(0))) };
    let size = 1u16 << (next(1) % 9);
    guest.set_up(size);
    let mut index = 0u16;
    for _ in 0..next(1) % 32 {
        match next(1) % 8 {
            // Any register, any value.
            0 => {
                let (register, value) = (next(1) << 2 & 0x1fc, next(4) as u32);
                if register != NOTIFY {
                    guest.write(register, value);
                }
                guest.read(register);
            }
            1 => guest.set_up(1 << (next(1) % 9)),
            // A ring that says what it likes.
            2 => guest.offer(next(2) as u16, &[next(2) as u16], size),
            // Some requests of a form that may be right.
            _ => {
                let first = (next(1) as u16) % size;
                for step in 0..3u16 {
                    let wild = next(1) == 7;
                    let address = if wild { next(8) } else { BUFFERS + (next(2) & 0xfff0) };
                    let length = if wild { next(4) as u32 } else { next(2) as u32 };
                    let flags = if wild { next(2) as u16 } else { [NEXT, NEXT | WRITE, WRITE][usize::from(step)] };
                    let number = (first + step) % size;
                    guest.descriptor(number, Descriptor { address, length, flags, next: (number + 1) % size });
                    let contents: Vec<u8> = (0..16).map(|_| next(1) as u8).collect();
                    guest.put(address, &contents);
                }
                index = index.wrapping_add(1);
                guest.offer(index, &[first], size);
            }
        }
        guest.notify();
    }
    guest.reset();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_guest_breaks_a_device(disk in any::<bool>(), data in prop::collection::vec(any::<u8>(), 0..600)) {
            run(if disk { Kind::Disk } else { Kind::Entropy }, &data);
        }
    }

    /// Waits until the device has answered so many requests: a disk does on a thread of its own.
    fn until_answered(guest: &Guest, count: u16) {
        while guest.answered() != count {
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
            guest.descriptor(0, Descriptor { address: BUFFERS, length: 32, flags: WRITE, next: 0 });
            guest.offer(round, &[0], 4);
            guest.notify();
            assert_eq!(guest.answered(), round);
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
        guest.descriptor(0, Descriptor { address: BUFFERS, length: 16, flags: NEXT, next: 1 });
        guest.descriptor(1, Descriptor { address: BUFFERS + 16, length: 20, flags: NEXT | WRITE, next: 2 });
        guest.descriptor(2, Descriptor { address: BUFFERS + 36, length: 1, flags: WRITE, next: 0 });
        guest.put(BUFFERS + 36, &[9]);
        guest.offer(1, &[0], 8);
        guest.notify();
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
                guest.descriptor(number as u16, descriptor);
            }
            guest.offer(1, &[0], 4);
            guest.notify();
            assert_eq!((guest.read(0x70), guest.read(0x60), guest.answered()), (15 | 64, 2, 0));
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
}

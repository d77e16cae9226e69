//! Guests that flood a device: it gets its turn, and others theirs.

use super::*;
use crate::events::{Events, Waited};
use std::sync::atomic::{AtomicBool, Ordering};

/// Entries of a ring, of which a request takes two.
const SIZE: u16 = 16;
/// So much is offered at the most: who is held up longer than that is held up for ever.
const MOST_OFFERED: usize = 3_000_000;
/// `VIRTIO_BALLOON_F_REPORTING`.
const REPORTING: u32 = 1 << 5;

/// What a guest floods, and with what: bytes to be read and to be written, of each request.
#[derive(Clone, Copy, Debug)]
struct Flood {
    kind: Kind,
    queue: usize,
    features: u32,
    read: u32,
    written: u32,
    /// What is to be read of the request that begins with this descriptor.
    says: fn(u16) -> Vec<u8>,
}

const FLOODS: [Flood; 13] = [
    Flood { kind: Kind::Network, queue: 0, features: 0, read: 0, written: 2000, says: nothing },
    Flood { kind: Kind::Network, queue: 1, features: 0, read: 112, written: 0, says: nothing },
    Flood { kind: Kind::Balloon, queue: 0, features: 0, read: 4, written: 0, says: nothing },
    Flood { kind: Kind::Balloon, queue: 1, features: 0, read: 4, written: 0, says: nothing },
    Flood { kind: Kind::Balloon, queue: 2, features: REPORTING, read: 0, written: 4096, says: nothing },
    Flood { kind: Kind::Memory, queue: 0, features: 0, read: 24, written: 10, says: nothing },
    Flood { kind: Kind::Files, queue: 1, features: 0, read: 8, written: 8, says: nothing },
    // The first sector is read, or written to, again and again.
    Flood { kind: Kind::Disk, queue: 0, features: 0, read: 16, written: 513, says: nothing },
    Flood { kind: Kind::Disk, queue: 0, features: 0, read: 16 + 512, written: 1, says: to_be_written },
    Flood { kind: Kind::Entropy, queue: 0, features: 0, read: 0, written: 8192, says: nothing },
    Flood { kind: Kind::Vsock, queue: 0, features: 0, read: 0, written: 4096, says: nothing },
    Flood { kind: Kind::Vsock, queue: 1, features: 0, read: 44, written: 0, says: to_be_connected },
    Flood { kind: Kind::Vsock, queue: 1, features: 0, read: 44 + (1 << 14), written: 0, says: what_nobody_reads },
];

/// Zeros.
fn nothing(_: u16) -> Vec<u8> {
    Vec::new()
}

/// `VIRTIO_BLK_T_OUT` (5.2.6), for the first sector.
fn to_be_written(_: u16) -> Vec<u8> {
    vec![1]
}

/// A connection, each from a port of its own, to where somebody listens or to where nobody does.
fn to_be_connected(head: u16) -> Vec<u8> {
    packet_of([1000 + u32::from(head), 1 + u32::from(head) % 4], 0, 1)
}

/// A connection to who listens and has no time, and then what is more than there is room for, so that it is cut off, and begun again.
fn what_nobody_reads(head: u16) -> Vec<u8> {
    match head {
        0 => packet_of([1000, 1], 0, 1),
        _ => packet_of([1000, 1], 1 << 14, 5),
    }
}

/// The header of a packet to the host, which is for what `op` says (5.10.6): the guest's port and the host's, and bytes behind it.
fn packet_of(ports: [u32; 2], length: u32, op: u16) -> Vec<u8> {
    let addresses = [u64::from(CID), 2].map(u64::to_le_bytes).concat();
    let [from, to] = ports.map(u32::to_le_bytes);
    let kind = [1, op].map(u16::to_le_bytes).concat();
    [&addresses[..], &from, &to, &length.to_le_bytes(), &kind, &[0; 12]].concat()
}

impl Flood {
    /// A guest whose whole ring is full of such requests.
    fn guest(self) -> Guest {
        let mut guest = Guest::of(self.kind);
        guest.set_up_with(SIZE, self.features);
        for head in (0..SIZE).step_by(2) {
            let both = self.read > 0 && self.written > 0;
            let address = BUFFERS + u64::from(head) * 0x1_0000;
            let read = Descriptor { address, length: self.read, flags: if both { NEXT } else { 0 }, next: head + 1 };
            let written = Descriptor { address: address + 0x1_0000, length: self.written, flags: WRITE, next: 0 };
            let parts = [read, written].into_iter().filter(|part| part.length > 0);
            guest.put(address, &(self.says)(head));
            (head..).zip(parts).for_each(|(number, part)| guest.descriptor(self.queue, number, part));
        }
        for slot in 0..SIZE {
            guest.put(rings(self.queue) + RING + 4 + u64::from(slot) * 2, &(slot / 2 * 2).to_le_bytes());
        }
        guest
    }

    /// Fills the ring as soon as something of it is answered, as another processor of the guest can, and has packets come, until it is over.
    fn keeps_up(self, guest: &Guest, is_over: &AtomicBool) {
        let (memory, network) = (guest.memory.clone(), guest.network.as_ref().map(|other| other.try_clone().unwrap()));
        let (used, available) = (GuestAddress(rings(self.queue) + 2 * RING + 2), rings(self.queue) + RING + 2);
        for _ in 0..MOST_OFFERED {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let answered: u16 = memory.regions().read_obj(used).unwrap();
            memory.regions().write_obj(answered.wrapping_add(SIZE), GuestAddress(available)).unwrap();
            if let Some(network) = &network {
                // It may have as much as it takes.
                let _ = network.send(&[1; 100]);
            }
        }
    }
}

/// Has a device's events handled as a machine has them.
fn attend(events: &mut Events, guest: &Guest) {
    for (queue, kick) in guest.attached.waited_for().iter().enumerate() {
        let (attached, event) = (guest.attached.clone(), Arc::clone(kick));
        let handle = move || {
            let _ = event.read();
            attached.notified(queue);
        };
        events.add(&Waited(kick), handle).unwrap();
    }
    let attached = guest.attached.clone();
    guest.attached.waits_for(|fd| events.add(&fd, move || attached.ready()).unwrap());
}

/// Has a source of entropy fill a buffer, the `round`th, by what `events` come meanwhile.
fn is_served(guest: &mut Guest, round: u16, events: &mut Events) -> bool {
    guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 32, flags: WRITE, next: 0 });
    guest.offer(0, round, &[0], SIZE);
    guest.attached.kicks[0].write(1).unwrap();
    (0..3).any(|_| {
        events.wait().unwrap();
        guest.answered(0) == round
    })
}

#[test]
fn who_floods_a_device_holds_up_no_other_and_is_reset_at_once() {
    for flood in FLOODS {
        let mut guest = flood.guest();
        let mut other = Guest::of(Kind::Entropy);
        other.set_up(SIZE);
        let mut events = Events::new().unwrap();
        attend(&mut events, &guest);
        attend(&mut events, &other);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let floods = scope.spawn(|| flood.keeps_up(&guest, &is_over));
            for round in 1..=200u16 {
                // As often as it likes.
                for _ in 0..10 {
                    guest.attached.kicks[flood.queue].write(1).unwrap();
                }
                assert!(is_served(&mut other, round, &mut events), "{flood:?}: others wait, at {round}");
                assert!(!floods.is_finished(), "{flood:?}: others wait until it is over, at {round}");
            }
            is_over.store(true, Ordering::Relaxed);
        });
        // It is much that is asked for, and no nonsense, which would have been the end of it.
        assert!(!guest.attached.interrupt.is_broken(), "{flood:?}");
        guest.reset();
        assert_eq!(guest.read(0x70), 0, "{flood:?}");
    }
}

#[test]
fn a_turn_is_no_longer_than_the_ring() {
    for flood in FLOODS {
        let guest = flood.guest();
        if guest.attached.waited_for().is_empty() {
            // It is served by a thread of its own, and holds up itself.
            continue;
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| flood.keeps_up(&guest, &is_over));
            for _ in 0..8000 {
                let before = guest.answered(flood.queue);
                guest.attached.notified(flood.queue);
                let turn = guest.answered(flood.queue).wrapping_sub(before);
                if turn > SIZE {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("{flood:?}: {turn} requests in a turn");
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn who_receives_as_fast_as_packets_come_has_turns_of_a_ring_as_well() {
    // Fewer than packets wait at a socket.
    const FEW: u16 = 2;
    let flood = FLOODS[0];
    let mut guest = flood.guest();
    guest.set_up(FEW);
    for slot in 0..FEW {
        guest.descriptor(0, slot, Descriptor { address: BUFFERS, length: 2000, flags: WRITE, next: 0 });
        guest.put(rings(0) + RING + 4 + u64::from(slot) * 2, &slot.to_le_bytes());
    }
    let is_over = AtomicBool::new(false);
    let (memory, other) = (guest.memory.clone(), guest.network.as_ref().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let memory = memory.regions();
            while !is_over.load(Ordering::Relaxed) {
                let answered: u16 = memory.read_obj(GuestAddress(rings(0) + 2 * RING + 2)).unwrap();
                memory.write_obj(answered.wrapping_add(FEW), GuestAddress(rings(0) + RING + 2)).unwrap();
            }
        });
        let turns: Vec<u16> = (0..30_000)
            .map(|_| {
                while other.send(&[1; 100]).is_ok() {}
                let before = guest.answered(0);
                guest.attached.notified(0);
                guest.answered(0).wrapping_sub(before)
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!((guest.attached.interrupt.is_broken(), turns.iter().max()), (false, Some(&FEW)));
    });
}

/// Kilobytes that this process has in memory, of its own.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn the_longest_chains_of_the_longest_buffers_take_no_memory_of_the_hosts() {
    for flood in FLOODS {
        let mut guest = flood.guest();
        // Each of a ring's buffers is as much of the guest's memory as there is in one piece.
        let (length, last) = (60 << 20, SIZE - 1);
        for (queue, number) in
            (0..guest.attached.kicks.len()).flat_map(|queue| (0..SIZE).map(move |number| (queue, number)))
        {
            let writes = if number >= SIZE / 2 || flood.read == 0 { WRITE } else { 0 };
            let flags = if number == last { writes } else { writes | NEXT };
            guest.descriptor(queue, number, Descriptor { address: BUFFERS, length, flags, next: number + 1 });
        }
        let before = resident();
        for round in 0..50 {
            guest.put(rings(flood.queue) + RING + 4, &[0; 2 * SIZE as usize]);
            guest.offer(flood.queue, SIZE, &[0], SIZE);
            guest.put(rings(flood.queue) + RING + 4, &[0; 2 * SIZE as usize]);
            guest.notify(flood.queue);
            // Whoever calls it nonsense is set up anew.
            guest.reset();
            guest.put(rings(flood.queue) + 2 * RING, &[0; 4]);
            guest.set_up_with(SIZE, flood.features);
            // The guest's own, of which it may have all: 64 MiB.
            let grown = resident().saturating_sub(before) / 1024;
            assert!(grown < 64 + 64, "{flood:?}: {grown} MiB more after {round} rounds");
        }
    }
}

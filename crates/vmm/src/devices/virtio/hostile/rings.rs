//! Rings that go around: their indexes are of 16 bits, their places as many as they have entries (2.7.6, 2.7.8), and either side says by an index when it wants to be told (2.7.7, 2.7.10).

use super::*;
use crate::devices::virtio::queue::{Outcome, Position, Queue, USED_BUFFER};
use proptest::prelude::*;
use virtio_queue::QueueT;

/// `VIRTIO_F_EVENT_IDX`, in the lower half of the features.
const EVENT_IDX: u32 = 1 << 29;
const SIZE: u16 = 8;
/// Where either side says when it wants to be told.
const USED_EVENT: u64 = RINGS + RING + 4 + 2 * SIZE as u64;
const AVAILABLE_EVENT: u64 = RINGS + 2 * RING + 4 + 8 * SIZE as u64;

fn half(guest: &Guest, at: u64) -> u16 {
    guest.memory.regions().read_obj(GuestAddress(at)).unwrap()
}

/// Offers as many requests as there are heads, each for two bytes, so that the index is then `index`. Returns whether the guest is told of them.
fn offered(guest: &mut Guest, index: u16, heads: &[u16]) -> bool {
    guest.attached.interrupt.acknowledge(u32::MAX);
    guest.offer(0, index, heads, SIZE);
    guest.notify(0);
    // After as many as the ring has the device wakes itself, and looks again.
    guest.notify(0);
    assert_eq!(guest.answered(0), index, "the device did not answer");
    for (number, head) in heads.iter().enumerate() {
        let slot = index.wrapping_sub(heads.len() as u16).wrapping_add(number as u16) % SIZE;
        let used: [u8; 8] =
            guest.memory.regions().read_obj(GuestAddress(RINGS + 2 * RING + 4 + 8 * u64::from(slot))).unwrap();
        assert_eq!(used, [*head as u8, 0, 0, 0, 2, 0, 0, 0], "at {index}");
    }
    guest.attached.interrupt.pending() & USED_BUFFER != 0
}

fn guest(features: u32) -> Guest {
    let mut guest = Guest::of(Kind::Entropy);
    guest.set_up_with(SIZE, features);
    for number in 0..SIZE {
        guest.descriptor(0, number, Descriptor { address: BUFFERS, length: 2, flags: WRITE, next: 0 });
    }
    guest
}

#[test]
fn every_index_is_followed_by_the_next_one() {
    let mut guest = guest(0);
    for index in (1..=u16::MAX).chain(0..20) {
        assert!(offered(&mut guest, index, &[index % SIZE]), "at {index}");
    }
}

#[test]
fn a_guest_is_told_at_the_index_that_it_names_and_names_the_devices() {
    let mut guest = guest(EVENT_IDX);
    let mut index = 0u16;
    // Several at once, so that they go around at each place of the ring, and of the numbers.
    for round in 0..30_000u32 {
        let count = (round % u32::from(SIZE) + 1) as u16;
        let heads: Vec<_> = (0..count).map(|number| (number * 3 + round as u16) % SIZE).collect();
        // It is told if what is answered goes beyond the one that it names: the first, the last, the one before and the one behind.
        let (named, is_told) = match round % 4 {
            0 => (index, true),
            1 => (index.wrapping_add(count - 1), true),
            2 => (index.wrapping_sub(1), false),
            _ => (index.wrapping_add(count), false),
        };
        guest.put(USED_EVENT, &named.to_le_bytes());
        index = index.wrapping_add(count);
        assert_eq!(offered(&mut guest, index, &heads), is_told, "{count} up to {index}, with {named} named");
        // The device wants to be told of the next one.
        assert_eq!(half(&guest, AVAILABLE_EVENT), index);
    }
}

#[test]
fn what_is_saved_at_the_end_of_the_numbers_goes_on_at_their_beginning() {
    let mut guest = guest(EVENT_IDX);
    for index in 1..=u16::MAX {
        offered(&mut guest, index, &[0]);
    }
    // Two are offered of which nobody tells, as at the moment when a machine is saved.
    guest.offer(0, 1, &[3, 4], SIZE);
    let mut guest = guest.goes_on(Kind::Entropy);
    assert_eq!(guest.answered(0), 1);
    guest.put(USED_EVENT, &1u16.to_le_bytes());
    assert!(offered(&mut guest, 2, &[5]));
}

#[test]
fn more_than_a_ring_has_is_nonsense_wherever_it_goes_around() {
    for start in [0, 1, u16::MAX - SIZE, u16::MAX] {
        let mut guest = guest(0);
        for index in 1..=start {
            offered(&mut guest, index, &[0]);
        }
        guest.offer(0, start.wrapping_add(SIZE + 1), &[0], SIZE);
        guest.notify(0);
        assert!(guest.attached.interrupt.is_broken(), "after {start}");
        assert_eq!(guest.answered(0), start);
    }
}

/// Where a queue of any size has its rings and its buffers.
const ANY_DESCRIPTORS: u64 = 0x10_0000;
const ANY_AVAILABLE: u64 = 0x20_0000;
const ANY_USED: u64 = 0x30_0000;
const ANY_BUFFERS: u64 = 0x40_0000;
/// The most entries that a queue can have are two to that (2.7).
const LARGEST: u32 = 15;

/// What both sides of a queue have in memory, without a device around it, which would allow one size and begin at 0.
struct Ring {
    memory: Memory,
    size: u16,
    queue: Queue,
}

impl Ring {
    /// One that has gone around so often that both indexes are at `start`.
    fn new(exponent: u32, start: u16) -> Ring {
        let size = MemorySize::from_mib(MemorySize::MIN_MIB).unwrap();
        let memory = Memory::new(size, &layout::memory(size)).unwrap();
        let size = 1 << exponent;
        let queue = Ring::queue(&memory, size, Position { available: start, used: start });
        let ring = Ring { memory, size, queue };
        ring.put(ANY_USED + 2, &start.to_le_bytes());
        ring
    }

    fn queue(memory: &Memory, size: u16, position: Position) -> Queue {
        let mut ring = virtio_queue::Queue::new(1 << LARGEST).unwrap();
        ring.set_size(size);
        ring.set_desc_table_address(Some(ANY_DESCRIPTORS as u32), Some(0));
        ring.set_avail_ring_address(Some(ANY_AVAILABLE as u32), Some(0));
        ring.set_used_ring_address(Some(ANY_USED as u32), Some(0));
        ring.set_event_idx(true);
        ring.set_next_avail(position.available);
        ring.set_next_used(position.used);
        ring.set_ready(true);
        let (line, kick) = (event().unwrap(), event().unwrap());
        Queue::new(ring, memory.clone(), Arc::new(Interrupt::new(line)), Arc::new(kick)).unwrap()
    }

    /// Has another device go on where this one is, as in a machine that goes on from a snapshot.
    fn goes_on(&mut self) {
        self.queue = Ring::queue(&self.memory, self.size, self.queue.position());
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.regions().write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn half(&self, at: u64) -> u16 {
        self.memory.regions().read_obj(GuestAddress(at)).unwrap()
    }

    fn descriptor(&self, number: u16, length: u32, flags: u16, next: u16) {
        let address = (ANY_BUFFERS + u64::from(number) * 256).to_le_bytes();
        let bytes = [&address[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
        self.put(ANY_DESCRIPTORS + u64::from(number) * 16, &bytes);
    }

    /// Offers what begins with these descriptors, behind what was offered before.
    fn offer(&self, before: u16, heads: impl ExactSizeIterator<Item = u16>) {
        let after = before.wrapping_add(heads.len() as u16);
        for (number, head) in heads.enumerate() {
            let slot = before.wrapping_add(number as u16) % self.size;
            self.put(ANY_AVAILABLE + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        }
        self.put(ANY_AVAILABLE + 2, &after.to_le_bytes());
    }

    /// The index by which the guest says when it wants to be told, and that by which the device does.
    fn events(&self) -> [u64; 2] {
        let size = u64::from(self.size);
        [ANY_AVAILABLE + 4 + 2 * size, ANY_USED + 4 + 8 * size]
    }

    /// The request that was answered `index`th: its number, and how much of it was written.
    fn answer(&self, index: u16) -> [u32; 2] {
        self.memory.regions().read_obj(GuestAddress(ANY_USED + 4 + 8 * u64::from(index % self.size))).unwrap()
    }
}

/// A request: where it begins, and bytes to be read and to be written.
type Asked = (u16, usize, usize);

/// Lays out chains of buffers behind each other, each of some to be read and some to be written, as many as the ring has descriptors for, from any place on and around.
fn lay(ring: &Ring, first: u16, chains: &[[Vec<u32>; 2]]) -> Vec<Asked> {
    let mut taken = 0;
    let mut asked = Vec::new();
    for [read, written] in chains {
        let count = (read.len() + written.len()) as u16;
        if count == 0 || taken + count > ring.size {
            continue;
        }
        let place = |number: u16| first.wrapping_add(taken + number) % ring.size;
        let lengths = read.iter().map(|length| (length, 0)).chain(written.iter().map(|length| (length, WRITE)));
        for (number, (length, flags)) in (0..).zip(lengths) {
            let next = if number + 1 < count { NEXT } else { 0 };
            ring.descriptor(place(number), *length, flags | next, place(number + 1));
        }
        let bytes = |lengths: &[u32]| lengths.iter().sum::<u32>() as usize;
        asked.push((place(0), bytes(read), bytes(written)));
        taken += count;
    }
    asked
}

/// What a guest does at once.
#[derive(Clone, Debug)]
struct Round {
    chains: Vec<[Vec<u32>; 2]>,
    first: u16,
    /// The request that has to wait once, by its place among them.
    waits: usize,
    /// When the guest wants to be told: so many behind what was answered last.
    named: u16,
    goes_on: bool,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let lengths = || prop::collection::vec(1..256u32, 0..4);
    let chains = prop::collection::vec([lengths(), lengths()], 0..12);
    let named = prop_oneof![0..12u16, any::<u16>(), u16::MAX - 2..=u16::MAX];
    let round = (chains, any::<u16>(), 0..16usize, named, any::<bool>());
    let round = round.prop_map(|(chains, first, waits, named, goes_on)| Round { chains, first, waits, named, goes_on });
    prop::collection::vec(round, 1..8)
}

/// A number that is mostly one of the first.
fn mostly_below(few: u16) -> impl Strategy<Value = u16> {
    prop_oneof![9 => 0..few, 1 => any::<u16>()]
}

/// What a chain has to be read and to be written, if it is one (2.7.5): each descriptor is in the table, what is to be written comes last, and it ends.
fn follow(table: &[(u32, u16, u16)], head: u16) -> Option<(usize, usize)> {
    let (mut read, mut written) = (0, 0);
    let mut number = head;
    for _ in 0..table.len() {
        let (length, flags, next) = *table.get(usize::from(number))?;
        match flags & WRITE {
            0 if written > 0 => return None,
            0 => read += length as usize,
            _ => written += length as usize,
        }
        if flags & NEXT == 0 {
            return Some((read, written));
        }
        number = next;
    }
    None
}

proptest! {
    /// Whatever its size is and wherever its indexes are: each request comes once, in order and whole, is answered in its place, and told of when the guest wants it.
    #[test]
    fn a_ring_is_gone_around_in_order(exponent in 0..=LARGEST, start: u16, rounds in rounds()) {
        let mut ring = Ring::new(exponent, start);
        let mut index = start;
        for Round { chains, first, waits, named, goes_on } in rounds {
            let asked = lay(&ring, first, &chains);
            let named = index.wrapping_add(named);
            ring.put(ring.events()[0], &named.to_le_bytes());
            ring.offer(index, asked.iter().map(|(head, ..)| *head));
            let (mut seen, mut waits) = (Vec::new(), Some(waits));
            // Up to what waits, then the rest, and a look whether there is more.
            for _ in 0..3 {
                ring.queue.interrupt().acknowledge(USED_BUFFER);
                let before = ring.queue.position().used;
                let handled = ring.queue.handle_while(|| true, |request| {
                    if waits.take_if(|place| *place == seen.len()).is_some() {
                        return Ok(Outcome::Later);
                    }
                    let (read, written) = (request.readable.len(), request.writable.len());
                    seen.push((request.number, read, written));
                    Ok(Outcome::Answered(written as u32))
                });
                prop_assert_eq!(handled, Ok(()));
                let after = index.wrapping_add(seen.len() as u16);
                prop_assert_eq!(ring.queue.position(), Position { available: after, used: after });
                // It is told if what it named is among what was answered now.
                let is_told = (0..after.wrapping_sub(before)).any(|number| before.wrapping_add(number) == named);
                prop_assert_eq!(ring.queue.interrupt().pending() == USED_BUFFER, is_told, "{} to {}, and {} is named", before, after, named);
                if goes_on {
                    ring.goes_on();
                }
            }
            prop_assert_eq!(&seen, &asked);
            for (number, (head, _, written)) in (0..).zip(&asked) {
                prop_assert_eq!(ring.answer(index.wrapping_add(number)), [u32::from(*head), *written as u32]);
            }
            index = index.wrapping_add(asked.len() as u16);
            // The device wants to be told of the next one.
            prop_assert_eq!((ring.half(ANY_USED + 2), ring.half(ring.events()[1])), (index, index));
        }
    }

    /// A guest is ahead of its device by as much as its ring has at the most. More is nonsense, of which nothing is looked at.
    #[test]
    fn nobody_offers_more_than_a_ring_has(exponent in 0..=LARGEST, start: u16, ahead in prop_oneof![0..20u16, any::<u16>(), (0..=LARGEST).prop_map(|exponent| 1 << exponent)], more in 0..2u16) {
        let mut ring = Ring::new(exponent, start);
        ring.descriptor(0, 1, WRITE, 0);
        let ahead = ahead.wrapping_add(more);
        ring.put(ANY_AVAILABLE + 2, &start.wrapping_add(ahead).to_le_bytes());
        let handled = ring.queue.handle(|_| Ok(1));
        prop_assert_eq!(handled.is_ok(), ahead <= ring.size, "{} in {}", ahead, ring.size);
        let answered = if handled.is_ok() { ahead } else { 0 };
        prop_assert_eq!(ring.half(ANY_USED + 2), start.wrapping_add(answered));
    }

    /// Descriptors that lead anywhere are one request, whole, or nonsense, of which nobody sees a part.
    #[test]
    fn a_chain_is_whole_or_none(exponent in 0..=4u32, start: u16, head in mostly_below(16), table in prop::collection::vec((1..256u32, 0..4u16, mostly_below(16)), 16)) {
        let mut ring = Ring::new(exponent, start);
        let table = &table[..usize::from(ring.size)];
        for (number, (length, flags, next)) in (0..).zip(table) {
            ring.descriptor(number, *length, *flags, *next);
        }
        ring.offer(start, [head].into_iter());
        let mut seen = None;
        let handled = ring.queue.handle(|request| {
            seen = Some((request.readable.len(), request.writable.len()));
            Ok(0)
        });
        let expected = follow(table, head);
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(handled.is_ok(), expected.is_some());
    }
}

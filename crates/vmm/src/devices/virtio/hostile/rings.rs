//! Rings that go around: their indexes are of 16 bits, their places as many as they have entries (2.7.6, 2.7.8), and either side says by an index when it wants to be told (2.7.7, 2.7.10).

use super::*;
use crate::devices::virtio::queue::USED_BUFFER;

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

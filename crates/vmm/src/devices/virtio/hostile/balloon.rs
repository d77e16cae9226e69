//! A balloon beside its guest.

use super::super::balloon::MemoryStatistics;
use super::*;
use crate::memory::PAGE;

const STATISTICS: u32 = 1 << 1;
const REPORTING: u32 = 1 << 5;

/// Where the pages are that the guest leaves.
const PAGES: u64 = 0x40_0000;

/// A guest with a balloon that both know.
fn with_balloon() -> (Guest, Arc<Mutex<Balloon>>) {
    let balloon = Arc::new(Mutex::new(Balloon::default()));
    (Guest::new(Arc::clone(&balloon) as _), balloon)
}

/// Offers a queue one buffer, after as many as it was offered before.
fn offer(guest: &mut Guest, queue: usize, before: u16, address: u64, length: u32, flags: u16) {
    guest.descriptor(queue, 0, Descriptor { address, length, flags, next: 0 });
    guest.offer(queue, before + 1, &[0], 16);
    guest.notify(queue);
}

fn pages(guest: &Guest, count: usize) -> Vec<u8> {
    let byte = |number| guest.memory.regions().read_obj(GuestAddress(PAGES + number as u64 * PAGE)).unwrap();
    (0..count).map(byte).collect()
}

#[test]
fn pages_in_the_balloon_are_given_back_and_there_again_when_they_are_touched() {
    let mut guest = Guest::of(Kind::Balloon);
    guest.set_up(16);
    guest.put(PAGES, &vec![7; 6 * PAGE as usize]);
    let first = (PAGES / PAGE) as u32;
    // One of them twice, one that there is not, and half a number.
    let numbers = [first + 1, first + 4, first + 2, first + 1, u32::MAX];
    let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).chain([1, 2]).collect();
    guest.put(BUFFERS, &numbers);
    offer(&mut guest, 0, 0, BUFFERS, numbers.len() as u32, 0);
    assert_eq!((guest.answered(0), pages(&guest, 6)), (1, vec![7, 0, 0, 7, 0, 7]));
    // Taken back, whether it is told or not.
    guest.put(PAGES + PAGE, &[8]);
    offer(&mut guest, 1, 0, BUFFERS, 4, 0);
    assert_eq!((guest.answered(1), guest.read(0x70)), (1, 15));
    assert_eq!(pages(&guest, 3), [7, 8, 0]);
    // More at once than any guest has is nonsense.
    offer(&mut guest, 0, 1, BUFFERS, 1 << 20, 0);
    assert_eq!(guest.read(0x70), 15 | 64);
}

#[test]
fn free_pages_are_given_back_wherever_their_queue_is() {
    // With statistics it is the fourth by Linux's count, the fifth by the specification; without them the third.
    for (features, queue) in [(REPORTING | STATISTICS, 3), (REPORTING | STATISTICS, 4), (REPORTING, 2)] {
        let mut guest = Guest::of(Kind::Balloon);
        guest.set_up_with(16, features);
        guest.put(PAGES, &vec![7; 4 * PAGE as usize]);
        // Not all of the first page.
        offer(&mut guest, queue, 0, PAGES + 1, 2 * PAGE as u32 + 100, WRITE);
        assert_eq!((guest.answered(queue), pages(&guest, 4)), (1, vec![7, 0, 7, 7]), "{features:#x} {queue}");
    }
    // What was not agreed on is not looked at.
    let mut guest = Guest::of(Kind::Balloon);
    guest.set_up(16);
    offer(&mut guest, 3, 0, PAGES, PAGE as u32, WRITE);
    assert_eq!((guest.answered(3), guest.read(0x70)), (0, 15));
}

#[test]
fn a_guest_is_told_what_the_host_would_like_and_says_what_it_has() {
    let (mut guest, balloon) = with_balloon();
    guest.set_up(16);
    assert_eq!((guest.read(0x100), guest.read(0xfc)), (0, 0));
    guest.attached.with(&balloon, |balloon| Ok(balloon.ask_for(256))).unwrap();
    guest.attached.changed();
    assert_eq!((guest.read(0x100), guest.read(0xfc), guest.read(0x60)), (256, 1, 2));
    guest.write(0x104, 200);
    // What is the host's to say stays as it is.
    guest.write(0x100, 9);
    assert_eq!((guest.read(0x100), guest.read(0x104)), (256, 200));
    // Both go with the machine, and the guest need not look again.
    let mut guest = guest.goes_on(Kind::Balloon);
    assert_eq!((guest.read(0x100), guest.read(0x104), guest.read(0xfc)), (256, 200, 1));
    guest.reset();
    assert_eq!((guest.read(0x100), guest.read(0x104)), (256, 0));
}

#[test]
fn statistics_are_told_once_for_each_time_that_they_are_asked_for() {
    let (mut guest, balloon) = with_balloon();
    guest.set_up_with(16, STATISTICS);
    let ask = |guest: &Guest| guest.attached.with(&balloon, Balloon::statistics).unwrap();
    assert_eq!(ask(&guest), None);
    for round in 0..20u16 {
        let free = 1000 + u64::from(round);
        guest.put(BUFFERS, &[&4u16.to_le_bytes()[..], &free.to_le_bytes()].concat());
        offer(&mut guest, 2, round, BUFFERS, 10, 0);
        // It keeps the buffer until it wants to know more.
        guest.notify(2);
        assert_eq!(guest.answered(2), round);
        assert_eq!(ask(&guest), Some(MemoryStatistics { free: Some(free), ..MemoryStatistics::default() }));
        assert_eq!(guest.answered(2), round + 1);
        ask(&guest);
        assert_eq!(guest.answered(2), round + 1);
    }
}

#[test]
fn a_guest_short_of_memory_takes_pages_back_without_asking() {
    const MUST_TELL_HOST: u32 = 1 << 0;
    const DEFLATE_ON_OOM: u32 = 1 << 2;
    let (mut guest, balloon) = with_balloon();
    guest.write(0x14, 0);
    assert_eq!(guest.read(0x10) & (MUST_TELL_HOST | DEFLATE_ON_OOM), DEFLATE_ON_OOM);
    guest.set_up_with(16, DEFLATE_ON_OOM);
    assert_eq!(guest.read(0x70), 15);
    guest.attached.with(&balloon, |balloon| Ok(balloon.ask_for(4))).unwrap();
    guest.put(PAGES, &vec![7; 4 * PAGE as usize]);
    let numbers: Vec<u8> = (0..4).flat_map(|page| ((PAGES / PAGE) as u32 + page).to_le_bytes()).collect();
    guest.put(BUFFERS, &numbers);
    offer(&mut guest, 0, 0, BUFFERS, 16, 0);
    guest.write(0x104, 4);
    assert_eq!(pages(&guest, 4), [0; 4]);
    // It uses two of them before it tells, while the host would still like all four.
    guest.put(PAGES, &vec![8; 2 * PAGE as usize]);
    guest.put(BUFFERS, &numbers[..8]);
    offer(&mut guest, 1, 0, BUFFERS, 8, 0);
    guest.write(0x104, 2);
    assert_eq!((guest.answered(1), pages(&guest, 4)), (1, vec![8, 8, 0, 0]));
    assert_eq!((guest.read(0x100), balloon.lock().unwrap().left(), guest.read(0x70)), (4, 2, 15));
}

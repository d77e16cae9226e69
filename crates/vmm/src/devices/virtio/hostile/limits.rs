//! Devices through which no more goes than may.

use super::tests::until_answered;
use super::*;
use std::time::{Duration, Instant};

/// Offers a disk so many requests for its serial number at once, after as many as it was offered before.
fn ask_disk(guest: &mut Guest, before: u16, count: u16) {
    guest.put(BUFFERS, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 16, flags: NEXT, next: 1 });
    guest.descriptor(0, 1, Descriptor { address: BUFFERS + 16, length: 21, flags: WRITE, next: 0 });
    guest.offer(0, before + count, &vec![0; count.into()], 8);
    guest.notify(0);
}

/// How long so many operations take at least, of which the first one waits for nothing.
fn at_least(operations: u32) -> Duration {
    let [_, Some(rate)] = [LIMITS.bytes, LIMITS.operations] else { panic!("there is a limit") };
    Duration::from_secs(1) * (operations - 1) / u32::try_from(rate.per_second.get()).unwrap()
}

#[test]
fn a_disk_answers_all_that_it_is_asked_and_no_faster_than_it_may() {
    let mut guest = Guest::of(Kind::LimitedDisk);
    guest.set_up(8);
    let start = Instant::now();
    ask_disk(&mut guest, 0, 4);
    until_answered(&guest, 4);
    // Of what comes now, nobody was waiting.
    ask_disk(&mut guest, 4, 4);
    until_answered(&guest, 8);
    assert!(start.elapsed() >= at_least(8), "{:?}", start.elapsed());
    assert_eq!(guest.read(0x70), 15);
}

/// A disk that answers a request, and the next one after longer than anybody waits.
fn with_slow_disk() -> Guest {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let disk = Disk::of_file(file, false, "disk").unwrap();
    let limits = Limits { bytes: Some(Rate { per_second: NonZeroU64::MIN, burst: 0 }), operations: None };
    let device = Block::new(disk, limits, &Arc::new(Ending::new().unwrap())).unwrap();
    Guest::new(Arc::new(Mutex::new(device)))
}

#[test]
fn a_disk_that_waits_rests_is_reset_and_ends_at_once() {
    let mut guest = with_slow_disk();
    for round in 0..10 {
        guest.put(rings(0) + RING + 2, &[0; 2]);
        guest.put(rings(0) + 2 * RING + 2, &[0; 2]);
        guest.set_up(8);
        ask_disk(&mut guest, 0, 8);
        guest.attached.rest();
        guest.attached.want(Wanted::Run);
        // One that is told over and over waits all the same.
        for _ in 0..round {
            guest.notify(0);
        }
        guest.reset();
    }
}

#[test]
fn what_waits_in_a_machine_that_is_saved_goes_where_it_goes_on() {
    let mut guest = with_slow_disk();
    guest.set_up(8);
    ask_disk(&mut guest, 0, 3);
    until_answered(&guest, 1);
    let guest = guest.goes_on(Kind::Disk);
    until_answered(&guest, 3);
}

#[test]
fn a_guest_sends_all_that_it_has_and_no_faster_than_it_may() {
    let mut guest = Guest::of(Kind::LimitedNetwork);
    guest.set_up(16);
    let start = Instant::now();
    guest.descriptor(1, 0, Descriptor { address: BUFFERS, length: 112, flags: 0, next: 0 });
    guest.offer(1, 5, &[0; 5], 16);
    guest.notify(1);
    while guest.answered(1) < 5 {
        guest.attached.ready();
    }
    assert!(start.elapsed() >= at_least(5), "{:?}", start.elapsed());
    let other = guest.network.as_ref().unwrap();
    assert_eq!(std::iter::from_fn(|| other.recv(&mut [0; 200]).ok()).collect::<Vec<_>>(), [112; 5]);
    assert_eq!(guest.read(0x70), 15);
}

#[test]
fn a_guest_receives_all_that_came_and_no_faster_than_it_may() {
    let mut guest = Guest::of(Kind::LimitedNetwork);
    guest.set_up(16);
    let start = Instant::now();
    for number in 0..3 {
        let address = BUFFERS + u64::from(number) * 0x2_0000;
        guest.descriptor(0, number, Descriptor { address, length: 0x1_1000, flags: WRITE, next: 0 });
    }
    guest.offer(0, 3, &[0, 1, 2], 16);
    guest.notify(0);
    while guest.answered(0) < 3 {
        guest.attached.ready();
    }
    assert!(start.elapsed() >= at_least(3), "{:?}", start.elapsed());
}

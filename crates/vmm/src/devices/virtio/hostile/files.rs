//! A file system that comes and goes.

use super::tests::ask_files;
use super::*;
use crate::devices::virtio::fs::Place;

fn place() -> (Guest, Arc<Mutex<Place>>) {
    let place = Arc::new(Mutex::new(Place::default()));
    (Guest::new(Arc::clone(&place) as _), place)
}

/// Has one come, or go, as its machine does.
fn change(guest: &mut Guest, place: &Mutex<Place>, comes: bool) {
    guest.transport.reset();
    guest.files = None;
    let served = comes.then(|| Echo::serve().unwrap());
    let (fs, server) = served.unzip();
    place.lock().unwrap().put(fs);
    guest.files = server;
    guest.attached.want(Wanted::Run);
}

/// Asks once, after `before` times.
fn is_answered(guest: &mut Guest, before: u16) {
    ask_files(guest, before + 1, &[b"asked"], 8);
    guest.notify(1);
    while guest.answered(1) != before + 1 {
        std::thread::yield_now();
    }
}

#[test]
fn its_place_is_no_device_until_it_comes_and_again_when_it_has_gone() {
    let (mut guest, place) = place();
    assert_eq!((guest.read(0x00).to_le_bytes(), guest.read(0x08), guest.read(0x100)), (*b"virt", 0, 0));
    // Nobody else than the thread to come hears of its queues.
    assert!(guest.attached.waited_for().is_empty());
    let generation = guest.read(0xfc);
    for _ in 0..2 {
        change(&mut guest, &place, true);
        assert_eq!((guest.read(0x08), guest.read(0x100).to_le_bytes()), (26, *b"echo"));
        assert_ne!(guest.read(0xfc), generation);
        guest.set_up(64);
        is_answered(&mut guest, 0);
        is_answered(&mut guest, 1);
        change(&mut guest, &place, false);
        assert_eq!((guest.read(0x08), guest.read(0x70), guest.read(0x100)), (0, 0, 0));
        guest.put(rings(1) + 2 * RING, &[0; 4]);
        guest.put(rings(1) + RING, &[0; 4]);
    }
}

#[test]
fn a_guest_that_uses_its_place_gets_nothing_and_breaks_nothing() {
    let (mut guest, place) = place();
    guest.set_up(64);
    ask_files(&mut guest, 1, &[b"nobody"], 8);
    guest.notify(1);
    guest.attached.rest();
    assert_eq!(guest.answered(1), 0);
    // It comes to a guest that has set up its place, which has to do so again.
    guest.attached.want(Wanted::Run);
    change(&mut guest, &place, true);
    assert_eq!((guest.read(0x70), guest.answered(1)), (0, 0));
    // It goes while the guest uses it.
    guest.set_up(64);
    change(&mut guest, &place, false);
    guest.notify(1);
    assert!(!guest.attached.interrupt.is_broken());
}

#[test]
fn a_place_goes_on_as_a_place() {
    let (guest, _place) = place();
    let empty = guest.transport.save().unwrap();
    let (mut other, place) = place();
    other.transport.restore(&empty).unwrap();
    assert_eq!(other.read(0x08), 0);
    change(&mut other, &place, true);
    other.set_up(64);
    is_answered(&mut other, 0);
    let taken = Guest::of(Kind::Files).transport.restore(&empty).unwrap_err();
    assert!(taken.contains("of kind 0 was saved, and one of kind 26 is given"), "{taken}");
}

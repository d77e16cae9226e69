//! Network cards that come and go.

use super::*;

fn card(mac: u8) -> Card {
    let none = Limits::default();
    Card { mac: [2, 0, 0, 0, 0, mac], mtu: 1500, receive: none, send: none }
}

/// A tap, and what is behind it, from which a packet is on its way.
fn tap() -> (Tap, UnixDatagram) {
    let (ours, other) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    other.send(&[1; 100]).unwrap();
    (Tap::of_socket(ours.into()), other)
}

fn place() -> (Guest, Arc<Mutex<Net>>) {
    let net = Arc::new(Mutex::new(Net::place().unwrap()));
    (Guest::new(Arc::clone(&net) as _), net)
}

/// Has a card come or go, as its machine does.
fn change(guest: &mut Guest, net: &Mutex<Net>, card: Option<(Tap, Card)>) {
    guest.transport.reset();
    match card {
        Some((tap, card)) => net.lock().unwrap().plug(tap, card).unwrap(),
        None => net.lock().unwrap().unplug(),
    }
}

/// Offers room for a packet, after `before` of them. Returns how many were received.
fn receives(guest: &mut Guest, before: u16) -> u16 {
    guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 2000, flags: WRITE, next: 0 });
    guest.offer(0, before + 1, &[0], 8);
    guest.notify(0);
    guest.attached.ready();
    guest.answered(0)
}

#[test]
fn a_place_is_no_device_until_a_card_comes_and_again_when_it_has_gone() {
    let (mut guest, net) = place();
    // Its number is none (4.2.2); the registers are those of a device all the same.
    assert_eq!((guest.read(0x00).to_le_bytes(), guest.read(0x08)), (*b"virt", 0));
    let generation = guest.read(0xfc);
    let (tap, other) = tap();
    change(&mut guest, &net, Some((tap, card(7))));
    assert_eq!((guest.read(0x08), guest.read(0x100), guest.read(0x104) & 0xffff), (1, 2, 0x0700));
    assert_ne!(guest.read(0xfc), generation);
    guest.set_up(8);
    assert_eq!(receives(&mut guest, 0), 1);
    change(&mut guest, &net, None);
    assert_eq!((guest.read(0x08), guest.read(0x70), guest.read(0x100)), (0, 0, 0));
    assert!(other.send(&[1; 100]).is_err(), "its tap is still open");
    // Another one is set up as if none had been there.
    let (tap, _other) = self::tap();
    change(&mut guest, &net, Some((tap, card(8))));
    assert_eq!((guest.read(0x08), guest.read(0x104) & 0xffff), (1, 0x0800));
    guest.put(rings(0) + RING, &[0; 4]);
    guest.put(rings(0) + 2 * RING, &[0; 4]);
    guest.set_up(8);
    assert_eq!(receives(&mut guest, 0), 1);
}

#[test]
fn a_guest_that_uses_what_is_not_there_gets_nothing_and_breaks_nothing() {
    let (mut guest, net) = place();
    guest.set_up(8);
    assert_eq!(receives(&mut guest, 0), 0);
    guest.notify(1);
    // A card comes to a guest that has set up its place: it has to do so again.
    let (tap, other) = tap();
    change(&mut guest, &net, Some((tap, card(7))));
    assert_eq!((receives(&mut guest, 1), guest.read(0x70)), (0, 0));
    guest.set_up(8);
    guest.attached.ready();
    // It goes while the guest uses it.
    change(&mut guest, &net, None);
    let before = guest.answered(0);
    assert!(other.send(&[1; 100]).is_err());
    assert_eq!(receives(&mut guest, 2), before);
    assert!(!guest.attached.interrupt.is_broken());
}

#[test]
fn a_place_goes_on_as_a_place_and_a_card_as_a_card() {
    let (mut guest, _net) = place();
    let empty = guest.transport.save().unwrap();
    let (mut other, _net) = place();
    other.transport.restore(&empty).unwrap();
    assert_eq!(other.read(0x08), 0);
    let taken = Guest::of(Kind::Network).transport.restore(&empty).unwrap_err();
    assert!(taken.contains("of kind 0 was saved, and one of kind 1 is given"), "{taken}");
    let (mut came, net) = place();
    change(&mut came, &net, Some((tap().0, card(1))));
    came.set_up(8);
    let with_card = came.transport.save().unwrap();
    // In the copy it is there from the beginning.
    let mut copy = Guest::of(Kind::Network);
    copy.memory = came.memory.clone();
    copy.transport = Transport::new(copy.attached.clone(), came.memory.clone());
    copy.transport.restore(&with_card).unwrap();
    assert_eq!((copy.read(0x08), copy.read(0x70)), (1, 15));
    assert!(guest.transport.restore(&with_card).is_err());
}

//! What devices do beside such guests.

use super::*;
use crate::devices::virtio::fs::Place;
use crate::devices::virtual_devices::FilesPlace;
use proptest::prelude::*;
use std::time::{Duration, Instant};

const KINDS: [Kind; 9] = [
    Kind::Disk,
    Kind::LimitedDisk,
    Kind::Files,
    Kind::Entropy,
    Kind::Balloon,
    Kind::Memory,
    Kind::Network,
    Kind::LimitedNetwork,
    Kind::Vsock,
];

proptest! {
    #[test]
    fn no_guest_breaks_a_device(kind in prop::sample::select(KINDS.to_vec()), data in prop::collection::vec(any::<u8>(), 0..1200)) {
        run(kind, &data);
    }
}

/// Waits until the device has answered so many requests: a disk does on a thread of its own.
pub(super) fn until_answered(guest: &Guest, count: u16) {
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
fn what_a_driver_told_of_before_it_was_ready_is_answered_when_it_is() {
    let mut guest = Guest::of(Kind::Entropy);
    guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 32, flags: WRITE, next: 0 });
    guest.offer(0, 1, &[0], 4);
    guest.notify(0);
    assert_eq!(guest.answered(0), 0);
    guest.set_up(4);
    guest.handle_what_was_told();
    assert_eq!((guest.answered(0), guest.read(0x60)), (1, 1));
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
        self.guest.descriptor(1, 0, Descriptor { address: BUFFERS, length: packet.len() as u32, flags: 0, next: 0 });
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
        guest.memory.regions().read_slice(&mut bytes, GuestAddress(BUFFERS + u64::from(number) * 0x2_0000)).unwrap();
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
    let [number, length]: [u32; 2] = guest.memory.regions().read_obj(GuestAddress(rings(0) + 2 * RING + 4)).unwrap();
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

#[test]
fn a_disk_is_reset_and_rests_while_another_processor_offers_without_end() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut guest = Guest::of(Kind::Disk);
    guest.put(BUFFERS, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for round in 0..20 {
        guest.put(rings(0) + RING + 2, &[0; 2]);
        guest.put(rings(0) + 2 * RING + 2, &[0; 2]);
        guest.set_up(8);
        guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 16, flags: NEXT, next: 1 });
        guest.descriptor(0, 1, Descriptor { address: BUFFERS + 16, length: 21, flags: WRITE, next: 0 });
        let (memory, kick) = (guest.memory.clone(), Arc::clone(&guest.attached.kicks[0]));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    let used: u16 = memory.regions().read_obj(GuestAddress(rings(0) + 2 * RING + 2)).unwrap();
                    let offered = used.wrapping_add(8);
                    memory.regions().write_obj(offered, GuestAddress(rings(0) + RING + 2)).unwrap();
                    let _ = kick.write(1);
                }
            });
            while guest.answered(0) < 100 {
                std::thread::yield_now();
            }
            if round % 2 == 0 {
                guest.attached.rest();
                guest.attached.want(Wanted::Run);
            }
            guest.reset();
            is_over.store(true, Ordering::Release);
        });
    }
}

#[test]
fn a_device_goes_on_where_it_was_saved() {
    let mut guest = Guest::of(Kind::Entropy);
    guest.set_up(4);
    for round in 1..=10u16 {
        // Offered, and nobody has told the device before it is saved.
        guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 8, flags: WRITE, next: 0 });
        guest.offer(0, round, &[0], 4);
        guest = guest.goes_on(Kind::Entropy);
        assert_eq!((guest.answered(0), guest.read(0x70)), (round, 15));
        // It is told to look.
        assert_eq!(guest.read(0x60), 1);
    }
}

#[test]
fn a_disk_goes_on_where_it_was_saved() {
    let mut guest = Guest::of(Kind::Disk);
    guest.set_up(8);
    for round in 1..=10u16 {
        guest.put(BUFFERS, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 16, flags: NEXT, next: 1 });
        guest.descriptor(0, 1, Descriptor { address: BUFFERS + 16, length: 21, flags: WRITE, next: 0 });
        guest.offer(0, round, &[0], 8);
        guest = guest.goes_on(Kind::Disk);
        until_answered(&guest, round);
    }
}

#[test]
fn a_device_that_is_not_as_the_guest_knows_it_is_refused() {
    let mut guest = Guest::of(Kind::Network);
    guest.set_up(8);
    let state = guest.transport.save().expect("it is saved");
    let refused = Guest::of(Kind::Entropy).transport.restore(&state).unwrap_err();
    assert!(refused.contains("of kind 1 was saved, and one of kind 4 is given"), "{refused}");
    let (card, _other) = UnixDatagram::pair().unwrap();
    let none = Limits::default();
    let other_card = Card { mac: [2, 0, 0, 0, 0, 1], mtu: 9000, receive: none, send: none };
    let device = Net::new(Tap::of_socket(card.into()), other_card).unwrap();
    let refused = Guest::new(Arc::new(Mutex::new(device))).transport.restore(&state).unwrap_err();
    assert!(refused.contains("the same MTU"), "{refused}");
}

/// A guest with a disk of that size.
fn with_disk(size: u64, read_only: bool) -> Guest {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    let disk = Disk::of_file(file, read_only, "disk").unwrap();
    Guest::new(Arc::new(Mutex::new(Block::new(disk, Limits::default(), &Arc::new(Ending::new().unwrap())).unwrap())))
}

#[test]
fn a_disk_may_be_larger_than_the_one_that_was_saved_and_the_guest_is_told() {
    let mut guest = with_disk(0, true);
    guest.set_up(8);
    assert_eq!((guest.read(0x100), guest.read(0xfc)), (0, 0));
    guest.attached.rest();
    let state = guest.transport.save().expect("it is saved");
    let mut larger = with_disk(1 << 20, true);
    larger.memory = guest.memory.clone();
    larger.transport = Transport::new(larger.attached.clone(), guest.memory.clone());
    larger.transport.restore(&state).unwrap();
    // Both: something in a queue, and another configuration.
    assert_eq!((larger.read(0x100), larger.read(0xfc), larger.read(0x60)), (2048, 1, 3));
    // One that can be written to is another device.
    assert!(with_disk(0, false).transport.restore(&state).is_err());
}

#[test]
fn a_guest_that_goes_on_hears_once_that_its_connections_are_over() {
    let mut speaker = Speaker::new();
    let _host = speaker.connect(1 << 16);
    // Without a buffer for it the guest hears as soon as it has one.
    speaker.guest = speaker.guest.goes_on(Kind::Vsock);
    assert_eq!(speaker.guest.answered(2), 0);
    let at = BUFFERS + 0x20_0000;
    speaker.guest.put(at, &[9; 4]);
    for round in 1..=2 {
        speaker.guest.descriptor(2, 0, Descriptor { address: at, length: 4, flags: WRITE, next: 0 });
        speaker.guest.offer(2, round, &[0], 16);
        speaker.guest.notify(2);
        assert_eq!(speaker.guest.answered(2), 1);
    }
    assert_eq!(speaker.guest.memory.regions().read_obj::<[u8; 4]>(GuestAddress(at)).unwrap(), [0; 4]);
    // What is still said on it is answered so, and a new one is made.
    speaker.send(5, 0, 1 << 16, b"to nobody");
    assert_eq!(speaker.receive(), (3, vec![]));
    let _host = speaker.connect(1 << 16);
}

/// A request to a file system: its parts, and the room for its answer.
pub(super) fn ask_files(guest: &mut Guest, index: u16, parts: &[&[u8]], room: u32) {
    let first = (index - 1) * 4 % 64;
    let mut at = BUFFERS + u64::from(index % 16) * 0x1000;
    for (number, part) in (first..).zip(parts) {
        guest.put(at, part);
        let is_last = room == 0 && number + 1 == first + parts.len() as u16;
        let flags = if is_last { 0 } else { NEXT };
        guest.descriptor(1, number, Descriptor { address: at, length: part.len() as u32, flags, next: number + 1 });
        at += part.len() as u64;
    }
    if room > 0 {
        let number = first + parts.len() as u16;
        guest.descriptor(1, number, Descriptor { address: at, length: room, flags: WRITE, next: 0 });
    }
    guest.offer(1, index, &[first], 64);
}

#[test]
fn a_file_server_gets_what_is_asked_and_the_guest_its_answers() {
    let mut guest = Guest::of(Kind::Files);
    assert_eq!((guest.read(0x08), guest.read(0x100).to_le_bytes(), guest.read(0x100 + 36)), (26, *b"echo", 1));
    guest.set_up(64);
    // More than it has slots for, before it is told of any; some without an answer.
    for index in 1..=12u16 {
        let room = if index % 3 == 0 { 0 } else { 6 };
        ask_files(&mut guest, index, &[b"first ", b"part", &[index as u8]], room);
    }
    guest.notify(1);
    while guest.answered(1) != 12 {
        std::thread::yield_now();
    }
    for index in (1..=12u16).filter(|index| index % 3 != 0) {
        let mut answer = [0; 7];
        let at = BUFFERS + u64::from(index % 16) * 0x1000 + 11;
        guest.memory.regions().read_slice(&mut answer, GuestAddress(at)).unwrap();
        // As much as there is room for, and nothing behind it.
        assert_eq!(&answer, b"first \0", "{index}");
    }
    // It rests with all of it done, and goes on.
    guest.attached.rest();
    ask_files(&mut guest, 13, &[b"again"], 5);
    guest.notify(1);
    assert_eq!(guest.answered(1), 12);
    guest.attached.want(Wanted::Run);
    while guest.answered(1) != 13 {
        std::thread::yield_now();
    }
    assert_eq!(guest.read(0x70), 15);
}

#[test]
fn a_file_system_needs_a_reset_after_nonsense_and_works_then() {
    let mut guest = Guest::of(Kind::Files);
    // Nothing at all to be read, and more than a request may have.
    for (parts, room) in [(&[][..], 8), (&[&b"x"[..]][..], 4 << 20)] {
        guest.set_up(64);
        ask_files(&mut guest, 1, &[b"right"], 8);
        ask_files(&mut guest, 2, parts, room);
        guest.notify(1);
        while guest.read(0x70) & 64 == 0 {
            std::thread::yield_now();
        }
        guest.reset();
        guest.put(rings(1) + 2 * RING, &[0; 4]);
        guest.put(rings(1) + RING, &[0; 4]);
        guest.set_up(64);
        for index in 1..=20 {
            ask_files(&mut guest, index, &[b"right"], 8);
            guest.notify(1);
            while guest.answered(1) != index {
                std::thread::yield_now();
            }
        }
        guest.reset();
        guest.put(rings(1) + 2 * RING, &[0; 4]);
        guest.put(rings(1) + RING, &[0; 4]);
    }
}

#[test]
fn a_file_system_goes_on_with_its_queues_where_they_were() {
    let mut guest = Guest::of(Kind::Files);
    guest.set_up(64);
    let ask = |guest: &mut Guest, number: u16| {
        ask_files(guest, number, &[b"right"], 8);
        guest.notify(1);
        while guest.answered(1) != number {
            std::thread::yield_now();
        }
    };
    ask(&mut guest, 1);
    let mut other = guest.goes_on(Kind::Files);
    assert_eq!(other.read(0x70) & 64, 0);
    ask(&mut other, 2);
    other.reset();
}

/// A guest has asked something of a file server, which does not answer until what this returns is dropped.
fn asks_what_hangs<'s>(guest: &mut Guest, server: &'s Echo) -> std::sync::MutexGuard<'s, ()> {
    let hangs = server.hang();
    ask_files(guest, 1, &[b"right"], 8);
    guest.notify(1);
    while !server.is_asked() {
        std::thread::yield_now();
    }
    hangs
}

/// Waits until it is answered.
fn is_answered(guest: &Guest) {
    while guest.answered(1) != 1 {
        std::thread::yield_now();
    }
}

#[test]
fn nobody_waits_for_ever_for_a_file_server_that_hangs() {
    let mut guest = Guest::of(Kind::Files);
    let server = guest.files.take().unwrap();
    guest.set_up(64);
    let hangs = asks_what_hangs(&mut guest, &server);
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(guest.attached.rest_until(soon), Err(crate::confine::Kind::Files));
    // It goes on, and rests once it is answered.
    guest.attached.want(Wanted::Run);
    drop(hangs);
    is_answered(&guest);
    guest.attached.rest();
}

#[test]
fn nobody_waits_for_ever_for_a_file_system_to_go_whose_server_hangs() {
    let (device, server) = Echo::serve().unwrap();
    let place = Arc::new(Mutex::new(Place::default()));
    place.lock().unwrap().put(Some(device));
    let mut guest = Guest::new(Arc::clone(&place) as _);
    let transport = Arc::new(Mutex::new(Transport::new(guest.attached.clone(), guest.memory.clone())));
    let files = FilesPlace::new(place, Arc::clone(&transport), 0, &Arc::new(Ending::new().unwrap()));
    guest.set_up(64);
    let hangs = asks_what_hangs(&mut guest, &server);
    let soon = || Instant::now() + Duration::from_millis(50);
    assert_eq!(files.clear(soon()), Err(crate::confine::Kind::Files));
    // Nor where a processor is at it, which resets the device and waits for the same.
    let processor = transport.lock().unwrap();
    assert_eq!(files.clear(soon()), Err(crate::confine::Kind::Files));
    drop(processor);
    // It goes on, and goes once it is answered.
    assert!(files.is_taken());
    drop(hangs);
    is_answered(&guest);
    assert_eq!(files.clear(Instant::now() + Duration::from_secs(600)), Ok(()));
    assert!(!files.is_taken());
}

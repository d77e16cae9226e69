//! What a card and its tap leave to each other, with a tap of the kernel's in a network of the test's own.

use super::*;
use std::net::UdpSocket;
use std::process::Command;

/// `VIRTIO_NET_F_CSUM`, `VIRTIO_NET_F_GUEST_CSUM` and `VIRTIO_NET_F_HOST_TSO4` (5.1.3).
const CHECKSUM: u32 = 1 << 0;
const GUEST_CHECKSUM: u32 = 1 << 1;
const HOST_TSO4: u32 = 1 << 11;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, and `VIRTIO_NET_HDR_GSO_TCPV4` (5.1.6).
const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
/// Bytes before a packet's Ethernet header.
const HEADER: usize = 12;

/// Has the thread of a test be in a network of its own, which is gone with it.
fn apart() {
    // SAFETY: it takes a number, and changes nothing but where this thread is.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "tests of networks need root");
}

/// A guest with a card whose other end is the tap of that name, at which the host is 10.9.8.1 and knows the guest as 10.9.8.2.
fn with_tap(name: &str) -> Guest {
    let tap = Tap::of(Tap::attach(name).unwrap()).unwrap();
    for arguments in [
        &["link", "set", name, "up"][..],
        &["address", "add", "10.9.8.1/24", "dev", name],
        &["neighbour", "add", "10.9.8.2", "lladdr", "02:00:00:00:00:01", "dev", name],
    ] {
        assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
    }
    let none = Limits::default();
    let card = Card { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, receive: none, send: none };
    Guest::new(Arc::new(Mutex::new(Net::new(tap, card).unwrap())))
}

/// The first packet of UDP that a guest receives, with what is before it.
fn received(guest: &mut Guest) -> Vec<u8> {
    let mut offered = 0;
    loop {
        guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 2000, flags: WRITE, next: 0 });
        offered += 1;
        guest.offer(0, offered, &[0], 16);
        guest.notify(0);
        while guest.answered(0) != offered {
            guest.attached.ready();
        }
        let mut packet = vec![0; 200];
        guest.memory.regions().read_slice(&mut packet, GuestAddress(BUFFERS)).unwrap();
        if packet[HEADER + 12..HEADER + 14] == [8, 0] && packet[HEADER + 23] == 17 {
            return packet;
        }
    }
}

#[test]
fn a_tap_leaves_checksums_to_who_takes_them_and_to_nobody_else() {
    apart();
    for (name, features, left) in [("takes", GUEST_CHECKSUM, NEEDS_CHECKSUM), ("not", 0, 0)] {
        let mut guest = with_tap(name);
        guest.set_up_with(16, features);
        UdpSocket::bind("10.9.8.1:0").unwrap().send_to(b"to the guest", "10.9.8.2:7").unwrap();
        assert_eq!(received(&mut guest)[0] & NEEDS_CHECKSUM, left, "{name}");
        drop(guest);
    }
}

/// How many packets and bytes the host has had from a tap, and how many were wrong.
fn counted(name: &str) -> [u64; 3] {
    let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = all.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:"))).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    // Bytes, packets, errors, dropped, overruns, frames.
    [numbers[1], numbers[0], numbers[2] + numbers[3] + numbers[5]]
}

#[test]
fn a_packet_that_is_larger_than_the_network_s_goes_through_as_one_that_is_to_be_cut() {
    apart();
    let mut guest = with_tap("large");
    guest.set_up_with(16, CHECKSUM | HOST_TSO4);
    // How it is cut: 54 bytes before the data, pieces of 1400 bytes, a checksum from the TCP header on, at its 17th byte.
    let header = [NEEDS_CHECKSUM, TCP4, 54, 0, 0x78, 0x05, 34, 0, 16, 0, 0, 0];
    let ethernet = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 0]].concat();
    let length = 20 + 20 + 9000u16;
    let ip = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 0, 0, 0, 64, 6, 0, 0, 10, 9, 8, 2, 10, 9, 8, 1]].concat();
    let tcp = [&[0, 7, 0, 7][..], &[0; 8], &[0x50, 0x10, 1, 0, 0, 0, 0, 0]].concat();
    let packet = [&header[..], &ethernet, &ip, &tcp, &[7; 9000]].concat();
    guest.put(BUFFERS, &packet);
    let before = counted("large");
    guest.descriptor(1, 0, Descriptor { address: BUFFERS, length: packet.len() as u32, flags: 0, next: 0 });
    guest.offer(1, 1, &[0], 16);
    guest.notify(1);
    assert_eq!(guest.answered(1), 1);
    let [packets, bytes, wrong] = counted("large");
    assert_eq!([packets - before[0], wrong - before[2]], [1, 0]);
    assert!(bytes - before[1] >= 9000, "{} bytes came through", bytes - before[1]);
}

//! A published port of SCTP. Not every kernel has sockets of it, so that both ends are raw sockets (raw(7)), as those of a
//! program that brings an SCTP of its own; nftables and conntrack know the protocol without them.

mod world;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;
use world::{Container, on_a_host, run, spec};

const PATIENCE: Duration = Duration::from_secs(60);
/// Chunk types of RFC 9260, section 3.2.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A packet of SCTP with one chunk, and who sent it.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    from: Ipv4Addr,
    source: u16,
    destination: u16,
    chunk: u8,
}

/// One end.
struct RawSctp(OwnedFd);

impl RawSctp {
    fn of(container: &Container) -> RawSctp {
        let open = || {
            let flags = SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::SCTP))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
            Ok::<_, rustix::io::Errno>(RawSctp(socket))
        };
        container.namespace.enter(open).unwrap().unwrap()
    }

    /// Sends an INIT, or the answer to one (RFC 9260, sections 3.3.2 and 3.3.3).
    fn send(&self, to: Ipv4Addr, source: u16, destination: u16, chunk: u8) {
        const TAG: u32 = 0x5ca1_ab1e;
        // An INIT has no tag yet that the other side would know.
        let verification = if chunk == INIT { 0 } else { TAG };
        let mut packet = Vec::new();
        packet.extend(source.to_be_bytes());
        packet.extend(destination.to_be_bytes());
        packet.extend(verification.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([chunk, 0, 0, 20]);
        packet.extend(TAG.to_be_bytes());
        packet.extend(65_536_u32.to_be_bytes());
        packet.extend([0, 1, 0, 1]);
        packet.extend(1_u32.to_be_bytes());
        let checksum = crc32c(&packet).to_le_bytes();
        packet[8..12].copy_from_slice(&checksum);
        rustix::net::sendto(&self.0, &packet, SendFlags::empty(), &SocketAddrV4::new(to, 0)).unwrap();
    }

    /// The next packet, whose checksum is right.
    #[track_caller]
    fn receive(&self) -> Packet {
        let mut buffer = [0; 1500];
        let (_, length) = rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty()).expect("a packet comes");
        let header = usize::from(buffer[0] & 15) * 4;
        let sctp = &mut buffer[header..length];
        let said = u32::from_le_bytes(sctp[8..12].try_into().unwrap());
        sctp[8..12].fill(0);
        assert_eq!(said, crc32c(sctp), "the checksum");
        let port = |at: usize| u16::from_be_bytes([sctp[at], sctp[at + 1]]);
        let (source, destination, chunk) = (port(0), port(2), sctp[12]);
        let from: [u8; 4] = buffer[12..16].try_into().unwrap();
        Packet { from: from.into(), source, destination, chunk }
    }
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[test]
fn a_published_port_of_sctp_is_reached() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the checksum's own check");
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let web = run(&networks, spec("web", &["bridge"], &["9000:36412/sctp"]));
        assert_eq!(web.sandbox().ports[0].host.port(), 9000);
        let inside = RawSctp::of(&web);
        let outside = RawSctp::of(&stranger);
        let (here, there): (Ipv4Addr, Ipv4Addr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());

        outside.send(here, 40_000, 9000, INIT);
        let came = inside.receive();
        assert_eq!(came, Packet { from: there, source: 40_000, destination: 36_412, chunk: INIT });
        // Where the container's kernel knows SCTP, it has answered by itself already, as nobody listens there.
        inside.send(there, 36_412, 40_000, INIT_ACK);
        let answer = outside.receive();
        assert_eq!((answer.from, answer.source, answer.destination), (here, 9000, 40_000), "{answer:?}");

        // A container that goes takes its port along: who comes next has it.
        networks.tear_down(web.sandbox()).unwrap();
        run(&networks, spec("next", &["bridge"], &["9000:36412/sctp"]));
    });
}

#[test]
fn the_host_itself_reaches_it_and_two_of_one_instance_do_not_share_it() {
    on_a_host(|host| {
        host.stranger();
        let networks = host.networks();
        let web = run(&networks, spec("web", &["bridge"], &["9000:36412/sctp"]));
        let inside = RawSctp::of(&web);
        RawSctp::of(&host.itself()).send("192.0.2.1".parse().unwrap(), 40_000, 9000, INIT);
        let came = inside.receive();
        assert_eq!((came.destination, came.chunk), (36_412, INIT), "{came:?}");
        let refused = networks.set_up(spec("second", &["bridge"], &["9000:36412/sctp"])).expect_err("it is taken");
        assert!(refused.to_string().contains("port is already allocated"), "{refused}");
    });
}

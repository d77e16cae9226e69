//! UDP through the forwarder.
//!
//! Each client of a port gets a socket of its own towards the target, so that answers find their way back. An answer leaves
//! with the address that the client wrote to, which on a wildcard socket takes packet information (ip(7), ipv6(7)).

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, sockopt};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use serde::{Deserialize, Serialize};

use super::arena::Key;

/// Longest datagram.
pub(super) const MAX_DATAGRAM: usize = 64 << 10;

/// A client, and the address that it knows this machine by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Peer {
    client: SocketAddr,
    local: IpAddr,
    /// The interface it came in by; only link-local addresses need it.
    interface: u32,
}

/// A published UDP port.
pub(super) struct UdpListener {
    socket: OwnedFd,
    pub(super) target: SocketAddr,
    pub(super) sessions: HashMap<Peer, Key>,
}

impl UdpListener {
    /// Serves a bound socket.
    pub(super) fn open(socket: OwnedFd, target: SocketAddr, local: SocketAddr) -> nix::Result<Self> {
        if local.is_ipv4() {
            nix::sys::socket::setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            nix::sys::socket::setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        Ok(UdpListener { socket, target, sessions: HashMap::new() })
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// One datagram into `buffer`: its length and who sent it; `None` where none waits.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<(usize, Peer)> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        loop {
            let mut parts = [IoSliceMut::new(buffer)];
            let fd = self.socket.as_raw_fd();
            match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
                Ok(message) => {
                    let Some(client) = message.address.as_ref().and_then(to_std) else { continue };
                    let Ok(mut parts) = message.cmsgs() else { continue };
                    let Some((local, interface)) = parts.find_map(|part| to_local(&part)) else { continue };
                    return Some((message.bytes, Peer { client, local, interface }));
                }
                // An error of an earlier answer to some client.
                Err(errno) if errno == nix::Error::EINTR || is_of_the_past(errno) => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends an answer to a client. Datagrams may get lost: there is nobody to tell.
    pub(super) fn send(&self, peer: &Peer, datagram: &[u8]) {
        let parts = [IoSlice::new(datagram)];
        let client = SockaddrStorage::from(peer.client);
        let fd = self.socket.as_raw_fd();
        let _ = match peer.local {
            IpAddr::V4(local) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(local).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&client))
            }
            IpAddr::V6(local) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                    ipi6_ifindex: if local.is_unicast_link_local() { peer.interface } else { 0 },
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(fd, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&client))
            }
        };
    }
}

/// One client's way to the target.
pub(super) struct Session {
    socket: OwnedFd,
    pub(super) peer: Peer,
    pub(super) listener: Key,
    pub(super) last_used: Instant,
}

impl Session {
    pub(super) fn open(listener: Key, peer: Peer, target: SocketAddr, now: Instant) -> rustix::io::Result<Self> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
        rustix::net::connect(&socket, &target)?;
        Ok(Session { socket, peer, listener, last_used: now })
    }

    /// Takes over a session from another program.
    pub(super) fn restore(socket: OwnedFd, listener: Key, peer: Peer, last_used: Instant) -> Self {
        Session { socket, peer, listener, last_used }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends a datagram on to the target.
    pub(super) fn send(&self, datagram: &[u8]) {
        let send = || rustix::net::send(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        // Refused is what the target said to an earlier datagram; the port may have been opened since.
        if send() == Err(Errno::CONNREFUSED) {
            let _ = send();
        }
    }

    /// One answer of the target into `buffer`; `None` where none waits.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _)) => return Some(count),
                Err(Errno::INTR | Errno::CONNREFUSED) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Errors that ICMP brought for something sent before, and that a socket reports on its next call.
fn is_of_the_past(errno: nix::Error) -> bool {
    use nix::Error as E;
    matches!(errno, E::ECONNREFUSED | E::EHOSTUNREACH | E::ENETUNREACH | E::EMSGSIZE | E::EPROTO)
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

fn to_local(part: &ControlMessageOwned) -> Option<(IpAddr, u32)> {
    match part {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some((Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into(), info.ipi_ifindex as u32))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some((Ipv6Addr::from(info.ipi6_addr.s6_addr).into(), info.ipi6_ifindex))
        }
        _ => None,
    }
}

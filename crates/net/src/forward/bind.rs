//! Sockets that keep a port.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sockopt};

use super::protocol::Proto;

/// Connections that wait for the forwarder to accept them; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds a socket that keeps `address` to itself, for either mode of [`super::Hold`].
///
/// - TCP: bound with `SO_REUSEADDR`, so that connections of an earlier owner in `TIME_WAIT` are no obstacle, and listening,
///   without which somebody else's `SO_REUSEADDR` could share the port.
/// - UDP, SCTP: bound, shared with nobody.
/// - IPv6: `IPV6_V6ONLY`, so that `[::]:80` and `0.0.0.0:80` are two ports.
///
/// # Errors
/// `EADDRINUSE` where another program has the port; `EADDRNOTAVAIL` where the address isn't this machine's; `EACCES`;
/// `EPROTONOSUPPORT` where the kernel has no SCTP.
pub fn bind(proto: Proto, address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match proto {
        Proto::Tcp => (SocketType::STREAM, ipproto::TCP),
        Proto::Udp => (SocketType::DGRAM, ipproto::UDP),
        Proto::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if proto == Proto::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if proto == Proto::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Checks that a socket which came from outside is what its protocol says, and returns the address that it is bound to.
pub(super) fn check(socket: &OwnedFd, proto: Proto) -> Result<SocketAddr, String> {
    let what = |errno: Errno| errno.to_string();
    let (kind, protocol): (SocketType, Protocol) = match proto {
        Proto::Tcp => (SocketType::STREAM, ipproto::TCP),
        Proto::Udp => (SocketType::DGRAM, ipproto::UDP),
        Proto::Sctp => (sockopt::socket_type(socket).map_err(what)?, ipproto::SCTP),
    };
    if sockopt::socket_type(socket).map_err(what)? != kind
        || sockopt::socket_protocol(socket).map_err(what)? != Some(protocol)
    {
        return Err("it is of another protocol".into());
    }
    let local: SocketAddr = rustix::net::getsockname(socket)
        .map_err(what)?
        .try_into()
        .map_err(|_| "its address is no internet address".to_string())?;
    if local.port() == 0 {
        return Err("it is not bound to a port".into());
    }
    Ok(local)
}

/// Makes a socket that was handed over ready to be served.
pub(super) fn prepare(socket: &OwnedFd, proto: Proto) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(socket, true)?;
    if proto == Proto::Tcp && !sockopt::socket_acceptconn(socket)? {
        rustix::net::listen(socket, BACKLOG)?;
    }
    Ok(())
}

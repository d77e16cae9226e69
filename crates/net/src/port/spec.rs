//! What is asked to be published, and what was.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use thiserror::Error;

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number of the protocol (IANA, protocol numbers).
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol with that number.
    pub const fn from_number(number: u8) -> Option<Protocol> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            132 => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// `tcp`, `udp` or `sctp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Protocol, String> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(format!("invalid protocol: {text}")),
        }
    }
}

/// One port of a container that shall be reachable at the host's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// The host's address; `None` is every address of both families (or the network's `host_binding_ipv4`).
    pub host_ip: Option<IpAddr>,
    /// The host's port: `None` takes one of the ephemeral range, a range the first that is free.
    pub host_port: Option<RangeInclusive<u16>>,
    /// The container's port; not 0.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Where the host accepts; an unspecified address is every one of that family.
    pub host: SocketAddr,
    /// The container's port.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Where the traffic goes: the container's address. Of the other family than `host` where the forwarder proxies.
    pub target: IpAddr,
}

impl PublishedPort {
    /// Whether connections go through the forwarder process, since the families differ.
    pub fn is_proxied(&self) -> bool {
        self.host.is_ipv4() != self.target.is_ipv4()
    }
}

/// Why a port could not be published. The texts are Docker's, as clients compare them.
#[derive(Debug, Error)]
pub enum PortError {
    /// Another container of this instance has it.
    #[error("Bind for {0} failed: port is already allocated")]
    Allocated(SocketAddr),
    /// Another process of the host has it.
    #[error("failed to bind host port for {host}:{target}/{protocol}: {}", bind_reason(source))]
    Bind {
        /// Where.
        host: SocketAddr,
        /// The container's address and port.
        target: SocketAddr,
        /// Which protocol.
        protocol: Protocol,
        /// What the kernel said: `EADDRINUSE`, or `EADDRNOTAVAIL` where the host has no such address.
        source: std::io::Error,
    },
    /// Every port of the ephemeral range, or of the range that was asked for, is in use.
    #[error("all ports are allocated")]
    Exhausted,
    /// A container's port of 0, or an empty range.
    #[error("invalid port specification: {0}")]
    Invalid(String),
    /// The process that keeps ports reserved did not take it.
    #[error("the port forwarder did not take {host}/{protocol}: {reason}")]
    Forwarder {
        /// Where.
        host: SocketAddr,
        /// Which protocol.
        protocol: Protocol,
        /// Why not.
        reason: String,
    },
}

/// The kernel's answer in the words that clients know.
fn bind_reason(source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => "address already in use".into(),
        std::io::ErrorKind::AddrNotAvailable => "cannot assign requested address".into(),
        _ => source.to_string(),
    }
}

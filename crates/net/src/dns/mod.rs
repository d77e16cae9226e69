//! The embedded DNS server, and the files that tell a container where names come from.
//!
//! A container on a user-defined network asks 127.0.0.11:53, in its own network namespace, for every name. [`DnsServer`]
//! answers there: the names of containers, aliases and links from a [`NameSource`]; everything else it passes on to the
//! servers of the host, or of the container's `--dns`. The engine may implement [`NameSource`] itself, or keep [`Zones`]
//! up to date, which looks names up as Docker does.
//!
//! - [`answer()`]: a query and a view of the names become a reply, without any I/O.
//! - [`resolv`] and [`hosts`]: the texts of `/etc/resolv.conf` and `/etc/hosts`.
//!
//! # A namespace each
//! The sockets of a sandbox are made by a thread that enters its namespace and ends; serving them takes two `tokio` tasks in
//! the daemon and no thread. They listen at a port of the kernel's choice, and a rule of nftables inside the namespace leads
//! 127.0.0.11:53 there, so that a container's own name server can have port 53 on every address. Sockets keep a namespace
//! alive: [`DnsServer::detach`] a sandbox before its namespace is to go.

mod answer;
pub mod hosts;
mod names;
mod pace;
mod random;
pub mod resolv;
mod server;
mod sockets;
mod transport;
mod upstream;
mod wire;
mod zones;

use std::io;
use std::net::Ipv4Addr;

pub use answer::{Outcome, Transport, View, answer};
pub use names::NameSource;
pub use server::{DnsConfig, DnsServer, SandboxDns, Upstreams};
pub use zones::{Link, Zones};

/// Where a container finds its name server.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Why a sandbox has no name server.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A socket could not be made in the sandbox's namespace.
    #[error("cannot {what} for the name server of sandbox {sandbox}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The sandbox.
        sandbox: String,
        /// What the system said.
        source: io::Error,
    },
    /// Port 53 could not be led to the server.
    #[error("cannot redirect port 53 of sandbox {sandbox}: {source}")]
    Redirect {
        /// The sandbox.
        sandbox: String,
        /// Why.
        source: Box<crate::Error>,
    },
}

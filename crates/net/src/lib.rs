//! Networks, addresses, published ports and names of containers.
//!
//! One [`Networks`] serves one instance of the daemon. It speaks netlink to the kernel and never starts a program;
//! everything it makes there carries the [`Instance`]'s name, so that several instances share a host without touching
//! each other, and [`clean`] finds what a killed one left.
//!
//! # Who remembers what
//! Networks are kept in the `store`, under `net/network/<id>`. What a *running* sandbox has (addresses, links, ports) is
//! returned as a [`Sandbox`], which the caller keeps beside its own record of the container and hands back to
//! [`Networks::open`] for every sandbox that still runs: that saves a synchronous write per start, and there is one
//! truth about what runs. Whatever in the kernel belongs to none of them is taken out at that moment.
//!
//! A network namespace is held by a file descriptor, not by a mount: the processes of a sandbox keep it alive, a daemon
//! that is killed between two steps leaves nothing behind, and mount tables stay short (a clone with a new mount
//! namespace copies every mount of the host). After a restart it is found through a process: [`NetNs::of_process`].
//!
//! # Machines with kernels of their own
//! A sandbox whose [`SandboxSpec::tap_owner`] is set is a machine: beside each endpoint's link there is a [`Tap`], between which and the link
//! the kernel's traffic control passes everything on, and the addresses are the machine's own ([`Sandbox::guest_interfaces`]). For everybody
//! else it is a sandbox as any other.
//!
//! # Threads
//! [`Networks::open`] works in the network namespace of the calling thread, which is the host from then on; later calls
//! come from threads of the same namespace. All calls are synchronous. [`Networks::set_up`] and [`Networks::tear_down`] take well under a millisecond where
//! prepared endpoints are in stock; [`Networks::disconnect`] and removing a network wait for the kernel's grace periods
//! (tens of milliseconds). Call them from where blocking is allowed.
#![forbid(unsafe_code)]

mod address;
mod config;
mod conntrack;
pub mod dns;
mod endpoint;
mod error;
mod firewall;
pub mod forward;
mod namespace;
mod netlink;
mod network;
mod nft;
mod port;
mod route;
mod sysctl;

pub use address::{AddressPool, MacAddress, MacParseError};
pub use config::{Instance, InstanceError, NetConfig};
pub use endpoint::{Endpoint, EndpointSpec, GuestInterface, GuestRoute, LinkStatistics, Sandbox, SandboxSpec, Tap};
pub use error::{Error, Result};
pub use namespace::NetNs;
pub use network::{
    BridgeOptions, Cleaned, Driver, InvalidNetwork, IpamConfig, IpvlanFlag, IpvlanMode, LanKind, LanOptions,
    MacvlanMode, NamedEndpoint, Network, NetworkSpec, Networks, check_link_name, clean, owner_of_bridge, take_back,
};
pub use port::{PortError, PortSpec, Protocol, PublishedPort};

//! What can go wrong, with what was tried and on what.

use crate::{Instance, InvalidNetwork, PortError};
use std::io;
use std::net::IpAddr;
use thiserror::Error;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something about networks failed. Texts that Docker's clients compare are Docker's.
#[derive(Debug, Error)]
pub enum Error {
    /// No network has that name or identifier.
    #[error("network {0} not found")]
    NotFound(String),
    /// Several identifiers begin so.
    #[error("network {name} is ambiguous ({matches} matches found based on ID prefix)")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many fit.
        matches: usize,
    },
    /// The name is taken.
    #[error("network with name {0} already exists")]
    NameTaken(String),
    /// `bridge`, `host` and `none` are always there; nobody makes them.
    #[error("operation is not permitted on predefined {0} network")]
    PredefinedCreate(String),
    /// `bridge`, `host` and `none` are always there; nobody removes them.
    #[error("{0} is a pre-defined network and cannot be removed")]
    PredefinedRemove(String),
    /// Somebody is on the network.
    #[error("error while removing network: network {name} has active endpoints ({})", endpoints.join(", "))]
    InUse {
        /// The network's name.
        name: String,
        /// Whose they are and which, as `name:"web" id:"a2106b852805"`.
        endpoints: Vec<String>,
    },
    /// The network that was asked for cannot be.
    #[error(transparent)]
    Invalid(Box<InvalidNetwork>),
    /// The subnet shares addresses with another network or with a route of the host.
    #[error("Pool overlaps with other one on this address space")]
    PoolOverlaps,
    /// The address pools have no free subnet left.
    #[error(
        "could not find an available, non-overlapping {family} address pool among the defaults to assign to the network"
    )]
    PoolsExhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// As [`Error::PoolsExhausted`], of the network that an instance begins with: whoever starts it says which pools there are.
    #[error(
        "the address pools have no subnet left for the default bridge, as {} on this machine; \
         others are named with --default-address-pool CIDR,size=24",
        .taken.join(", ")
    )]
    NoFirstSubnet {
        /// What lies in them: a line for people each.
        taken: Vec<String>,
    },
    /// Another network has the bridge of that name.
    #[error(
        "cannot create network {id} ({link}): conflicts with network {other} ({link}): networks have same bridge name"
    )]
    BridgeNameTaken {
        /// The new network's identifier.
        id: String,
        /// The bridge's name.
        link: String,
        /// The other network's identifier.
        other: String,
    },
    /// Another network has that parent, which takes one.
    #[error("network {network} is already using parent interface {parent}")]
    ParentTaken {
        /// The other network, as a parent of its own would be called.
        network: String,
        /// The parent.
        parent: String,
    },
    /// There is no such link of the host.
    #[error("-o parent interface was not found on the host: {0}")]
    NoParent(String),
    /// A link-layer address for what has that of its parent.
    #[error("ipvlan interfaces do not support custom mac address assignment")]
    MacOfIpvlan,
    /// A machine with a kernel of its own has a link-layer address of its own.
    #[error(
        "network {0}: a microVM can be on a bridge or on macvlan, and not on ipvlan, whose links have their parent's address"
    )]
    NotForMachines(String),
    /// The bridge of that name is of another instance on this host.
    #[error("bridge {link} belongs to another stratus daemon (instance {owner}): choose another name")]
    BridgeOfAnother {
        /// The bridge's name.
        link: String,
        /// Whose it is.
        owner: Instance,
    },
    /// The bridge of that name is of another instance, which has not said yet which it is.
    #[error(
        "bridge {0} belongs to another stratus daemon, which makes it just now, or was killed as it did: choose another name, or, where \
         no other daemon runs, take it away with ip link delete {0}"
    )]
    BridgeInTheMaking(String),
    /// What has the bridge's name is something else.
    #[error("bridge {0}: a link of that name is there, and is no bridge: choose another name")]
    NotABridge(String),
    /// No address of the subnet (or its range) is free.
    #[error("no available {family} addresses on this network's address pools: {network} ({id})")]
    AddressesExhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The network's name.
        network: String,
        /// The network's identifier.
        id: String,
    },
    /// A bridge has as many ports as the kernel allows.
    #[error("the network's bridge is full: the kernel allows 1023 containers on one; use another network for more")]
    BridgeFull,
    /// The fixed address belongs to another.
    #[error("Address already in use")]
    AddressInUse(IpAddr),
    /// The fixed address is in no subnet of the network.
    #[error("invalid address {0}: it does not belong to any of this network's subnets")]
    AddressOutOfRange(IpAddr),
    /// A fixed address on a network whose subnet was not chosen by the user.
    #[error("user specified IP address is supported only when connecting to networks with user configured subnets")]
    AddressNeedsSubnet,
    /// A fixed address on a predefined network.
    #[error("user specified IP address is supported on user defined networks only")]
    AddressNeedsUserNetwork,
    /// The sandbox is on the network already.
    #[error("endpoint with name {name} already exists in network {network}")]
    EndpointExists {
        /// The container's name.
        name: String,
        /// The network's name.
        network: String,
    },
    /// The sandbox is not on the network.
    #[error("container {id} is not connected to network {network}")]
    NotConnected {
        /// The container's identifier.
        id: String,
        /// The network's name.
        network: String,
    },
    /// `host` and `none` have no endpoints: the sandbox gets the host's namespace, or an empty one.
    #[error("network {0} has no endpoints: it is chosen when a container is created, and cannot be connected to")]
    NoEndpoints(String),
    /// A port could not be published.
    #[error("driver failed programming external connectivity on endpoint {name} ({endpoint}): {source}")]
    Publish {
        /// The container's name.
        name: String,
        /// The endpoint's identifier.
        endpoint: String,
        /// Why not.
        source: Box<PortError>,
    },
    /// A sysctl of an endpoint that is not one of a link.
    #[error(
        "invalid sysctl {0} of an endpoint: write net.ipv4.*.IFNAME.* or net.ipv6.*.IFNAME.* or net.mpls.*.IFNAME.*"
    )]
    InvalidSysctl(String),
    /// The kernel refused something.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was tried, and on what.
        action: String,
        /// What it said.
        source: io::Error,
    },
    /// The kernel is built without something, or its module is not there.
    #[error(
        "cannot {action}, as the kernel lacks what that takes ({source}): \
         {of} needs {parts}. Load them with: modprobe -a {modules}"
    )]
    KernelLacks {
        /// What was tried, and on what.
        action: String,
        /// What it is needed for.
        of: &'static str,
        /// What is needed, as the kernel's configuration calls it.
        parts: &'static str,
        /// The modules.
        modules: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// There is no tap for a microVM.
    #[error(transparent)]
    Tap(#[from] sandbox::tap::TapError),
    /// The store could not be read or written, or holds what this program does not understand.
    #[error("cannot {action}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<InvalidNetwork> for Error {
    fn from(invalid: InvalidNetwork) -> Error {
        Error::Invalid(Box::new(invalid))
    }
}

impl Error {
    /// A system call's failure.
    pub(crate) fn kernel(action: impl Into<String>, errno: rustix::io::Errno) -> Error {
        Error::Kernel { action: action.into(), source: errno.into() }
    }

    /// As [`Error::kernel`], of an error that is one already.
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Error {
        Error::Kernel { action: action.into(), source }
    }

    /// Whether the kernel said exactly that.
    pub(crate) fn is_errno(&self, errno: rustix::io::Errno) -> bool {
        matches!(self, Error::Kernel { source, .. } if source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// The store's failure.
    pub(crate) fn store(action: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Store { action, source: Box::new(source) }
    }
}

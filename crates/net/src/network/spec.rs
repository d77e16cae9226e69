//! Networks as data, and what makes one valid.

use super::lan::LanOptions;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;

/// How a network is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of the host, with a veth pair to each sandbox.
    #[default]
    Bridge,
    /// A link of the host's, beside the host itself, with link-layer addresses of the sandboxes' own.
    Macvlan,
    /// As `Macvlan`, with the link's own link-layer address.
    Ipvlan,
    /// The host's own namespace.
    Host,
    /// A namespace with nothing but loopback.
    #[serde(rename = "null")]
    None,
}

impl Driver {
    /// Docker's name of it: `bridge`, `macvlan`, `ipvlan`, `host`, `null`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
            Driver::Host => "host",
            Driver::None => "null",
        }
    }

    /// The driver of that name.
    pub fn from_name(name: &str) -> Result<Driver, InvalidNetwork> {
        match name {
            "" | "bridge" | "default" => Ok(Driver::Bridge),
            "host" => Ok(Driver::Host),
            "null" | "none" => Ok(Driver::None),
            "macvlan" => Ok(Driver::Macvlan),
            "ipvlan" => Ok(Driver::Ipvlan),
            "overlay" => Err(InvalidNetwork::DriverNotSupported(name.to_owned())),
            _ => Err(InvalidNetwork::DriverNotFound(name.to_owned())),
        }
    }
}

/// One subnet of a network, as asked for or as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    /// The subnet; `None` takes one of the pools.
    pub subnet: Option<IpNet>,
    /// The part of the subnet that addresses are chosen from.
    pub ip_range: Option<IpNet>,
    /// The bridge's own address; else the first of the range.
    pub gateway: Option<IpAddr>,
    /// Addresses that are somebody else's, by a name for the user.
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

impl IpamConfig {
    /// Whether it is of IPv6: it says so in the subnet, or else in the gateway.
    pub(crate) fn is_v6(&self) -> bool {
        self.subnet.map(|s| s.addr()).or(self.gateway).is_some_and(|a| a.is_ipv6())
    }
}

/// A network that shall be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// How it is made.
    pub driver: Driver,
    /// Its subnets; empty takes one of the pools for each family that is enabled.
    pub ipam: Vec<IpamConfig>,
    /// Options for the driver of addresses. Kept for clients: there is one, which has none.
    pub ipam_options: BTreeMap<String, String>,
    /// Whether sandboxes get IPv4 addresses.
    pub enable_ipv4: bool,
    /// Whether sandboxes get IPv6 addresses.
    pub enable_ipv6: bool,
    /// No way in or out but among its members and the host.
    pub internal: bool,
    /// Kept for clients; containers can be connected to every network here.
    pub attachable: bool,
    /// The driver's options, as `com.docker.network.bridge.name`; see [`BridgeOptions`].
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}

impl NetworkSpec {
    /// A bridge network with everything else by default.
    pub fn bridge(name: impl Into<String>) -> NetworkSpec {
        NetworkSpec {
            name: name.into(),
            driver: Driver::Bridge,
            ipam: Vec::new(),
            ipam_options: BTreeMap::new(),
            enable_ipv4: true,
            enable_ipv6: false,
            internal: false,
            attachable: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, unique in the instance.
    pub name: String,
    /// When it was made, in nanoseconds of Unix time.
    pub created_ns: u64,
    /// How it is made.
    pub driver: Driver,
    /// Its subnets, each with `subnet` and `gateway` known.
    pub ipam: Vec<IpamConfig>,
    /// The subnets as the user asked for them, which is what `docker network inspect` shows where there are any.
    #[serde(default)]
    pub ipam_requested: Vec<IpamConfig>,
    /// Options for the driver of addresses. Kept for clients.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// Whether the user chose the subnets; then fixed addresses are allowed.
    pub user_subnets: bool,
    /// Whether sandboxes get IPv4 addresses.
    pub enable_ipv4: bool,
    /// Whether sandboxes get IPv6 addresses.
    pub enable_ipv6: bool,
    /// No way in or out but among its members and the host.
    pub internal: bool,
    /// Kept for clients.
    pub attachable: bool,
    /// The driver's options as they were given.
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The bridge, where the driver is one.
    pub bridge: Option<BridgeOptions>,
    /// The parent, where the driver is `macvlan` or `ipvlan`.
    #[serde(default)]
    pub lan: Option<LanOptions>,
    /// The addresses that an administrator's bridge was given for this network, and that are taken from it again: the kernel does not
    /// say whose an address is.
    #[serde(default)]
    pub given: Vec<IpNet>,
    /// The start of the machine, by the kernel's id of it, that they were given in. They are gone with it, and one that is there in a
    /// later one is the administrator's.
    #[serde(default)]
    pub given_boot: String,
}

impl Network {
    /// Whether it is `bridge`, `host` or `none`, which are always there.
    pub fn is_predefined(&self) -> bool {
        is_predefined(&self.name)
    }

    /// The IPv4 subnets with their gateways.
    pub fn subnets_v4(&self) -> impl Iterator<Item = (Ipv4Net, Option<Ipv4Addr>)> {
        self.ipam.iter().filter_map(|config| match config.subnet? {
            IpNet::V4(net) => Some((net, config.gateway.and_then(v4))),
            IpNet::V6(_) => None,
        })
    }

    /// The IPv6 subnets with their gateways.
    pub fn subnets_v6(&self) -> impl Iterator<Item = (Ipv6Net, Option<Ipv6Addr>)> {
        self.ipam.iter().filter_map(|config| match config.subnet? {
            IpNet::V6(net) => Some((net, config.gateway.and_then(v6))),
            IpNet::V4(_) => None,
        })
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(ip) = ip { Some(ip) } else { None }
}

fn v6(ip: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(ip) = ip { Some(ip) } else { None }
}

/// The options of a bridge, read from the driver's options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeOptions {
    /// The link's name: `com.docker.network.bridge.name`.
    pub link: String,
    /// Whether members reach each other: `com.docker.network.bridge.enable_icc`.
    pub icc: bool,
    /// Whether what leaves takes the host's address: `com.docker.network.bridge.enable_ip_masquerade`.
    pub masquerade: bool,
    /// Where ports are published that name no address: `com.docker.network.bridge.host_binding_ipv4`.
    pub host_binding: Option<Ipv4Addr>,
    /// The links' MTU in bytes: `com.docker.network.driver.mtu`. `None` is the instance's.
    pub mtu: Option<u32>,
    /// Begin of links' names in sandboxes: `com.docker.network.container_iface_prefix`.
    pub link_prefix: String,
}

impl BridgeOptions {
    /// Reads a driver's options; `link` is the bridge's name where they name none. Options that are not known here are
    /// left alone, as Docker does.
    pub fn parse(options: &BTreeMap<String, String>, link: &str) -> Result<BridgeOptions, InvalidNetwork> {
        let get = |key: &str| options.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let flag = |key: &str, default| match get(key) {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(value) => Err(InvalidNetwork::option(key, value, "true or false")),
        };
        let link = get("com.docker.network.bridge.name").unwrap_or(link).to_owned();
        check_link_name(&link)?;
        let mtu = mtu(options)?;
        let host_binding = match get("com.docker.network.bridge.host_binding_ipv4") {
            None => None,
            Some(value) => Some(value.parse().map_err(|_| {
                InvalidNetwork::option("com.docker.network.bridge.host_binding_ipv4", value, "an IPv4 address")
            })?),
        };
        let link_prefix = get("com.docker.network.container_iface_prefix").unwrap_or("eth").to_owned();
        // Room for a number.
        if link_prefix.len() > 11 || check_link_name(&link_prefix).is_err() {
            return Err(InvalidNetwork::option(
                "com.docker.network.container_iface_prefix",
                &link_prefix,
                "a link's name",
            ));
        }
        Ok(BridgeOptions {
            link,
            icc: flag("com.docker.network.bridge.enable_icc", true)?,
            masquerade: flag("com.docker.network.bridge.enable_ip_masquerade", true)?,
            host_binding,
            mtu,
            link_prefix,
        })
    }
}

/// The option of the links' longest packet, in bytes.
pub(super) fn mtu(options: &BTreeMap<String, String>) -> Result<Option<u32>, InvalidNetwork> {
    const KEY: &str = "com.docker.network.driver.mtu";
    match options.get(KEY).map(String::as_str) {
        None | Some("" | "0") => Ok(None),
        Some(value) => match value.parse::<u32>() {
            Ok(mtu) if (68..=65535).contains(&mtu) => Ok(Some(mtu)),
            _ => Err(InvalidNetwork::option(KEY, value, "68 to 65535")),
        },
    }
}

/// Why a network cannot be as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidNetwork {
    /// The name is empty or has characters that names cannot have.
    #[error(
        "invalid network name {0:?}: it must not be empty, begin or end with white space, or have '/' or control characters"
    )]
    Name(String),
    /// No driver has that name.
    #[error("plugin \"{0}\" not found")]
    DriverNotFound(String),
    /// A driver of Docker that is not here.
    #[error("network driver {0} is not supported: use bridge, macvlan, ipvlan, host or none")]
    DriverNotSupported(String),
    /// There is one `host` and one `none`.
    #[error("only one instance of \"{0}\" network is allowed")]
    SingleInstance(&'static str),
    /// Neither family is enabled.
    #[error("IPv4 or IPv6 must be enabled")]
    NoFamily,
    /// A subnet that is not the first address of a network, or too small to hold a gateway and a sandbox.
    #[error("invalid subnet {subnet}: {reason}")]
    Subnet {
        /// The subnet as it was given.
        subnet: IpNet,
        /// What is wrong.
        reason: String,
    },
    /// Settings of a subnet without the subnet.
    #[error("no matching subnet for {0}")]
    NoSubnetFor(String),
    /// A range, gateway or auxiliary address outside of the subnet.
    #[error("{what} {value} is not in subnet {subnet}")]
    OutsideSubnet {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// The subnet.
        subnet: IpNet,
    },
    /// The gateway is an auxiliary address too, or the subnet has no room for one.
    #[error("failed to allocate gateway ({}): {reason}", gateway.map(|ip| ip.to_string()).unwrap_or_default())]
    Gateway {
        /// The gateway that was asked for.
        gateway: Option<IpAddr>,
        /// What is wrong.
        reason: &'static str,
    },
    /// Two auxiliary addresses are the same.
    #[error("failed to allocate secondary ip address ({name}:{address}): Address already in use")]
    AuxiliaryAddress {
        /// The address's name.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// Subnets of one network that share addresses.
    #[error("subnets {0} and {1} of one network overlap")]
    SubnetsOverlap(IpNet, IpNet),
    /// A driver's option whose value does not parse.
    #[error("failed to parse {key} value: {value} (expected {expected})")]
    Option {
        /// The option.
        key: String,
        /// Its value.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// A mode or flag that its driver does not have.
    #[error("requested {driver} {what} '{value}' is not valid, {default} is the {driver} driver default")]
    Mode {
        /// The driver.
        driver: &'static str,
        /// `mode` or `flag`.
        what: &'static str,
        /// What was asked for.
        value: String,
        /// What it is where nobody says.
        default: &'static str,
    },
    /// The loopback leads nowhere, for that driver.
    #[error("loopback interface is not a valid {0} parent link")]
    LoopbackParent(&'static str),
    /// A parent that is not there, and whose name says no VLAN.
    #[error("invalid subinterface vlan name {0}, example formatting is eth0.10")]
    Parent(String),
    /// A VLAN that cannot be (IEEE 802.1Q: 12 bits, of which the first and the last value are none).
    #[error("vlan id must be between 1-4094, received: {0}")]
    VlanId(String),
    /// A name no link can have.
    #[error("invalid link name {0:?}: 1 to 15 bytes without white space, '/' and ':'")]
    LinkName(String),
}

impl InvalidNetwork {
    pub(super) fn mode(driver: &'static str, what: &'static str, value: &str, default: &'static str) -> InvalidNetwork {
        InvalidNetwork::Mode { driver, what, value: value.to_owned(), default }
    }

    fn option(key: &str, value: &str, expected: &'static str) -> InvalidNetwork {
        InvalidNetwork::Option { key: key.to_owned(), value: value.to_owned(), expected }
    }
}

/// Whether the name is one of the networks that are always there.
pub(crate) fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none" | "default")
}

/// Refuses what the kernel takes for no link's name (`dev_valid_name`).
///
/// # Errors
/// [`InvalidNetwork::LinkName`].
pub fn check_link_name(name: &str) -> Result<(), InvalidNetwork> {
    let valid = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
    if valid { Ok(()) } else { Err(InvalidNetwork::LinkName(name.to_owned())) }
}

/// As Docker, which takes nearly anything; but a name with a slash could not be named in a request's path.
pub(crate) fn check_name(name: &str) -> Result<(), InvalidNetwork> {
    let valid = !name.is_empty() && name.trim() == name && !name.chars().any(|c| c == '/' || c.is_control());
    if valid { Ok(()) } else { Err(InvalidNetwork::Name(name.to_owned())) }
}

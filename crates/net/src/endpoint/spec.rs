//! Endpoints and sandboxes as data.

use crate::{MacAddress, PortSpec, PublishedPort};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is asked of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// The network's name or identifier (whole, or the beginning of it where that is unambiguous).
    pub network: String,
    /// A fixed IPv4 address of one of the network's subnets.
    pub ipv4: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// A fixed link-layer address. Else it follows from the IPv4 address.
    pub mac: Option<MacAddress>,
    /// Names under which others on the network find the sandbox, beside its own name and identifier.
    pub aliases: Vec<String>,
    /// The name of the link in the sandbox; else the first free `ethN`.
    pub link_name: Option<String>,
    /// The endpoint with the highest priority gives the default routes; of equals the network whose name sorts first.
    pub gateway_priority: i64,
    /// Sysctls of this link, as `net.ipv4.conf.IFNAME.log_martians` (the word IFNAME stands for the link's name).
    pub sysctls: BTreeMap<String, String>,
}

/// What is asked of a sandbox's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// The container's identifier.
    pub id: String,
    /// The container's name, without a slash.
    pub name: String,
    /// The endpoints, in the order of their links' names: the first is `eth0`. None gives a namespace with loopback only.
    pub endpoints: Vec<EndpointSpec>,
    /// The ports to publish, of the endpoint that gives the default route.
    pub ports: Vec<PortSpec>,
    /// The sandbox is a machine with a kernel of its own: each endpoint gets a [`Tap`] that this user, a number, may attach to
    /// without any capability.
    pub tap_owner: Option<u32>,
}

/// An endpoint that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The network's identifier.
    pub network: String,
    /// The network's name.
    pub network_name: String,
    /// The link's name in the sandbox.
    pub link_name: String,
    /// The link's index in the sandbox's namespace.
    pub link_index: u32,
    /// The name of the link's other end on the host; empty where it has none, as with `macvlan` and `ipvlan`.
    pub host_link: String,
    /// The IPv4 address with its subnet's prefix.
    pub ipv4: Option<Ipv4Net>,
    /// The IPv6 address with its subnet's prefix.
    pub ipv6: Option<Ipv6Net>,
    /// The network's IPv4 gateway, unless the network is internal.
    pub gateway: Option<Ipv4Addr>,
    /// The network's IPv6 gateway, unless the network is internal.
    pub gateway_v6: Option<Ipv6Addr>,
    /// The link-layer address.
    pub mac: MacAddress,
    /// Extra names.
    pub aliases: Vec<String>,
    /// See [`EndpointSpec::gateway_priority`].
    pub gateway_priority: i64,
    /// What a machine with a kernel of its own takes packets from and gives them to.
    #[serde(default)]
    pub tap: Option<Tap>,
}

/// The end of an endpoint for a machine with a kernel of its own: a tap in the sandbox's namespace, persistent, with one queue. It takes and
/// gives frames without packet information, each behind a virtio header (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`).
///
/// All that comes in by the endpoint's link goes out by the tap, and the other way round, before anything of the namespace sees it. The namespace
/// itself has neither the endpoint's addresses nor routes: the machine has them, and [`Sandbox::guest_interfaces`] tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Its name in the sandbox's namespace: `tap0` of `eth0`, but where another has that.
    pub name: String,
    /// The longest packet without its link-layer header, in bytes.
    pub mtu: u32,
    /// Sysctls of the link that are set in the machine: paths below `/proc/sys`, and values.
    pub sysctls: Vec<(String, String)>,
}

impl Endpoint {
    /// Whether its link shares one of the host's, and has no end of its own there.
    pub(crate) fn is_on_parent(&self) -> bool {
        self.host_link.is_empty()
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = (self.ipv4.map(|net| net.addr().into()), self.ipv6.map(|net| net.addr().into()));
        v4.into_iter().chain(v6)
    }
}

/// The network of a running sandbox. The caller keeps it beside its own record, see the crate's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The container's identifier.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// Its endpoints, in the order of connecting.
    pub endpoints: Vec<Endpoint>,
    /// What was asked to be published; kept, as the endpoint that publishes may change.
    pub port_specs: Vec<PortSpec>,
    /// What is published.
    pub ports: Vec<PublishedPort>,
    /// See [`SandboxSpec::tap_owner`].
    #[serde(default)]
    pub tap_owner: Option<u32>,
}

impl Sandbox {
    /// The endpoint that gives the IPv4 default route, and whose address ports are published of.
    pub fn gateway_endpoint(&self) -> Option<&Endpoint> {
        preferred(self.endpoints.iter().filter(|e| e.gateway.is_some()))
    }

    /// The endpoint that gives the IPv6 default route.
    pub fn gateway_endpoint_v6(&self) -> Option<&Endpoint> {
        preferred(self.endpoints.iter().filter(|e| e.gateway_v6.is_some()))
    }

    /// The endpoint on a network, by the network's identifier.
    pub fn endpoint(&self, network: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|e| e.network == network)
    }
}

impl LinkStatistics {
    /// Of the kernel's counters of that end: rx packets, tx packets, rx bytes, tx bytes, rx errors, tx errors, rx dropped, tx dropped.
    pub(crate) fn of(name: &str, counters: [u64; 8]) -> LinkStatistics {
        let [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped] = counters;
        let name = name.to_owned();
        LinkStatistics {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        }
    }

    /// Of the link of that name in a process's network namespace (`/proc/PID/net/dev`: proc_pid_net(5)). `None`: one of the two is gone.
    pub(crate) fn inside(process: u32, name: &str) -> Option<LinkStatistics> {
        LinkStatistics::parse(&std::fs::read_to_string(format!("/proc/{process}/net/dev")).ok()?, name)
    }

    fn parse(table: &str, name: &str) -> Option<LinkStatistics> {
        let row = table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
        let fields: Vec<u64> = row.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
            fields[..]
        else {
            return None;
        };
        let counters = [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped];
        Some(LinkStatistics::of(name, counters))
    }
}

/// The highest priority, and of equals the network whose name sorts first.
fn preferred<'a>(candidates: impl Iterator<Item = &'a Endpoint>) -> Option<&'a Endpoint> {
    candidates
        .min_by(|a, b| b.gateway_priority.cmp(&a.gateway_priority).then_with(|| a.network_name.cmp(&b.network_name)))
}

/// A link's counters, as seen from the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatistics {
    /// The link's name in the sandbox.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets dropped on receipt.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets not sent for errors.
    pub tx_errors: u64,
    /// Packets dropped before they were sent.
    pub tx_dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::LinkStatistics;

    #[test]
    fn a_row_of_the_kernels_table() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                     lo:       1       2    0    0    0     0          0         0        3       4    0    0    0     0       0          0\n  \
                     eth1: 10 11 12 13 14 15 16 17 20 21 22 23 24 25 26 27\n";
        let row = LinkStatistics::parse(table, "eth1").unwrap();
        assert_eq!((row.rx_bytes, row.rx_packets, row.rx_errors, row.rx_dropped), (10, 11, 12, 13));
        assert_eq!((row.tx_bytes, row.tx_packets, row.tx_errors, row.tx_dropped), (20, 21, 22, 23));
        assert_eq!(LinkStatistics::parse(table, "eth"), None);
        assert_eq!(LinkStatistics::parse("eth1: 1 2", "eth1"), None);
        assert!(LinkStatistics::inside(std::process::id(), "lo").is_some());
    }
}

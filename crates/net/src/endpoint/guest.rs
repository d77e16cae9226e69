//! What a machine with a kernel of its own has to configure, so that it is on the network as its sandbox would be.

use super::{Endpoint, Sandbox};
use crate::MacAddress;
use ipnet::IpNet;
use std::net::IpAddr;

/// A network interface as the kernel in a machine has to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    /// What it is called in the machine: `eth0`.
    pub name: String,
    /// The tap in the sandbox's namespace that is its other end.
    pub tap: String,
    /// Its link-layer address.
    pub mac: MacAddress,
    /// The longest packet without its link-layer header, in bytes.
    pub mtu: u32,
    /// Its addresses, with the prefixes of their networks.
    pub addresses: Vec<IpNet>,
    /// Routes over it beside those that follow from the addresses: the default routes, of the interface that gives them.
    pub routes: Vec<GuestRoute>,
    /// What is written below `/proc/sys` once it is there: paths, and values.
    pub sysctls: Vec<(String, String)>,
}

/// A route by a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRoute {
    /// To where.
    pub to: IpNet,
    /// The gateway.
    pub by: IpAddr,
}

impl GuestInterface {
    /// The gateway of the default route of one family, if this interface gives it.
    pub fn default_gateway(&self, v6: bool) -> Option<IpAddr> {
        let is_it = |route: &&GuestRoute| route.to.prefix_len() == 0 && route.to.addr().is_ipv6() == v6;
        self.routes.iter().find(is_it).map(|route| route.by)
    }
}

impl Sandbox {
    /// What the machine has to configure: all of its interfaces, in the order of connecting. What has changed after
    /// [`Networks::connect`](crate::Networks::connect) and [`disconnect`](crate::Networks::disconnect) is told by asking again: default
    /// routes may have moved from one to another. Empty where the sandbox is no machine.
    pub fn guest_interfaces(&self) -> Vec<GuestInterface> {
        self.endpoints.iter().filter_map(|endpoint| self.guest_interface(endpoint)).collect()
    }

    fn guest_interface(&self, endpoint: &Endpoint) -> Option<GuestInterface> {
        let tap = endpoint.tap.as_ref()?;
        let is = |other: Option<&Endpoint>| other.is_some_and(|other| other.id == endpoint.id);
        let v4 = endpoint.gateway.filter(|_| is(self.gateway_endpoint())).map(IpAddr::from);
        let v6 = endpoint.gateway_v6.filter(|_| is(self.gateway_endpoint_v6())).map(IpAddr::from);
        let route = |by: IpAddr| GuestRoute { to: everything(by), by };
        Some(GuestInterface {
            name: endpoint.link_name.clone(),
            tap: tap.name.clone(),
            mac: endpoint.mac,
            mtu: tap.mtu,
            addresses: endpoint.ipv4.map(IpNet::from).into_iter().chain(endpoint.ipv6.map(IpNet::from)).collect(),
            routes: v4.into_iter().chain(v6).map(route).collect(),
            sysctls: tap.sysctls.clone(),
        })
    }
}

/// All addresses of a family.
fn everything(of: IpAddr) -> IpNet {
    match of {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

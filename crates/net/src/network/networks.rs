//! The one object that keeps an instance's networks.

use super::spec::{Network, NetworkSpec};
use crate::endpoint::{Endpoint, EndpointSpec, LinkStatistics, Sandbox, SandboxSpec};
use crate::error::Result;
use crate::namespace::NetNs;
use crate::{Instance, NetConfig};
use std::net::IpAddr;
use std::sync::Arc;

/// An instance's networks, and everything of them in the kernel. Shared between threads.
pub struct Networks {}

/// An endpoint and the names it has, for DNS and for `docker network inspect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// The container's identifier.
    pub sandbox: String,
    /// The container's name.
    pub name: String,
    /// The endpoint.
    pub endpoint: Endpoint,
}

impl NamedEndpoint {
    /// Every name that resolves to the endpoint: the container's name, its short identifier, and the aliases.
    pub fn names(&self) -> Vec<&str> {
        let short = self.sandbox.get(..12).unwrap_or(&self.sandbox);
        let mut names = vec![self.name.as_str(), short];
        names.extend(self.endpoint.aliases.iter().map(String::as_str));
        names
    }

    /// The endpoint's addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = (self.endpoint.ipv4.map(|n| n.addr().into()), self.endpoint.ipv6.map(|n| n.addr().into()));
        v4.into_iter().chain(v6)
    }
}

impl Networks {
    /// Reads the networks from the store, makes what is missing of them in the kernel (all, after a reboot), keeps what
    /// `running` sandboxes use exactly as it is, and takes out what belongs to nobody. No packet of a running sandbox
    /// is lost by it: what is right already is not touched.
    pub fn open(config: NetConfig, running: Vec<Sandbox>) -> Result<Arc<Networks>> {
        let _ = (config, running);
        todo!()
    }

    /// Makes a network.
    pub fn create(&self, spec: NetworkSpec) -> Result<Network> {
        let _ = spec;
        todo!()
    }

    /// Removes a network that nobody is on. Waits for the kernel's grace periods.
    pub fn remove(&self, name: &str) -> Result<Network> {
        let _ = name;
        todo!()
    }

    /// The network of that name, identifier, or unambiguous beginning of an identifier.
    pub fn get(&self, name: &str) -> Result<Network> {
        let _ = name;
        todo!()
    }

    /// All networks, in the order of their names.
    pub fn list(&self) -> Vec<Network> {
        todo!()
    }

    /// The endpoints on a network, by its identifier.
    pub fn endpoints(&self, network: &str) -> Vec<NamedEndpoint> {
        let _ = network;
        todo!()
    }

    /// A namespace with its loopback up and nothing else. For driver `none`, and for pods.
    pub fn new_namespace(&self) -> Result<NetNs> {
        todo!()
    }

    /// Makes a namespace with everything that a sandbox asks for. Takes a prepared one where it fits.
    pub fn set_up(&self, spec: SandboxSpec) -> Result<(NetNs, Sandbox)> {
        let _ = spec;
        todo!()
    }

    /// As [`Networks::set_up`], in a namespace that is there already, as one that belongs to a user namespace.
    pub fn set_up_in(&self, namespace: &NetNs, spec: SandboxSpec) -> Result<Sandbox> {
        let _ = (namespace, spec);
        todo!()
    }

    /// Takes back everything of a sandbox that has ended: addresses, ports, names. The links go with the namespace, when
    /// its last handle is closed. Never waits for the kernel.
    pub fn tear_down(&self, sandbox: &Sandbox) -> Result<()> {
        let _ = sandbox;
        todo!()
    }

    /// Connects a running sandbox to one more network. Default routes and published ports move where the new endpoint is
    /// preferred; `sandbox` is as it is afterwards, and unchanged on an error.
    pub fn connect(&self, namespace: &NetNs, sandbox: &mut Sandbox, spec: EndpointSpec) -> Result<Endpoint> {
        let _ = (namespace, sandbox, spec);
        todo!()
    }

    /// Takes a running sandbox off a network (name or identifier). Waits for the kernel's grace periods.
    pub fn disconnect(&self, namespace: &NetNs, sandbox: &mut Sandbox, network: &str) -> Result<Endpoint> {
        let _ = (namespace, sandbox, network);
        todo!()
    }

    /// Follows a container's new name.
    pub fn rename(&self, sandbox: &mut Sandbox, name: &str) {
        let _ = (sandbox, name);
        todo!()
    }

    /// The counters of a running sandbox' links.
    pub fn statistics(&self, sandbox: &Sandbox) -> Result<Vec<LinkStatistics>> {
        let _ = sandbox;
        todo!()
    }
}

/// Takes everything that an instance put into the kernel out again: its links, its table, its rules in others' tables.
/// Sysctls stay (others may rely on them by now). Needs no store, and no [`Networks`] may be open. Namespaces are not
/// touched: end their processes first.
pub fn clean(instance: &Instance) -> Result<()> {
    let _ = instance;
    todo!()
}

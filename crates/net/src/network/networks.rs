//! The one object that keeps an instance's networks: making, removing and finding them.

use super::attach::ensure;
use super::forwarding::Forwarding;
use super::leaving::{Chores, Departures, Leaving};
use super::spec::{Network, NetworkSpec, is_predefined};
use super::{bridge, lan, plan};
use crate::address::Leases;
use crate::config::{Instance, NetConfig};
use crate::endpoint::{Endpoint, HostLinks, LinkStatistics, Plan, Sandbox, Workshop};
use crate::error::{Error, Result};
use crate::firewall::{self, Firewall, ForeignChains};
use crate::namespace::NetNs;
use crate::port::PortTable;
use crate::route::RouteSocket;
use ipnet::IpNet;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use store::{Collection, Store};

/// An instance's networks, and everything of them in the kernel. Shared between threads.
pub struct Networks {
    pub(super) config: NetConfig,
    /// Of the host's namespace.
    pub(super) host: Mutex<RouteSocket>,
    pub(super) firewall: Arc<Firewall>,
    pub(super) foreign: ForeignChains,
    pub(super) ports: Arc<PortTable>,
    pub(super) workshop: Workshop,
    pub(super) host_links: HostLinks,
    pub(super) records: Collection<Network>,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) departures: Departures,
    /// Held while a network is made or removed: one at a time.
    pub(super) changing: Mutex<()>,
    pub(super) pools: Vec<crate::AddressPool>,
}

/// What is known of networks, by their identifiers.
#[derive(Default)]
pub(super) struct State {
    pub(super) networks: BTreeMap<String, Entry>,
    pub(super) chores: Chores,
}

/// A network and who is on it.
pub(super) struct Entry {
    pub(super) network: Arc<Network>,
    /// In the order of `network.ipam`.
    pub(super) leases: Vec<Leases>,
    /// By the endpoints' identifiers; also those that are just being made.
    pub(super) endpoints: BTreeMap<String, NamedEndpoint>,
    /// Whose addresses are not free yet.
    pub(super) leaving: Vec<Leaving>,
    /// The bridge's index; 0 where the network has none, or where it could not be made when the instance started.
    pub(super) bridge: u32,
}

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
        self.endpoint.addresses()
    }
}

impl Entry {
    pub(super) fn new(network: Network, bridge: u32) -> Entry {
        Entry {
            leases: plan::leases_of(&network),
            network: Arc::new(network),
            endpoints: BTreeMap::new(),
            leaving: Vec::new(),
            bridge,
        }
    }
}

impl State {
    /// The network of that name, identifier, or unambiguous beginning of an identifier.
    pub(super) fn find(&self, name: &str) -> Result<&Entry> {
        if let Some(entry) = self.networks.get(name) {
            return Ok(entry);
        }
        // "default" is what clients say for a container whose network nobody chose.
        let wanted = if name == "default" { "bridge" } else { name };
        if let Some(entry) = self.networks.values().find(|entry| entry.network.name == wanted) {
            return Ok(entry);
        }
        let mut begin_so = self.networks.iter().filter(|(id, _)| !name.is_empty() && id.starts_with(name));
        match (begin_so.next(), begin_so.count()) {
            (None, _) => Err(Error::NotFound(name.to_owned())),
            (Some((_, entry)), 0) => Ok(entry),
            (Some(_), more) => Err(Error::Ambiguous { name: name.to_owned(), matches: more + 1 }),
        }
    }

    fn subnets(&self) -> Vec<IpNet> {
        self.networks.values().flat_map(|entry| &entry.network.ipam).filter_map(|config| config.subnet).collect()
    }
}

impl Networks {
    /// The name of the nftables table that holds the instance's rules; its family is `inet`.
    pub fn table(&self) -> String {
        self.config.instance.table()
    }

    /// Makes a network.
    pub fn create(&self, spec: NetworkSpec) -> Result<Network> {
        let _one_at_a_time = self.changing.lock();
        let (subnets, taken) = {
            let state = self.state.lock();
            (state.subnets(), state.networks.values().any(|entry| entry.network.name == spec.name))
        };
        if taken && !is_predefined(&spec.name) {
            return Err(Error::NameTaken(spec.name));
        }
        let routes = {
            let host = self.host.lock();
            // A route through the network's own bridge, which an administrator may have given its addresses, is no obstacle.
            let bridge = spec.options.get("com.docker.network.bridge.name").map(|name| host.link(name)).transpose()?;
            let own = bridge.flatten().map(|link| link.index);
            let mut routes = host.routes()?;
            routes.retain(|route| Some(route.link) != own);
            routes
        };
        let around = plan::Surroundings { pools: &self.pools, subnets: &subnets, routes: &routes };
        let mut network = plan::plan(spec, &around)?;
        self.check_bridge_name(&network)?;
        self.check_parent(&network)?;
        bridge::note_given(&self.host.lock(), &self.config.instance, &mut network)?;
        self.records.put(&network.id, &network).map_err(|e| Error::store("store a network", e))?;
        match self.make(&network) {
            Ok(index) => {
                self.state.lock().networks.insert(network.id.clone(), Entry::new(network.clone(), index));
                Ok(network)
            }
            Err(error) => {
                self.unmake(&network);
                self.records.delete(&network.id).map_err(|e| Error::store("take a network back", e))?;
                Err(error)
            }
        }
    }

    /// Removes a network that nobody is on. Waits for the kernel's grace periods.
    pub fn remove(&self, name: &str) -> Result<Network> {
        let _one_at_a_time = self.changing.lock();
        let network = {
            let mut state = self.state.lock();
            // Whoever gets its subnet next shall not get what is on its way to those who had it.
            while state.may_become_free(name, None) && self.departures.wait(&mut state) {}
            let entry = state.find(name)?;
            let network = entry.network.clone();
            if network.is_predefined() {
                return Err(Error::PredefinedRemove(network.name.clone()));
            }
            if !entry.endpoints.is_empty() {
                let shown = |named: &NamedEndpoint| {
                    let id = named.endpoint.id.get(..12).unwrap_or(&named.endpoint.id);
                    format!("name:{:?} id:{id:?}", named.name)
                };
                let mut endpoints: Vec<String> = entry.endpoints.values().map(shown).collect();
                endpoints.sort();
                return Err(Error::InUse { name: network.name.clone(), endpoints });
            }
            // Nobody can connect from here on. Subnet and name stay taken until it is gone, as `changing` is held.
            state.networks.remove(&network.id);
            network
        };
        if let Err(error) = self.records.delete(&network.id) {
            self.state.lock().networks.insert(network.id.clone(), Entry::new((*network).clone(), 0));
            return Err(Error::store("remove a network", error));
        }
        self.unmake(&network);
        Ok((*network).clone())
    }

    /// The network of that name, identifier, or unambiguous beginning of an identifier.
    pub fn get(&self, name: &str) -> Result<Network> {
        Ok((*self.state.lock().find(name)?.network).clone())
    }

    /// All networks, in the order of their names.
    pub fn list(&self) -> Vec<Network> {
        let mut networks: Vec<Network> =
            self.state.lock().networks.values().map(|entry| (*entry.network).clone()).collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// The endpoints on a network, by its identifier.
    pub fn endpoints(&self, network: &str) -> Vec<NamedEndpoint> {
        let state = self.state.lock();
        state.networks.get(network).map(|entry| entry.endpoints.values().cloned().collect()).unwrap_or_default()
    }

    /// A namespace with its loopback up and nothing else. For driver `none`, and for pods.
    pub fn new_namespace(&self) -> Result<NetNs> {
        Ok(self.workshop.bare(true)?.namespace)
    }

    /// How many prepared endpoints are in stock.
    pub fn prepared(&self) -> usize {
        self.workshop.endpoints()
    }

    /// How many bare namespaces are in stock.
    pub fn prepared_namespaces(&self) -> usize {
        self.workshop.namespaces()
    }

    /// The counters of a running sandbox' links, read at their ends on the host. A link that is gone is left out. `process` is one of the
    /// sandbox', by which those are read that have no end on the host (`macvlan`, `ipvlan`); without it they are left out.
    pub fn statistics(&self, sandbox: &Sandbox, process: Option<u32>) -> Result<Vec<LinkStatistics>> {
        let host = self.host.lock();
        let mut all = Vec::new();
        for endpoint in &sandbox.endpoints {
            if endpoint.is_on_parent() {
                all.extend(process.and_then(|process| LinkStatistics::inside(process, &endpoint.link_name)));
                continue;
            }
            let Some(link) = host.link(&endpoint.host_link)? else { continue };
            // What the host's end sends is what the sandbox receives.
            let mut counters = link.counters;
            counters.as_chunks_mut().0.iter_mut().for_each(|pair: &mut [u64; 2]| pair.reverse());
            all.push(LinkStatistics::of(&endpoint.link_name, counters));
        }
        Ok(all)
    }

    /// Puts a network into the kernel, and gives its bridge's index.
    fn make(&self, network: &Network) -> Result<u32> {
        if network.bridge.is_some() && !network.internal {
            let forwarding = Forwarding::look(&self.config, network.enable_ipv6)?;
            self.firewall.confine(forwarding.confined)?;
            forwarding.switch_on()?;
        }
        // The rules come first: a bridge is never there without its walls.
        if let Some(rules) = bridge::rules_of(network) {
            self.firewall.add_network(&rules)?;
        }
        let index = ensure(&self.host.lock(), &self.config.instance, network, self.config.mtu)?;
        if let Some(options) = network.bridge.as_ref().filter(|_| !network.internal) {
            self.foreign.add_bridge(&options.link)?;
        }
        Ok(index)
    }

    /// Takes a network out of the kernel. What fails is left for the next start, which looks for it.
    fn unmake(&self, network: &Network) {
        if let Some(options) = &network.lan
            && let Err(error) = lan::remove(&self.host.lock(), &self.config.instance, options)
        {
            tracing::warn!(%error, network = network.name, "the parent of a removed network is left in the kernel");
        }
        let Some(rules) = bridge::rules_of(network) else { return };
        let link = bridge::remove(&self.host.lock(), &self.config.instance, network);
        let foreign = self.foreign.remove_bridge(&rules.bridge);
        let own = self.firewall.remove_network(&rules);
        for error in [link, foreign, own].into_iter().filter_map(|result| result.err()) {
            tracing::warn!(%error, network = network.name, "something of a removed network is left in the kernel");
        }
    }

    fn check_bridge_name(&self, network: &Network) -> Result<()> {
        let Some(options) = &network.bridge else { return Ok(()) };
        let state = self.state.lock();
        let same = |entry: &&Entry| entry.network.bridge.as_ref().is_some_and(|other| other.link == options.link);
        match state.networks.values().find(same) {
            Some(other) => Err(Error::BridgeNameTaken {
                id: network.id.clone(),
                link: options.link.clone(),
                other: other.network.id.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Refuses a parent that another network has, as Docker does.
    fn check_parent(&self, network: &Network) -> Result<()> {
        let Some(options) = &network.lan else { return Ok(()) };
        let state = self.state.lock();
        let same = |entry: &&Entry| {
            entry.network.driver == network.driver
                && entry.network.lan.as_ref().is_some_and(|other| other.parent == options.parent)
        };
        match state.networks.values().find(same) {
            Some(other) => {
                Err(Error::ParentTaken { network: lan::own_parent(&other.network.id), parent: options.parent.clone() })
            }
            None => Ok(()),
        }
    }

    /// What prepared endpoints have to be like, to fit the default bridge.
    pub(super) fn plan_of(&self, network: &Network, bridge: u32) -> Option<Plan> {
        let options = network.bridge.as_ref()?;
        Some(Plan {
            bridge,
            mtu: options.mtu.unwrap_or(self.config.mtu),
            link_name: format!("{}0", options.link_prefix),
            ipv6: network.enable_ipv6,
            isolated: !options.icc,
        })
    }
}

/// Takes everything that an instance put into the kernel out again: its links, its table, its rules in others' tables.
/// Sysctls stay (others may rely on them by now). Needs no store, and no [`Networks`] may be open. Namespaces are not
/// touched: end their processes first. The forwarder is cleaned by [`crate::forward::clean`].
///
/// # Errors
/// Where the kernel refuses.
pub fn clean(instance: &Instance) -> Result<Cleaned> {
    let host = RouteSocket::open()?;
    let mut bridges = Vec::new();
    for link in host.links()? {
        let is_parent = lan::is_ours(&link, instance);
        if !is_parent && !bridge::is_ours(&link, instance) && !bridge::is_our_port(&link, instance) {
            continue;
        }
        match host.apply(&[crate::route::Change::delete_link(link.index)]) {
            // It went with its namespace meanwhile.
            Err(error) if error.is_errno(rustix::io::Errno::NODEV) => {}
            result => result?,
        }
        if link.kind == "bridge" {
            bridges.push(link.name);
        }
    }
    firewall::remove_foreign(instance, &bridges)?;
    Ok(Cleaned { bridges: bridges.len(), table: firewall::remove_table(instance)? })
}

/// Takes the addresses that administrators' bridges were given from them again, which the networks' records say. As [`clean`], and the
/// store has to be nobody else's. Returns how many there were.
///
/// # Errors
/// Where the kernel or the store refuse.
pub fn take_back(instance: &Instance, store: &Store) -> Result<usize> {
    let records: Collection<Network> = Collection::new(store, super::open::RECORDS);
    let host = RouteSocket::open()?;
    let mut taken = 0;
    let all = records.list().map_err(|e| Error::store("read the networks", e))?;
    for mut network in all.items.into_iter().map(|item| item.value).filter(|network| !network.given.is_empty()) {
        taken += bridge::take_back(&host, instance, &network)?;
        network.given.clear();
        records.put(&network.id, &network).map_err(|e| Error::store("store a network", e))?;
    }
    Ok(taken)
}

/// What [`clean`] took out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// How many bridges. The links on them are not counted, as they may go with their namespaces before.
    pub bridges: usize,
    /// Whether there was the firewall's table.
    pub table: bool,
}

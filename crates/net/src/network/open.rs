//! Starting an instance: the store, the kernel and what runs are brought into agreement.

use super::attach::ensure;
use super::forwarding::Forwarding;
use super::leaving::{self, Departures};
use super::networks::{Entry, NamedEndpoint, Networks, State};
use super::spec::{Driver, IpamConfig, Network, NetworkSpec};
use super::{bridge, lan, plan};
use crate::AddressPool;
use crate::address::overlap;
use crate::config::{Instance, NetConfig};
use crate::endpoint::{HostLinks, Sandbox, Workshop};
use crate::error::{Error, Result};
use crate::firewall::{Firewall, ForeignChains};
use crate::port::PortTable;
use crate::route::{Change, Link, RouteSocket};
use ipnet::IpNet;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::{Collection, Store};

/// Where the store keeps networks.
pub(super) const RECORDS: &str = "net/network/";
/// The instance's 40 random bits of unique local IPv6 addresses (RFC 4193).
const GLOBAL_ID: &str = "net/ipv6-global-id";

impl Networks {
    /// Reads the networks from the store, makes what is missing of them in the kernel (all, after a reboot), keeps what
    /// `running` sandboxes use exactly as it is, and takes out what belongs to nobody. No packet of a running sandbox
    /// is lost by it: what is right already is not touched, and the table is exchanged in one transaction.
    ///
    /// # Errors
    /// Where the default bridge is another instance's or no bridge, before anything is touched; and where the kernel or the store fail.
    pub fn open(config: NetConfig, running: Vec<Sandbox>) -> Result<Arc<Networks>> {
        let host = RouteSocket::open()?;
        if let Some(link) = host.link(&config.bridge_name)? {
            bridge::check(&link, &config.instance)?;
        }
        let records: Collection<Network> = Collection::new(&config.store, RECORDS);
        let mut networks: BTreeMap<String, Network> = records
            .list()
            .map_err(|e| Error::store("read the networks", e))?
            .items
            .into_iter()
            .map(|item| (item.id, item.value))
            .collect();
        let pools = with_ipv6_pool(&config)?;
        ensure_predefined(&config, &pools, &host, &records, &mut networks)?;

        let forwarding = Forwarding::look(&config, networks.values().any(|network| network.enable_ipv6))?;
        let ports: Vec<_> = running.iter().flat_map(|sandbox| sandbox.ports.iter().cloned()).collect();
        let rules: Vec<_> = networks.values().filter_map(bridge::rules_of).collect();
        let firewall = Arc::new(Firewall::open(&config.instance, forwarding.confined, &rules, &ports)?);
        forwarding.switch_on()?;
        let links = host.links()?;
        let state = enter_all(&config, &host, &records, networks, &running);
        let is_ours =
            |name: &str| links.iter().any(|link| link.name == name && bridge::is_ours(link, &config.instance));
        firewall.settle_loopback(is_ours)?;
        sweep(&config, &host, &links, &state, &running)?;
        let state = Arc::new(Mutex::new(state));

        let open = rules.iter().filter(|rules| !rules.internal).map(|rules| rules.bridge.clone());
        let host_links = HostLinks::new(&config.instance);
        let networks = Networks {
            foreign: ForeignChains::open(&config.instance, firewall.clone(), open)?,
            ports: PortTable::open(config.forwarder.clone(), &ports)?,
            workshop: Workshop::open(host_links.clone(), config.prepared)?,
            host_links,
            host: Mutex::new(host),
            departures: Departures::open(state.clone())?,
            state,
            changing: Mutex::new(()),
            config,
            firewall,
            records,
            pools,
        };
        networks.prepare_for_default();
        Ok(Arc::new(networks))
    }

    /// Tells the workshop what endpoints of the default bridge are like.
    fn prepare_for_default(&self) {
        let plan = {
            let state = self.state.lock();
            let entry = state.find("bridge").ok().filter(|entry| entry.bridge != 0);
            entry.and_then(|entry| self.plan_of(&entry.network, entry.bridge))
        };
        self.workshop.set_plan(plan);
    }
}

/// The configured pools, and one of the instance's own for IPv6 where none is configured.
fn with_ipv6_pool(config: &NetConfig) -> Result<Vec<AddressPool>> {
    let mut pools = config.address_pools.clone();
    if !pools.iter().any(|pool| pool.base.addr().is_ipv6()) {
        pools.push(AddressPool::unique_local(global_id(&config.store)?));
    }
    Ok(pools)
}

fn global_id(store: &Store) -> Result<[u8; 5]> {
    let stored = store.get(GLOBAL_ID).map_err(|e| Error::store("read the IPv6 global id", e))?;
    if let Some(id) = stored.and_then(|entry| <[u8; 5]>::try_from(&entry.value[..]).ok()) {
        return Ok(id);
    }
    let id: [u8; 5] = rand::random();
    store.txn().put(GLOBAL_ID, id.to_vec()).commit().map_err(|e| Error::store("store the IPv6 global id", e))?;
    Ok(id)
}

/// Makes sure that `bridge`, `host` and `none` are there, and the default bridge as it is configured.
fn ensure_predefined(
    config: &NetConfig,
    pools: &[AddressPool],
    host: &RouteSocket,
    records: &Collection<Network>,
    networks: &mut BTreeMap<String, Network>,
) -> Result<()> {
    let mut missing = Vec::new();
    for (name, driver) in [("host", Driver::Host), ("none", Driver::None)] {
        if !networks.values().any(|network| network.name == name) {
            missing.push(plan::plan_without_links(name, driver));
        }
    }
    let known = networks.values().find(|network| network.name == "bridge").cloned();
    if !known.as_ref().is_some_and(|network| is_as_configured(network, config)) {
        // An administrator's bridge that is another one's now, or has another address.
        if let Some(known) = &known {
            bridge::take_back(host, &config.instance, known)?;
        }
        missing.push(plan_default_bridge(config, pools, host, known, networks)?);
    }
    let failed = |error| Error::store("store the predefined networks", error);
    let mut txn = records.txn();
    for network in &missing {
        txn = records.put_in(txn, &network.id, network).map_err(failed)?;
    }
    if !txn.is_empty() {
        txn.commit().map_err(|error| failed(error.into()))?;
    }
    networks.extend(missing.into_iter().map(|network| (network.id.clone(), network)));
    Ok(())
}

fn is_as_configured(network: &Network, config: &NetConfig) -> bool {
    let link = network.bridge.as_ref().map(|options| options.link.as_str());
    let address = |wanted| {
        network.subnets_v4().any(|(net, gateway)| {
            ipnet::Ipv4Net::trunc(&wanted) == net && gateway == Some(ipnet::Ipv4Net::addr(&wanted))
        })
    };
    let ipv6 = network.subnets_v6().map(|(net, _)| net).next();
    link == Some(config.bridge_name.as_str())
        && config.bridge_address.is_none_or(address)
        && ipv6 == config.bridge_ipv6.map(|net| net.trunc())
}

fn plan_default_bridge(
    config: &NetConfig,
    pools: &[AddressPool],
    host: &RouteSocket,
    known: Option<Network>,
    networks: &BTreeMap<String, Network>,
) -> Result<Network> {
    let mut spec = NetworkSpec::bridge("bridge");
    for (key, value) in [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.enable_icc", "true"),
        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
        ("com.docker.network.bridge.name", config.bridge_name.as_str()),
        ("com.docker.network.driver.mtu", &config.mtu.to_string()),
    ] {
        spec.options.insert(key.into(), value.into());
    }
    if let Some(address) = config.bridge_address {
        let (subnet, gateway) = (Some(address.trunc().into()), Some(address.addr().into()));
        spec.ipam.push(IpamConfig { subnet, gateway, ..IpamConfig::default() });
    }
    if let Some(net) = config.bridge_ipv6 {
        spec.enable_ipv6 = true;
        spec.ipam.push(IpamConfig { subnet: Some(net.trunc().into()), ..IpamConfig::default() });
    }
    let others = networks.values().filter(|network| network.name != "bridge");
    let subnets: Vec<_> = others.flat_map(|network| &network.ipam).filter_map(|config| config.subnet).collect();
    // A route through the bridge itself, left from an earlier start, is no obstacle.
    let own = host.link(&config.bridge_name)?.map_or(0, |link| link.index);
    let routes: Vec<_> = host.routes()?.into_iter().filter(|route| own == 0 || route.link != own).collect();
    let around = plan::Surroundings { pools, subnets: &subnets, routes: &routes };
    let (id, created) = known.map_or_else(|| (plan::random_id(), None), |known| (known.id, Some(known.created_ns)));
    let planned = plan::plan_bridge(id, spec, &around);
    let mut network = planned.map_err(|error| no_first_subnet(error, &around, host))?;
    network.created_ns = created.unwrap_or(network.created_ns);
    // Addresses on it are never fixed, whoever chose the subnet; and "any address" is both families'.
    network.user_subnets = false;
    if let Some(options) = &mut network.bridge {
        options.host_binding = None;
    }
    Ok(network)
}

/// Says what is in the way, where the pools have no subnet for the default bridge.
fn no_first_subnet(error: Error, around: &plan::Surroundings<'_>, host: &RouteSocket) -> Error {
    if !matches!(error, Error::PoolsExhausted { .. }) {
        return error;
    }
    let links = host.links().unwrap_or_default();
    let by = |index: u32| links.iter().find(|link| link.index == index).map(|link| format!(" by {}", link.name));
    let in_pools = |net: &IpNet| around.pools.iter().any(|pool| overlap(&pool.base, net));
    let routes = around.routes.iter().filter(|route| in_pools(&route.destination));
    let routes = routes.map(|route| format!("{} is routed{}", route.destination, by(route.link).unwrap_or_default()));
    let networks = around.subnets.iter().filter(|net| in_pools(net)).map(|net| format!("{net} is another network's"));
    let taken: Vec<String> = routes.chain(networks).collect();
    if taken.is_empty() { error } else { Error::NoFirstSubnet { taken } }
}

/// Has the network's record say what an administrator's bridge is about to be given, before it is.
pub(super) fn note_given(
    host: &RouteSocket,
    instance: &Instance,
    records: &Collection<Network>,
    network: &mut Network,
) -> Result<()> {
    if !bridge::note_given(host, instance, network)? {
        return Ok(());
    }
    records.put(&network.id, network).map(drop).map_err(|e| Error::store("store a network", e))
}

/// Makes the bridges, and enters who is on them. A network whose bridge cannot be made is known nevertheless: the next
/// sandbox that wants it tries again, and tells why not.
fn enter_all(
    config: &NetConfig,
    host: &RouteSocket,
    records: &Collection<Network>,
    networks: BTreeMap<String, Network>,
    running: &[Sandbox],
) -> State {
    let mut state = State::default();
    for (id, mut network) in networks {
        let noted = note_given(host, &config.instance, records, &mut network);
        let ensured = noted.and_then(|()| ensure(host, &config.instance, &network, config.mtu));
        let index = ensured.unwrap_or_else(|error| {
            tracing::error!(%error, network = network.name, "a network could not be put into the kernel");
            0
        });
        state.networks.insert(id, Entry::new(network, index));
    }
    for sandbox in running {
        for endpoint in &sandbox.endpoints {
            let Some(entry) = state.networks.get_mut(&endpoint.network) else {
                tracing::warn!(
                    sandbox = sandbox.id,
                    network = endpoint.network,
                    "a running container is on an unknown network"
                );
                continue;
            };
            for ip in endpoint.addresses() {
                let leases = entry.leases.iter_mut().find(|leases| leases.subnet().contains(&ip));
                if leases.is_none_or(|leases| leases.claim(ip).is_err()) {
                    tracing::warn!(sandbox = sandbox.id, %ip, "a running container's address is another's or of no subnet");
                }
            }
            let named =
                NamedEndpoint { sandbox: sandbox.id.clone(), name: sandbox.name.clone(), endpoint: endpoint.clone() };
            entry.endpoints.insert(endpoint.id.clone(), named);
        }
    }
    state
}

/// Silences the instance's links that belong to no network and no running sandbox, as their addresses are free from here
/// on, and deletes them on a thread of its own: each takes the kernel tens of milliseconds.
fn sweep(config: &NetConfig, host: &RouteSocket, links: &[Link], state: &State, running: &[Sandbox]) -> Result<()> {
    let bridges: BTreeSet<&str> =
        state.networks.values().filter_map(|entry| Some(entry.network.bridge.as_ref()?.link.as_str())).collect();
    let parents: BTreeSet<&str> =
        state.networks.values().filter_map(|entry| Some(entry.network.lan.as_ref()?.parent.as_str())).collect();
    let ends: BTreeSet<&str> =
        running.iter().flat_map(|sandbox| &sandbox.endpoints).map(|endpoint| endpoint.host_link.as_str()).collect();
    let stale: Vec<Link> = links
        .iter()
        .filter(|link| {
            let bridge = bridge::is_ours(link, &config.instance) && !bridges.contains(link.name.as_str());
            let parent = lan::is_ours(link, &config.instance) && !parents.contains(link.name.as_str());
            bridge || parent || bridge::is_our_port(link, &config.instance) && !ends.contains(link.name.as_str())
        })
        .cloned()
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    for link in stale.iter().filter(|link| bridge::is_our_port(link, &config.instance)) {
        leaving::silence(host, &link.name)?;
    }
    let host = RouteSocket::open()?;
    let delete = move || {
        for link in stale {
            if let Err(error) = host.apply(&[Change::delete_link(link.index)])
                && !error.is_errno(rustix::io::Errno::NODEV)
            {
                tracing::warn!(%error, link = link.name, "a link that nobody uses is left");
            }
        }
    };
    let thread = std::thread::Builder::new().name("net-sweep".into()).spawn(delete);
    thread.map(drop).map_err(|e| Error::io("start the thread that deletes left links", e))
}

//! The instance's nftables table: who may talk to whom, what leaves under the host's address, and published ports.
//!
//! One table of family `inet`, named after the instance, whose rules never change: networks and ports are elements of
//! its sets and maps. Publishing a port or making a network is one small transaction, however many there are.
//!
//! | set or map | holds |
//! |---|---|
//! | `bridges` | the bridges of the instance |
//! | `internal` | those of internal networks |
//! | `same` | pairs of a bridge and itself, for networks whose members may talk to each other |
//! | `subnets4`, `subnets6` | the networks' subnets |
//! | `masquerade4`, `masquerade6` | those that leave under the host's address |
//! | `ports4`, `ports6` | ports published on one address of the host |
//! | `any4`, `any6` | ports published on all of them |
//! | `proxied4`, `proxied6`, `anyproxied4`, `anyproxied6` | the same of ports that the forwarder carries |

mod foreign;
mod zones;

pub(crate) use foreign::{ForeignChains, remove_foreign};

use crate::PublishedPort;
use crate::config::Instance;
use crate::error::Result;
use crate::network::bridge::GROUP;
use crate::nft::{ChainKind, Element, Hook, Nft, Priority, Protocol, Rule, SetKind, Table, Transaction, Verdict};
use crate::sysctl;
use ipnet::IpNet;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

/// What the rules need to know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkRules {
    pub(crate) bridge: String,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) internal: bool,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
}

/// Of which network protocols only containers' packets are forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confined {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

/// The table, and what shall be in it.
pub(crate) struct Firewall {
    table: Table,
    state: Mutex<State>,
}

struct State {
    nft: Nft,
    confined: Confined,
    networks: Vec<NetworkRules>,
    ports: BTreeSet<PublishedPort>,
    /// The bridges that 127.0.0.0/8 is routed through, and for how many ports.
    loopback: BTreeMap<String, usize>,
}

impl Firewall {
    /// Puts the table into the kernel with these networks and ports, in place of one that is there, in one transaction:
    /// no packet sees anything in between.
    pub(crate) fn open(
        instance: &Instance,
        confined: Confined,
        networks: &[NetworkRules],
        ports: &[PublishedPort],
    ) -> Result<Firewall> {
        let state = State {
            nft: Nft::open()?,
            confined,
            networks: networks.to_vec(),
            ports: ports.iter().cloned().collect(),
            loopback: BTreeMap::new(),
        };
        let firewall = Firewall { table: table_of(instance), state: Mutex::new(state) };
        firewall.state.lock().put(&firewall.table)?;
        Ok(firewall)
    }

    /// Puts the table back where somebody took it out, as `nft flush ruleset` does; gives whether it was gone.
    pub(crate) fn restore(&self) -> Result<bool> {
        let state = self.state.lock();
        let gone = !state.nft.tables(self.table.family)?.contains(&self.table.name);
        if gone {
            state.put(&self.table)?;
        }
        Ok(gone)
    }

    /// From here on, of these protocols only containers' packets are forwarded.
    pub(crate) fn confine(&self, confined: Confined) -> Result<()> {
        let mut state = self.state.lock();
        if state.confined != confined {
            let before = std::mem::replace(&mut state.confined, confined);
            state.put(&self.table).inspect_err(|_| state.confined = before)?;
        }
        Ok(())
    }

    /// Has 127.0.0.0/8 routed through the bridges that ports published there lead to, and not through others that
    /// `is_ours` says so of. The bridges are there by now.
    pub(crate) fn settle_loopback(&self, is_ours: impl Fn(&str) -> bool) -> Result<()> {
        let mut state = self.state.lock();
        let used = state.loopback_bridges(&state.ports);
        for network in
            state.networks.iter().filter(|network| !used.contains(&network.bridge) && is_ours(&network.bridge))
        {
            sysctl::ensure(&route_localnet(&network.bridge), "0")?;
        }
        state.open_loopback(used)
    }

    /// Lets a network in.
    pub(crate) fn add_network(&self, network: &NetworkRules) -> Result<()> {
        let mut state = self.state.lock();
        let mut transaction = Transaction::new(format!("add bridge {}", network.bridge));
        network.each(|set, elements| transaction.add_elements(&self.table, set, elements));
        state.nft.commit(transaction)?;
        state.networks.push(network.clone());
        Ok(())
    }

    /// Takes a network out.
    pub(crate) fn remove_network(&self, network: &NetworkRules) -> Result<()> {
        let mut state = self.state.lock();
        state.networks.retain(|other| other.bridge != network.bridge);
        state.loopback.remove(&network.bridge);
        let mut transaction = Transaction::new(format!("remove bridge {}", network.bridge));
        network.each(|set, elements| transaction.delete_elements(&self.table, set, elements));
        state.nft.commit(transaction)
    }

    /// Publishes ports in place of others, as one change; both lists may be empty.
    pub(crate) fn replace_ports(&self, old: &[PublishedPort], new: &[PublishedPort]) -> Result<()> {
        if old.is_empty() && new.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        // What is not there cannot be taken out.
        let old: Vec<PublishedPort> = old.iter().filter(|port| state.ports.contains(port)).cloned().collect();
        let mut transaction = Transaction::new("publish ports");
        each_port(&old, |map, elements| transaction.delete_elements(&self.table, map, elements));
        each_port(new, |map, elements| transaction.add_elements(&self.table, map, elements));
        let (gone, come) = (state.loopback_bridges(&old), state.loopback_bridges(new));
        state.open_loopback(come.clone())?;
        if !transaction.is_empty()
            && let Err(error) = state.nft.commit(transaction)
        {
            state.close_loopback(come);
            return Err(error);
        }
        for port in &old {
            state.ports.remove(port);
        }
        state.ports.extend(new.iter().cloned());
        state.close_loopback(gone);
        Ok(())
    }
}

impl State {
    /// For each port that is reached at 127.0.0.0/8 over nftables, the bridge that it leads to.
    fn loopback_bridges<'a>(&self, ports: impl IntoIterator<Item = &'a PublishedPort>) -> Vec<String> {
        let at_loopback = |port: &&PublishedPort| {
            let ip = port.host.ip();
            ip.is_ipv4() && (ip.is_loopback() || ip.is_unspecified()) && !port.is_proxied()
        };
        let bridge_of = |port: &PublishedPort| {
            let holds = |network: &&NetworkRules| network.subnets.iter().any(|net| net.contains(&port.target));
            self.networks.iter().find(holds).map(|network| network.bridge.clone())
        };
        ports.into_iter().filter(at_loopback).filter_map(bridge_of).collect()
    }

    /// Has 127.0.0.0/8 routed through these bridges, for one more port each.
    fn open_loopback(&mut self, bridges: Vec<String>) -> Result<()> {
        for bridge in bridges {
            let ports = self.loopback.entry(bridge.clone()).or_default();
            if *ports == 0 {
                sysctl::write_if_there(&route_localnet(&bridge), "1")?;
            }
            *ports += 1;
        }
        Ok(())
    }

    /// The other way round. Were 127.0.0.0/8 always routed, and somebody flushed all rules while no daemon runs, containers
    /// would reach what listens on the host's 127.0.0.1.
    fn close_loopback(&mut self, bridges: Vec<String>) {
        for bridge in bridges {
            let Some(ports) = self.loopback.get_mut(&bridge) else { continue };
            *ports = ports.saturating_sub(1);
            if *ports == 0
                && let Err(error) = sysctl::write_if_there(&route_localnet(&bridge), "0")
            {
                tracing::warn!(%error, bridge, "127.0.0.0/8 is still routed through a bridge that needs it no more");
            }
        }
    }

    /// Exchanges the whole table.
    fn put(&self, table: &Table) -> Result<()> {
        let mut transaction = Transaction::new(format!("make table {}", table.name));
        transaction.add_table(table);
        transaction.delete_table(table);
        transaction.add_table(table);
        add_sets(&mut transaction, table);
        add_chains(&mut transaction, table, self.confined);
        for network in &self.networks {
            network.each(|set, elements| transaction.add_elements(table, set, elements));
        }
        let ports: Vec<PublishedPort> = self.ports.iter().cloned().collect();
        each_port(&ports, |map, elements| transaction.add_elements(table, map, elements));
        self.nft.commit(transaction)
    }
}

/// Takes an instance's table out; says whether it was there.
pub(crate) fn remove_table(instance: &Instance) -> Result<bool> {
    let (nft, table) = (Nft::open()?, table_of(instance));
    if !nft.tables(table.family)?.contains(&table.name) {
        return Ok(false);
    }
    let mut transaction = Transaction::new(format!("delete table {}", table.name));
    transaction.delete_table(&table);
    nft.commit(transaction).map(|()| true)
}

fn route_localnet(bridge: &str) -> String {
    format!("net/ipv4/conf/{bridge}/route_localnet")
}

fn table_of(instance: &Instance) -> Table {
    Table { family: Protocol::Inet, name: instance.table() }
}

fn add_sets(transaction: &mut Transaction, table: &Table) {
    let sets = [
        ("bridges", SetKind::Links),
        ("internal", SetKind::Links),
        ("same", SetKind::LinkPairs),
        ("subnets4", SetKind::Ranges(Protocol::Ipv4)),
        ("subnets6", SetKind::Ranges(Protocol::Ipv6)),
        ("masquerade4", SetKind::Ranges(Protocol::Ipv4)),
        ("masquerade6", SetKind::Ranges(Protocol::Ipv6)),
        ("ports4", SetKind::PortsByAddress(Protocol::Ipv4)),
        ("ports6", SetKind::PortsByAddress(Protocol::Ipv6)),
        ("any4", SetKind::Ports(Protocol::Ipv4)),
        ("any6", SetKind::Ports(Protocol::Ipv6)),
        ("proxied4", SetKind::ListenersByAddress(Protocol::Ipv4)),
        ("proxied6", SetKind::ListenersByAddress(Protocol::Ipv6)),
        ("anyproxied4", SetKind::Listeners),
        ("anyproxied6", SetKind::Listeners),
    ];
    for (name, kind) in sets {
        transaction.add_set(table, name, kind);
    }
}

fn add_chains(transaction: &mut Transaction, table: &Table, confined: Confined) {
    use Verdict::{Accept, Drop, Jump, Return};
    let rule = Rule::new;

    // The bridges accept 127.0.0.0/8 (route_localnet), so that the host reaches published ports at 127.0.0.1. Nothing
    // in a sandbox may pretend to be there, or reach what listens there only.
    transaction.add_base_chain(table, "spoofed", ChainKind::Filter, Hook::Prerouting, Priority::Raw);
    transaction.add_rule(table, "spoofed", &rule().arrives_by_any("bridges").source_loopback().verdict(Drop));
    transaction.add_rule(table, "spoofed", &rule().arrives_by_any("bridges").destination_loopback().verdict(Drop));

    transaction.add_chain(table, "published");
    for (protocol, ports, any) in [(Protocol::Ipv4, "ports4", "any4"), (Protocol::Ipv6, "ports6", "any6")] {
        transaction.add_rule(table, "published", &rule().redirect_by(protocol, true, ports));
        transaction.add_rule(table, "published", &rule().redirect_by(protocol, false, any));
    }

    // From others. A packet to 127.0.0.0/8 that came over a wire is forged, and must not reach what is published there.
    transaction.add_base_chain(table, "prerouting", ChainKind::Nat, Hook::Prerouting, Priority::DestinationNat);
    transaction.add_rule(table, "prerouting", &rule().destination_loopback().verdict(Return));
    transaction.add_rule(table, "prerouting", &rule().destination_local().verdict(Jump("published")));

    // From the host itself. The kernel does not route ::1 out of the host: there the forwarder listens.
    transaction.add_base_chain(table, "output", ChainKind::Nat, Hook::Output, Priority::DestinationNat);
    let loopback = std::net::Ipv6Addr::LOCALHOST.into();
    transaction.add_rule(table, "output", &rule().destination(loopback).verdict(Return));
    transaction.add_rule(table, "output", &rule().destination_local().verdict(Jump("published")));

    // An accept here ends this chain, not others' chains at the hook: see `foreign`. The order matters: members of one
    // network, then the wall around internal ones, then what may come in.
    transaction.add_base_chain(table, "forward", ChainKind::Filter, Hook::Forward, Priority::Filter);
    transaction.add_rule(table, "forward", &rule().between_links("same").verdict(Accept));
    transaction.add_rule(table, "forward", &rule().arrives_by_any("internal").verdict(Drop));
    transaction.add_rule(table, "forward", &rule().leaves_by_any("internal").verdict(Drop));
    transaction.add_rule(table, "forward", &rule().leaves_by_any("bridges").established().verdict(Accept));
    transaction.add_rule(table, "forward", &rule().leaves_by_any("bridges").redirected().verdict(Accept));
    transaction.add_rule(table, "forward", &rule().leaves_by_any("bridges").verdict(Drop));
    // What is left goes out from a container, or is none of ours. The group is for other instances' bridges, which may
    // have to rely on the forwarding that this one switched on.
    transaction.add_rule(table, "forward", &rule().arrives_by_any("bridges").verdict(Accept));
    transaction.add_rule(table, "forward", &rule().arrives_by_group(GROUP).verdict(Accept));
    transaction.add_rule(table, "forward", &rule().leaves_by_group(GROUP).verdict(Accept));
    for (protocol, confined) in [(Protocol::Ipv4, confined.ipv4), (Protocol::Ipv6, confined.ipv6)] {
        if confined {
            transaction.add_rule(table, "forward", &rule().protocol(protocol).verdict(Drop));
        }
    }

    // Whom the forwarder would carry to another network's container, and could not be stopped on the way.
    transaction.add_base_chain(table, "input", ChainKind::Filter, Hook::Input, Priority::Filter);
    for (protocol, ports, any) in
        [(Protocol::Ipv4, "proxied4", "anyproxied4"), (Protocol::Ipv6, "proxied6", "anyproxied6")]
    {
        let from = || rule().arrives_by_any("internal");
        transaction.add_rule(table, "input", &from().destined_for(protocol, true, ports).verdict(Drop));
        transaction.add_rule(table, "input", &from().destined_for(protocol, false, any).verdict(Drop));
    }

    // To a published port of the own network the answer would go straight to the asker, who does not know the sender:
    // so the host stands between. What goes to other links leaves under the host's address.
    transaction.add_base_chain(table, "postrouting", ChainKind::Nat, Hook::Postrouting, Priority::SourceNat);
    transaction.add_rule(table, "postrouting", &rule().leaves_by_any("bridges").source_loopback().masquerade());
    for (protocol, subnets, masquerade) in
        [(Protocol::Ipv4, "subnets4", "masquerade4"), (Protocol::Ipv6, "subnets6", "masquerade6")]
    {
        let hairpin = rule().leaves_by_any("bridges").redirected().source_in(protocol, subnets).masquerade();
        transaction.add_rule(table, "postrouting", &hairpin);
        transaction.add_rule(table, "postrouting", &rule().leaves_by_any("bridges").protocol(protocol).verdict(Return));
        transaction.add_rule(table, "postrouting", &rule().source_in(protocol, masquerade).masquerade());
    }
}

impl NetworkRules {
    /// The sets that the network is in, with its elements.
    fn each(&self, mut visit: impl FnMut(&str, &[Element])) {
        visit("bridges", &[Element::link(&self.bridge)]);
        if self.internal {
            visit("internal", &[Element::link(&self.bridge)]);
        }
        if self.icc {
            visit("same", &[Element::same_link(&self.bridge)]);
        }
        for subnet in &self.subnets {
            let family = if subnet.addr().is_ipv4() { 4 } else { 6 };
            visit(&format!("subnets{family}"), &Element::range(*subnet));
            if self.masquerade && !self.internal {
                visit(&format!("masquerade{family}"), &Element::range(*subnet));
            }
        }
    }
}

/// The maps and sets that ports are in, with their elements.
fn each_port(ports: &[PublishedPort], mut visit: impl FnMut(&str, &[Element])) {
    let mut of: BTreeMap<String, Vec<Element>> = BTreeMap::new();
    for port in ports {
        let family = if port.host.is_ipv4() { 4 } else { 6 };
        let by_address = Some(port.host.ip()).filter(|ip| !ip.is_unspecified());
        let (transport, number) = (port.protocol.number(), port.host.port());
        let (name, element) = match (port.is_proxied(), by_address.is_some()) {
            (false, true) => ("ports", Element::port(by_address, transport, number, port.target, port.container_port)),
            (false, false) => ("any", Element::port(None, transport, number, port.target, port.container_port)),
            (true, true) => ("proxied", Element::listener(by_address, transport, number)),
            (true, false) => ("anyproxied", Element::listener(None, transport, number)),
        };
        of.entry(format!("{name}{family}")).or_default().push(element);
    }
    of.iter().for_each(|(name, elements)| visit(name, elements));
}

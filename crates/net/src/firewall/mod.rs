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

mod foreign;

pub(crate) use foreign::{ForeignChains, remove_foreign};

use crate::PublishedPort;
use crate::config::Instance;
use crate::error::Result;
use crate::nft::{ChainKind, Element, Hook, Nft, Priority, Protocol, Rule, SetKind, Table, Transaction, Verdict};
use ipnet::IpNet;
use parking_lot::Mutex;
use std::collections::BTreeSet;

/// What the rules need to know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkRules {
    pub(crate) bridge: String,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) internal: bool,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
}

/// The table, and what shall be in it.
pub(crate) struct Firewall {
    table: Table,
    state: Mutex<State>,
}

struct State {
    nft: Nft,
    networks: Vec<NetworkRules>,
    ports: BTreeSet<PublishedPort>,
}

impl Firewall {
    /// Puts the table into the kernel with these networks and ports, in place of one that is there, in one transaction:
    /// no packet sees anything in between.
    pub(crate) fn open(instance: &Instance, networks: &[NetworkRules], ports: &[PublishedPort]) -> Result<Firewall> {
        let state = State { nft: Nft::open()?, networks: networks.to_vec(), ports: ports.iter().cloned().collect() };
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
        if !transaction.is_empty() {
            state.nft.commit(transaction)?;
        }
        for port in &old {
            state.ports.remove(port);
        }
        state.ports.extend(new.iter().cloned());
        Ok(())
    }
}

impl State {
    /// Exchanges the whole table.
    fn put(&self, table: &Table) -> Result<()> {
        let mut transaction = Transaction::new(format!("make table {}", table.name));
        transaction.add_table(table);
        transaction.delete_table(table);
        transaction.add_table(table);
        add_sets(&mut transaction, table);
        add_chains(&mut transaction, table);
        for network in &self.networks {
            network.each(|set, elements| transaction.add_elements(table, set, elements));
        }
        let ports: Vec<PublishedPort> = self.ports.iter().cloned().collect();
        each_port(&ports, |map, elements| transaction.add_elements(table, map, elements));
        self.nft.commit(transaction)
    }
}

/// Takes an instance's table out, if it is there.
pub(crate) fn remove_table(instance: &Instance) -> Result<()> {
    let (nft, table) = (Nft::open()?, table_of(instance));
    if !nft.tables(table.family)?.contains(&table.name) {
        return Ok(());
    }
    let mut transaction = Transaction::new(format!("delete table {}", table.name));
    transaction.delete_table(&table);
    nft.commit(transaction)
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
    ];
    for (name, kind) in sets {
        transaction.add_set(table, name, kind);
    }
}

fn add_chains(transaction: &mut Transaction, table: &Table) {
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

/// The maps that ports are in, with their elements. What the forwarder proxies is in none.
fn each_port(ports: &[PublishedPort], mut visit: impl FnMut(&str, &[Element])) {
    for (map, v4, by_address) in
        [("any4", true, false), ("ports4", true, true), ("any6", false, false), ("ports6", false, true)]
    {
        let elements: Vec<Element> = ports
            .iter()
            .filter(|port| !port.is_proxied())
            .filter(|port| port.host.is_ipv4() == v4 && port.host.ip().is_unspecified() != by_address)
            .map(|port| {
                let from = by_address.then(|| port.host.ip());
                Element::port(from, port.protocol.number(), port.host.port(), port.target, port.container_port)
            })
            .collect();
        if !elements.is_empty() {
            visit(map, &elements);
        }
    }
}

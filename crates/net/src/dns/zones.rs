//! Names as Docker's networks have them: a zone for each network, and what a sandbox sees of them.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::RwLock;

use super::names::NameSource;

/// A name that only one sandbox knows (`--link database:db`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The name as the sandbox says it.
    pub alias: String,
    /// The name on the network that it means.
    pub name: String,
}

/// The names of all networks, kept up to date by the engine and read by the server.
///
/// A name `a.b.c` is looked up as Docker does: as a whole on each of the sandbox's networks in their order; then `a.b` on a
/// network `c`, and `a` on a network `b.c`. The first network that knows it answers with all addresses that it has there.
/// Links come before other names. Case does not matter.
#[derive(Debug, Default)]
pub struct Zones {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    zones: HashMap<String, Zone>,
    views: HashMap<String, Vec<Seen>>,
}

/// The names of one network.
#[derive(Debug, Default)]
struct Zone {
    name: String,
    /// By name, who has it, each with its addresses.
    names: HashMap<String, Vec<Record>>,
    /// The first name of who has an address.
    reverse: HashMap<IpAddr, String>,
    /// By sandbox, what was published for it.
    published: HashMap<String, Published>,
}

#[derive(Debug)]
struct Record {
    sandbox: String,
    addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Published {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// A network as a sandbox sees it.
#[derive(Debug)]
struct Seen {
    network: String,
    links: HashMap<String, String>,
}

impl Zones {
    /// No names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a sandbox its names on a network: the first is the one that reverse look-ups tell, others may be shared with
    /// other sandboxes. What was published for it there before is replaced.
    pub fn publish<N: AsRef<str>>(
        &self,
        network_id: &str,
        network_name: &str,
        sandbox: &str,
        names: impl IntoIterator<Item = N>,
        addresses: &[IpAddr],
    ) {
        let mut canonical = Vec::new();
        for name in names {
            let name = canonical_name(name.as_ref());
            if !name.is_empty() && !canonical.contains(&name) {
                canonical.push(name);
            }
        }
        let mut state = self.state.write();
        let zone = state.zones.entry(network_id.to_owned()).or_default();
        zone.name = network_name.to_ascii_lowercase();
        zone.remove(sandbox);
        for name in &canonical {
            let record = Record { sandbox: sandbox.to_owned(), addresses: addresses.to_vec() };
            zone.names.entry(name.clone()).or_default().push(record);
        }
        if let Some(first) = canonical.first() {
            for &address in addresses {
                zone.reverse.insert(address, first.clone());
            }
        }
        let published = Published { names: canonical, addresses: addresses.to_vec() };
        zone.published.insert(sandbox.to_owned(), published);
    }

    /// Takes a sandbox's names on a network away, and the network when it was the last.
    pub fn withdraw(&self, network_id: &str, sandbox: &str) {
        let mut state = self.state.write();
        if let Some(zone) = state.zones.get_mut(network_id) {
            zone.remove(sandbox);
            if zone.published.is_empty() {
                state.zones.remove(network_id);
            }
        }
    }

    /// Lets a sandbox see the names of a network, after those that it sees already; or changes its links there.
    pub fn join(&self, sandbox: &str, network_id: &str, links: &[Link]) {
        let links = links
            .iter()
            .map(|link| (canonical_name(&link.alias), canonical_name(&link.name)))
            .collect::<HashMap<_, _>>();
        let mut state = self.state.write();
        let view = state.views.entry(sandbox.to_owned()).or_default();
        match view.iter_mut().find(|seen| seen.network == network_id) {
            Some(seen) => seen.links = links,
            None => view.push(Seen { network: network_id.to_owned(), links }),
        }
    }

    /// Sets the order in which a sandbox's networks are asked: that of its endpoints, the default gateway's first. Networks
    /// that aren't named keep their order and come last.
    pub fn order(&self, sandbox: &str, network_ids: &[&str]) {
        if let Some(view) = self.state.write().views.get_mut(sandbox) {
            view.sort_by_key(|seen| network_ids.iter().position(|id| *id == seen.network).unwrap_or(usize::MAX));
        }
    }

    /// Takes the sight of a network from a sandbox.
    pub fn leave(&self, sandbox: &str, network_id: &str) {
        let mut state = self.state.write();
        if let Some(view) = state.views.get_mut(sandbox) {
            view.retain(|seen| seen.network != network_id);
            if view.is_empty() {
                state.views.remove(sandbox);
            }
        }
    }

    /// Forgets a sandbox: its names, and what it sees.
    pub fn forget(&self, sandbox: &str) {
        let mut state = self.state.write();
        state.views.remove(sandbox);
        for zone in state.zones.values_mut() {
            zone.remove(sandbox);
        }
        state.zones.retain(|_, zone| !zone.published.is_empty());
    }
}

impl Zone {
    fn remove(&mut self, sandbox: &str) {
        let Some(published) = self.published.remove(sandbox) else { return };
        for name in &published.names {
            if let Some(records) = self.names.get_mut(name) {
                records.retain(|record| record.sandbox != sandbox);
                if records.is_empty() {
                    self.names.remove(name);
                }
            }
        }
        for address in &published.addresses {
            self.reverse.remove(address);
        }
    }

    fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        let records = self.names.get(name)?;
        Some(records.iter().flat_map(|record| record.addresses.iter().copied()).collect())
    }
}

impl NameSource for Zones {
    fn lookup(&self, sandbox: &str, name: &str) -> Option<Vec<IpAddr>> {
        let state = self.state.read();
        let view = state.views.get(sandbox)?;
        // From the right: each dot may be where a network's name begins.
        let splits = name.rmatch_indices('.').map(|(dot, _)| (&name[..dot], Some(&name[dot + 1..])));
        for (name, network) in std::iter::once((name, None)).chain(splits) {
            let zones = || {
                view.iter()
                    .filter_map(|seen| Some((seen, state.zones.get(&seen.network)?)))
                    .filter(move |(_, zone)| network.is_none_or(|network| network == zone.name))
            };
            let linked = zones().find_map(|(seen, zone)| zone.lookup(seen.links.get(name)?));
            let found = linked.or_else(|| {
                zones().filter(|(seen, _)| !seen.links.contains_key(name)).find_map(|(_, zone)| zone.lookup(name))
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn reverse(&self, sandbox: &str, address: IpAddr) -> Option<String> {
        let state = self.state.read();
        let zones = state.views.get(sandbox)?.iter().filter_map(|seen| state.zones.get(&seen.network));
        zones.into_iter().find_map(|zone| Some(format!("{}.{}", zone.reverse.get(&address)?, zone.name)))
    }
}

fn canonical_name(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn two_networks() -> Zones {
        let zones = Zones::new();
        zones.publish("n1", "front", "web1", ["web", "9f86d081884c", "app"], &[ip("10.1.0.2"), ip("fd00::2")]);
        zones.publish("n1", "front", "web2", ["web-2", "app"], &[ip("10.1.0.3")]);
        zones.publish("n2", "back.end", "db1", ["db", "postgres"], &[ip("10.2.0.9")]);
        zones.publish("n2", "back.end", "web1", ["web"], &[ip("10.2.0.2")]);
        zones.join("web1", "n1", &[]);
        zones.join("web1", "n2", &[Link { alias: "Data".into(), name: "db".into() }]);
        zones.join("web2", "n1", &[]);
        zones
    }

    #[test]
    fn names_short_identifiers_and_aliases() {
        let zones = two_networks();
        assert_eq!(zones.lookup("web2", "web"), Some(vec![ip("10.1.0.2"), ip("fd00::2")]));
        assert_eq!(zones.lookup("web2", "9f86d081884c"), zones.lookup("web2", "web"));
        assert_eq!(zones.lookup("web2", "app"), Some(vec![ip("10.1.0.2"), ip("fd00::2"), ip("10.1.0.3")]));
        assert_eq!(zones.lookup("web2", "db"), None, "not on its network");
        assert_eq!(zones.lookup("nobody", "web"), None);
    }

    #[test]
    fn with_the_networks_name_behind() {
        let zones = two_networks();
        assert_eq!(zones.lookup("web1", "web.front"), Some(vec![ip("10.1.0.2"), ip("fd00::2")]));
        assert_eq!(zones.lookup("web1", "web.back.end"), Some(vec![ip("10.2.0.2")]));
        assert_eq!(zones.lookup("web1", "db.back.end"), Some(vec![ip("10.2.0.9")]));
        assert_eq!(zones.lookup("web1", "db.front"), None);
        assert_eq!(zones.lookup("web2", "db.back.end"), None);
        // A name with dots of its own.
        zones.publish("n1", "front", "x", ["api.v1"], &[ip("10.1.0.7")]);
        assert_eq!(zones.lookup("web1", "api.v1"), Some(vec![ip("10.1.0.7")]));
        assert_eq!(zones.lookup("web1", "api.v1.front"), Some(vec![ip("10.1.0.7")]));
    }

    #[test]
    fn the_first_network_answers() {
        let zones = two_networks();
        assert_eq!(zones.lookup("web1", "web"), Some(vec![ip("10.1.0.2"), ip("fd00::2")]));
        zones.order("web1", &["n2"]);
        assert_eq!(zones.lookup("web1", "web"), Some(vec![ip("10.2.0.2")]));
    }

    #[test]
    fn links_are_one_sandboxes_own() {
        let zones = two_networks();
        assert_eq!(zones.lookup("web1", "data"), Some(vec![ip("10.2.0.9")]));
        assert_eq!(zones.lookup("web1", "data.back.end"), Some(vec![ip("10.2.0.9")]));
        assert_eq!(zones.lookup("web2", "data"), None);
        // A link hides a name of the same network, not of another.
        zones.join("web1", "n2", &[Link { alias: "web".into(), name: "db".into() }]);
        assert_eq!(zones.lookup("web1", "web"), Some(vec![ip("10.2.0.9")]));
    }

    #[test]
    fn addresses_back_to_names() {
        let zones = two_networks();
        assert_eq!(zones.reverse("web1", ip("10.1.0.3")).as_deref(), Some("web-2.front"));
        assert_eq!(zones.reverse("web1", ip("fd00::2")).as_deref(), Some("web.front"));
        assert_eq!(zones.reverse("web2", ip("10.2.0.9")), None);
    }

    #[test]
    fn what_is_taken_away_is_gone() {
        let zones = two_networks();
        zones.withdraw("n1", "web1");
        assert_eq!(zones.lookup("web2", "web"), None);
        assert_eq!(zones.lookup("web2", "app"), Some(vec![ip("10.1.0.3")]));
        assert_eq!(zones.reverse("web2", ip("10.1.0.2")), None);
        zones.leave("web1", "n2");
        assert_eq!(zones.lookup("web1", "db"), None);
        for sandbox in ["web1", "web2", "db1"] {
            zones.forget(sandbox);
        }
        let state = zones.state.read();
        assert!(state.zones.is_empty() && state.views.is_empty());
    }

    #[test]
    fn publishing_again_replaces() {
        let zones = two_networks();
        zones.publish("n1", "front", "web2", ["renamed"], &[ip("10.1.0.4")]);
        assert_eq!(zones.lookup("web1", "web-2"), None);
        assert_eq!(zones.lookup("web1", "renamed"), Some(vec![ip("10.1.0.4")]));
        assert_eq!(zones.reverse("web1", ip("10.1.0.3")), None);
    }
}

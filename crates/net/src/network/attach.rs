//! Sandboxes on networks: setting up, connecting, disconnecting, tearing down.

use super::leaving::silence;
use super::networks::{Entry, NamedEndpoint, Networks, State};
use super::open::note_given;
use super::plan::random_id;
use super::spec::{Driver, Network};
use super::tap::{delete_other_taps, delete_taps, make_taps};
use super::{bridge, lan};
use crate::MacAddress;
use crate::address::Unavailable;
use crate::config::Instance;
use crate::endpoint::{Bare, Endpoint, EndpointSpec, Plan, Sandbox, SandboxSpec, VethPlan};
use crate::error::{Error, Result};
use crate::namespace::NetNs;
use crate::port::{Protocol, PublishedPort, Targets};
use crate::route::{Change, RouteSocket};
use crate::sysctl;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// An endpoint whose addresses are taken and whose link is not made yet.
pub(super) struct Place {
    pub(super) network: Arc<Network>,
    /// The index of the bridge, or of the parent.
    pub(super) bridge: u32,
    pub(super) endpoint: Endpoint,
    /// Whether the link's name may be another, where the sandbox has one of that name already.
    any_name: bool,
    pub(super) mtu: u32,
    pub(super) sysctls: Vec<(String, String)>,
    /// The link on the host that had the addresses before, as the same sandbox ran before.
    former_link: Option<String>,
}

/// Takes the places back, unless they are kept.
struct Reservation<'a> {
    networks: &'a Networks,
    places: Vec<Place>,
}

impl Reservation<'_> {
    /// The endpoints, which are the caller's from now on.
    fn keep(mut self) -> Vec<Endpoint> {
        std::mem::take(&mut self.places).into_iter().map(|place| place.endpoint).collect()
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            // Nobody has spoken from these addresses.
            self.networks.silence(&place.endpoint.host_link);
            self.networks.state.lock().give_back(&place.endpoint);
        }
    }
}

impl Networks {
    /// Makes a namespace with everything that a sandbox asks for. Takes a prepared one where it fits.
    pub fn set_up(&self, spec: SandboxSpec) -> Result<(NetNs, Sandbox)> {
        let mut reservation = self.reserve(&spec, None)?;
        let plan = reservation.places.first().and_then(|place| self.plan_of(&place.network, place.bridge));
        let fits =
            |plan: &Plan| reservation.places.first().is_some_and(|place| place.endpoint.link_name == plan.link_name);
        let prepared = plan.as_ref().filter(|plan| fits(plan)).and_then(|plan| self.workshop.take(plan));
        let bare = match (prepared, reservation.places.first_mut()) {
            (Some(prepared), Some(place)) => {
                place.endpoint.host_link = prepared.host_link;
                place.endpoint.link_index = prepared.link_index;
                prepared.bare
            }
            _ => self.workshop.bare(plan.is_none_or(|plan| plan.ipv6))?,
        };
        // Where this fails, the links go with the namespace: nobody waits for the kernel to delete them.
        let sandbox = self.furnish_all(&bare, &mut reservation, spec)?;
        reservation.keep();
        Ok((bare.namespace, sandbox))
    }

    /// As [`Networks::set_up`], in a namespace that is there already, as one that belongs to a user namespace.
    pub fn set_up_in(&self, namespace: &NetNs, spec: SandboxSpec) -> Result<Sandbox> {
        let mut reservation = self.reserve(&spec, None)?;
        let ipv6 = reservation.places.iter().any(|place| place.network.enable_ipv6);
        let socket = namespace.enter(|| {
            // Where the namespace's own sysctls cannot be written, links get a link-local IPv6 address, and work.
            let (name, value) = if ipv6 { ("accept_dad", "0") } else { ("disable_ipv6", "1") };
            let _ = sysctl::write_if_there(&format!("net/ipv6/conf/default/{name}"), value);
            RouteSocket::open()
        })??;
        if let Some(loopback) = socket.link("lo")? {
            socket.apply(&[Change::link_up(loopback.index)])?;
        }
        let bare = Bare { namespace: namespace.try_clone()?, socket };
        let sandbox = self.furnish_all(&bare, &mut reservation, spec);
        match &sandbox {
            Ok(_) => drop(reservation.keep()),
            Err(_) => {
                self.delete_links(&bare, &reservation.places);
                // Whoever asked is told of the first failure, which is not this one.
                let _ = delete_taps(&bare, reservation.places.iter().map(|place| &place.endpoint));
            }
        }
        sandbox
    }

    /// Takes back everything of a sandbox that has ended: addresses, ports, names. The links go with the namespace, when
    /// its last handle is closed, or else some time later; addresses are free once nothing remembers them. Never waits for
    /// the kernel.
    pub fn tear_down(&self, sandbox: &Sandbox) -> Result<()> {
        let unpublished = self.firewall.replace_ports(&sandbox.ports, &[]);
        self.ports.release(&sandbox.ports);
        let sctp = has_sctp(sandbox);
        let mut state = self.state.lock();
        sandbox.endpoints.iter().for_each(|endpoint| state.leave(&sandbox.id, endpoint, sctp));
        drop(state);
        self.departures.wake();
        unpublished
    }

    /// Connects a running sandbox to one more network. Default routes and published ports move where the new endpoint is
    /// preferred; `sandbox` is as it is afterwards, and unchanged on an error.
    pub fn connect(&self, namespace: &NetNs, sandbox: &mut Sandbox, spec: EndpointSpec) -> Result<Endpoint> {
        let asked = SandboxSpec {
            id: sandbox.id.clone(),
            name: sandbox.name.clone(),
            endpoints: vec![spec],
            ports: Vec::new(),
            tap_owner: sandbox.tap_owner,
        };
        let mut reservation = self.reserve(&asked, Some(sandbox))?;
        let bare = inside(namespace)?;
        let mut after = sandbox.clone();
        let result = self.furnish(&bare, &mut reservation.places, sandbox).and_then(|changes| {
            after.endpoints.extend(reservation.places.iter().map(|place| place.endpoint.clone()));
            bare.socket.apply(&changes)?;
            write_sysctls(&bare.namespace, &reservation.places)?;
            bare.socket.apply(&moved_routes(sandbox, &after))?;
            self.move_ports(sandbox, &mut after)
        });
        if let Err(error) = result {
            self.delete_links(&bare, &reservation.places);
            delete_taps(&bare, reservation.places.iter().map(|place| &place.endpoint)).ok();
            bare.socket.apply(&moved_routes(&after, sandbox)).ok();
            return Err(error);
        }
        self.enter(&after);
        let connected = reservation.keep();
        *sandbox = after;
        Ok(connected[0].clone())
    }

    /// Makes the default routes of a running sandbox what it says, where somebody was killed in the middle of [`connect`](Self::connect).
    /// The link that was being made is in no sandbox, and is deleted as such when an instance is opened.
    pub fn settle(&self, namespace: &NetNs, sandbox: &Sandbox) -> Result<()> {
        let nothing = Sandbox { endpoints: Vec::new(), ..sandbox.clone() };
        let bare = inside(namespace)?;
        if sandbox.tap_owner.is_some() {
            delete_other_taps(&bare, &sandbox.endpoints)?;
        }
        bare.socket.apply(&moved_routes(&nothing, sandbox))
    }

    /// Takes a running sandbox off a network (name or identifier). Waits for the kernel's grace periods: when it returns,
    /// the link is gone.
    pub fn disconnect(&self, namespace: &NetNs, sandbox: &mut Sandbox, network: &str) -> Result<Endpoint> {
        let network = self.get(network)?;
        let not_connected = || Error::NotConnected { id: sandbox.id.clone(), network: network.name.clone() };
        let leaving = sandbox.endpoint(&network.id).cloned().ok_or_else(not_connected)?;
        let mut after = sandbox.clone();
        after.endpoints.retain(|endpoint| endpoint.id != leaving.id);
        let bare = inside(namespace)?;
        match bare.socket.apply(&moved_routes(sandbox, &after)) {
            // The last route went before, when somebody was killed in the middle of this.
            Err(error) if error.is_errno(Errno::SRCH) => {}
            other => other?,
        }
        self.move_ports(sandbox, &mut after)?;
        {
            let host = self.host.lock();
            if !leaving.is_on_parent()
                && let Some(link) = host.link(&leaving.host_link)?
            {
                host.apply(&[Change::delete_link(link.index)])?;
            }
        }
        lan::delete_links(&bare, [&leaving])?;
        delete_taps(&bare, [&leaving])?;
        // The link is gone, and no other may be taken for it.
        let gone = Endpoint { host_link: String::new(), ..leaving.clone() };
        self.state.lock().leave(&sandbox.id, &gone, has_sctp(sandbox));
        self.departures.wake();
        *sandbox = after;
        Ok(leaving)
    }

    /// Follows a container's new name.
    pub fn rename(&self, sandbox: &mut Sandbox, name: &str) {
        sandbox.name = name.to_owned();
        self.enter(sandbox);
    }

    /// Takes addresses on every network that is asked for: all, or none.
    fn reserve(&self, spec: &SandboxSpec, present: Option<&Sandbox>) -> Result<Reservation<'_>> {
        let mut reservation = Reservation { networks: self, places: Vec::new() };
        let mut state = self.state.lock();
        self.departures.wait_for_sweep(&mut state);
        for wanted in &spec.endpoints {
            let taken = |name: &str| {
                let earlier = reservation.places.iter().map(|place| &place.endpoint);
                let mut all = earlier.chain(present.iter().flat_map(|sandbox| &sandbox.endpoints));
                all.any(|endpoint| endpoint.link_name == name)
            };
            let place = loop {
                match state.enter(spec, wanted, taken) {
                    // Somebody is just giving it back.
                    Err(Error::AddressInUse(ip))
                        if state.may_become_free(&wanted.network, Some(ip)) && self.departures.wait(&mut state) => {}
                    Err(Error::AddressesExhausted { .. })
                        if state.may_become_free(&wanted.network, None) && self.departures.wait(&mut state) => {}
                    result => break result,
                }
            };
            match place {
                Ok(place) => reservation.places.push(place),
                Err(error) => {
                    // Dropping the reservation takes the lock.
                    drop(state);
                    return Err(error);
                }
            }
        }
        drop(state);
        for place in &mut reservation.places {
            place.mtu = place.network.bridge.as_ref().and_then(|options| options.mtu).unwrap_or(self.config.mtu);
            // A parent may be another link of that name by now.
            if place.bridge == 0 || place.network.lan.is_some() {
                place.bridge = self.ensure_bridge(&place.network)?;
            }
            if let Some(link) = place.former_link.take() {
                self.silence(&link);
            }
        }
        Ok(reservation)
    }

    /// Sees that a link whose addresses go to another has no say any more.
    fn silence(&self, link: &str) {
        let silenced = silence(&self.host.lock(), link);
        match silenced {
            Ok(index) => self.departures.watch(index),
            Err(error) => tracing::error!(%error, link, "two links may have the same address"),
        }
    }

    /// Tries again to make a bridge that could not be made at the start, or looks a parent up.
    fn ensure_bridge(&self, network: &Network) -> Result<u32> {
        let _one_at_a_time = self.changing.lock();
        let mut network = network.clone();
        let index = {
            let host = self.host.lock();
            note_given(&host, &self.config.instance, &self.records, &mut network)?;
            ensure(&host, &self.config.instance, &network, self.config.mtu)?
        };
        if let Some(entry) = self.state.lock().networks.get_mut(&network.id) {
            entry.bridge = index;
            entry.network = Arc::new(network);
        }
        Ok(index)
    }

    /// Makes all links of a new sandbox, gives them addresses and routes, and publishes its ports.
    fn furnish_all(&self, bare: &Bare, reservation: &mut Reservation<'_>, spec: SandboxSpec) -> Result<Sandbox> {
        let empty = Sandbox {
            id: spec.id,
            name: spec.name,
            endpoints: Vec::new(),
            port_specs: spec.ports,
            ports: Vec::new(),
            tap_owner: spec.tap_owner,
        };
        let mut changes = self.furnish(bare, &mut reservation.places, &empty)?;
        let mut sandbox = empty.clone();
        sandbox.endpoints.extend(reservation.places.iter().map(|place| place.endpoint.clone()));
        changes.extend(moved_routes(&empty, &sandbox));
        bare.socket.apply(&changes)?;
        write_sysctls(&bare.namespace, &reservation.places)?;
        self.move_ports(&empty, &mut sandbox)?;
        self.enter(&sandbox);
        Ok(sandbox)
    }

    /// Makes the links that are not there yet, of the sandbox that `present` is so far, and gives what remains to be changed inside.
    fn furnish(&self, bare: &Bare, places: &mut [Place], present: &Sandbox) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for place in &mut *places {
            if let Some(options) = place.network.lan.clone() {
                self.make_lan_link(bare, place, &options, present.tap_owner.is_some())?;
                continue;
            }
            let prepared = !place.endpoint.host_link.is_empty();
            if !prepared {
                self.make_link(bare, place, present.tap_owner.is_some())?;
            }
            let (endpoint, index) = (&place.endpoint, place.endpoint.link_index);
            changes.push(match prepared {
                true => Change::link_mac(index, endpoint.mac),
                false => Change::link_up(index),
            });
            if present.tap_owner.is_some() {
                continue;
            }
            changes.extend(endpoint.ipv4.map(|net| Change::add_address(index, net.into())));
            changes.extend(endpoint.ipv6.map(|net| Change::add_address(index, net.into())));
        }
        if let Some(owner) = present.tap_owner {
            // Before the links are up: a packet is the machine's, or nobody's.
            let mut taps = make_taps(bare, places, owner, &present.endpoints)?;
            if places.iter().any(|place| place.network.lan.is_some()) {
                bare.socket.apply(&std::mem::take(&mut taps))?;
                let lans = places.iter().filter(|place| place.network.lan.is_some());
                lans.map(|place| place.endpoint.link_index)
                    .try_for_each(|index| lan::bring_up_for_machine(&bare.socket, index))?;
            }
            taps.append(&mut changes);
            changes = taps;
        }
        Ok(changes)
    }

    /// `is_machines` is whether its addresses will be those of a machine with a kernel of its own.
    fn make_link(&self, bare: &Bare, place: &mut Place, is_machines: bool) -> Result<()> {
        self.host_links.look();
        while passes_over_taken_name(bare, place)? {}
        let options = place.network.bridge.as_ref();
        let veth = VethPlan {
            bridge: place.bridge,
            link_name: &place.endpoint.link_name,
            mac: Some(place.endpoint.mac),
            mtu: place.mtu,
            isolated: options.is_some_and(|options| !options.icc),
        };
        place.endpoint.host_link = self.host_links.make(&self.host.lock(), &bare.namespace, &veth)?;
        let name = &place.endpoint.link_name;
        let missing = || Error::io(format!("find the new link {name}"), std::io::ErrorKind::NotFound.into());
        place.endpoint.link_index = bare.socket.link(name)?.ok_or_else(missing)?.index;
        if place.network.enable_ipv6 && !is_machines {
            let name = name.clone();
            bare.namespace.enter(|| {
                sysctl::write_if_there(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
                sysctl::write_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")
            })??;
        }
        Ok(())
    }

    fn make_lan_link(
        &self,
        bare: &Bare,
        place: &mut Place,
        options: &lan::LanOptions,
        is_machines: bool,
    ) -> Result<()> {
        while passes_over_taken_name(bare, place)? {}
        lan::make_link(&self.host, bare, place, options)?;
        match is_machines {
            true => Ok(()),
            false => lan::furnish_link(bare, place),
        }
    }

    /// Publishes, moves or takes back ports, so that they lead to the endpoint that gives the default route.
    fn move_ports(&self, before: &Sandbox, after: &mut Sandbox) -> Result<()> {
        if after.port_specs.is_empty() {
            return Ok(());
        }
        let (old, new) = (targets_of(before), targets_of(after));
        if old == new && !before.ports.is_empty() {
            return Ok(());
        }
        let none = Targets::default();
        let ports = if new == none {
            Vec::new()
        } else if before.ports.is_empty() {
            self.publish(after, new)?
        } else {
            self.ports.retarget(&before.ports, new)
        };
        if let Err(error) = self.firewall.replace_ports(&before.ports, &ports) {
            match before.ports.is_empty() {
                true => self.ports.release(&ports),
                false => drop(self.ports.retarget(&before.ports, old)),
            }
            return Err(error);
        }
        let gone: Vec<PublishedPort> = before
            .ports
            .iter()
            .filter(|port| !ports.iter().any(|p| p.host == port.host && p.protocol == port.protocol))
            .cloned()
            .collect();
        self.ports.release(&gone);
        self.departures.follow(&ports);
        after.ports = ports;
        Ok(())
    }

    fn publish(&self, sandbox: &Sandbox, targets: Targets) -> Result<Vec<PublishedPort>> {
        let Some(endpoint) = sandbox.gateway_endpoint().or_else(|| sandbox.gateway_endpoint_v6()) else {
            return Ok(Vec::new());
        };
        let binding = {
            let state = self.state.lock();
            let entry = state.networks.get(&endpoint.network);
            entry.and_then(|entry| entry.network.bridge.as_ref()?.host_binding)
        };
        self.ports.publish(&sandbox.port_specs, binding, targets).map_err(|source| Error::Publish {
            name: sandbox.name.clone(),
            endpoint: endpoint.id.clone(),
            source: Box::new(source),
        })
    }

    /// Enters a sandbox's endpoints as they are now.
    fn enter(&self, sandbox: &Sandbox) {
        let mut state = self.state.lock();
        for endpoint in &sandbox.endpoints {
            let Some(entry) = state.networks.get_mut(&endpoint.network) else { continue };
            let (id, name) = (sandbox.id.clone(), sandbox.name.clone());
            entry
                .endpoints
                .insert(endpoint.id.clone(), NamedEndpoint { sandbox: id, name, endpoint: endpoint.clone() });
        }
    }

    /// Deletes the links of endpoints that will not be, in a namespace that stays.
    fn delete_links(&self, bare: &Bare, places: &[Place]) {
        // Whoever asked is told of the first failure, which is not this one.
        let _ = lan::delete_links(bare, places.iter().map(|place| &place.endpoint));
        let host = self.host.lock();
        for place in places.iter().filter(|place| !place.endpoint.host_link.is_empty()) {
            if let Ok(Some(link)) = host.link(&place.endpoint.host_link) {
                // Whoever asked is told of the first failure, which is not this one.
                let _ = host.apply(&[Change::delete_link(link.index)]);
            }
        }
    }
}

impl State {
    /// Takes addresses on one network, and enters the endpoint so that the network is in use from now on.
    fn enter(&mut self, spec: &SandboxSpec, wanted: &EndpointSpec, taken: impl Fn(&str) -> bool) -> Result<Place> {
        let id = self.find(&wanted.network)?.network.id.clone();
        let entry = self.networks.get_mut(&id).ok_or_else(|| Error::NotFound(wanted.network.clone()))?;
        let network = entry.network.clone();
        if matches!(network.driver, Driver::Host | Driver::None) {
            return Err(Error::NoEndpoints(network.name.clone()));
        }
        if network.driver == Driver::Ipvlan && spec.tap_owner.is_some() {
            return Err(Error::NotForMachines(network.name.clone()));
        }
        if network.driver == Driver::Ipvlan && wanted.mac.is_some() {
            return Err(Error::MacOfIpvlan);
        }
        if entry.endpoints.values().any(|other| other.sandbox == spec.id) {
            return Err(Error::EndpointExists { name: spec.name.clone(), network: network.name.clone() });
        }
        check_fixed(&network, wanted)?;
        let sysctls = link_sysctls(wanted)?;
        let (ipv4, ipv6, former_link) = match entry.return_to(&spec.id, wanted) {
            Some(former) => (former.ipv4, former.ipv6, Some(former.host_link)),
            None => entry.take(wanted).map(|(ipv4, ipv6)| (ipv4, ipv6, None))?,
        };
        let prefix = network.bridge.as_ref().map_or("eth", |options| &options.link_prefix);
        let free_name = || (0..).map(|n: u32| format!("{prefix}{n}")).find(|name| !taken(name)).unwrap_or_default();
        // Behind a parent of nobody's there is no router either.
        let internal = network.internal || network.lan.as_ref().is_some_and(|options| options.nowhere);
        let endpoint = Endpoint {
            id: random_id(),
            network: network.id.clone(),
            network_name: network.name.clone(),
            link_name: wanted.link_name.clone().unwrap_or_else(free_name),
            link_index: 0,
            host_link: String::new(),
            ipv4,
            ipv6,
            gateway: ipv4.filter(|_| !internal).and_then(|net| gateway_v4(&network, net)),
            gateway_v6: ipv6.filter(|_| !internal).and_then(|net| gateway_v6(&network, net)),
            mac: wanted.mac.unwrap_or_else(|| match ipv4 {
                Some(net) => MacAddress::from_ipv4(net.addr()),
                None => MacAddress::random(),
            }),
            aliases: wanted.aliases.clone(),
            gateway_priority: wanted.gateway_priority,
            tap: None,
        };
        let named = NamedEndpoint { sandbox: spec.id.clone(), name: spec.name.clone(), endpoint: endpoint.clone() };
        entry.endpoints.insert(endpoint.id.clone(), named);
        let any_name = wanted.link_name.is_none();
        Ok(Place { bridge: entry.bridge, network, endpoint, any_name, mtu: 0, sysctls, former_link })
    }

    /// Gives addresses back that nobody has used.
    fn give_back(&mut self, endpoint: &Endpoint) {
        let Some(entry) = self.networks.get_mut(&endpoint.network) else { return };
        if entry.endpoints.remove(&endpoint.id).is_some() {
            endpoint.addresses().for_each(|ip| entry.release(ip));
        }
    }
}

impl Entry {
    /// What the same sandbox had, where that is not free yet, and is what it wants.
    fn return_to(&mut self, sandbox: &str, wanted: &EndpointSpec) -> Option<Endpoint> {
        let at = self.leaving.iter().rposition(|leaving| {
            leaving.sandbox == sandbox
                && !leaving.stuck
                && wanted.ipv4.is_none_or(|ip| leaving.endpoint.ipv4.is_some_and(|net| net.addr() == ip))
                && wanted.ipv6.is_none_or(|ip| leaving.endpoint.ipv6.is_some_and(|net| net.addr() == ip))
        })?;
        Some(self.leaving.remove(at).endpoint)
    }

    /// Takes an address of each family.
    fn take(&mut self, wanted: &EndpointSpec) -> Result<(Option<Ipv4Net>, Option<Ipv6Net>)> {
        let (mut ipv4, mut ipv6) = (None, None);
        if self.network.enable_ipv4
            && let IpNet::V4(net) = self.take_one(wanted.ipv4.map(IpAddr::from), false)?
        {
            ipv4 = Some(net);
        }
        if self.network.enable_ipv6 {
            match self.take_one(wanted.ipv6.map(IpAddr::from), true) {
                Ok(IpNet::V6(net)) => ipv6 = Some(net),
                Ok(IpNet::V4(_)) => {}
                Err(error) => {
                    ipv4.into_iter().for_each(|net| self.release(net.addr().into()));
                    return Err(error);
                }
            }
        }
        Ok((ipv4, ipv6))
    }

    fn take_one(&mut self, fixed: Option<IpAddr>, v6: bool) -> Result<IpNet> {
        let mut of_family = self.leases.iter_mut().filter(|leases| leases.subnet().addr().is_ipv6() == v6);
        if let Some(ip) = fixed {
            let leases = of_family.find(|leases| leases.subnet().contains(&ip)).ok_or(Error::AddressOutOfRange(ip))?;
            leases.claim(ip).map_err(|why| match why {
                Unavailable::InUse => Error::AddressInUse(ip),
                Unavailable::OutOfRange => Error::AddressOutOfRange(ip),
            })?;
            return IpNet::new(ip, leases.subnet().prefix_len()).map_err(|_| Error::AddressOutOfRange(ip));
        }
        let found = of_family.find_map(|leases| Some((leases.take()?, leases.subnet().prefix_len())));
        found.and_then(|(ip, prefix)| IpNet::new(ip, prefix).ok()).ok_or_else(|| Error::AddressesExhausted {
            family: if v6 { "IPv6" } else { "IPv4" },
            network: self.network.name.clone(),
            id: self.network.id.clone(),
        })
    }

    pub(super) fn release(&mut self, ip: IpAddr) {
        if let Some(leases) = self.leases.iter_mut().find(|leases| leases.subnet().contains(&ip)) {
            leases.release(ip);
        }
    }
}

fn gateway_v4(network: &Network, net: Ipv4Net) -> Option<Ipv4Addr> {
    network.subnets_v4().find(|(subnet, _)| subnet.contains(&net.addr())).and_then(|(_, gateway)| gateway)
}

fn gateway_v6(network: &Network, net: Ipv6Net) -> Option<std::net::Ipv6Addr> {
    network.subnets_v6().find(|(subnet, _)| subnet.contains(&net.addr())).and_then(|(_, gateway)| gateway)
}

/// Docker's rules on where addresses can be fixed.
fn check_fixed(network: &Network, wanted: &EndpointSpec) -> Result<()> {
    if wanted.ipv4.is_none() && wanted.ipv6.is_none() {
        return Ok(());
    }
    if network.is_predefined() {
        return Err(Error::AddressNeedsUserNetwork);
    }
    if !network.user_subnets {
        return Err(Error::AddressNeedsSubnet);
    }
    let disabled = wanted.ipv4.filter(|_| !network.enable_ipv4).map(IpAddr::from);
    match disabled.or(wanted.ipv6.filter(|_| !network.enable_ipv6).map(IpAddr::from)) {
        Some(ip) => Err(Error::AddressOutOfRange(ip)),
        None => Ok(()),
    }
}

/// The sysctls of a link, as path below /proc/sys with the word IFNAME in it, and value.
fn link_sysctls(wanted: &EndpointSpec) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (name, value) in &wanted.sysctls {
        let parts: Vec<&str> = name.split('.').collect();
        let valid = matches!(parts[..], ["net", "ipv4" | "ipv6", "conf" | "neigh", "IFNAME", last] | ["net", "mpls", "conf", "IFNAME", last]
            if !last.is_empty() && last.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        if !valid {
            return Err(Error::InvalidSysctl(name.clone()));
        }
        all.push((parts.join("/"), value.clone()));
    }
    Ok(all)
}

/// A namespace that is somebody's already.
fn inside(namespace: &NetNs) -> Result<Bare> {
    Ok(Bare { namespace: namespace.try_clone()?, socket: namespace.enter(RouteSocket::open)?? })
}

/// Writes the sysctls of links; a machine with a kernel of its own is told them.
fn write_sysctls(namespace: &NetNs, places: &[Place]) -> Result<()> {
    let is_here = |place: &&Place| place.endpoint.tap.is_none() && !place.sysctls.is_empty();
    if !places.iter().any(|place| is_here(&place)) {
        return Ok(());
    }
    namespace.enter(|| {
        for place in places.iter().filter(is_here) {
            for (path, value) in &place.sysctls {
                sysctl::write(&path.replace("IFNAME", &place.endpoint.link_name), value)?;
            }
        }
        Ok(())
    })?
}

/// The changes that make default routes go where `after` has them.
fn moved_routes(before: &Sandbox, after: &Sandbox) -> Vec<Change> {
    // A machine with a kernel of its own has them itself.
    if after.tap_owner.is_some() {
        return Vec::new();
    }
    let v4 = |sandbox: &Sandbox| sandbox.gateway_endpoint().and_then(|e| Some((e.link_index, e.gateway?.into())));
    let v6 = |sandbox: &Sandbox| sandbox.gateway_endpoint_v6().and_then(|e| Some((e.link_index, e.gateway_v6?.into())));
    let mut changes = Vec::new();
    for (old, new) in [(v4(before), v4(after)), (v6(before), v6(after))] {
        match (old, new) {
            (old, Some((index, gateway))) if old != new => changes.push(Change::default_route(index, gateway)),
            (Some((index, gateway)), None) => changes.push(Change::delete_default_route(index, gateway)),
            _ => {}
        }
    }
    changes
}

fn has_sctp(sandbox: &Sandbox) -> bool {
    sandbox.ports.iter().any(|port| port.protocol == Protocol::Sctp)
}

/// Nothing is published of an endpoint on a parent: the host does not reach it, and others reach it by its own address.
fn targets_of(sandbox: &Sandbox) -> Targets {
    let v4 = sandbox.gateway_endpoint().filter(|endpoint| !endpoint.is_on_parent());
    let v6 = sandbox.gateway_endpoint_v6().filter(|endpoint| !endpoint.is_on_parent());
    Targets {
        v4: v4.and_then(|endpoint| endpoint.ipv4).map(|net| net.addr()),
        v6: v6.and_then(|endpoint| endpoint.ipv6).map(|net| net.addr()),
    }
}

/// Whether somebody in the sandbox has made a link of the place's name; then it has the next one. Not where the name was asked for.
fn passes_over_taken_name(bare: &Bare, place: &mut Place) -> Result<bool> {
    let taken = place.any_name && bare.socket.link(&place.endpoint.link_name)?.is_some();
    if taken {
        place.endpoint.link_name = next_name(&place.endpoint.link_name);
    }
    Ok(taken)
}

/// Makes what a network has in the kernel beside its rules, its bridge or its parent, be as it shall be, and gives its index; 0 where it has none.
pub(super) fn ensure(host: &RouteSocket, instance: &Instance, network: &Network, mtu: u32) -> Result<u32> {
    match &network.lan {
        Some(options) => lan::ensure(host, instance, options, network.internal),
        None => bridge::ensure(host, instance, network, mtu),
    }
}

/// `eth4` after `eth3`.
fn next_name(name: &str) -> String {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[prefix.len()..].parse::<u32>().unwrap_or(0);
    format!("{prefix}{}", number.wrapping_add(1))
}

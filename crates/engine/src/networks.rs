//! Networks as clients see them, and a container's place on them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use sandbox::plan::NamespaceKind;

use net::{Endpoint, EndpointSpec, Network, NetworkSpec, PortSpec, SandboxSpec};

use crate::container::{Container, Life, changes_network, connects_late, goes_on_with_its_networks};
use crate::events::EventKind;
use crate::model::{
    ContainerRecord, EndpointRequest, EndpointSettings, ExposedPort, Filters, IpcMode, NetworkMode, Phase, PidMode,
    PortBinding, Protocol, Timestamp,
};
use crate::{Engine, Error, ErrorKind, Result};

/// A network, and who is on it.
#[derive(Clone, Debug)]
pub struct NetworkDetails {
    /// The network.
    pub network: Network,
    /// Endpoints of running containers.
    pub endpoints: Vec<net::NamedEndpoint>,
}

/// Namespaces of other containers that a container joins.
#[derive(Default)]
pub(crate) struct Joined {
    pub(crate) network: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) pid: Option<PathBuf>,
    pub(crate) shm: Option<PathBuf>,
    /// The same namespaces, open: a path names a process by a number, which may be another's by the time it is used.
    pub(crate) descriptors: Vec<(NamespaceKind, OwnedFd)>,
}

/// Whether an endpoint is what a container's record means by the network of that name.
pub(crate) fn is_of(endpoint: &Endpoint, name: &str, settings: &EndpointSettings) -> bool {
    name == endpoint.network_name || endpoint.network.starts_with(name) || settings.network_id == endpoint.network
}

/// What `net` says, in the engine's kinds.
pub(crate) fn error(error: net::Error) -> Error {
    let text = error.to_string();
    match error {
        net::Error::NotFound(_) => Error::not_found(text),
        net::Error::NameTaken(_) => Error::conflict(text),
        net::Error::PredefinedCreate(_) | net::Error::PredefinedRemove(_) | net::Error::InUse { .. } => {
            Error::forbidden(text)
        }
        net::Error::Invalid(_)
        | net::Error::MacOfIpvlan
        | net::Error::NotForMachines(_)
        | net::Error::Ambiguous { .. }
        | net::Error::AddressNeedsSubnet
        | net::Error::AddressNeedsUserNetwork
        | net::Error::AddressOutOfRange(_)
        | net::Error::NoEndpoints(_) => Error::invalid(text),
        net::Error::PoolOverlaps
        | net::Error::BridgeOfAnother { .. }
        | net::Error::BridgeInTheMaking(_)
        | net::Error::NotABridge(_)
        | net::Error::ParentTaken { .. }
        | net::Error::EndpointExists { .. }
        | net::Error::AddressInUse(_) => Error::forbidden(text),
        _ => Error::system(text),
    }
}

/// The published port as the engine names it.
pub(crate) fn exposed(port: &net::PublishedPort) -> ExposedPort {
    let protocol = match port.protocol {
        net::Protocol::Tcp => Protocol::Tcp,
        net::Protocol::Udp => Protocol::Udp,
        net::Protocol::Sctp => Protocol::Sctp,
    };
    ExposedPort { port: port.container_port, protocol }
}

/// Puts what an endpoint got into its settings.
pub(crate) fn fill(settings: &mut EndpointSettings, endpoint: &Endpoint, id: &crate::model::ContainerId, name: &str) {
    settings.network_id.clone_from(&endpoint.network);
    settings.endpoint_id.clone_from(&endpoint.id);
    settings.ipv4 = endpoint.ipv4;
    settings.ipv6 = endpoint.ipv6;
    settings.gateway = endpoint.gateway;
    settings.gateway_v6 = endpoint.gateway_v6;
    settings.mac = endpoint.mac.to_string();
    settings.interface.clone_from(&endpoint.link_name);
    let mut names: Vec<String> = vec![name.to_owned()];
    names.extend(settings.request.aliases.iter().cloned());
    names.push(id.short().to_owned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    settings.dns_names = if matches!(endpoint.network_name.as_str(), "bridge") { Vec::new() } else { names };
}

/// What lists of networks can be filtered by.
pub const NETWORK_FILTERS: [&str; 9] =
    ["dangling", "driver", "id", "label", "label!", "name", "scope", "type", "until"];

impl Engine {
    /// Networks by name, of those that fit [`NETWORK_FILTERS`].
    pub fn networks(&self, filters: &Filters) -> Result<Vec<NetworkDetails>> {
        filters.only(&NETWORK_FILTERS)?;
        let dangling = filters.flag("dangling")?;
        for kind in filters.values("type") {
            if !matches!(kind, "custom" | "builtin") {
                return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
            }
        }
        let (names, ids) = (filters.patterns("name"), filters.patterns("id"));
        let wanted = |details: &NetworkDetails| {
            let network = &details.network;
            let in_use = !self.network_users(network).is_empty();
            names.matches(&network.name)
                && ids.matches(&network.id)
                && filters.any("driver", |driver| network.driver.as_str() == driver)
                && filters.any("scope", |scope| scope == "local")
                && filters.any("type", |kind| (kind == "builtin") == network.is_predefined())
                && filters.labels_match(&network.labels)
                && dangling.is_none_or(|dangling| !network.is_predefined() && dangling != in_use)
        };
        let all = self.0.networks.list().into_iter().map(|network| self.details(network));
        Ok(all.filter(wanted).collect())
    }

    /// The network that `reference` names.
    pub fn network_inspect(&self, reference: &str) -> Result<NetworkDetails> {
        self.0.networks.get(reference).map(|network| self.details(network)).map_err(error)
    }

    /// Makes a network.
    pub async fn network_create(&self, spec: NetworkSpec) -> Result<Network> {
        let engine = self.clone();
        let network = crate::blocking(move || engine.0.networks.create(spec).map_err(error)).await?;
        self.tell_network(&network, "create", []);
        Ok(network)
    }

    /// Removes a network that nobody is on.
    pub async fn network_remove(&self, reference: &str) -> Result<()> {
        let (engine, name) = (self.clone(), reference.to_owned());
        let network = crate::blocking(move || engine.0.networks.remove(&name).map_err(error)).await?;
        self.tell_network(&network, "destroy", []);
        Ok(())
    }

    /// Removes the networks that no container names; filters: `until`, `label`.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<Vec<String>> {
        filters.only(&["until", "label", "label!"])?;
        let until = crate::container::until(filters)?;
        let mut deleted = Vec::new();
        for network in self.0.networks.list() {
            let created = Timestamp::from_nanosecond(network.created_ns.into()).unwrap_or_default();
            let wanted = !network.is_predefined()
                && until.is_none_or(|until| created < until)
                && filters.labels_match(&network.labels)
                && self.network_users(&network).is_empty();
            if !wanted {
                continue;
            }
            match self.network_remove(&network.id).await {
                Ok(()) => deleted.push(network.name),
                Err(error) => tracing::warn!(network = network.name, %error, "could not prune it"),
            }
        }
        self.0.events.tell(EventKind::Network, "prune", "", BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]));
        Ok(deleted)
    }

    /// Puts a container on one more network: now where it runs, else with its next start.
    pub async fn network_connect(&self, network: &str, container: &str, request: EndpointRequest) -> Result<()> {
        let reference = container;
        let container = self.0.containers.find(reference)?;
        let network = self.0.networks.get(network).map_err(error)?;
        let life = container.life(reference).await?;
        let record = life.record();
        if matches!(record.host.network_mode, NetworkMode::Host) || network.name == "host" {
            return Err(Error::invalid(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        if matches!(record.host.network_mode, NetworkMode::Container(_)) {
            return Err(Error::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if network.name == "none" {
            return Err(Error::forbidden(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        if record.networks.contains_key(&network.name) && record.state.phase.is_live() {
            return Err(Error::forbidden(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        changes_network(&record)?;
        goes_on_with_its_networks(&record)?;
        let mut settings = EndpointSettings { request, network_id: network.id.clone(), ..EndpointSettings::default() };
        let mut sandbox = record.net.clone();
        if record.state.phase.is_live() {
            let spec = endpoint_spec(&network.name, &settings.request)?;
            let namespace = self.namespace_of_running(&record).await?;
            // A daemon that is killed in the middle of it leaves word for the next one.
            self.change(&life, |record| record.connecting = true).await?;
            let (engine, live, of) = (self.clone(), sandbox.clone(), Arc::clone(&record));
            let connected = crate::blocking(move || {
                let live = live.ok_or_else(|| Error::conflict("the container has no network namespace of its own"))?;
                engine.connect_running(&namespace, &of, live, spec)
            });
            let (live, endpoint) = match connected.await {
                Ok(connected) => connected,
                Err(error) => {
                    self.change(&life, |record| record.connecting = false).await?;
                    return Err(error);
                }
            };
            fill(&mut settings, &endpoint, &record.id, &record.name);
            sandbox = Some(live);
        }
        let record = self
            .change(&life, |record| {
                record.networks.remove("none");
                record.networks.insert(network.name.clone(), settings);
                record.net = sandbox;
                // A machine is told of its files behind this.
                record.connecting = record.is_machine() && record.state.phase.is_live();
            })
            .await?;
        if record.state.phase.is_live() {
            self.refresh_network(&record).await;
            self.settle_machine(&life).await?;
            self.tell_network(&network, "connect", [("container", record.id.to_string())]);
        }
        Ok(())
    }

    /// Puts a running container on one more network, and its machine, if it has one: on both, or none. Blocks.
    fn connect_running(
        &self,
        namespace: &net::NetNs,
        record: &ContainerRecord,
        before: net::Sandbox,
        spec: EndpointSpec,
    ) -> Result<(net::Sandbox, Endpoint)> {
        let mut live = before.clone();
        let endpoint = self.0.networks.connect(namespace, &mut live, spec).map_err(error)?;
        if record.is_machine()
            && let Err(failed) = self.machine_network(record, &live)
        {
            // A card that came goes, before its tap does.
            if let Err(again) = self.machine_network(record, &before) {
                tracing::warn!(container = %record.id.short(), error = %again, "its microVM may have a card too many");
            }
            self.0.networks.disconnect(namespace, &mut live, &endpoint.network).map_err(error)?;
            return Err(failed);
        }
        Ok((live, endpoint))
    }

    /// Takes a container off a network.
    pub async fn network_disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let network = self.0.networks.get(network).map_err(error)?;
        let gone = |error: &Error| force && error.kind() == ErrorKind::NotFound;
        let reference = container;
        let container = match self.0.containers.find(reference) {
            Ok(container) => container,
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let life = match container.life(reference).await {
            Ok(life) => life,
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let record = life.record();
        if matches!(record.host.network_mode, NetworkMode::Host) {
            return Err(Error::invalid(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        if !record.networks.contains_key(&network.name) {
            return Err(Error::forbidden(format!(
                "container {} is not connected to network {}",
                record.id, network.name
            )));
        }
        changes_network(&record)?;
        let before = record.networks.get(&network.name).cloned();
        let change = |record: &mut ContainerRecord| {
            record.networks.remove(&network.name);
            // A daemon that is killed in the middle of it leaves word for the next one.
            record.connecting = record.is_machine() && record.state.phase.is_live();
        };
        let record = self.change(&life, change).await?;
        if !record.state.phase.is_live() {
            return Ok(());
        }
        if let Err(error) = self.leave_networks(&life).await {
            self.change(&life, |record| record.networks.extend(before.map(|own| (network.name.clone(), own)))).await?;
            self.settle_machine(&life).await?;
            return Err(error);
        }
        self.tell_network(&network, "disconnect", [("container", record.id.to_string())]);
        Ok(())
    }

    /// Takes a running container off the networks that its record does not name any more: a daemon that is killed in
    /// between finds from the record what is left to do.
    pub(crate) async fn leave_networks(&self, life: &Life<'_>) -> Result<()> {
        let record = life.record();
        let Some(mut live) = record.net.clone() else { return Ok(()) };
        let leaving = leaving(&record, &live);
        if leaving.is_empty() {
            return self.settle_machine(life).await;
        }
        let namespace = self.namespace_of_running(&record).await?;
        let (engine, of) = (self.clone(), Arc::clone(&record));
        let left = crate::blocking(move || {
            // First its machine, which would see a cable that is cut. It is cut in any case.
            if of.is_machine()
                && let Err(error) = engine.machine_network(&of, &staying(&of, &live))
            {
                tracing::warn!(container = %of.id.short(), %error, "its microVM did not leave a network by itself");
            }
            for network in leaving {
                engine.0.networks.disconnect(&namespace, &mut live, &network).map_err(error)?;
            }
            Ok(live)
        });
        let left = left.await?;
        let record = self.change(life, |record| record.net = Some(left)).await?;
        self.refresh_network(&record).await;
        self.settle_machine(life).await
    }

    /// Has a machine be on the networks that its container's record names, with the files that say so: where that was to change. One that does not answer is told with the
    /// next change.
    async fn settle_machine(&self, life: &Life<'_>) -> Result<()> {
        let record = life.record();
        if !record.is_machine() || !record.connecting {
            return Ok(());
        }
        if let Some(live) = record.net.clone().filter(|_| record.state.phase == Phase::Running) {
            let (engine, of) = (self.clone(), Arc::clone(&record));
            let settled = crate::blocking(move || engine.machine_network(&of, &staying(&of, &live)));
            if let Err(error) = settled.await {
                tracing::warn!(container = %record.id.short(), %error, "its microVM was not told of its networks");
            }
        }
        self.change(life, |record| record.connecting = false).await.map(drop)
    }

    /// Takes back what a connection has changed that a killed daemon began: its link goes with everything else that belongs to no
    /// record, and the default routes are made what they were.
    pub(crate) async fn settle_networks(&self, life: &Life<'_>) -> Result<()> {
        let record = life.record();
        if !record.connecting {
            return Ok(());
        }
        if let Some(live) = record.net.clone() {
            let (engine, namespace) = (self.clone(), self.namespace_of_running(&record).await?);
            crate::blocking(move || engine.0.networks.settle(&namespace, &live).map_err(error)).await?;
        }
        if record.is_machine() {
            self.refresh_network(&record).await;
            return self.settle_machine(life).await;
        }
        self.change(life, |record| record.connecting = false).await.map(drop)
    }

    /// A namespace with what the container's networks give; `None`: it has no namespace of its own.
    pub(crate) fn network_of(&self, record: &ContainerRecord) -> Result<Option<(net::NetNs, net::Sandbox)>> {
        if connects_late(record) {
            return Ok(None);
        }
        let Some(spec) = sandbox_spec(record)? else { return Ok(None) };
        self.0.networks.set_up(spec).map(Some).map_err(|failed| self.port_error(failed))
    }

    /// Gives a namespace that is there already what the container's networks give.
    pub(crate) fn network_in(&self, namespace: &net::NetNs, record: &ContainerRecord) -> Result<net::Sandbox> {
        let spec = sandbox_spec(record)?.unwrap_or_default();
        self.0.networks.set_up_in(namespace, spec).map_err(|failed| self.port_error(failed))
    }

    /// What `net` says, and whose a port is that a container of this daemon has.
    fn port_error(&self, failed: net::Error) -> Error {
        let taken = match &failed {
            net::Error::Publish { source, .. } => match source.as_ref() {
                net::PortError::Allocated(address) => Some(*address),
                _ => None,
            },
            _ => None,
        };
        match taken.and_then(|address| self.publisher(address)) {
            Some(owner) => Error::system(format!("{failed} (by the container {owner})")),
            None => error(failed),
        }
    }

    /// The container that has a port of the host.
    fn publisher(&self, taken: SocketAddr) -> Option<String> {
        let same = |host: SocketAddr| {
            let overlaps = host.ip() == taken.ip() || host.ip().is_unspecified() || taken.ip().is_unspecified();
            host.port() == taken.port() && overlaps
        };
        let containers = self.0.containers.all();
        let mut records = containers.iter().map(|container| container.record());
        let owner = records.find(|record| record.net.iter().flat_map(|net| &net.ports).any(|port| same(port.host)))?;
        Some(owner.name.clone())
    }

    /// Namespaces of other containers, which must run. Blocks.
    pub(crate) fn joined_namespaces(&self, record: &ContainerRecord) -> Result<Joined> {
        let mut joined = Joined::default();
        // In a machine of another container its network is that one's.
        if let NetworkMode::Container(name) = &record.host.network_mode
            && !record.is_machine()
        {
            joined.network = Some(self.join_namespace(&mut joined, name, "network", NamespaceKind::Network)?);
        }
        if let IpcMode::Container(name) = &record.host.ipc_mode {
            let other = self.0.containers.find(name)?;
            if record.is_machine() && self.shares_with(record, name, "IPC")?.is_some() {
                crate::container::lacking(record, "IPC that containers of one of them share")?;
            }
            let mode = other.record().host.ipc_mode.clone();
            if mode != IpcMode::Shareable {
                return Err(Error::conflict(format!(
                    "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                    other.id
                )));
            }
            joined.ipc = Some(self.join_namespace(&mut joined, name, "IPC", NamespaceKind::Ipc)?);
            joined.shm = Some(self.shm_dir(&other.id));
        }
        if record.host.ipc_mode == IpcMode::Shareable {
            joined.shm = Some(self.mount_shm(record)?);
        }
        if let PidMode::Container(name) = &record.host.pid_mode {
            joined.pid = Some(match self.shares_with(record, name, "PID")? {
                // That is in there, and not here.
                Some(inside) => guest_protocol::place::pid_namespace(inside.number).into(),
                None => self.join_namespace(&mut joined, name, "PID", NamespaceKind::Pid)?,
            });
        }
        Ok(joined)
    }

    /// Opens a namespace of another container, and tells its path.
    fn join_namespace(&self, joined: &mut Joined, reference: &str, what: &str, kind: NamespaceKind) -> Result<PathBuf> {
        let other = self.running(reference, what)?.record();
        if other.is_machine() {
            // What there is on the host is the namespace of the machine's process, and not of what runs inside.
            return Err(Error::invalid(format!(
                "cannot join {what} of container {}: it has a kernel of its own, which nothing outside shares{}",
                other.name,
                if kind == NamespaceKind::Network {
                    " (with --runtime microvm a container comes into its microVM)"
                } else {
                    ""
                }
            )));
        }
        let path = |pid: u32| PathBuf::from(format!("/proc/{pid}/ns/{}", kind.proc_name()));
        let opened = self.of_process(&other, |pid| {
            rustix::fs::open(path(pid), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| Error::step(format!("open the {what} namespace of container {reference}"), error))
        });
        let opened = tokio::runtime::Handle::current().block_on(opened)?;
        joined.descriptors.push((kind, opened));
        Ok(path(other.state.pid))
    }

    pub(crate) fn running(&self, reference: &str, what: &str) -> Result<Arc<Container>> {
        let other = self.0.containers.find(reference)?;
        match other.record().state.phase {
            Phase::Running | Phase::Paused => Ok(other),
            Phase::Restarting => Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                other.id
            ))),
            _ => Err(Error::conflict(format!("cannot join {what} of a non running container: {}", other.id))),
        }
    }

    /// Containers, running or not, that name the network.
    fn network_users(&self, network: &Network) -> Vec<String> {
        let names = |record: &ContainerRecord| {
            record.networks.iter().any(|(name, settings)| *name == network.name || settings.network_id == network.id)
        };
        let records = self.0.containers.all().into_iter().map(|container| container.record());
        records.filter(|record| names(record)).map(|record| record.id.to_string()).collect()
    }

    fn details(&self, network: Network) -> NetworkDetails {
        let endpoints = self.0.networks.endpoints(&network.id);
        NetworkDetails { network, endpoints }
    }

    async fn refresh_network(&self, record: &ContainerRecord) {
        if let Err(error) = self.write_files(record, record.net.as_ref()) {
            tracing::warn!(container = %record.id.short(), %error, "could not write its files anew");
        }
        self.detach_dns(&record.id);
        self.attach_dns_of_running(record).await;
    }

    /// Tells that a container came to, or left, each of its networks.
    pub(crate) fn tell_networks(&self, record: &ContainerRecord, action: &str) {
        for endpoint in record.net.iter().flat_map(|net| &net.endpoints) {
            if let Ok(network) = self.0.networks.get(&endpoint.network) {
                self.tell_network(&network, action, [("container", record.id.to_string())]);
            }
        }
    }

    fn tell_network<const N: usize>(&self, network: &Network, action: &str, more: [(&str, String); N]) {
        let mut attributes: BTreeMap<String, String> =
            more.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        attributes.insert("name".to_owned(), network.name.clone());
        attributes.insert("type".to_owned(), network.driver.as_str().to_owned());
        self.0.events.tell(EventKind::Network, action, &network.id, attributes);
    }
}

/// The networks of a sandbox that its container's record does not name any more.
fn leaving(record: &ContainerRecord, live: &net::Sandbox) -> Vec<String> {
    let named = |endpoint: &&Endpoint| record.networks.iter().any(|(name, own)| is_of(endpoint, name, own));
    live.endpoints.iter().filter(|endpoint| !named(endpoint)).map(|endpoint| endpoint.network.clone()).collect()
}

/// A sandbox without those.
fn staying(record: &ContainerRecord, live: &net::Sandbox) -> net::Sandbox {
    let (mut staying, leaving) = (live.clone(), leaving(record, live));
    staying.endpoints.retain(|endpoint| !leaving.contains(&endpoint.network));
    staying
}

/// What a container asks of its network; `None`: it has no namespace of its own.
fn sandbox_spec(record: &ContainerRecord) -> Result<Option<SandboxSpec>> {
    let endpoints = match &record.host.network_mode {
        NetworkMode::Host | NetworkMode::Container(_) => return Ok(None),
        NetworkMode::None => Vec::new(),
        _ if record.config.network_disabled => Vec::new(),
        mode => endpoint_specs(mode, &record.networks)?,
    };
    Ok(Some(SandboxSpec {
        id: record.id.to_string(),
        name: record.name.clone(),
        ports: if endpoints.is_empty() { Vec::new() } else { port_specs(record) },
        endpoints,
        tap_owner: record.is_machine().then_some(microvm::container::USER),
    }))
}

/// The endpoints of a container, that of its network mode first: it becomes `eth0`.
fn endpoint_specs(mode: &NetworkMode, networks: &BTreeMap<String, EndpointSettings>) -> Result<Vec<EndpointSpec>> {
    let first = match mode {
        NetworkMode::Network(name) => name.as_str(),
        _ => "bridge",
    };
    let mut names: Vec<&String> = networks.keys().filter(|name| !matches!(name.as_str(), "none" | "host")).collect();
    names.sort_by_key(|name| (name.as_str() != first, (*name).clone()));
    names.into_iter().map(|name| endpoint_spec(name, &networks[name].request)).collect()
}

fn endpoint_spec(network: &str, request: &EndpointRequest) -> Result<EndpointSpec> {
    let mac = match &request.mac {
        None => None,
        Some(text) if text.is_empty() => None,
        Some(text) => {
            let parsed = text.parse().map_err(|_| Error::invalid(format!("invalid MAC address: {text}")));
            Some(parsed?)
        }
    };
    Ok(EndpointSpec {
        network: network.to_owned(),
        ipv4: request.ipv4,
        ipv6: request.ipv6,
        mac,
        aliases: request.aliases.clone(),
        link_name: None,
        gateway_priority: request.gateway_priority,
        sysctls: BTreeMap::new(),
    })
}

/// What is published: the bindings, and with `-P` every exposed port that has none.
fn port_specs(record: &ContainerRecord) -> Vec<PortSpec> {
    let spec = |port: &ExposedPort, binding: &PortBinding| PortSpec {
        host_ip: binding.host_ip,
        host_port: binding.host_ports.map(|(first, last)| first..=last),
        container_port: port.port,
        protocol: match port.protocol {
            Protocol::Tcp => net::Protocol::Tcp,
            Protocol::Udp => net::Protocol::Udp,
            Protocol::Sctp => net::Protocol::Sctp,
        },
    };
    let mut specs: Vec<PortSpec> = record
        .host
        .port_bindings
        .iter()
        .flat_map(|(port, bindings)| {
            let any = [PortBinding::default()];
            let bindings = if bindings.is_empty() { any.to_vec() } else { bindings.clone() };
            bindings.into_iter().map(|binding| spec(port, &binding)).collect::<Vec<_>>()
        })
        .collect();
    if record.host.publish_all_ports {
        let unbound = record.config.exposed_ports.iter().filter(|port| !record.host.port_bindings.contains_key(port));
        specs.extend(unbound.map(|port| spec(port, &PortBinding::default())));
    }
    specs
}

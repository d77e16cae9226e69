//! Names of containers on user-defined networks, which the embedded DNS server answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use net::dns::resolv;
use net::dns::{DnsConfig, DnsServer, Link, SandboxDns, Zones};
use parking_lot::Mutex;

use crate::model::{ContainerId, ContainerRecord};
use crate::{Engine, ErrorKind};

/// The embedded server, and what it knows.
pub(crate) struct Names {
    zones: Arc<Zones>,
    server: DnsServer,
    /// Ports that the server listens on in the containers' namespaces.
    ports: Mutex<HashMap<ContainerId, u16>>,
}

impl Default for Names {
    fn default() -> Self {
        let zones = Arc::new(Zones::new());
        let server = DnsServer::start(zones.clone(), DnsConfig::default());
        Self { zones, server, ports: Mutex::default() }
    }
}

/// Where a container is on a network whose containers find each other by name: all but the default bridge.
pub(crate) fn with_names(net: &net::Sandbox) -> impl Iterator<Item = &net::Endpoint> {
    net.endpoints.iter().filter(|endpoint| endpoint.network_name != "bridge")
}

impl Engine {
    /// Publishes a container's names on its user-defined networks, and lets it see those of others there.
    pub(crate) fn attach_dns(&self, record: &ContainerRecord, net: Option<&net::Sandbox>, namespace: net::NetNs) {
        let Some(net) = net else { return };
        let id = record.id.as_str();
        let networks: Vec<_> = with_names(net).collect();
        if networks.is_empty() {
            return;
        }
        let names = &self.0.names;
        for endpoint in &networks {
            let v4 = endpoint.ipv4.map(|net| IpAddr::from(net.addr()));
            let addresses: Vec<IpAddr> = v4.into_iter().chain(endpoint.ipv6.map(|net| net.addr().into())).collect();
            let own = [record.name.as_str(), record.id.short()];
            let all = own.into_iter().chain(endpoint.aliases.iter().map(String::as_str));
            names.zones.publish(&endpoint.network, &endpoint.network_name, id, all, &addresses);
            names.zones.join(id, &endpoint.network, &self.links(record, &endpoint.network_name));
        }
        let order: Vec<&str> = networks.iter().map(|endpoint| endpoint.network.as_str()).collect();
        names.zones.order(id, &order);
        let made = resolv::for_user_network(&resolv::of_host(), &self.dns_overrides(record));
        let internal = |id: &str| self.0.networks.get(id).is_ok_and(|network| network.internal);
        let dns = SandboxDns {
            id: id.to_owned(),
            upstreams: match net.tap_owner {
                Some(_) => made.upstreams.of_machine(),
                None => made.upstreams,
            },
            is_external: !networks.iter().all(|endpoint| internal(&endpoint.network)),
            ndots_set: made.ndots_set,
            port: names.ports.lock().get(&record.id).copied(),
        };
        match names.server.attach(namespace.into(), dns) {
            Ok(port) => {
                names.ports.lock().insert(record.id.clone(), port);
            }
            Err(error) => tracing::warn!(container = %record.id.short(), %error, "names can't be looked up in it"),
        }
    }

    /// As [`attach_dns`](Self::attach_dns), for a container that runs.
    pub(crate) async fn attach_dns_of_running(&self, record: &ContainerRecord) {
        if record.net.as_ref().is_none_or(|net| with_names(net).next().is_none()) {
            return;
        }
        match self.namespace_of_running(record).await {
            Ok(namespace) => self.attach_dns(record, record.net.as_ref(), namespace),
            // It has ended meanwhile, as a build's step does with its daemon: nobody is left who could look anything up.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tracing::debug!(container = %record.id.short(), %error, "it ended before names could be looked up in it");
            }
            Err(error) => tracing::warn!(container = %record.id.short(), %error, "names can't be looked up in it"),
        }
    }

    /// Takes a container's names away.
    pub(crate) fn detach_dns(&self, id: &ContainerId) {
        self.0.names.zones.forget(id.as_str());
        self.0.names.server.detach(id.as_str());
        self.0.names.ports.lock().remove(id);
    }

    /// `--link`s on a user-defined network.
    fn links(&self, record: &ContainerRecord, network: &str) -> Vec<Link> {
        let links = record.networks.get(network).map(|endpoint| endpoint.request.links.clone()).unwrap_or_default();
        let link = |text: &String| {
            let (name, alias) = text.split_once(':').unwrap_or((text, text));
            let name =
                self.0.containers.find(name).map_or_else(|_| name.to_owned(), |other| other.record().name.clone());
            Link { alias: alias.trim_start_matches('/').to_owned(), name }
        };
        links.iter().map(link).collect()
    }
}

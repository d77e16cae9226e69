//! The files that stratus writes for a container: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use net::dns::hosts::{self, Entry, Hosts};
use net::dns::resolv::{self, Overrides};

use super::links::Link;
use crate::model::{ContainerId, ContainerRecord, NetworkMode};
use crate::spec::ContainerFiles;
use crate::{Engine, Error, Result};

impl Engine {
    /// The directory of a container's own files, beside its root file system: made and removed with that.
    pub(crate) fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.0.config.data_dir.join("containers").join(id.as_str())
    }

    /// Where a container's files are: its own, or those of the container whose network it shares.
    pub(crate) fn container_files(&self, record: &ContainerRecord) -> ContainerFiles {
        if let NetworkMode::Container(name) = &record.host.network_mode
            && let Ok(other) = self.0.containers.find(name)
        {
            let hostname = ContainerFiles::below(&self.container_dir(&record.id)).hostname;
            return ContainerFiles { hostname, ..ContainerFiles::below(&self.container_dir(&other.id)) };
        }
        ContainerFiles::below(&self.container_dir(&record.id))
    }

    /// Writes the files of a container that is about to start on `net`.
    pub(crate) fn write_files(&self, record: &ContainerRecord, sandbox: Option<&net::Sandbox>) -> Result<()> {
        let directory = self.container_dir(&record.id);
        let files = ContainerFiles::below(&directory);
        write(&files.hostname, &format!("{}\n", record.config.hostname))?;
        if matches!(record.host.network_mode, NetworkMode::Container(_)) {
            return Ok(());
        }
        write(&files.hosts, &self.hosts_file(record, sandbox)?)?;
        write(&files.resolv_conf, &self.resolv_conf(record, sandbox))
    }

    fn hosts_file(&self, record: &ContainerRecord, sandbox: Option<&net::Sandbox>) -> Result<String> {
        let extra = self.extra_hosts(record)?;
        if record.host.network_mode == NetworkMode::Host {
            let text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            return Ok(hosts::with(&text, &extra));
        }
        let own: Vec<IpAddr> = sandbox
            .into_iter()
            .flat_map(|sandbox| &sandbox.endpoints)
            .flat_map(|endpoint| {
                let v4 = endpoint.ipv4.map(|net| net.addr().into());
                v4.into_iter().chain(endpoint.ipv6.map(|net| net.addr().into()))
            })
            .collect();
        let hosts = Hosts {
            ipv6: true,
            extra: extra.into_iter().chain(self.links_of(record)?.iter().map(Link::host_entry)).collect(),
            own,
            hostname: record.config.hostname.clone(),
            domainname: record.config.domainname.clone(),
        };
        Ok(hosts.render())
    }

    /// `--add-host`, with `host-gateway` as the address where the host is reached.
    fn extra_hosts(&self, record: &ContainerRecord) -> Result<Vec<Entry>> {
        let gateways: Vec<IpAddr> = self.host_gateway().into_iter().collect();
        let mut entries = Vec::new();
        for text in &record.host.extra_hosts {
            let parsed = hosts::parse_extra(text, &gateways);
            entries.extend(parsed.map_err(|error| Error::invalid(error.to_string()))?);
        }
        Ok(entries)
    }

    fn host_gateway(&self) -> Option<IpAddr> {
        let configured = self.0.config.net.host_gateway;
        configured.or_else(|| self.0.networks.get("bridge").ok()?.ipam.first()?.gateway)
    }

    /// Names of others are looked up where it is on a network that has them, whichever it was made on.
    fn resolv_conf(&self, record: &ContainerRecord, sandbox: Option<&net::Sandbox>) -> String {
        let host = resolv::of_host();
        let overrides = self.dns_overrides(record);
        let sees_names = sandbox.is_some_and(|net| crate::names_service::with_names(net).next().is_some());
        match &record.host.network_mode {
            NetworkMode::Host => resolv::for_host_network(&host, &overrides),
            NetworkMode::Network(_) => resolv::for_user_network(&host, &overrides).text,
            _ if sees_names => resolv::for_user_network(&host, &overrides).text,
            _ => resolv::for_default_bridge(&host, &overrides, false),
        }
    }

    /// What the user, else the daemon's configuration, says about names.
    pub(crate) fn dns_overrides(&self, record: &ContainerRecord) -> Overrides {
        let defaults = &self.0.config.dns;
        let or = |own: &Vec<String>, default: &Vec<String>| if own.is_empty() { default.clone() } else { own.clone() };
        Overrides {
            nameservers: or(&record.host.dns, &defaults.servers).iter().filter_map(|text| text.parse().ok()).collect(),
            search: or(&record.host.dns_search, &defaults.search),
            options: or(&record.host.dns_options, &defaults.options),
        }
    }
}

/// Rewritten in place, as it may be mounted in a container.
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::step(format!("write {}", path.display()), error))
}

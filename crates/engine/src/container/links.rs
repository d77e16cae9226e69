//! `--link` on the default bridge: another container's address in `/etc/hosts`, and what it is and exposes in variables.

use std::net::IpAddr;
use std::sync::Arc;

use net::dns::hosts::{self, Entry};

use crate::model::{ContainerRecord, ExposedPort, NetworkMode};
use crate::{Engine, Error, Result};

/// A link to a container that runs.
pub(super) struct Link {
    alias: String,
    /// `/OWN/ALIAS`
    name: String,
    other: Arc<ContainerRecord>,
    address: IpAddr,
}

impl Engine {
    /// A container's links, each to a container that runs.
    pub(super) fn links_of(&self, record: &ContainerRecord) -> Result<Vec<Link>> {
        linked(record).map(|link| self.link(record, link)).collect()
    }

    /// The variables of a container's links, as far as what they lead to runs.
    pub(super) fn present_link_environment(&self, record: &ContainerRecord) -> Vec<String> {
        let present = linked(record).filter_map(|link| self.link(record, link).ok());
        present.flat_map(|link| link.environment()).collect()
    }

    fn link(&self, record: &ContainerRecord, link: &str) -> Result<Link> {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let alias = alias.trim_start_matches('/').to_owned();
        let other = self.0.containers.find(name)?.record();
        let own = &record.name;
        if !other.state.phase.is_live() {
            let other = &other.name;
            return Err(Error::invalid(format!("Cannot link to a non running container: /{other} AS /{own}/{alias}")));
        }
        let Some(address) = other.networks.get("bridge").and_then(|endpoint| endpoint.ipv4) else {
            let other = &other.name;
            return Err(Error::invalid(format!(
                "Cannot link to /{other}, as it does not belong to the default network"
            )));
        };
        Ok(Link { name: format!("/{own}/{alias}"), alias, other, address: address.addr().into() })
    }
}

fn linked(record: &ContainerRecord) -> impl Iterator<Item = &str> {
    let links = Some(&record.host.links).filter(|_| record.host.network_mode == NetworkMode::Bridge);
    links.into_iter().flatten().map(String::as_str)
}

impl Link {
    /// The line for `/etc/hosts`.
    pub(super) fn host_entry(&self) -> Entry {
        let names = hosts::link_names(&self.alias, &self.other.config.hostname, &self.other.name);
        Entry { address: self.address, names }
    }

    /// `ALIAS_PORT` and the like: where the first port is, where each is, and the other's own variables.
    pub(super) fn environment(&self) -> Vec<String> {
        let ports: Vec<ExposedPort> = self.other.config.exposed_ports.iter().copied().collect();
        environment(&self.alias, &self.name, self.address, ports, &self.other.config.env)
    }
}

fn environment(alias: &str, name: &str, address: IpAddr, mut ports: Vec<ExposedPort>, env: &[String]) -> Vec<String> {
    let alias = alias.replace('-', "_").to_uppercase();
    let url = |port: &ExposedPort| format!("{}://{address}:{}", port.protocol.name(), port.port);
    let prefix = |port: &ExposedPort| {
        let protocol = port.protocol.name().to_uppercase();
        format!("{alias}_PORT_{}_{protocol}", port.port)
    };
    ports.sort();
    let mut out: Vec<String> = ports.first().map(|port| format!("{alias}_PORT={}", url(port))).into_iter().collect();
    for (first, last) in ranges(&ports) {
        let prefix = prefix(&first);
        out.push(format!("{prefix}_START={}", url(&first)));
        out.push(format!("{prefix}_PORT_START={}", first.port));
        out.push(format!("{prefix}_END={}", url(&last)));
        out.push(format!("{prefix}_PORT_END={}", last.port));
    }
    for port in &ports {
        let prefix = prefix(port);
        out.push(format!("{prefix}={}", url(port)));
        out.push(format!("{prefix}_ADDR={address}"));
        out.push(format!("{prefix}_PORT={}", port.port));
        out.push(format!("{prefix}_PROTO={}", port.protocol.name()));
    }
    out.push(format!("{alias}_NAME={name}"));
    let own = env.iter().filter_map(|variable| variable.split_once('='));
    // Every image has a search path, and every user a home: they say nothing of a service.
    let telling = own.filter(|(key, _)| !matches!(*key, "HOME" | "PATH"));
    out.extend(telling.map(|(key, value)| format!("{alias}_ENV_{key}={value}")));
    out
}

/// The first and the last of ports that follow each other, where these are more than two.
fn ranges(ports: &[ExposedPort]) -> Vec<(ExposedPort, ExposedPort)> {
    let mut ports = ports.to_vec();
    ports.sort_by_key(|port| (port.protocol, port.port));
    let follows = |one: &ExposedPort, next: &ExposedPort| {
        one.protocol == next.protocol && one.port.checked_add(1) == Some(next.port)
    };
    let ends = |range: &[ExposedPort]| match range {
        [first, _, .., last] => Some((*first, *last)),
        _ => None,
    };
    ports.chunk_by(follows).filter_map(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ports: &[&str], env: &[&str]) -> Vec<String> {
        let ports = ports.iter().map(|port| port.parse().unwrap()).collect();
        let env: Vec<String> = env.iter().map(|variable| (*variable).to_owned()).collect();
        environment("my-db", "/web/my-db", [10, 0, 0, 2].into(), ports, &env)
    }

    #[test]
    fn a_port_and_variables() {
        let expected = [
            "MY_DB_PORT=tcp://10.0.0.2:5432",
            "MY_DB_PORT_5432_TCP=tcp://10.0.0.2:5432",
            "MY_DB_PORT_5432_TCP_ADDR=10.0.0.2",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
            "MY_DB_NAME=/web/my-db",
            "MY_DB_ENV_USER=a=b",
        ];
        assert_eq!(of(&["5432/tcp"], &["PATH=/bin", "USER=a=b", "HOME=/"]), expected);
        assert_eq!(of(&[], &[]), ["MY_DB_NAME=/web/my-db"]);
    }

    #[test]
    fn ranges_are_of_three_and_of_one_protocol() {
        let told = of(&["81/tcp", "80/udp", "80/tcp", "82/tcp", "443/tcp", "444/tcp", "65535/tcp"], &[]);
        let ranges: Vec<&String> = told.iter().filter(|text| text.contains("START") || text.contains("END")).collect();
        let expected = [
            "MY_DB_PORT_80_TCP_START=tcp://10.0.0.2:80",
            "MY_DB_PORT_80_TCP_PORT_START=80",
            "MY_DB_PORT_80_TCP_END=tcp://10.0.0.2:82",
            "MY_DB_PORT_80_TCP_PORT_END=82",
        ];
        assert_eq!(ranges, expected);
        assert_eq!(told[0], "MY_DB_PORT=tcp://10.0.0.2:80", "TCP comes first");
    }
}

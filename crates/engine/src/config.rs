//! What the engine is told at its start.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{LogConfig, MICROVM, Ulimit};
use crate::{Error, Result};

/// The engine's configuration.
#[derive(Clone)]
pub struct EngineConfig {
    /// Everything that outlives a boot: store, images, containers' files, volumes.
    pub data_dir: PathBuf,
    /// Sockets, and what dies with the boot.
    pub run_dir: PathBuf,
    /// The program whose `keeper` and `forward` subcommands are started.
    pub program: PathBuf,
    /// What stands between the program's `keeper` and the keeper's own arguments.
    pub keeper_arguments: Vec<OsString>,
    /// Parent of all containers' cgroups, `/stratus-<instance>` as a rule.
    pub cgroup_parent: String,
    /// Networks.
    pub net: NetworkDefaults,
    /// How registries are reached.
    pub registries: image::registry::RegistryConfig,
    /// Where output goes when a container does not say.
    pub log: LogConfig,
    /// Limits of containers that do not set them.
    pub ulimits: Vec<Ulimit>,
    /// A tiny init in every container that does not say.
    pub init: bool,
    /// How containers are run that do not say.
    pub runtime: String,
    /// DNS of containers that do not say: servers, options, search domains.
    pub dns: DnsDefaults,
    /// How long it is known what ended runs used.
    pub usage: meter::Retention,
    /// Seconds between `stop`'s signal and SIGKILL.
    pub stop_timeout: i64,
    /// MicroVMs.
    pub machines: Machines,
    /// Labels of this daemon.
    pub labels: Vec<String>,
    /// Version that clients are told.
    pub version: String,
}

impl EngineConfig {
    /// Refuses defaults that no container could be started with.
    pub fn check(&self) -> Result<()> {
        crate::container::check_logging_defaults(&self.log)?;
        let refuse = |key: &str, value: &str, why: &str| Err(Error::invalid(format!("{key} {value:?}: {why}")));
        if !matches!(self.runtime.as_str(), DEFAULT_RUNTIME | MICROVM) {
            return refuse("default-runtime", &self.runtime, "write stratus or microvm");
        }
        if let Some(server) = self.dns.servers.iter().find(|server| server.parse::<std::net::IpAddr>().is_err()) {
            return Err(Error::invalid(format!("dns {server}: a DNS server is given by its IP address")));
        }
        if let Some(domain) = self.dns.search.iter().find(|domain| !is_search_domain(domain)) {
            return refuse("dns-search", domain, "write one domain's name, such as internal.example, or . for none");
        }
        match self.dns.options.iter().find(|option| !is_one_word(option)) {
            Some(option) => refuse("dns-opt", option, "write one option without white space, such as ndots:1"),
            None => Ok(()),
        }
    }
}

/// How containers are run where nobody says anything else: as processes of the host's kernel.
pub const DEFAULT_RUNTIME: &str = "stratus";

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// `.` stands for the root: no domain is searched.
fn is_search_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    domain == "." || domain.len() <= 253 && domain.strip_suffix('.').unwrap_or(domain).split('.').all(is_label)
}

/// MicroVMs of this instance.
#[derive(Clone, Debug)]
pub struct Machines {
    /// How that by which they are run is chosen.
    pub driver: microvm::driver::Choice,
    /// The program of their processes on the host, whose file is in `directory`.
    pub program: crate::ProgramAt,
    /// Where their kernel is ([`guest_image::prepared`]).
    pub directory: PathBuf,
    /// Whether they go on from templates, in place of booting.
    pub templates: bool,
    /// What kind of processors they have that do not say.
    pub processor: microvm::Processor,
    /// For how long each step of the start of one that boots may take; `None`: for any time.
    pub start_timeout: Option<Duration>,
}

/// DNS of containers that do not say.
#[derive(Clone, Debug, Default)]
pub struct DnsDefaults {
    /// Servers; empty: the host's.
    pub servers: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
}

/// Networks of this instance.
#[derive(Clone, Debug)]
pub struct NetworkDefaults {
    /// Short name of this instance, `[a-z0-9]{1,8}`, in the names of links and tables.
    pub instance: String,
    /// Link of the default bridge.
    pub bridge: String,
    /// Pools that networks without a subnet are cut from: `CIDR` and the length of the prefix; empty: Docker's.
    pub address_pools: Vec<net::AddressPool>,
    /// Address of the host where `host-gateway` points; `None`: the default bridge's gateway.
    pub host_gateway: Option<std::net::IpAddr>,
    /// Whether what is forwarded between links that are no containers' is dropped, where this daemon was the one to switch
    /// forwarding on.
    pub ip_forward_drop: bool,
}

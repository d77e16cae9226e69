//! What the daemon is told: by flags, else by a TOML file, else by default.

mod host;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use engine::model::LogConfig;
use engine::{DnsDefaults, EngineConfig, NetworkDefaults};
use image::registry::RegistryConfig;
use serde::Deserialize;
use tracing_subscriber::filter::Targets;

use super::{Error, instance};
use crate::tls;
pub(super) use host::Host;
use values::{
    absolute, address, bridge, build_cache, entitlements, labels, log_filter, microvm_driver, microvm_endpoint,
    microvm_processor, microvm_start_timeout, pairs, pool, reach, registries, retention,
};

pub(super) const DATA_DIR: &str = "/var/lib/stratus";
const RUN_DIR: &str = "/run/stratus";
const CONFIG_FILE: &str = "/etc/stratus/daemon.toml";
const TLS_DIR: &str = "/etc/stratus/tls";
const BRIDGE: &str = "stratus0";
const LOG_FORMATS: [&str; 2] = ["text", "json"];

/// Flags of `stratus daemon`. Each of them can stand in the configuration file as well, under the same name.
#[derive(Args, Debug, Default)]
pub(crate) struct Options {
    /// Configuration file in TOML [default: /etc/stratus/daemon.toml, where it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where images, volumes and everything else that outlives a boot is kept [default: /var/lib/stratus]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where sockets are, and what dies with the boot [default: /run/stratus]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where to listen: unix:///PATH, tcp://ADDRESS:PORT (always with mutual TLS), or fd:// for sockets that systemd
    /// opened; repeats [default: unix://RUN_DIR/docker.sock]
    #[arg(long = "host", short = 'H', value_name = "URL")]
    hosts: Vec<String>,
    /// Certificates of the authority that clients' certificates come from, for tcp:// [default: /etc/stratus/tls/ca.pem]
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Certificate of this daemon, for tcp:// [default: /etc/stratus/tls/cert.pem]
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Key of the daemon's certificate [default: /etc/stratus/tls/key.pem]
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Let in only clients with a certificate: so it is in any case, and there is no way not to
    #[arg(long)]
    tlsverify: bool,
    /// Group that may use the sockets [default: docker, where it is there]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Link of the default bridge [default: stratus0]
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// Pool of addresses for networks, CIDR[,size=PREFIX]; repeats. The first network of the first one is the default
    /// bridge's
    #[arg(long = "default-address-pool", value_name = "CIDR[,size=N]")]
    default_address_pools: Vec<String>,
    /// Registry that is reached without TLS, or with a certificate that can't be verified; repeats
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
    /// Mirror of Docker Hub; repeats
    #[arg(long = "registry-mirror", value_name = "URL")]
    registry_mirrors: Vec<String>,
    /// Addresses, or ranges of them, that builds may fetch from although they are loopback, link-local or a cloud's metadata
    /// service; repeats
    #[arg(long = "build-allow-address", value_name = "RANGE")]
    build_allow_addresses: Vec<String>,
    /// What steps of builds may ask for beside what any container has: security.insecure or network.host; repeats
    #[arg(long = "build-allow-entitlement", value_name = "ENTITLEMENT")]
    build_allow_entitlements: Vec<String>,
    /// Where containers' output goes by default: json-file, local or none [default: json-file]
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of the default log driver, NAME=VALUE; repeats
    #[arg(long = "log-opt", value_name = "NAME=VALUE")]
    log_opts: Vec<String>,
    /// DNS server of containers that name none; repeats
    #[arg(long = "dns", value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Option of containers' resolvers; repeats
    #[arg(long = "dns-opt", value_name = "OPTION")]
    dns_opts: Vec<String>,
    /// Search domain of containers; repeats
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Address that containers reach as host-gateway [default: the default bridge's]
    #[arg(long, value_name = "ADDRESS")]
    host_gateway_ip: Option<IpAddr>,
    /// Let the host forward between links that are no containers', where this daemon switches forwarding on: else that
    /// is dropped, as the host would be a router for all who reach it
    #[arg(long)]
    ip_forward_no_drop: bool,
    /// Run a tiny init in every container that does not say
    #[arg(long)]
    init: bool,
    /// How containers are run that do not say: as processes of the host's kernel (stratus), or each with a kernel of its
    /// own (microvm) [default: stratus]
    #[arg(long, value_name = "RUNTIME")]
    default_runtime: Option<String>,
    /// By what microVMs are run: kvm, qemu, or auto for the best that this machine can have [default: auto]
    #[arg(long, value_name = "DRIVER")]
    microvm_driver: Option<String>,
    /// Where programs in microVMs are asked, by whoever has a token: http://127.0.0.1:PORT, or https://ADDRESS:PORT with
    /// the certificate of --tlscert [default: a free port of 127.0.0.1, once there are microVMs]
    #[arg(long, value_name = "URL")]
    microvm_endpoint: Option<String>,
    /// What kind of processors microVMs have: host, or x86-64-v2 to x86-64-v4, so that what is saved of one goes on on
    /// other hosts of that level [default: host]
    #[arg(long, value_name = "LEVEL")]
    microvm_processor: Option<String>,
    /// Have every microVM boot: else one goes on from a template of its kind, which was saved before anything ran in it
    #[arg(long)]
    microvm_boot: bool,
    /// Seconds within which a microVM's kernel has to be up, and each further step of its start done, else the start fails;
    /// one that goes on from a template boots after a third of that; 0 for any time [default: 180]
    #[arg(long, value_name = "SECONDS")]
    microvm_start_timeout: Option<u32>,
    /// Days for which it is known what ended runs used (`stratus usage`); 0 for ever [default: 400]
    #[arg(long, value_name = "DAYS")]
    usage_days: Option<u32>,
    /// The most ended runs of which it is known what they used: the newest; 0 for any number [default: 100000]
    #[arg(long, value_name = "NUMBER")]
    usage_runs: Option<u64>,
    /// The most that builds keep for the next one, beside what images have, as 20g; 0 for any size [default: a tenth of the
    /// disk, and no more than 20 GB]
    #[arg(long, value_name = "SIZE")]
    build_cache_size: Option<String>,
    /// Days for which builds keep what is not used; 0 for ever [default: 30]
    #[arg(long, value_name = "DAYS")]
    build_cache_days: Option<u32>,
    /// Label of this daemon, NAME=VALUE; repeats
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Serve Prometheus metrics on this address, at /metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<SocketAddr>,
    /// How much to log: error, warn, info, debug, trace, or a filter by module [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How to log: text or json [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = LOG_FORMATS)]
    log_format: Option<String>,
    /// End everything that runs, take everything out of the kernel, and end: the data directory stays
    #[arg(long)]
    pub(super) clean: bool,
}

/// The configuration file: the flags' names, without the dashes before them. A flag that repeats is a list, or a single
/// value. The names with underscores, and the plural ones, are those of earlier releases.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct File {
    #[serde(alias = "data_dir")]
    data_dir: Option<PathBuf>,
    #[serde(alias = "run_dir")]
    run_dir: Option<PathBuf>,
    #[serde(rename = "host", alias = "hosts", deserialize_with = "one_or_many")]
    hosts: Vec<String>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    tlsverify: Option<bool>,
    group: Option<String>,
    bridge: Option<String>,
    #[serde(rename = "default-address-pool", alias = "default_address_pools", deserialize_with = "one_or_many")]
    default_address_pools: Vec<String>,
    #[serde(rename = "insecure-registry", alias = "insecure_registries", deserialize_with = "one_or_many")]
    insecure_registries: Vec<String>,
    #[serde(rename = "registry-mirror", alias = "registry_mirrors", deserialize_with = "one_or_many")]
    registry_mirrors: Vec<String>,
    #[serde(rename = "build-allow-address", deserialize_with = "one_or_many")]
    build_allow_addresses: Vec<String>,
    #[serde(rename = "build-allow-entitlement", deserialize_with = "one_or_many")]
    build_allow_entitlements: Vec<String>,
    #[serde(alias = "log_driver")]
    log_driver: Option<String>,
    #[serde(rename = "log-opt", alias = "log_opts", deserialize_with = "one_or_many")]
    log_opts: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    dns: Vec<String>,
    #[serde(rename = "dns-opt", alias = "dns_opts", deserialize_with = "one_or_many")]
    dns_opts: Vec<String>,
    #[serde(alias = "dns_search", deserialize_with = "one_or_many")]
    dns_search: Vec<String>,
    #[serde(alias = "host_gateway_ip")]
    host_gateway_ip: Option<String>,
    #[serde(alias = "ip_forward_no_drop")]
    ip_forward_no_drop: bool,
    init: bool,
    #[serde(alias = "default_runtime")]
    default_runtime: Option<String>,
    #[serde(alias = "microvm_driver")]
    microvm_driver: Option<String>,
    microvm_endpoint: Option<String>,
    #[serde(alias = "microvm_processor")]
    microvm_processor: Option<String>,
    #[serde(alias = "microvm_boot")]
    microvm_boot: bool,
    microvm_start_timeout: Option<u32>,
    #[serde(alias = "usage_days")]
    usage_days: Option<u32>,
    #[serde(alias = "usage_runs")]
    usage_runs: Option<u64>,
    build_cache_size: Option<String>,
    build_cache_days: Option<u32>,
    #[serde(rename = "label", alias = "labels", deserialize_with = "one_or_many")]
    labels: Vec<String>,
    #[serde(alias = "metrics_addr")]
    metrics_addr: Option<String>,
    #[serde(alias = "log_level")]
    log_level: Option<String>,
    #[serde(alias = "log_format")]
    log_format: Option<String>,
}

/// A list, or what would be its only member.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string, or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// The configuration, complete.
pub(super) struct Config {
    pub(super) data_dir: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) hosts: Vec<Host>,
    /// Who comes by TCP shows a certificate.
    pub(super) tls: tls::Identity,
    pub(super) group: Option<String>,
    pub(super) instance: String,
    pub(super) bridge: String,
    pub(super) metrics: Option<SocketAddr>,
    /// What is logged.
    pub(super) log_filter: Targets,
    pub(super) log_json: bool,
    pools: Vec<net::AddressPool>,
    registries: RegistryConfig,
    /// What builds may do.
    pub(super) build: build::Settings,
    log: LogConfig,
    dns: DnsDefaults,
    host_gateway: Option<IpAddr>,
    ip_forward_drop: bool,
    init: bool,
    runtime: String,
    machines: engine::Machines,
    /// Where the endpoint of microVMs is, and whether by TLS.
    pub(super) microvm_endpoint: Option<(SocketAddr, bool)>,
    usage: meter::Retention,
    labels: Vec<String>,
    program: PathBuf,
}

impl Config {
    pub(super) fn from_options(options: &Options) -> Result<Self, Error> {
        Self::of(options, File::read(options.config.as_deref())?)
    }

    /// A configuration that is in the file alone, looked at without reading or changing anything.
    pub(super) fn check(text: &str) -> Result<(), Error> {
        Self::of(&Options::default(), File::parse(text, Path::new(CONFIG_FILE))?).map(drop)
    }

    /// Where a daemon keeps its data: what was given, else as the configuration file says, else by default.
    pub(super) fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, Error> {
        let file = || Ok::<_, Error>(File::read(None)?.data_dir.unwrap_or_else(|| DATA_DIR.into()));
        absolute(given.map_or_else(file, Ok)?)
    }

    fn of(options: &Options, file: File) -> Result<Self, Error> {
        let list =
            |flags: &Vec<String>, file: &Vec<String>| if flags.is_empty() { file.clone() } else { flags.clone() };
        let data_dir = absolute(options.data_dir.clone().or(file.data_dir).unwrap_or_else(|| DATA_DIR.into()))?;
        let run_dir = absolute(options.run_dir.clone().or(file.run_dir).unwrap_or_else(|| RUN_DIR.into()))?;
        let instance = instance::name(&data_dir);
        let is_default = data_dir == Path::new(DATA_DIR);
        let default_bridge = if is_default { BRIDGE.to_owned() } else { format!("st{instance}") };
        let hosts = list(&options.hosts, &file.hosts);
        let mut hosts = hosts.iter().map(|host| host.parse()).collect::<Result<Vec<Host>, _>>()?;
        if hosts.is_empty() {
            hosts.push(Host::unix(run_dir.join("docker.sock"))?);
        }
        if file.tlsverify == Some(false) {
            return Err(Error::Config("tlsverify = false: nobody comes by TCP without a certificate".to_owned()));
        }
        let default = tls::Identity::in_directory(Path::new(TLS_DIR));
        let tls = tls::Identity {
            authority: options.tlscacert.clone().or(file.tlscacert).unwrap_or(default.authority),
            certificate: options.tlscert.clone().or(file.tlscert).unwrap_or(default.certificate),
            key: options.tlskey.clone().or(file.tlskey).unwrap_or(default.key),
        };
        let metrics =
            file.metrics_addr.map(|text| address("metrics-addr", &text, "ADDRESS:PORT, such as 127.0.0.1:9323"));
        let metrics = options.metrics_addr.or(metrics.transpose()?);
        let host_gateway = file.host_gateway_ip.map(|text| address("host-gateway-ip", &text, "an IP address"));
        let host_gateway = options.host_gateway_ip.or(host_gateway.transpose()?);
        let pools = list(&options.default_address_pools, &file.default_address_pools);
        let insecure = list(&options.insecure_registries, &file.insecure_registries);
        let mirrors = list(&options.registry_mirrors, &file.registry_mirrors);
        let log_level = options.log_level.clone().or(file.log_level).unwrap_or_else(|| "info".to_owned());
        let log_filter = log_filter(&log_level)?;
        let log_format = options.log_format.clone().or(file.log_format);
        if let Some(other) = log_format.as_deref().filter(|format| !LOG_FORMATS.contains(format)) {
            return Err(Error::Config(format!("log-format {other}: write text or json")));
        }
        let log_driver = options.log_driver.clone().or(file.log_driver).unwrap_or_else(|| "json-file".to_owned());
        Ok(Self {
            hosts,
            tls,
            group: options.group.clone().or(file.group),
            bridge: bridge(options.bridge.clone().or(file.bridge).unwrap_or(default_bridge))?,
            metrics,
            log_filter,
            log_json: log_format.as_deref() == Some("json"),
            pools: pools.iter().map(|text| pool(text)).collect::<Result<_, _>>()?,
            registries: registries(&insecure, &mirrors)?,
            build: build::Settings {
                reach: reach(&list(&options.build_allow_addresses, &file.build_allow_addresses))?,
                entitlements: entitlements(&list(&options.build_allow_entitlements, &file.build_allow_entitlements))?,
                cache: build_cache(
                    &data_dir,
                    options.build_cache_size.as_deref().or(file.build_cache_size.as_deref()),
                    options.build_cache_days.or(file.build_cache_days),
                )?,
            },
            log: LogConfig { driver: log_driver, options: pairs("log-opt", &list(&options.log_opts, &file.log_opts))? },
            dns: DnsDefaults {
                servers: list(&options.dns, &file.dns),
                options: list(&options.dns_opts, &file.dns_opts),
                search: list(&options.dns_search, &file.dns_search),
            },
            host_gateway,
            ip_forward_drop: !(options.ip_forward_no_drop || file.ip_forward_no_drop),
            init: options.init || file.init,
            runtime: options
                .default_runtime
                .clone()
                .or(file.default_runtime)
                .unwrap_or_else(|| engine::DEFAULT_RUNTIME.to_owned()),
            machines: engine::Machines {
                driver: microvm_driver(options.microvm_driver.as_deref().or(file.microvm_driver.as_deref()))?,
                program: machine_program::at,
                directory: data_dir.join("microvm"),
                templates: !(options.microvm_boot || file.microvm_boot),
                processor: microvm_processor(
                    options.microvm_processor.as_deref().or(file.microvm_processor.as_deref()),
                )?,
                start_timeout: microvm_start_timeout(options.microvm_start_timeout.or(file.microvm_start_timeout)),
            },
            microvm_endpoint: options
                .microvm_endpoint
                .as_deref()
                .or(file.microvm_endpoint.as_deref())
                .map(microvm_endpoint)
                .transpose()?,
            usage: retention(options.usage_days.or(file.usage_days), options.usage_runs.or(file.usage_runs)),
            labels: labels(list(&options.labels, &file.labels))?,
            program: std::env::current_exe().map_err(Error::io("find", "this program's own file"))?,
            data_dir,
            run_dir,
            instance,
        })
    }

    /// Parent of all containers' cgroups.
    pub(super) fn cgroup_parent(&self) -> String {
        format!("/stratus-{}", self.instance)
    }

    /// What the engine is told; refused where no container could be run like that.
    pub(super) fn engine(&self) -> Result<EngineConfig, Error> {
        let config = EngineConfig {
            data_dir: self.data_dir.clone(),
            run_dir: self.run_dir.clone(),
            program: self.program.clone(),
            keeper_arguments: vec![instance::KEEPER_ARGUMENT.into(), self.data_dir.clone().into()],
            cgroup_parent: self.cgroup_parent(),
            net: NetworkDefaults {
                instance: self.instance.clone(),
                bridge: self.bridge.clone(),
                address_pools: self.pools.clone(),
                host_gateway: self.host_gateway,
                ip_forward_drop: self.ip_forward_drop,
            },
            registries: self.registries.clone(),
            log: self.log.clone(),
            ulimits: Vec::new(),
            init: self.init,
            runtime: self.runtime.clone(),
            dns: self.dns.clone(),
            usage: self.usage,
            stop_timeout: 10,
            machines: self.machines.clone(),
            labels: self.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        config.check()?;
        Ok(config)
    }
}

impl File {
    fn read(given: Option<&Path>) -> Result<Self, Error> {
        let path = given.unwrap_or(Path::new(CONFIG_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && given.is_none() => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", path.display())(error)),
        };
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let wrong = |error: toml::de::Error| {
            let why = unknown_key(&error).unwrap_or_else(|| without_types(error.message()));
            error.to_string().replace(error.message(), &why)
        };
        toml::from_str(text).map_err(|error| Error::Config(format!("{}: {}", path.display(), wrong(error).trim_end())))
    }
}

/// What is said of a key that there is not. What serde says itself lists the names of earlier releases among the present
/// ones.
fn unknown_key(error: &toml::de::Error) -> Option<String> {
    let (key, _) = error.message().strip_prefix("unknown field `")?.split_once('`')?;
    Some(format!("unknown key `{key}`: the keys are {}", keys().join(", ")))
}

/// What serde says of a number names the type that is to hold it.
fn without_types(message: &str) -> String {
    ["expected u32", "expected u64"]
        .iter()
        .fold(message.to_owned(), |text, of_type| text.replace(of_type, "expected a whole number, 0 or more"))
}

/// The names of all keys: those of the flags, but for the two that are no settings.
fn keys() -> Vec<String> {
    let flags = Options::augment_args(clap::Command::new("daemon"));
    let names = flags.get_arguments().filter_map(|flag| flag.get_long());
    names.filter(|name| !["config", "clean"].contains(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parsed(text: &str) -> Result<File, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_file_takes_the_flags_names() {
        let file = parsed("data-dir = '/d'\nhost = 'fd://'\ndns = ['10.0.0.1']\nlog-opt = ['max-size=1m']").unwrap();
        assert_eq!((file.data_dir, file.hosts), (Some("/d".into()), vec!["fd://".to_owned()]));
        assert_eq!((file.dns, file.log_opts), (vec!["10.0.0.1".to_owned()], vec!["max-size=1m".to_owned()]));
        let file = parsed("data_dir = '/d'\nhosts = ['fd://']\ninsecure_registries = ['r:5000']").unwrap();
        assert_eq!((file.hosts.len(), file.insecure_registries.len()), (1, 1));
    }

    #[test]
    fn a_key_that_is_not_there_is_told_with_those_that_are() {
        let refused = |text: &str| Config::check(text).expect_err(text).to_string();
        let said = refused("init = true\nbogus = 1");
        assert!(said.starts_with("/etc/stratus/daemon.toml: TOML parse error at line 2, column 1"), "{said}");
        assert!(said.contains("unknown key `bogus`: the keys are data-dir, run-dir, host, "), "{said}");
        assert!(!said.contains("data_dir") && !said.contains("hosts"), "{said}");
        // Other mistakes are told as they were.
        assert!(refused("init = 3").contains("expected a boolean"), "{}", refused("init = 3"));
        assert!(
            refused("usage-days = -1").contains("expected a whole number, 0 or more"),
            "{}",
            refused("usage-days = -1")
        );
        assert!(refused("dns = 3").contains("expected a string, or a list of strings"), "{}", refused("dns = 3"));
        assert_eq!(
            refused("metrics-addr = 'here'"),
            "metrics-addr \"here\": write ADDRESS:PORT, such as 127.0.0.1:9323"
        );
        assert_eq!(refused("host-gateway-ip = 'here'"), "host-gateway-ip \"here\": write an IP address");
    }

    #[test]
    fn forwarding_is_confined_unless_the_file_says_otherwise() {
        let confined = |text: &str| Config::of(&Options::default(), parsed(text).unwrap()).unwrap().engine().unwrap();
        assert!(confined("").net.ip_forward_drop);
        assert!(confined("ip-forward-no-drop = false").net.ip_forward_drop);
        assert!(!confined("ip-forward-no-drop = true").net.ip_forward_drop);
    }

    #[test]
    fn records_of_usage_have_an_end_unless_they_are_to_have_none() {
        let usage =
            |text: &str| Config::of(&Options::default(), parsed(text).unwrap()).unwrap().engine().unwrap().usage;
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        assert_eq!(usage(""), meter::Retention { age: days(400), runs: Some(100_000) });
        assert_eq!(usage("usage-days = 7\nusage-runs = 5"), meter::Retention { age: days(7), runs: Some(5) });
        assert_eq!(usage("usage-days = 0\nusage-runs = 0"), meter::Retention { age: None, runs: None });
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flags = Options { labels: vec!["a=b".into()], log_level: Some("warn".into()), ..Options::default() };
        let config =
            Config::of(&flags, parsed("label = 'c=d'\nlog-level = 'debug'\ndns = '10.0.0.1'").unwrap()).unwrap();
        assert_eq!((config.labels, config.log_filter.to_string().as_str()), (vec!["a=b".to_owned()], "warn"));
        assert_eq!(config.dns.servers, ["10.0.0.1"]);
    }

    #[test]
    fn the_example_has_every_flag_once() {
        let example = include_str!("../../../../contrib/daemon.toml.example");
        // Each of its settings is commented out, and the lines that explain them are sentences.
        let settings = |line: &&str| line.split_once(" = ").is_some_and(|(name, _)| !name.contains(' '));
        let lines = example.lines().filter_map(|line| line.strip_prefix("# ")).filter(settings);
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        parsed(&text).unwrap_or_else(|error| panic!("{error}"));
        let table: toml::Table = text.parse().unwrap();
        let mut names = keys();
        names.sort_unstable();
        let mut given: Vec<&str> = table.keys().map(String::as_str).collect();
        given.sort_unstable();
        assert_eq!(given, names);
    }
}

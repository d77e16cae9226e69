//! How registries are reached: which may be spoken to without TLS, which have mirrors, how often and how long things are tried.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::proxy::ProxyConfig;

/// A registry, or a range of addresses of registries, that may be spoken to without a verified certificate or without TLS at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostOrCidr {
    /// The registry's name as references write it, with its port where it has one.
    Host(String),
    /// Every registry whose address is in this range.
    Cidr(IpNet),
}

/// The text is neither a host nor a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "insecure registry {0:?} is not valid: give HOST, HOST:PORT or a range of addresses such as 10.0.0.0/8, without a scheme or path"
)]
pub struct BadHostOrCidr(String);

impl FromStr for HostOrCidr {
    type Err = BadHostOrCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(range) = text.parse::<IpNet>() {
            return Ok(HostOrCidr::Cidr(range));
        }
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        match crate::reference::Reference::parse(&format!("{host}/x")) {
            Ok(reference) if reference.path() == "x" => Ok(HostOrCidr::Host(host.to_owned())),
            // A host without a dot or port would be a user's name in a reference; as a registry's it is fine.
            Ok(reference) if reference.path() == format!("{host}/x") && !host.contains('/') => {
                Ok(HostOrCidr::Host(host.to_owned()))
            }
            _ => Err(BadHostOrCidr(text.to_owned())),
        }
    }
}

impl fmt::Display for HostOrCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostOrCidr::Host(host) => f.write_str(host),
            HostOrCidr::Cidr(range) => write!(f, "{range}"),
        }
    }
}

/// How registries are reached. [`RegistryConfig::default`] is what dockerd does without any configuration, apart from the proxies,
/// which [`ProxyConfig::from_env`] reads.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries that need no verified certificate, and are tried without TLS where TLS fails. Loopback addresses always are such.
    pub insecure: Vec<HostOrCidr>,
    /// Base addresses (`https://mirror.example/prefix`) that are asked before the registry of that name, in this order, when pulling.
    /// Credentials of the registry are never sent to a mirror; a mirror's own stand in its address (`https://user:password@…`).
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Directories that hold `HOST:PORT/*.crt` (authorities) and `HOST:PORT/*.cert` with `*.key` (client certificates).
    pub certificate_dirs: Vec<PathBuf>,
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// How often a transfer is tried before it fails, 1 at least.
    pub attempts: u32,
    /// How long to wait before the second try; doubled for each further one, up to [`RegistryConfig::backoff_max`].
    pub backoff: Duration,
    /// The longest wait between two tries. Where the registry's `Retry-After` asks for more, its refusal is reported at once.
    pub backoff_max: Duration,
    /// Layers fetched at the same time, over all pulls.
    pub concurrent_downloads: usize,
    /// Layers sent at the same time, over all pushes.
    pub concurrent_uploads: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a transfer may stand still.
    pub stall_timeout: Duration,
    /// Which proxies requests go through.
    pub proxy: ProxyConfig,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            certificate_dirs: vec![PathBuf::from("/etc/docker/certs.d")],
            user_agent: concat!("stratus/", env!("CARGO_PKG_VERSION")).to_owned(),
            attempts: 5,
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            concurrent_downloads: 3,
            concurrent_uploads: 5,
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            proxy: ProxyConfig::default(),
        }
    }
}

impl RegistryConfig {
    /// Whether a registry is named as insecure, or has a loopback address or one in a range named so.
    /// `addresses` are those that its name resolves to.
    pub(super) fn is_insecure(&self, host: &str, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(IpAddr::is_loopback)
            || self.insecure.iter().any(|entry| match entry {
                HostOrCidr::Host(name) => name.eq_ignore_ascii_case(host),
                HostOrCidr::Cidr(range) => addresses.iter().any(|address| range.contains(address)),
            })
    }

    /// How long to wait before the try after `failed` failed ones (1 or more), given what the registry asked for.
    /// `None` where it is not worth waiting: no try is left, or the registry asks for more patience than a client has.
    pub(super) fn wait_before_retry(&self, failed: u32, asked: Option<Duration>) -> Option<Duration> {
        if failed >= self.attempts || asked.is_some_and(|asked| asked > self.backoff_max) {
            return None;
        }
        let doubled = self.backoff.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(self.backoff_max);
        Some(asked.unwrap_or(doubled).max(doubled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_named_by_host_or_range() {
        let config = RegistryConfig {
            insecure: vec!["10.0.0.0/8".parse().unwrap(), "reg.example:5000".parse().unwrap()],
            ..RegistryConfig::default()
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(config.is_insecure("x.example", &[ip("10.1.2.3")]));
        assert!(config.is_insecure("REG.example:5000", &[]));
        assert!(!config.is_insecure("reg.example", &[ip("192.0.2.1")]));
        assert!(config.is_insecure("localhost:5000", &[ip("::1")]));
        assert!(config.is_insecure("127.0.0.1:5000", &[ip("127.0.0.1")]));
    }

    #[test]
    fn a_registry_is_not_an_url() {
        assert_eq!("myregistry".parse(), Ok(HostOrCidr::Host("myregistry".into())));
        assert_eq!("http://reg.example:1".parse(), Ok(HostOrCidr::Host("reg.example:1".into())));
        for bad in ["", "a/b", "a b", "ftp://x", "http://a/b"] {
            assert!(bad.parse::<HostOrCidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let config = RegistryConfig { attempts: 50, ..RegistryConfig::default() };
        let wait = |failed| config.wait_before_retry(failed, None).map(|wait| wait.as_millis());
        assert_eq!(
            [wait(1), wait(2), wait(3), wait(40), wait(50)],
            [Some(500), Some(1000), Some(2000), Some(30_000), None]
        );
        assert_eq!(config.wait_before_retry(1, Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(config.wait_before_retry(1, Some(Duration::from_secs(7000))), None);
    }
}

//! What single values of the configuration mean, and which of them are refused.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use image::registry::{BadHostOrCidr, ProxyConfig, Reach, RegistryConfig};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::super::Error;
use crate::client::parse_bytes;
use build::CacheLimits;

/// A year, and what it takes to look back at it.
const USAGE_DAYS: u32 = 400;
/// Some 80 MB of the store; up to 450 MB where containers use all the room that there is for their labels. A sum over all of
/// them reads as much.
const USAGE_RUNS: u64 = 100_000;

/// Sixty times what a boot takes where the processor is emulated.
const MICROVM_START_TIMEOUT: u32 = 180;

/// How much builds keep in a data directory.
pub(super) fn build_cache(data_dir: &Path, size: Option<&str>, days: Option<u32>) -> Result<CacheLimits, Error> {
    let mut limits = CacheLimits::of_disk(data_dir);
    if let Some(text) = size {
        let wrong = || Error::Config(format!("build-cache-size {text}: write a number and a unit, such as 20g"));
        let bytes = parse_bytes(text).ok().and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(wrong)?;
        limits.bytes = Some(bytes).filter(|bytes| *bytes > 0);
    }
    if let Some(days) = days {
        limits.age = Some(Duration::from_secs(u64::from(days) * 24 * 3600)).filter(|age| !age.is_zero());
    }
    Ok(limits)
}

pub(super) fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    let path = std::path::absolute(&path).map_err(Error::io("make absolute", path.display()))?;
    // One spelling for one directory, as the instance's name is made of it.
    Ok(path.components().collect())
}

/// By what microVMs are run.
pub(super) fn microvm_driver(text: Option<&str>) -> Result<microvm::driver::Choice, Error> {
    let text = text.unwrap_or("auto");
    let wrong = || Error::Config(format!("microvm-driver {text:?}: write auto, kvm or qemu"));
    microvm::driver::Choice::parse(text).ok_or_else(wrong)
}

/// What kind of processors microVMs have.
pub(super) fn microvm_processor(text: Option<&str>) -> Result<microvm::Processor, Error> {
    let Some(text) = text else { return Ok(microvm::Processor::default()) };
    let names = microvm::Processor::ALL.map(microvm::Processor::name).join(", ");
    let wrong = || Error::Config(format!("microvm-processor {text:?}: write one of {names}"));
    microvm::Processor::parse(text).ok_or_else(wrong)
}

/// Within how many seconds each step of a microVM's start has to be done; 0: within any time.
pub(super) fn microvm_start_timeout(seconds: Option<u32>) -> Option<Duration> {
    Some(Duration::from_secs(seconds.unwrap_or(MICROVM_START_TIMEOUT).into())).filter(|timeout| !timeout.is_zero())
}

/// Where the endpoint of microVMs is, and whether by TLS.
pub(super) fn microvm_endpoint(text: &str) -> Result<(SocketAddr, bool), Error> {
    let wrong = |why: &str| Error::Config(format!("microvm-endpoint {text}: {why}"));
    let (tls, address) = match text.split_once("://") {
        Some(("http", address)) => (false, address),
        Some(("https", address)) => (true, address),
        _ => return Err(wrong("write http://127.0.0.1:PORT, or https://ADDRESS:PORT")),
    };
    let address = address.trim_end_matches('/').parse::<SocketAddr>();
    let address = address.map_err(|_| wrong("write an IP address and a port, such as https://10.0.0.1:8443"))?;
    match tls || address.ip().is_loopback() {
        true => Ok((address, tls)),
        // Whoever reads a token on its way can use it.
        false => Err(wrong(
            "by http it is for this machine alone, at 127.0.0.1: for others write https://, with --tlscert and --tlskey",
        )),
    }
}

/// What is logged, by level and module. Refuses what would log nothing: to the parser, an unknown level is a module of
/// that name.
pub(super) fn log_filter(text: &str) -> Result<Targets, Error> {
    let wrong = |part: &str| {
        Error::Config(format!("log-level {part}: write error, warn, info, debug or trace, or MODULE=LEVEL,…"))
    };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    for part in &parts {
        let level = part.rsplit_once('=').map_or(*part, |(_, level)| level);
        // To the parser, nothing at all is a level.
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(wrong(part));
        }
    }
    parts.join(",").parse().map_err(|_| wrong(text))
}

/// `10.200.0.0/16,size=24`, or Docker's `base=10.200.0.0/16,size=24`
pub(super) fn pool(text: &str) -> Result<net::AddressPool, Error> {
    let wrong = |why: &str| Error::Config(format!("default-address-pool {text}: {why}: write CIDR,size=PREFIX"));
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("size", value)) => size = Some(value.parse::<u8>().map_err(|_| wrong("size is no prefix length"))?),
            Some(("base", value)) => base = Some(value),
            None => base = Some(part),
            Some(_) => return Err(wrong("unknown option")),
        }
    }
    let base: ipnet::IpNet = base.and_then(|base| base.parse().ok()).ok_or_else(|| wrong("no network"))?;
    let size =
        size.unwrap_or(if base.addr().is_ipv4() { 24.max(base.prefix_len()) } else { 64.max(base.prefix_len()) });
    if size < base.prefix_len() || size > base.max_prefix_len() {
        return Err(wrong("size does not fit the network"));
    }
    Ok(net::AddressPool { base: base.trunc(), size })
}

/// How long, and of how many runs, it is kept what they used; 0: without an end.
pub(super) fn retention(days: Option<u32>, runs: Option<u64>) -> meter::Retention {
    let days = Some(days.unwrap_or(USAGE_DAYS)).filter(|days| *days > 0);
    meter::Retention {
        age: days.map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        runs: Some(runs.unwrap_or(USAGE_RUNS)).filter(|runs| *runs > 0),
    }
}

/// An address that stands under `key`, as `form` has it.
pub(super) fn address<T: FromStr>(key: &str, text: &str, form: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Config(format!("{key} {text:?}: write {form}")))
}

/// The default bridge's link, by a name that the kernel takes.
pub(super) fn bridge(name: String) -> Result<String, Error> {
    match net::check_link_name(&name) {
        Ok(()) => Ok(name),
        Err(error) => Err(Error::Config(format!("bridge {name:?}: {error}"))),
    }
}

/// `NAME=VALUE`, as dockerd has its own labels: a value may be anything, a name is one word.
pub(super) fn labels(list: Vec<String>) -> Result<Vec<String>, Error> {
    let is_label = |text: &String| {
        text.split_once('=').is_some_and(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
    };
    match list.iter().find(|text| !is_label(text)) {
        Some(wrong) => {
            Err(Error::Config(format!("label {wrong:?}: write NAME=VALUE, with no white space in the name")))
        }
        None => Ok(list),
    }
}

pub(super) fn pairs(flag: &str, list: &[String]) -> Result<std::collections::BTreeMap<String, String>, Error> {
    let pair = |text: &String| {
        let (name, value) =
            text.split_once('=').ok_or_else(|| Error::Config(format!("{flag} {text}: write NAME=VALUE")))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    list.iter().map(pair).collect()
}

/// The registries' configuration; mirrors are those of Docker Hub, as dockerd's flag has it.
pub(super) fn registries(insecure: &[String], mirrors: &[String]) -> Result<RegistryConfig, Error> {
    let mut config = RegistryConfig { proxy: ProxyConfig::from_env(), ..RegistryConfig::default() };
    for host in insecure {
        config.insecure.push(
            host.parse()
                .map_err(|error: BadHostOrCidr| Error::Config(format!("insecure-registry {host:?}: {error}")))?,
        );
    }
    for mirror in mirrors {
        let host = ["https://", "http://"].iter().find_map(|scheme| mirror.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            let wrong = format!("registry-mirror {mirror}: write its address, such as https://mirror.example");
            return Err(Error::Config(wrong));
        }
    }
    if !mirrors.is_empty() {
        config.mirrors.insert("docker.io".to_owned(), mirrors.to_vec());
    }
    Ok(config)
}

/// What builds may fetch from.
pub(super) fn reach(ranges: &[String]) -> Result<Reach, Error> {
    Reach::allowing(ranges).map_err(|error| Error::Config(format!("build-allow-address: {error}")))
}

/// What steps of builds may have.
pub(super) fn entitlements(names: &[String]) -> Result<BTreeSet<build::Entitlement>, Error> {
    let failed = |why: String| Error::Config(format!("build-allow-entitlement: {why}"));
    let one = |name: &String| match name.parse::<build::Entitlement>() {
        Ok(one) if one.is_the_daemons() => Ok(one),
        Ok(one) => {
            Err(failed(format!("{one} is nothing of the daemon's: who builds says it, by stratus build --allow {one}")))
        }
        Err(error) => Err(failed(error.to_string())),
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_in_both_forms() {
        let short = pool("10.9.0.0/16").unwrap();
        assert_eq!((short.base.to_string(), short.size), ("10.9.0.0/16".to_owned(), 24));
        let long = pool("base=10.9.0.0/16,size=20").unwrap();
        assert_eq!(long.size, 20);
        for wrong in ["", "10.9.0.0/16,size=8", "x,size=24", "10.9.0.0/16,mtu=1"] {
            assert!(pool(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn levels_that_would_log_nothing_are_refused() {
        for right in ["info", "INFO", "off", "net=debug", "warn, engine::container=trace"] {
            log_filter(right).unwrap_or_else(|error| panic!("{right}: {error}"));
        }
        for wrong in ["loud", "", "info,loud", "net=loud", "net=", "a=b=info"] {
            assert!(log_filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bridge_has_a_name_that_the_kernel_takes() {
        for right in ["br0", "fifteen-bytes15", "a.b"] {
            bridge(right.to_owned()).unwrap();
        }
        for wrong in ["", "sixteen-bytes-16", "a b", "a/b", "a:b", ".", "bridge%d"] {
            let said = bridge(wrong.to_owned()).expect_err(wrong).to_string();
            assert!(said.starts_with(&format!("bridge {wrong:?}: invalid link name")), "{said}");
        }
    }

    #[test]
    fn a_label_has_a_name_of_one_word() {
        let one = |text: &str| labels(vec!["a=b".to_owned(), text.to_owned()]);
        for right in ["rack=7", "note=two words", "empty=", "a=b=c"] {
            one(right).unwrap();
        }
        for wrong in ["rack", "", "=7", "the rack=7", " rack=7", "two words"] {
            let said = one(wrong).expect_err(wrong).to_string();
            assert_eq!(said, format!("label {wrong:?}: write NAME=VALUE, with no white space in the name"));
        }
    }

    #[test]
    fn a_mirror_is_an_address() {
        registries(&[], &["https://mirror.example/prefix".into()]).unwrap();
        for wrong in ["foo", "ftp://x", "https://", ""] {
            assert!(registries(&[], &[wrong.into()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_directory_has_one_spelling() {
        for same in ["/a/b", "/a//b/", "/a/./b"] {
            assert_eq!(absolute(same.into()).unwrap().as_os_str(), "/a/b");
        }
    }
}

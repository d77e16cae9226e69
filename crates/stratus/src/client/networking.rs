//! `--publish`, `--expose`, `--network` and what belongs to them.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use super::mounts::fields;

/// A `--publish`: ports of the container, as `80/tcp`, and where they are found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Publication {
    pub(super) ports: Vec<(String, Value)>,
}

impl FromStr for Publication {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why: &str| format!("{text:?} can't be published: {why} ([ADDRESS:][PORT:]PORT[/PROTOCOL])");
        let (ports, protocol) = with_protocol(text).map_err(|why| bad(&why))?;
        let (rest, container) = ports.rsplit_once(':').map_or((None, ports), |(rest, port)| (Some(rest), port));
        let (address, host) = match rest {
            None => ("", ""),
            // An IPv6 address has colons of its own, and stands in brackets.
            Some(rest) => match rest.rsplit_once(':') {
                Some((address, host)) if !rest.ends_with(']') => (address, host),
                _ if rest.starts_with('[') => return Err(bad("a port is missing after the address")),
                _ => ("", rest),
            },
        };
        let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            return Err(bad(&format!("{address:?} is no IP address")));
        }
        let container = range(container).map_err(|why| bad(&why))?;
        let host = if host.is_empty() { None } else { Some(range(host).map_err(|why| bad(&why))?) };
        let many = container.len() > 1;
        if host.as_ref().is_some_and(|host| many && host.len() != container.len()) {
            return Err(bad("the two ranges are not of one length"));
        }
        let binding = |(index, port): (usize, u16)| {
            let host = match &host {
                None => String::new(),
                Some(host) if many => host.clone().nth(index).unwrap_or_default().to_string(),
                // One port of the container, on any of several: the daemon chooses.
                Some(host) if host.len() > 1 => format!("{}-{}", host.start(), host.end()),
                Some(host) => host.start().to_string(),
            };
            (format!("{port}/{protocol}"), json!({ "HostIp": address, "HostPort": host }))
        };
        Ok(Publication { ports: container.enumerate().map(binding).collect() })
    }
}

fn with_protocol(text: &str) -> Result<(&str, String), String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol.to_lowercase().as_str() {
        known @ ("tcp" | "udp" | "sctp") => Ok((ports, known.to_owned())),
        _ => Err("the protocol is none of tcp, udp and sctp".into()),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last { Err(format!("{text} goes backwards")) } else { Ok(first..=last) }
}

/// The ports of an `--expose`.
pub(super) fn exposed(text: &str) -> Result<Vec<String>, String> {
    let (ports, protocol) = with_protocol(text)?;
    Ok(range(ports)?.map(|port| format!("{port}/{protocol}")).collect())
}

/// `NAME:ADDRESS`es, also with `=` between them.
pub(super) fn extra_hosts(texts: &[String]) -> Result<Vec<String>> {
    let host = |text: &String| match text.split_once(['=', ':']) {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
            if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
                let why =
                    format!("{address:?} is no IP address: give NAME:ADDRESS, or NAME:host-gateway for this machine");
                return Err(Error::Usage(format!("--add-host {text:?}: {why}")));
            }
            Ok(format!("{name}:{address}"))
        }
        _ => Err(Error::Usage(format!("--add-host {text:?} has no address: give NAME:ADDRESS, such as db:10.0.0.7"))),
    };
    texts.iter().map(host).collect()
}

/// A `--network`: a name, or a name with settings.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attachment {
    name: String,
    endpoint: Map<String, Value>,
}

impl FromStr for Attachment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains('=') {
            return Ok(Attachment { name: text.to_owned(), endpoint: Map::new() });
        }
        let (mut name, mut settings) = (None, json!({}));
        for field in fields(text)? {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("{field:?} has no value"))?;
            match key {
                "name" => name = Some(value.to_owned()),
                "alias" => push(&mut settings["Aliases"], value),
                "ip" => settings["IPAMConfig"]["IPv4Address"] = json!(value),
                "ip6" => settings["IPAMConfig"]["IPv6Address"] = json!(value),
                "link-local-ip" => push(&mut settings["IPAMConfig"]["LinkLocalIPs"], value),
                "mac-address" => settings["MacAddress"] = json!(value),
                "gw-priority" => {
                    let number: i64 = value.parse().map_err(|_| format!("gw-priority {value:?} is no number"))?;
                    settings["GwPriority"] = json!(number);
                }
                "driver-opt" => {
                    let (option, value) = value.split_once('=').ok_or("a driver-opt is NAME=VALUE")?;
                    settings["DriverOpts"][option] = json!(value);
                }
                other => return Err(format!("{other:?} is no setting of a network")),
            }
        }
        let name = name.ok_or("the network has no name: give name=NETWORK")?;
        let Value::Object(endpoint) = settings else { unreachable!("it was made as an object") };
        Ok(Attachment { name, endpoint })
    }
}

fn push(list: &mut Value, value: &str) {
    match list {
        Value::Array(list) => list.push(json!(value)),
        list => *list = json!([value]),
    }
}

/// Flags that say something about the first network.
pub(super) struct OfFirst<'a> {
    pub(super) aliases: &'a [String],
    pub(super) links: &'a [String],
    pub(super) ip: Option<&'a str>,
    pub(super) ip6: Option<&'a str>,
    pub(super) link_local: &'a [String],
    pub(super) mac: Option<&'a str>,
}

/// The network mode, and the endpoints' settings by network.
pub(super) fn endpoints(networks: &[Attachment], first: &OfFirst<'_>) -> Result<(String, Map<String, Value>)> {
    let mode = networks.first().map_or("default", |network| network.name.as_str());
    let is_user_defined = |name: &str| {
        !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:") && !name.is_empty()
    };
    let mut endpoints = Map::new();
    for network in networks {
        endpoints.insert(network.name.clone(), Value::Object(network.endpoint.clone()));
    }
    if networks.len() > 1 && !networks.iter().all(|network| is_user_defined(&network.name) || network.name == "bridge")
    {
        return Err(Error::Usage("host, none and container:… can't be combined with other networks".into()));
    }
    let mut settings = endpoints.remove(mode).unwrap_or_else(|| json!({}));
    for alias in first.aliases {
        push(&mut settings["Aliases"], alias);
    }
    if let Some(ip) = first.ip {
        settings["IPAMConfig"]["IPv4Address"] = json!(ip);
    }
    if let Some(ip) = first.ip6 {
        settings["IPAMConfig"]["IPv6Address"] = json!(ip);
    }
    for ip in first.link_local {
        push(&mut settings["IPAMConfig"]["LinkLocalIPs"], ip);
    }
    if let Some(mac) = first.mac {
        settings["MacAddress"] = json!(mac);
    }
    if is_user_defined(mode) && !first.links.is_empty() {
        settings["Links"] = json!(first.links);
    }
    if settings.as_object().is_some_and(|settings| !settings.is_empty()) || is_user_defined(mode) {
        endpoints.insert(mode.to_owned(), settings);
    }
    Ok((mode.to_owned(), endpoints))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> Vec<(String, String)> {
        let publication: Publication = text.parse().expect(text);
        let at = |binding: &Value| {
            format!("{}|{}", binding["HostIp"].as_str().unwrap(), binding["HostPort"].as_str().unwrap())
        };
        publication.ports.iter().map(|(port, binding)| (port.clone(), at(binding))).collect()
    }

    #[test]
    fn ports_in_all_forms() {
        let one = |port: &str, at: &str| vec![(port.to_owned(), at.to_owned())];
        assert_eq!(published("80"), one("80/tcp", "|"));
        assert_eq!(published("8080:80/UDP"), one("80/udp", "|8080"));
        assert_eq!(published("127.0.0.1:8080:80"), one("80/tcp", "127.0.0.1|8080"));
        assert_eq!(published("127.0.0.1::80"), one("80/tcp", "127.0.0.1|"));
        assert_eq!(published("[::1]:8080:80"), one("80/tcp", "::1|8080"));
        assert_eq!(published("8000-8010:80"), one("80/tcp", "|8000-8010"));
        assert_eq!(published("8000-8001:80-81")[1], ("81/tcp".into(), "|8001".into()));
        for bad in ["", "a", "80/xyz", "1:2:3:4", "8000-8002:80-81", "90-80", "[::1]:80", "70000", "300.0.0.1:1:1"] {
            assert!(bad.parse::<Publication>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_have_settings() {
        let networks =
            ["name=a,alias=x,alias=y,ip=10.0.0.7".parse().expect("a network"), "b".parse().expect("a network")];
        let first = OfFirst { aliases: &["z".into()], links: &[], ip: None, ip6: None, link_local: &[], mac: None };
        let (mode, endpoints) = endpoints(&networks, &first).expect("endpoints");
        assert_eq!(mode, "a");
        assert_eq!(endpoints["a"], json!({ "Aliases": ["x", "y", "z"], "IPAMConfig": { "IPv4Address": "10.0.0.7" } }));
        assert_eq!(endpoints["b"], json!({}));
        assert!("alias=x".parse::<Attachment>().is_err());
    }

    #[test]
    fn hosts_have_addresses() {
        let hosts = extra_hosts(&["a:10.0.0.1".into(), "b=[::1]".into(), "c:host-gateway".into()]).expect("hosts");
        assert_eq!(hosts, ["a:10.0.0.1", "b:::1", "c:host-gateway"]);
        let refused = |text: &str| extra_hosts(&[text.into()]).unwrap_err().to_string();
        assert!(refused("a").contains("has no address"), "{}", refused("a"));
        assert!(refused("a:10.0.0").contains("\"10.0.0\" is no IP address"), "{}", refused("a:10.0.0"));
        let said = "300.0.0.1:1:1".parse::<Publication>().unwrap_err();
        assert!(said.contains("\"300.0.0.1\" is no IP address"), "{said}");
    }
}

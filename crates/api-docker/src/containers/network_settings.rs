//! A container's places on networks: `NetworkingConfig` when asked, `NetworkSettings` when shown.

use std::collections::BTreeMap;

use engine::ContainerDetails;
use engine::model::{ContainerRecord, EndpointRequest, EndpointSettings};
use serde::{Deserialize, Serialize};

use super::ports::{self, PortMap};
use crate::error::{ApiError, Result};
use crate::version::ApiVersion;

/// `EndpointSettings`: both what a client asks and what it is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "EndpointSettings", rename_all = "PascalCase")]
pub(crate) struct EndpointBody {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<EndpointIpamBody>,
    links: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    mac_address: String,
    driver_opts: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw_priority: Option<i64>,
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: i64,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: i64,
    #[serde(rename = "DNSNames", skip_serializing_if = "Shown::is_hidden")]
    dns_names: Shown,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "EndpointIPAMConfig")]
pub(crate) struct EndpointIpamBody {
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    ipv6_address: String,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Vec::is_empty")]
    link_local_ips: Vec<String>,
}

/// A list that older versions of the API do not have at all, and newer ones show as `null` where it is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Option<Vec<String>>", into = "Option<Vec<String>>")]
enum Shown {
    #[default]
    Hidden,
    List(Option<Vec<String>>),
}

impl Shown {
    fn is_hidden(&self) -> bool {
        matches!(self, Self::Hidden)
    }
}

impl From<Option<Vec<String>>> for Shown {
    fn from(list: Option<Vec<String>>) -> Self {
        Self::List(list)
    }
}

impl From<Shown> for Option<Vec<String>> {
    fn from(shown: Shown) -> Self {
        match shown {
            Shown::Hidden => None,
            Shown::List(list) => list,
        }
    }
}

impl EndpointBody {
    /// The engine's form of what a client asks.
    ///
    /// # Errors
    /// 400 in dockerd's words for addresses that are none.
    pub(crate) fn into_model(self) -> Result<EndpointRequest> {
        let ipam = self.ipam_config.unwrap_or_default();
        Ok(EndpointRequest {
            aliases: self.aliases.unwrap_or_default(),
            links: self.links.unwrap_or_default(),
            ipv4: address("IPv4", &ipam.ipv4_address)?,
            ipv6: address("IPv6", &ipam.ipv6_address)?,
            link_local: ipam.link_local_ips,
            mac: Some(self.mac_address).filter(|mac| !mac.is_empty()),
            driver_options: self.driver_opts.unwrap_or_default(),
            gateway_priority: self.gw_priority.unwrap_or_default(),
        })
    }

    /// An endpoint as `version` shows it.
    pub(crate) fn shown(endpoint: &EndpointSettings, version: ApiVersion) -> Self {
        let request = &endpoint.request;
        let ipam = EndpointIpamBody {
            ipv4_address: request.ipv4.map(|address| address.to_string()).unwrap_or_default(),
            ipv6_address: request.ipv6.map(|address| address.to_string()).unwrap_or_default(),
            link_local_ips: request.link_local.clone(),
        };
        let list = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
        let options = Some(request.driver_options.clone()).filter(|options| !options.is_empty());
        let (ipv4, ipv6) = (endpoint.ipv4, endpoint.ipv6);
        Self {
            ipam_config: Some(ipam).filter(|ipam| *ipam != EndpointIpamBody::default()),
            links: list(&request.links),
            // Before 1.45 the short identifier was among the aliases, which comes last in the names.
            aliases: match endpoint.dns_names.last() {
                Some(id) if version.before(45) && !request.aliases.contains(id) => {
                    Some(request.aliases.iter().chain([id]).cloned().collect())
                }
                _ => list(&request.aliases),
            },
            mac_address: if endpoint.mac.is_empty() {
                request.mac.clone().unwrap_or_default()
            } else {
                endpoint.mac.clone()
            },
            driver_opts: options,
            gw_priority: version.at_least(48).then_some(request.gateway_priority),
            network_id: endpoint.network_id.clone(),
            endpoint_id: endpoint.endpoint_id.clone(),
            gateway: endpoint.gateway.map(|address| address.to_string()).unwrap_or_default(),
            ip_address: ipv4.map(|net| net.addr().to_string()).unwrap_or_default(),
            ip_prefix_len: ipv4.map_or(0, |net| net.prefix_len().into()),
            ipv6_gateway: endpoint.gateway_v6.map(|address| address.to_string()).unwrap_or_default(),
            global_ipv6_address: ipv6.map(|net| net.addr().to_string()).unwrap_or_default(),
            global_ipv6_prefix_len: ipv6.map_or(0, |net| net.prefix_len().into()),
            dns_names: if version.at_least(44) { Shown::List(list(&endpoint.dns_names)) } else { Shown::Hidden },
        }
    }
}

/// An address that may be left open.
fn address<A: std::str::FromStr>(family: &str, text: &str) -> Result<Option<A>> {
    if text.is_empty() {
        return Ok(None);
    }
    let message = || ApiError::bad_request(format!("invalid endpoint settings:\ninvalid {family} address: {text}"));
    text.parse().map(Some).map_err(|_| message())
}

/// `NetworkSettings` of one container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NetworkSettingsBody {
    bridge: &'static str,
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    sandbox_key: String,
    ports: PortMap,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: &'static str,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: Option<Vec<String>>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: Option<Vec<String>>,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: i64,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: i64,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    mac_address: String,
    networks: BTreeMap<String, EndpointBody>,
}

impl NetworkSettingsBody {
    /// The settings of a container; the fields beside `Networks` repeat its endpoint on the default bridge.
    pub(crate) fn shown(details: &ContainerDetails, version: ApiVersion) -> Self {
        let record = &details.record;
        let networks = endpoints(record, version);
        let bridge = networks.get("bridge").cloned().unwrap_or_default();
        Self {
            bridge: "",
            sandbox_id: details.sandbox_id.clone(),
            sandbox_key: details.sandbox_key.display().to_string(),
            ports: ports_now(record),
            hairpin_mode: false,
            link_local_ipv6_address: "",
            link_local_ipv6_prefix_len: 0,
            secondary_ip_addresses: None,
            secondary_ipv6_addresses: None,
            endpoint_id: bridge.endpoint_id,
            gateway: bridge.gateway,
            global_ipv6_address: bridge.global_ipv6_address,
            global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
            ip_address: bridge.ip_address,
            ip_prefix_len: bridge.ip_prefix_len,
            ipv6_gateway: bridge.ipv6_gateway,
            mac_address: bridge.mac_address,
            networks,
        }
    }
}

/// A container's endpoints by the network's name.
pub(crate) fn endpoints(record: &ContainerRecord, version: ApiVersion) -> BTreeMap<String, EndpointBody> {
    record.networks.iter().map(|(name, endpoint)| (name.clone(), EndpointBody::shown(endpoint, version))).collect()
}

/// Ports of a running container: published ones with where, exposed ones with `null`. A port that is published on
/// every address is shown once for each family, as dockerd does.
fn ports_now(record: &ContainerRecord) -> PortMap {
    if !record.state.phase.is_live() {
        return PortMap::new();
    }
    let exposed = record.config.exposed_ports.iter().map(|port| (port.to_string(), None));
    let mut all: PortMap = exposed.collect();
    all.extend(ports::port_map(&record.ports));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> Result<EndpointRequest> {
        crate::decode::document::<EndpointBody>(json.as_bytes()).expect("JSON").into_model()
    }

    #[test]
    fn what_clients_ask_is_read() {
        let request = asked(
            r#"{"IPAMConfig":{"IPv4Address":"10.1.2.3","IPv6Address":"fd00::3"},"Links":null,"Aliases":["db"],
                "MacAddress":"02:42:ac:11:00:02","DriverOpts":{"a":"b"},"GwPriority":5,"NetworkID":"","DNSNames":null}"#,
        )
        .expect("a request");
        assert_eq!(request.ipv4, Some([10, 1, 2, 3].into()));
        assert_eq!(request.ipv6, Some("fd00::3".parse().expect("an address")));
        assert_eq!(request.aliases, ["db"]);
        assert_eq!((request.mac.as_deref(), request.gateway_priority), (Some("02:42:ac:11:00:02"), 5));
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let error = asked(r#"{"IPAMConfig":{"IPv4Address":"10.1.2"}}"#).expect_err("no address");
        assert_eq!(error.message(), "invalid endpoint settings:\ninvalid IPv4 address: 10.1.2");
    }

    #[test]
    fn fields_appear_with_the_version_that_brought_them() {
        let dns_names = ["web", "0123456789ab"].map(str::to_owned).to_vec();
        let endpoint = EndpointSettings { dns_names, ..EndpointSettings::default() };
        let shown =
            |minor| serde_json::to_value(EndpointBody::shown(&endpoint, ApiVersion::new(1, minor))).expect("JSON");
        assert_eq!(shown(43).get("DNSNames"), None);
        assert_eq!(shown(43)["Aliases"], serde_json::json!(["0123456789ab"]));
        assert_eq!(shown(47).get("GwPriority"), None);
        assert_eq!((shown(50)["GwPriority"].as_i64(), shown(50)["DNSNames"][0].as_str()), (Some(0), Some("web")));
        assert!(shown(50)["Aliases"].is_null());
    }
}

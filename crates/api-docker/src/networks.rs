//! Networks: everything below `/networks`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine::NetworkDetails;
use engine::model::Timestamp;
use http::StatusCode;
use ipnet::IpNet;
use net::{Driver, IpamConfig, Network, NetworkSpec};
use serde::{Deserialize, Serialize};

use crate::body::{self, Response};
use crate::call::Call;
use crate::containers::EndpointBody;
use crate::error::{ApiError, Result};
use crate::filters;
use crate::swarm;
use crate::time::rfc3339;
use crate::version::ApiVersion;

/// A network as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkBody {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: &'static str,
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: IpamBody,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFromBody,
    config_only: bool,
    /// Shown of one network only.
    containers: Option<BTreeMap<String, MemberBody>>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "ConfigReference", rename_all = "PascalCase")]
struct ConfigFromBody {
    network: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "IPAM", rename_all = "PascalCase")]
struct IpamBody {
    driver: String,
    options: Option<BTreeMap<String, String>>,
    config: Option<Vec<IpamConfigBody>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "IPAMConfig", rename_all = "PascalCase")]
struct IpamConfigBody {
    #[serde(skip_serializing_if = "String::is_empty")]
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    ip_range: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    gateway: String,
    #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "BTreeMap::is_empty")]
    aux_addresses: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct MemberBody {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "MacAddress")]
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "CreateRequest", rename_all = "PascalCase")]
struct CreateBody {
    driver: String,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<IpamBody>,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<ConfigFromBody>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreatedBody {
    id: String,
    warning: &'static str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "ConnectOptions", rename_all = "PascalCase")]
struct ConnectBody {
    container: String,
    endpoint_config: Option<EndpointBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "DisconnectOptions", rename_all = "PascalCase")]
struct DisconnectBody {
    container: String,
    force: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneBody {
    networks_deleted: Option<Vec<String>>,
}

/// `GET /networks`
pub(crate) async fn list(call: Call) -> Result<Response> {
    let networks = call.engine().networks(&filters::from_query(&call.query)?)?;
    // Before 1.28 the members were listed as well.
    let members = call.version.before(28);
    let bodies: Vec<_> = networks.iter().map(|details| NetworkBody::shown(details, members, call.version)).collect();
    body::ok_json(&bodies)
}

/// `GET /networks/{name}`
pub(crate) async fn inspect(call: Call) -> Result<Response> {
    if let Some(scope) = call.query.given("scope").filter(|scope| *scope != "local") {
        return Err(ApiError::not_found(format!("network {} not found in scope {scope}", call.name)));
    }
    let details = call.engine().network_inspect(&call.name)?;
    body::ok_json(&NetworkBody::shown(&details, true, call.version))
}

/// `POST /networks/create`
pub(crate) async fn create(mut call: Call) -> Result<Response> {
    let request: CreateBody = call.json_or_default().await?;
    let network = call.engine().network_create(request.into_model()?).await?;
    body::json(StatusCode::CREATED, &CreatedBody { id: network.id, warning: "" })
}

/// `DELETE /networks/{name}`
pub(crate) async fn remove(call: Call) -> Result<Response> {
    call.engine().network_remove(&call.name).await?;
    Ok(body::no_content())
}

/// `POST /networks/{name}/connect`
pub(crate) async fn connect(mut call: Call) -> Result<Response> {
    let request: ConnectBody = call.json_or_default().await?;
    let endpoint = request.endpoint_config.unwrap_or_default().into_model()?;
    call.engine().network_connect(&call.name, &request.container, endpoint).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `POST /networks/{name}/disconnect`
pub(crate) async fn disconnect(mut call: Call) -> Result<Response> {
    let request: DisconnectBody = call.json_or_default().await?;
    call.engine().network_disconnect(&call.name, &request.container, request.force).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `POST /networks/prune`
pub(crate) async fn prune(call: Call) -> Result<Response> {
    let deleted = call.engine().prune_networks(&filters::from_query(&call.query)?).await?;
    body::ok_json(&PruneBody { networks_deleted: Some(deleted).filter(|deleted| !deleted.is_empty()) })
}

impl NetworkBody {
    fn shown(details: &NetworkDetails, members: bool, version: ApiVersion) -> Self {
        let network: &Network = &details.network;
        let created = Timestamp::from_nanosecond(network.created_ns.into()).unwrap_or_default();
        let member = |named: &net::NamedEndpoint| (named.sandbox.clone(), MemberBody::from(named));
        Self {
            name: network.name.clone(),
            id: network.id.clone(),
            created: rfc3339(created),
            scope: "local",
            driver: network.driver.as_str(),
            enable_ipv4: version.at_least(47).then_some(network.enable_ipv4),
            enable_ipv6: network.enable_ipv6,
            ipam: IpamBody::shown(network),
            internal: network.internal,
            attachable: network.attachable,
            ingress: false,
            config_from: ConfigFromBody::default(),
            config_only: false,
            containers: Some(if members { details.endpoints.iter().map(member).collect() } else { BTreeMap::new() }),
            options: network.options.clone(),
            labels: network.labels.clone(),
        }
    }
}

impl IpamBody {
    fn shown(network: &Network) -> Self {
        let config = |config: &IpamConfig| IpamConfigBody {
            subnet: config.subnet.map(|subnet| subnet.to_string()).unwrap_or_default(),
            ip_range: config.ip_range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: config.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            aux_addresses: config.aux_addresses.iter().map(|(name, ip)| (name.clone(), ip.to_string())).collect(),
        };
        let configs: Vec<_> = network.ipam.iter().map(config).collect();
        // dockerd shows those that it makes by itself without a list, rather than with an empty one.
        let own = network.is_predefined();
        Self {
            driver: "default".to_owned(),
            options: (!own).then(|| network.ipam_options.clone()),
            config: Some(configs).filter(|configs| !(own && configs.is_empty())),
        }
    }
}

impl From<&net::NamedEndpoint> for MemberBody {
    fn from(named: &net::NamedEndpoint) -> Self {
        let endpoint = &named.endpoint;
        Self {
            name: named.name.clone(),
            endpoint_id: endpoint.id.clone(),
            mac_address: endpoint.mac.to_string(),
            ipv4_address: endpoint.ipv4.map(|address| address.to_string()).unwrap_or_default(),
            ipv6_address: endpoint.ipv6.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

impl CreateBody {
    fn into_model(self) -> Result<NetworkSpec> {
        let refused = |what: &str| Err(ApiError::bad_request(what));
        // An overlay is a network of a swarm's.
        if self.ingress || self.scope == "swarm" || self.driver == "overlay" {
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, swarm::NOT_A_MANAGER));
        }
        if self.config_only || self.config_from.is_some_and(|from| !from.network.is_empty()) {
            return Err(ApiError::not_implemented("stratus has no configuration-only networks"));
        }
        let ipam = self.ipam.unwrap_or_default();
        if !matches!(ipam.driver.as_str(), "" | "default" | "null") {
            return refused(&format!("IPAM driver {:?} not found: only \"default\" is there", ipam.driver));
        }
        let configs: Vec<IpamConfig> =
            ipam.config.unwrap_or_default().into_iter().map(IpamConfigBody::into_model).collect::<Result<_>>()?;
        let driver = Driver::from_name(&self.driver).map_err(|error| ApiError::not_found(error.to_string()))?;
        Ok(NetworkSpec {
            name: self.name,
            driver,
            ipam: configs,
            ipam_options: ipam.options.unwrap_or_default(),
            enable_ipv4: self.enable_ipv4.unwrap_or(true),
            enable_ipv6: self.enable_ipv6.unwrap_or(false),
            internal: self.internal,
            attachable: self.attachable,
            options: self.options,
            labels: self.labels,
        })
    }
}

impl IpamConfigBody {
    fn into_model(self) -> Result<IpamConfig> {
        let aux = |(name, text): (String, String)| Ok((name, address("auxiliary address", &text)?));
        let (subnet, ip_range) = (prefix("subnet", &self.subnet)?, prefix("range", &self.ip_range)?);
        if let Some(subnet) = subnet.filter(|subnet| subnet.addr() != subnet.network()) {
            let message = format!("invalid network config:\ninvalid subnet {subnet}: it should be {}", subnet.trunc());
            return Err(ApiError::bad_request(message));
        }
        Ok(IpamConfig {
            subnet,
            ip_range,
            gateway: if self.gateway.is_empty() { None } else { Some(address("gateway address", &self.gateway)?) },
            aux_addresses: self.aux_addresses.into_iter().map(aux).collect::<Result<_>>()?,
        })
    }
}

fn prefix(what: &str, text: &str) -> Result<Option<IpNet>> {
    if text.is_empty() {
        return Ok(None);
    }
    let refusal = || {
        ApiError::bad_request(format!("invalid network config:\ninvalid {what} {text}: invalid CIDR block notation"))
    };
    text.parse().map(Some).map_err(|_| refusal())
}

fn address(what: &str, text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| ApiError::bad_request(format!("invalid network config:\ninvalid {what}: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NetworkSpec> {
        crate::decode::document::<CreateBody>(text.as_bytes()).and_then(CreateBody::into_model)
    }

    #[test]
    fn what_the_docker_client_sends_is_read() {
        let spec = read(
            r#"{"Driver":"bridge","Scope":"","EnableIPv6":true,"IPAM":{"Driver":"default","Options":{"e":"f"},
                "Config":[{"Subnet":"10.9.0.0/24","IPRange":"10.9.0.128/25","Gateway":"10.9.0.254",
                "AuxiliaryAddresses":{"router":"10.9.0.2"}}]},"Internal":true,"Attachable":false,"Ingress":false,
                "ConfigOnly":false,"ConfigFrom":null,"Options":{"a":"b"},"Labels":{"c":"d"},"Name":"x"}"#,
        )
        .expect("a network");
        assert_eq!((spec.name.as_str(), spec.driver, spec.internal), ("x", Driver::Bridge, true));
        assert_eq!((spec.enable_ipv4, spec.enable_ipv6), (true, true));
        assert_eq!(spec.ipam_options["e"], "f");
        let config = &spec.ipam[0];
        assert_eq!(config.subnet.map(|subnet| subnet.to_string()).as_deref(), Some("10.9.0.0/24"));
        assert_eq!(config.gateway, Some(IpAddr::from([10, 9, 0, 254])));
        assert_eq!(config.aux_addresses["router"], IpAddr::from([10, 9, 0, 2]));
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, message) in [
            (
                r#"{"Name":"x","IPAM":{"Config":[{"Subnet":"10.9.0.0"}]}}"#,
                "invalid network config:\ninvalid subnet 10.9.0.0: invalid CIDR block notation",
            ),
            (
                r#"{"Name":"x","IPAM":{"Config":[{"Subnet":"10.9.0.1/24"}]}}"#,
                "invalid network config:\ninvalid subnet 10.9.0.1/24: it should be 10.9.0.0/24",
            ),
            (
                r#"{"Name":"x","IPAM":{"Config":[{"Gateway":"g"}]}}"#,
                "invalid network config:\ninvalid gateway address: g",
            ),
        ] {
            assert_eq!(read(text).expect_err("refused").message(), message);
        }
    }
}

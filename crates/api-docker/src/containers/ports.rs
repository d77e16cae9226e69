//! Ports: `{"80/tcp": {}}`, and `{"80/tcp": [{"HostIp": …, "HostPort": …}]}`.

use std::collections::{BTreeMap, BTreeSet};

use engine::model::{ExposedPort, PortBinding};
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Result};

/// What Go writes for `struct{}`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Nothing {}

/// Exposed ports.
pub(crate) type PortSet = BTreeMap<String, Option<Nothing>>;
/// Published ports.
pub(crate) type PortMap = BTreeMap<String, Option<Vec<BindingBody>>>;

/// Where a port is published.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "PortBinding", rename_all = "PascalCase")]
pub(crate) struct BindingBody {
    host_ip: String,
    host_port: String,
}

/// Reads exposed ports.
pub(crate) fn exposed(ports: &PortSet) -> Result<BTreeSet<ExposedPort>> {
    ports.keys().map(|port| port_of(port)).collect()
}

/// Writes exposed ports.
pub(crate) fn port_set(ports: &BTreeSet<ExposedPort>) -> PortSet {
    ports.iter().map(|port| (port.to_string(), Some(Nothing {}))).collect()
}

/// Reads published ports.
pub(crate) fn bindings(ports: PortMap) -> Result<BTreeMap<ExposedPort, Vec<PortBinding>>> {
    let one = |(port, bindings): (String, Option<Vec<BindingBody>>)| {
        let bindings = bindings.unwrap_or_default();
        Ok((port_of(&port)?, bindings.into_iter().map(binding).collect::<Result<_>>()?))
    };
    ports.into_iter().map(one).collect()
}

/// Writes published ports as they were asked for.
pub(crate) fn port_map(ports: &BTreeMap<ExposedPort, Vec<PortBinding>>) -> PortMap {
    ports.iter().map(|(port, bindings)| (port.to_string(), Some(bindings.iter().map(body).collect()))).collect()
}

fn port_of(text: &str) -> Result<ExposedPort> {
    text.parse().map_err(ApiError::bad_request)
}

fn binding(body: BindingBody) -> Result<PortBinding> {
    let bad_port = || ApiError::bad_request(format!("invalid port specification: {:?}", body.host_port));
    let host_ip = match body.host_ip.trim_matches(['[', ']']) {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            ApiError::bad_request(format!("invalid host address in a port binding: {:?}", body.host_ip))
        })?),
    };
    let host_ports = match body.host_port.split_once('-') {
        None if matches!(body.host_port.as_str(), "" | "0") => None,
        None => {
            let port = body.host_port.parse().map_err(|_| bad_port())?;
            Some((port, port))
        }
        Some((first, last)) => {
            let range: (u16, u16) = (first.parse().map_err(|_| bad_port())?, last.parse().map_err(|_| bad_port())?);
            if range.0 > range.1 {
                return Err(bad_port());
            }
            Some(range)
        }
    };
    Ok(PortBinding { host_ip, host_ports })
}

fn body(binding: &PortBinding) -> BindingBody {
    BindingBody {
        host_ip: binding.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        host_port: match binding.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        },
    }
}

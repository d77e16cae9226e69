//! `POST /containers/create`

use std::collections::BTreeMap;

use engine::CreateRequest;
use engine::model::{ContainerConfig, EndpointRequest, HostConfig, IpcMode, MountKind, MountRequest, NetworkMode};
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};

use super::config::ConfigBody;
use super::host_config::HostConfigBody;
use super::network_settings::EndpointBody;
use crate::body::{self, Response};
use crate::call::Call;
use crate::decode;
use crate::error::{ApiError, Result};
use crate::version::ApiVersion;

/// What a client sends: the fields of `Config`, and beside them two more.
#[derive(Clone, Debug)]
pub(crate) struct CreateBody {
    config: ConfigBody,
    beside: Beside,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename = "CreateRequest", rename_all = "PascalCase")]
struct Beside {
    host_config: Option<HostConfigBody>,
    networking_config: Option<NetworkingBody>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename = "NetworkingConfig", rename_all = "PascalCase")]
struct NetworkingBody {
    endpoints_config: BTreeMap<String, Option<EndpointBody>>,
}

/// The engine's forms of the three parts of a [`CreateBody`].
pub(crate) type Parts = (ContainerConfig, HostConfig, BTreeMap<String, EndpointRequest>);

impl<'de> Deserialize<'de> for CreateBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let document = decode::Document::deserialize(deserializer)?;
        let config = decode::read(&document).map_err(D::Error::custom)?;
        let beside = decode::read(&document).map_err(D::Error::custom)?;
        Ok(Self { config, beside })
    }
}

impl CreateBody {
    /// The engine's forms.
    ///
    /// # Errors
    /// 400 in dockerd's words.
    pub(crate) fn into_parts(self) -> Result<Parts> {
        let host = self.beside.host_config.unwrap_or_default().into_model()?;
        let endpoints = self.beside.networking_config.unwrap_or_default().endpoints_config;
        let endpoint = |(name, body): (String, Option<EndpointBody>)| {
            // Clients name the default network by the word that stands for it.
            let name = if name == "default" { NetworkMode::Bridge.to_string() } else { name };
            Ok((name, body.unwrap_or_default().into_model()?))
        };
        Ok((self.config.into_model()?, host, endpoints.into_iter().map(endpoint).collect::<Result<_>>()?))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreatedBody {
    id: String,
    warnings: Vec<String>,
}

/// `POST /containers/create`
pub(crate) async fn create(mut call: Call) -> Result<Response> {
    let Some(request) = call.json::<CreateBody>().await? else {
        return Err(ApiError::bad_request("invalid JSON: got EOF while reading request body"));
    };
    let ipc_given = request.beside.host_config.as_ref().is_some_and(|host| !host.ipc_mode.is_empty());
    let (config, mut host, endpoints) = request.into_parts()?;
    if config == ContainerConfig::default() {
        return Err(ApiError::bad_request("config cannot be empty in order to create a container"));
    }
    for_older_clients(&mut host, ipc_given, call.version);
    check_mounts(&host, call.version)?;
    check_endpoints(&endpoints, call.version)?;
    let mut warnings = warnings(&config, call.version);
    let request = CreateRequest {
        name: call.query.given("name").map(str::to_owned),
        platform: call.query.given("platform").filter(|_| call.version.at_least(41)).map(str::to_owned),
        config,
        host,
        endpoints,
        ..CreateRequest::default()
    };
    let created = call.engine().create(request).await?;
    warnings.extend(created.warnings);
    body::json(StatusCode::CREATED, &CreatedBody { id: created.id.to_string(), warnings })
}

/// What older clients count on.
fn for_older_clients(host: &mut HostConfig, ipc_given: bool, version: ApiVersion) {
    if version.before(40) && !ipc_given {
        host.ipc_mode = IpcMode::Shareable;
    }
    if version.before(42) {
        // The size of the terminal was Windows' alone.
        host.console_size = None;
    }
    if version.before(43) {
        host.annotations.clear();
    }
    if version.before(44) {
        // Read-only did not yet reach the mounts below.
        for mount in &mut host.mounts {
            if let MountKind::Bind { options, .. } = &mut mount.kind {
                options.read_only_non_recursive = mount.read_only;
                options.read_only_force_recursive = false;
            }
        }
    }
}

/// Images could not be mounted before 1.48.
fn check_mounts(host: &HostConfig, version: ApiVersion) -> Result<()> {
    let of_image = |mount: &MountRequest| matches!(mount.kind, MountKind::Image { .. });
    if version.before(48) && host.mounts.iter().any(of_image) {
        return Err(ApiError::bad_request("Mount type \"Image\" needs API v1.48 or newer"));
    }
    Ok(())
}

/// Before 1.44 a container began on one network.
fn check_endpoints(endpoints: &BTreeMap<String, EndpointRequest>, version: ApiVersion) -> Result<()> {
    if version.at_least(44) || endpoints.len() <= 1 {
        return Ok(());
    }
    let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
    let names = names.join(", ");
    Err(ApiError::bad_request(format!("Container cannot be created with multiple network endpoints: {names}")))
}

/// What a client should be told about the way it asked.
fn warnings(config: &ContainerConfig, version: ApiVersion) -> Vec<String> {
    let deprecated = "The container-wide MacAddress field is now deprecated. It should be specified in \
                      EndpointsConfig instead.";
    let given = version.at_least(44) && config.mac_address.is_some();
    given.then(|| deprecated.to_owned()).into_iter().collect()
}

#[cfg(test)]
mod tests;

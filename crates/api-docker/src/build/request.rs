//! The parameters of `POST /build`.

use ::build::dockerfile::Given;
use ::build::{Attest, CacheFrom, Leaves, Received, Request};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use engine::model::{HostConfig, NetworkMode};
use image::registry::{Auth, AuthDocument, registry_of};
use image::{Platform, Reference};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

use crate::call::Call;
use crate::containers::resources::{UlimitBody, ulimits};
use crate::error::{ApiError, Result};

/// Credentials for registries, encoded.
const REGISTRIES: &str = "x-registry-config";

/// What is asked for beside the context.
pub(super) struct Parameters {
    pub(super) dockerfile: String,
    /// Where the context is, if it does not come with the request.
    pub(super) remote: Option<String>,
    pub(super) quiet: bool,
    /// By which it can be cancelled.
    pub(super) id: Option<String>,
    /// It is brought to the registries of its names.
    pub(super) push: bool,
    names: Vec<Reference>,
    pub(super) given: Given,
    labels: BTreeMap<String, String>,
    no_cache: bool,
    cache_from: Vec<String>,
    pull: bool,
    squash: bool,
    leaves: Leaves,
    host: HostConfig,
    credentials: BTreeMap<String, Auth>,
}

impl Parameters {
    pub(super) fn read(call: &Call) -> Result<Parameters> {
        let query = &call.query;
        unsupported(call)?;
        let mut names: Vec<Reference> =
            query.all("t").iter().filter(|name| !name.is_empty()).map(|name| named(name)).collect::<Result<_>>()?;
        let push = outputs(call, &mut names)?;
        let arguments: BTreeMap<String, Option<String>> = document(call, "buildargs")?;
        let mut given = Given::host();
        // An argument without a value takes none of the daemon's.
        given.arguments = arguments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        given.target = query.given("target").map(str::to_owned);
        if let Some(platform) = query.given("platform") {
            given.target_platform = platform.parse::<Platform>().map_err(|e| ApiError::bad_request(e.to_string()))?;
        }
        Ok(Parameters {
            dockerfile: query.text("dockerfile").to_owned(),
            remote: query.given("remote").map(str::to_owned),
            quiet: query.flag("q"),
            id: query.given("buildid").map(str::to_owned),
            push,
            names,
            given,
            labels: document(call, "labels")?,
            no_cache: query.flag("nocache"),
            cache_from: document(call, "cachefrom")?,
            pull: query.flag("pull"),
            squash: query.flag("squash"),
            leaves: leaves(call),
            host: host(call)?,
            credentials: credentials(call.header(REGISTRIES))?,
        })
    }

    pub(super) fn request(self, received: Received) -> Request {
        Request {
            file: received.file,
            context: received.context,
            origin: received.origin,
            commit_time: received.commit_time,
            given: self.given,
            names: self.names,
            labels: self.labels,
            no_cache: self.no_cache,
            no_cache_filter: Vec::new(),
            // Images that are here: this endpoint has never pulled any for it.
            cache_from: self.cache_from.into_iter().map(CacheFrom::Image).collect(),
            inline_cache: false,
            pull: self.pull,
            host: self.host,
            squash: self.squash,
            leaves: self.leaves,
            allowed: BTreeSet::new(),
            step_timeout: None,
            credentials: self.credentials,
            contexts: BTreeMap::new(),
            lender: None,
            attest: Attest::default(),
        }
    }
}

/// What is not there is told, and not passed over.
fn unsupported(call: &Call) -> Result<()> {
    let query = &call.query;
    let refused = |what: &str| Err(ApiError::not_implemented(what));
    if query.text("version") == "2" {
        return refused(
            "stratus has no BuildKit sessions: build with DOCKER_BUILDKIT=0, which takes the same Dockerfiles",
        );
    }
    if !query.all("securityopt").is_empty() {
        return Err(ApiError::bad_request(
            "the daemon on linux does not support setting security options on build: RUN --security=insecure, with stratus build --allow \
             security.insecure, runs a step with all privileges",
        ));
    }
    let isolation = query.text("isolation");
    if !isolation.is_empty() && !isolation.eq_ignore_ascii_case("default") {
        return Err(ApiError::bad_request(format!("unsupported isolation: {isolation:?}: there is default")));
    }
    if query.text("remote") == "client-session" {
        return refused("stratus has no BuildKit sessions: send the context, or name where it is");
    }
    Ok(())
}

/// An entry of the parameter `outputs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct OutputBody {
    r#type: String,
    attrs: Option<BTreeMap<String, String>>,
}

/// What the parameter `outputs` adds to the names, and whether the image is pushed. What is made for a client to take has no way to it
/// here.
fn outputs(call: &Call, names: &mut Vec<Reference>) -> Result<bool> {
    let mut push = false;
    for output in document::<Option<Vec<OutputBody>>>(call, "outputs")?.unwrap_or_default() {
        let attributes = output.attrs.unwrap_or_default();
        if !matches!(output.r#type.as_str(), "image" | "docker" | "moby" | "registry")
            || attributes.contains_key("dest")
        {
            return Err(ApiError::not_implemented(format!(
                "the classic builder's endpoint has no way to send an output of the type {:?}: stratus build --output has",
                output.r#type
            )));
        }
        for name in attributes.get("name").iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty()) {
            names.push(named(name)?);
        }
        push |= output.r#type == "registry" || attributes.get("push").is_some_and(|push| push == "true");
    }
    if push && names.is_empty() {
        return Err(ApiError::bad_request("nothing is pushed without a name: give the image one"));
    }
    Ok(push)
}

fn named(name: &str) -> Result<Reference> {
    let parsed = Reference::parse(name).map_err(|e| ApiError::bad_request(e.to_string()))?;
    if parsed.digest().is_some() {
        return Err(ApiError::bad_request("build tag cannot contain a digest"));
    }
    Ok(parsed.with_default_tag())
}

/// A parameter that is a JSON document; what there is without it.
fn document<T: DeserializeOwned + Default>(call: &Call, name: &str) -> Result<T> {
    let Some(text) = call.query.given(name) else { return Ok(T::default()) };
    let read: Result<Option<T>> = crate::decode::document(text.as_bytes()).map(Some);
    Ok(read.map_err(|e| e.context(format!("reading the parameter {name}")))?.unwrap_or_default())
}

fn number(call: &Call, name: &str) -> Result<i64> {
    call.query.given(name).map_or(Ok(0), |text| crate::query::parse_integer("ParseInt", text))
}

/// Which containers stay: `forcerm` removes all of them, `rm` those of commands that ended well, which is so without a word.
fn leaves(call: &Call) -> Leaves {
    let query = &call.query;
    let force = query.flag("forcerm");
    let done = !force && query.given("rm").is_some() && !query.flag("rm");
    Leaves { done, failed: !force }
}

/// How commands run.
fn host(call: &Call) -> Result<HostConfig> {
    let query = &call.query;
    let mut host = HostConfig {
        network_mode: NetworkMode::parse(query.text("networkmode")),
        extra_hosts: query.all("extrahosts").into_iter().filter(|host| !host.is_empty()).collect(),
        shm_size: u64::try_from(number(call, "shmsize")?)
            .map_err(|_| ApiError::bad_request("SHM size can not be less than 0"))?,
        ..HostConfig::default()
    };
    let resources = &mut host.resources;
    resources.memory = number(call, "memory")?;
    resources.memory_swap = number(call, "memswap")?;
    resources.cpu_shares = number(call, "cpushares")?;
    resources.cpu_period = number(call, "cpuperiod")?;
    resources.cpu_quota = number(call, "cpuquota")?;
    query.text("cpusetcpus").clone_into(&mut resources.cpuset_cpus);
    query.text("cpusetmems").clone_into(&mut resources.cpuset_mems);
    query.text("cgroupparent").clone_into(&mut resources.cgroup_parent);
    resources.ulimits = ulimits(document::<Option<Vec<UlimitBody>>>(call, "ulimits")?);
    Ok(host)
}

/// Reads the header: base64 of a JSON document with an entry for each registry.
fn credentials(header: &str) -> Result<BTreeMap<String, Auth>> {
    if header.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let bad = |why: String| ApiError::bad_request(format!("reading the header X-Registry-Config: {why}"));
    let json =
        URL_SAFE.decode(header.trim()).or_else(|_| STANDARD.decode(header.trim())).map_err(|e| bad(e.to_string()))?;
    let documents: BTreeMap<String, AuthDocument> = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
    let mut credentials = BTreeMap::new();
    for (name, document) in documents {
        if let Some(auth) = document.auth().map_err(|e| bad(e.to_string()))? {
            credentials.insert(registry_of(&name).to_owned(), auth);
        }
    }
    Ok(credentials)
}

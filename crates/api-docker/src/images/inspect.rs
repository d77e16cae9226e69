//! `GET /images/{name}/json` and `GET /images/{name}/history`

use engine::{ImageDetails, ImageHistory};
use image::RunConfig;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::check_platform;
use crate::body::{self, Response};
use crate::call::Call;
use crate::containers::inspect::{GraphDirsBody, GraphDriverBody, STORAGE_DRIVER};
use crate::error::{ApiError, Result};
use crate::time::rfc3339_or_zero;
use crate::version::ApiVersion;

use super::manifests::ManifestBody;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InspectBody {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'static str>,
    /// Of the container that it was made from: images do not keep that any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    container_config: Option<Map<String, Value>>,
    docker_version: String,
    author: String,
    config: Map<String, Value>,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    os_version: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    graph_driver: GraphDriverBody,
    #[serde(rename = "RootFS")]
    root_fs: RootFsBody,
    metadata: MetadataBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<image::Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<ManifestBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFsBody {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetadataBody {
    last_tag_time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HistoryBody {
    comment: String,
    created: i64,
    created_by: String,
    id: String,
    size: u64,
    tags: Option<Vec<String>>,
}

/// `GET /images/{name}/json`
pub(crate) async fn inspect(call: Call) -> Result<Response> {
    check_platform(&call, &call.name, 49)?;
    let manifests = call.version.at_least(48) && call.query.flag("manifests");
    if manifests && call.query.given("platform").is_some() {
        return Err(ApiError::bad_request("conflicting options: manifests and platform options cannot both be set"));
    }
    let details = call.engine().image_inspect(&call.name, manifests).await?;
    let with_container = call.version.before(45) || takes_a_container_for_granted(call.header("user-agent"));
    body::ok_json(&InspectBody::shown(details, call.version, with_container)?)
}

/// Whether a client of any version of the API looks into the container that an image was made from: Python's docker-compose, the last of which is older
/// than the first version without it, and which can replace no container otherwise.
fn takes_a_container_for_granted(user_agent: &str) -> bool {
    user_agent.starts_with("docker-compose/1.")
}

/// `GET /images/{name}/history`
pub(crate) async fn history(call: Call) -> Result<Response> {
    check_platform(&call, &call.name, 48)?;
    let steps = call.engine().image_history(&call.name).await?;
    let bodies: Vec<HistoryBody> = steps.into_iter().map(HistoryBody::from).collect();
    body::ok_json(&bodies)
}

/// `GET /stratus/images/{name}/packages`: what an image is made of, as a document of SPDX. Docker has nothing like it.
pub(crate) async fn packages(call: Call) -> Result<Response> {
    let details = call.engine().image_inspect(&call.name, false).await?;
    let document = call.door.builder.packages_of(&details.id).await.map_err(crate::build::refused)?;
    body::ok_json(&document)
}

impl InspectBody {
    fn shown(details: ImageDetails, version: ApiVersion, with_container: bool) -> Result<Self> {
        let config = &details.config;
        let last_comment = || config.history.last().map(|step| step.comment.clone()).unwrap_or_default();
        let dirs = details.layers.map(|layers| GraphDirsBody {
            id: String::new(),
            lower_dir: layers.lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":"),
            merged_dir: layers.merged.display().to_string(),
            upper_dir: layers.upper.display().to_string(),
            work_dir: layers.work.display().to_string(),
        });
        let platform = config.platform();
        Ok(Self {
            comment: if config.comment.is_empty() { last_comment() } else { config.comment.clone() },
            created: config.created.clone(),
            container: version.before(45).then_some(""),
            container_config: with_container.then(|| no_container_config(version)).transpose()?,
            docker_version: config.docker_version.clone(),
            author: config.author.clone(),
            config: config_fields(&config.config, version)?,
            architecture: platform.architecture,
            variant: config.variant.clone(),
            os: platform.os,
            os_version: config.os_version.clone(),
            root_fs: RootFsBody {
                kind: "layers",
                layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
            },
            id: details.id,
            repo_tags: details.repo_tags,
            repo_digests: details.repo_digests,
            parent: details.parent,
            size: details.size,
            virtual_size: version.before(44).then_some(details.size),
            graph_driver: GraphDriverBody { data: dirs, name: STORAGE_DRIVER },
            metadata: MetadataBody { last_tag_time: rfc3339_or_zero(details.last_tagged) },
            descriptor: details.descriptor.filter(|_| version.at_least(48)),
            manifests: details.manifests.into_iter().map(ManifestBody::from).collect(),
        })
    }
}

/// The configuration as JSON. Some fields are shown although they are empty, and before 1.50 a few that only
/// containers have.
fn config_fields(config: &RunConfig, version: ApiVersion) -> Result<Map<String, Value>> {
    let mut fields = json!({
        "Cmd": null, "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null, "User": "", "Volumes": null,
        "WorkingDir": ""
    });
    let of_containers = json!({
        "AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "", "Hostname": "",
        "Image": "", "OpenStdin": false, "StdinOnce": false, "Tty": false
    });
    let own = serde_json::to_value(config).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut all = Map::new();
    for part in [version.before(50).then_some(of_containers), Some(fields.take()), Some(own)].into_iter().flatten() {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    if version.at_least(50) {
        all.remove("Hostname");
        all.remove("Domainname");
    }
    Ok(all)
}

/// The configuration of a container that there never was.
fn no_container_config(version: ApiVersion) -> Result<Map<String, Value>> {
    let mut fields = config_fields(&RunConfig::default(), version)?;
    fields.insert("Env".to_owned(), Value::Null);
    Ok(fields)
}

impl From<ImageHistory> for HistoryBody {
    fn from(step: ImageHistory) -> Self {
        // Go's zero time, in seconds of Unix time.
        const NEVER: i64 = -62_135_596_800;
        Self {
            comment: step.comment,
            created: step.created.map_or(NEVER, |time| time.as_second()),
            created_by: step.created_by,
            id: step.id,
            size: step.size,
            tags: Some(step.tags).filter(|tags| !tags.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_containers_are_gone_with_1_50() {
        let config = RunConfig { cmd: Some(vec!["sh".to_owned()]), ..RunConfig::default() };
        let fields = |minor| config_fields(&config, ApiVersion::new(1, minor)).expect("fields");
        let (old, new) = (fields(49), fields(50));
        assert_eq!((old.get("Tty"), new.get("Tty")), (Some(&Value::Bool(false)), None));
        assert_eq!((old.get("Hostname"), new.get("Hostname")), (Some(&json!("")), None));
        assert_eq!((&new["Cmd"], &new["Entrypoint"], &new["User"]), (&json!(["sh"]), &Value::Null, &json!("")));
    }
}

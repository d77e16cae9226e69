//! The configuration document of an image: OCI image-spec's config.md with Docker's extensions.
//!
//! The document's bytes are the image's identity and are kept verbatim in the content store; these types are how it is
//! read, and how a new one (from `commit` or `import`) is written, in Docker's field order.

use crate::manifest::{check_size, parse};
use crate::{Digest, Error, Platform, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// An image's configuration document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The architecture, in Go's names, as `amd64`.
    pub architecture: String,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub author: String,
    /// What was said when it was committed or imported.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub comment: String,
    /// How a container of it runs.
    #[serde(deserialize_with = "or_default")]
    pub config: RunConfig,
    /// When it was made, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The version of Docker that made it, where Docker did.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub docker_version: String,
    /// How it came about, oldest step first.
    #[serde(deserialize_with = "or_default")]
    pub history: Vec<HistoryEntry>,
    /// The operating system, as `linux`.
    pub os: String,
    /// The version of the operating system; Windows images have it.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub os_version: String,
    /// The layers.
    pub rootfs: LayerList,
    /// The variant of the architecture, as `v8`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub variant: String,
    /// What the steps that made its layers are found again by: a document of the builder's. Whoever builds upon the image leaves it out.
    #[serde(rename = "vnd.stratus.build-cache.v1", skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<serde_json::Value>,
}

/// How a container of an image runs, unless its creator says otherwise. Field names are Docker's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// Host name, left from containers that were committed.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Domain name, likewise.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// The user, as `uid`, `user`, `uid:gid` or `user:group`; empty is root.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that the service listens on, as `80/tcp`.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys", skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// The environment, as `KEY=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// The program that always runs; `None` and empty differ when a child resets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the entry point's arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How to find out whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Whether the command is one string, already escaped (Windows).
    #[serde(deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Directories that get an anonymous volume.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The working directory; empty is `/`.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Instructions that a build on top of it begins with.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop, as `SIGTERM` or `15`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds until it is killed, after it was asked to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// The shell for instructions in shell form; empty is the system's own.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// A health check. Durations are nanoseconds; 0 is inherited or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// Empty: inherited. `NONE`: none. `CMD`, …: a program. `CMD-SHELL`, …: a line for the shell.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time until a check counts as failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two checks during the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until it is unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// A step of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// When, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// By what command.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// What was said.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerList {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for LayerList {
    fn default() -> LayerList {
        LayerList { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

impl ImageConfig {
    /// Reads a configuration document. Pure: suits a fuzzer.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig> {
        check_size("image configuration", bytes)?;
        let config: ImageConfig = parse("image configuration", bytes)?;
        if config.rootfs.kind != "layers" {
            let reason = format!("rootfs.type is {:?}, and only \"layers\" is supported", config.rootfs.kind);
            return Err(Error::MalformedDocument { document: "image configuration", reason });
        }
        if config.rootfs.diff_ids.len() > crate::manifest::MAX_LAYERS {
            let reason = format!("it has more than {} layers", crate::manifest::MAX_LAYERS);
            return Err(Error::MalformedDocument { document: "image configuration", reason });
        }
        Ok(config)
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::MalformedDocument { document: "image configuration", reason: e.to_string() })
    }

    /// What it runs on. A document that does not say runs on `linux` and this machine's architecture.
    pub fn platform(&self) -> Platform {
        let host = Platform::host();
        let os = if self.os.is_empty() { &host.os } else { &self.os };
        let architecture = if self.architecture.is_empty() { &host.architecture } else { &self.architecture };
        let variant = Some(self.variant.as_str()).filter(|v| !v.is_empty());
        let mut platform = Platform::new(os, architecture, variant);
        platform.os_version = Some(self.os_version.clone()).filter(|v| !v.is_empty());
        platform
    }

    /// When it was made; `None` where it does not say, or not in RFC 3339.
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.created.as_deref()?.parse().ok()
    }
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Go's JSON writes `null` where it has nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A set is written as an object of empty objects.
fn keys<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(d)?.unwrap_or_default();
    Ok(map.into_keys().collect())
}

fn as_keys<S: serde::Serializer>(keys: &[String], s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Nothing {}
    s.collect_map(keys.iter().map(|key| (key, Nothing {})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_writes_is_read() {
        let document = br#"{"architecture":"amd64","config":{"Hostname":"","ExposedPorts":{"80/tcp":{}},"Env":null,
            "Cmd":["sh"],"Healthcheck":{"Test":["CMD","true"],"Interval":5000000000},"Volumes":null,"Entrypoint":null,
            "OnBuild":null,"Labels":null,"ArgsEscaped":true,"StopTimeout":3,"Shell":["/bin/bash","-c"]},
            "created":"2026-01-02T03:04:05.678Z","os":"linux","rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = ImageConfig::parse(document).unwrap();
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(config.config.healthcheck.as_ref().unwrap().interval, 5_000_000_000);
        assert!(config.config.args_escaped);
        assert!(config.created_at().is_some());
        assert_eq!(ImageConfig::parse(&config.to_json().unwrap()).unwrap(), config);
    }

    #[test]
    fn other_kinds_of_root_file_systems_are_refused() {
        let error = ImageConfig::parse(br#"{"rootfs":{"type":"layers+base","diff_ids":[]}}"#).unwrap_err();
        assert!(error.to_string().contains("layers+base"), "{error}");
    }
}

//! What is to be built.

use build::dockerfile::{self, Given};
use build::{Entitlement, LayoutEntry};
use engine::model::{HostConfig, NetworkMode};
use image::registry::{Auth, AuthDocument, registry_of};
use image::{Platform, Reference};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Bytes of the line that it is told on: a Dockerfile is in it.
pub(crate) const LINE: usize = 32 << 20;

/// What is to be built: all that a build can be asked for. What is left out is as it is without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Ask {
    /// The Dockerfile, and what it copies from.
    pub source: Source,
    /// Further contexts, by the names that the Dockerfile has for them.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Names of the image.
    pub names: Vec<String>,
    /// The stage that is built.
    pub target: Option<String>,
    /// Arguments.
    pub arguments: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// What it is built for; the daemon's machine, where nothing is said.
    pub platforms: Vec<Platform>,
    /// Nothing is taken from the cache.
    pub no_cache: bool,
    /// Stages of which nothing is taken from the cache, by their names or numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_cache_filter: Vec<String>,
    /// Caches of elsewhere that are looked into.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache_from: Vec<CacheFrom>,
    /// Where what the build comes by is kept for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache_to: Vec<CacheTo>,
    /// The image says of itself what the steps that made its layers are found by.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inline_cache: bool,
    /// Base images are pulled even where they are here.
    pub pull: bool,
    /// All layers above those of the base become one.
    pub squash: bool,
    /// What the build came to goes there; nowhere named, among the daemon's images.
    pub outputs: Vec<Output>,
    /// Nothing is built: only what there would be to do is told.
    pub look: bool,
    /// How commands run.
    pub running: Running,
    /// What commands may have that others have not, where the daemon allows it, too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allowed: BTreeSet<Entitlement>,
    /// Credentials for registries, by their names.
    pub credentials: BTreeMap<String, Credentials>,
    /// What is to be said of the image.
    #[serde(default, skip_serializing_if = "Attest::is_nothing")]
    pub attest: Attest,
    /// Ids of the secrets that the client has.
    pub secrets: BTreeSet<String>,
    /// Ids of the SSH agents that the client has.
    pub agents: BTreeSet<String>,
}

/// What is to be said of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Attest {
    /// By what it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// What packages are in it.
    pub sbom: bool,
}

/// How much is said of how an image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Provenance {
    /// With the Dockerfile's text, and all steps.
    pub all: bool,
    /// Whom a build is answered for by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
}

impl Attest {
    /// Whether nothing is to be said.
    pub fn is_nothing(&self) -> bool {
        *self == Attest::default()
    }

    pub(crate) fn wanted(self) -> build::Attest {
        let provenance = self.provenance.map(|said| build::Provenance { all: said.all, builder: said.builder });
        build::Attest { provenance, sbom: self.sbom }
    }
}

/// Where what a build comes to goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Output {
    /// Among the daemon's images.
    Image {
        /// Its names, if they are not those of the build.
        names: Vec<String>,
        /// It is brought to the registries of its names, too.
        push: bool,
    },
    /// To the client, as an archive of the image.
    Archive {
        /// Its names, if they are not those of the build.
        names: Vec<String>,
        /// What the client has the export under.
        export: String,
    },
    /// To the client, as an archive of its files.
    Files {
        /// What the client has the export under.
        export: String,
    },
}

/// Where a cache of elsewhere is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum CacheFrom {
    /// In a registry, under a name.
    Registry(String),
    /// In a directory of the client's.
    Layout {
        /// What the client has the directory under.
        layout: String,
        /// The name that the user knows it by.
        path: String,
        /// Which of what it has.
        entry: LayoutEntry,
    },
}

/// Where a cache goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheTo {
    /// The place.
    pub place: CachePlace,
    /// All steps are kept that the build came by, and not only those whose layers the image has.
    #[serde(default)]
    pub all: bool,
    /// Where it can't be kept, that is a warning.
    #[serde(default)]
    pub ignore_error: bool,
}

/// A place for a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum CachePlace {
    /// A registry, under a name.
    Registry(String),
    /// A directory of the client's.
    Layout {
        /// What the client has the directory under.
        layout: String,
        /// The name that the user knows it by.
        path: String,
        /// What the cache is called there.
        tag: String,
    },
}

/// A Dockerfile, and what it copies from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Source {
    /// A Dockerfile without a context.
    Alone {
        /// The Dockerfile.
        file: Text,
    },
    /// A directory of the client's.
    Directory {
        /// The Dockerfile.
        file: Text,
        /// What of the directory does not count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ignore: Option<Text>,
        /// What the daemon remembers the directory by: the same directory of the same machine, whoever asks.
        key: String,
    },
    /// An archive, which the client sends as a whole.
    Archive {
        /// The Dockerfile's path in it; empty: `Dockerfile`.
        name: String,
    },
    /// A git repository, an archive or a Dockerfile, which the daemon fetches.
    Elsewhere {
        /// Where it is.
        address: String,
        /// The Dockerfile's path in it; empty: `Dockerfile`.
        name: String,
    },
}

impl Default for Source {
    fn default() -> Source {
        Source::Alone { file: Text::default() }
    }
}

/// A file's text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Text {
    /// The name that the user knows it by.
    pub name: String,
    /// What is in it.
    pub text: String,
    /// Some of it was not UTF-8, and is replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lossy: bool,
}

impl Text {
    /// A file's bytes.
    pub fn new(name: impl Into<String>, bytes: &[u8]) -> Text {
        let text = String::from_utf8_lossy(bytes);
        Text { name: name.into(), lossy: matches!(text, std::borrow::Cow::Owned(_)), text: text.into_owned() }
    }

    pub(crate) fn source(self) -> dockerfile::Source {
        dockerfile::Source::with_losses(self.name, self.text, self.lossy)
    }
}

/// A further context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum NamedContext {
    /// A directory of the client's.
    Directory {
        /// What of it does not count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ignore: Option<Text>,
        /// What the daemon remembers it by.
        key: String,
    },
    /// An image.
    Image(String),
    /// A git repository, an archive or a file, which the daemon fetches.
    Elsewhere(String),
    /// An image in a directory of the client's that is an OCI layout.
    Layout {
        /// What the client has the directory under.
        layout: String,
        /// The name that the user knows it by.
        path: String,
        /// Which of what it has; what is called `latest`, or the only one, where nothing is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry: Option<LayoutEntry>,
    },
}

/// How commands run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Running {
    /// The network.
    pub network: String,
    /// Lines of `/etc/hosts`, `NAME:ADDRESS`.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm`; 0: as usual.
    pub shm_size: u64,
    /// Limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of memory; 0: no limit.
    pub memory: i64,
    /// Bytes of memory and swap.
    pub memory_swap: i64,
    /// Share of the processors' time beside others.
    pub cpu_shares: i64,
    /// Period of the processors' time, in microseconds.
    pub cpu_period: i64,
    /// Time in each of them.
    pub cpu_quota: i64,
    /// Processors.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
    /// Billionths of the processors' time; 0: no limit.
    pub nano_cpus: i64,
    /// Most processes.
    pub pids_limit: Option<i64>,
    /// Milliseconds that each command may take.
    pub timeout: Option<u64>,
}

/// A limit of processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// -1: no limit.
    pub soft: i64,
    /// -1: no limit.
    pub hard: i64,
}

/// What a registry is shown, as docker's configuration has it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Credentials(pub serde_json::Value);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Running {
    pub(crate) fn host(self) -> HostConfig {
        let mut host = HostConfig {
            network_mode: NetworkMode::parse(&self.network),
            extra_hosts: self.extra_hosts,
            shm_size: self.shm_size,
            ..HostConfig::default()
        };
        let resources = &mut host.resources;
        resources.memory = self.memory;
        resources.memory_swap = self.memory_swap;
        resources.cpu_shares = self.cpu_shares;
        resources.cpu_period = self.cpu_period;
        resources.cpu_quota = self.cpu_quota;
        resources.nano_cpus = self.nano_cpus;
        resources.pids_limit = self.pids_limit;
        resources.cpuset_cpus = self.cpuset_cpus;
        resources.cpuset_mems = self.cpuset_mems;
        let ulimit = |limit: Ulimit| engine::model::Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard };
        resources.ulimits = self.ulimits.into_iter().map(ulimit).collect();
        host
    }
}

impl Ask {
    pub(crate) fn given(&self) -> Given {
        let mut given = Given::host();
        given.arguments.clone_from(&self.arguments);
        given.target.clone_from(&self.target);
        // Each of several is given in its turn.
        if let [platform] = &self.platforms[..] {
            given.target_platform = platform.clone();
        }
        given
    }

    pub(crate) fn auths(&self) -> Result<BTreeMap<String, Auth>, String> {
        let mut auths = BTreeMap::new();
        for (name, Credentials(document)) in &self.credentials {
            let failed = |why: String| format!("the credentials of {name}: {why}");
            let document = AuthDocument::deserialize(document).map_err(|e| failed(e.to_string()))?;
            if let Some(auth) = document.auth().map_err(|e| failed(e.to_string()))? {
                auths.insert(registry_of(name).to_owned(), auth);
            }
        }
        Ok(auths)
    }
}

/// Names of an image.
pub(crate) fn references(names: &[String]) -> Result<Vec<Reference>, String> {
    let name = |text: &String| match Reference::parse(text) {
        Ok(name) if name.digest().is_some() => Err("build tag cannot contain a digest".to_owned()),
        Ok(name) => Ok(name.with_default_tag()),
        Err(error) => Err(error.to_string()),
    };
    names.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_passed_over() {
        let error = serde_json::from_str::<Ask>(r#"{"names":["a"],"fold":true}"#).expect_err("from another version");
        assert!(error.to_string().contains("unknown field `fold`"), "{error}");
        let ask: Ask = serde_json::from_str(r#"{"source":{"archive":{"name":""}},"names":["a:1"]}"#).expect("an ask");
        assert_eq!(ask.source, Source::Archive { name: String::new() });
        assert_eq!(references(&ask.names).expect("names")[0].familiar(), "a:1");
    }

    #[test]
    fn registries_have_the_names_of_references() {
        assert_eq!(registry_of("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(registry_of("reg.example:5000"), "reg.example:5000");
    }

    #[test]
    fn a_secret_of_a_registry_is_in_no_log() {
        let credentials = Credentials(serde_json::json!({ "password": "open sesame" }));
        assert!(!format!("{credentials:?}").contains("sesame"));
    }
}

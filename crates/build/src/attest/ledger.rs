//! What a build takes from elsewhere, noted as it does.

use crate::progress::StepId;
use image::{Digest, ImageId, ImageRecord, Platform, Reference, media_type};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What was fetched: where it is, without what nobody else is to know, and what it is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fetched {
    uri: String,
    /// How the digest is made, as in-toto calls that.
    algorithm: &'static str,
    digest: String,
}

impl Fetched {
    /// A commit of a repository.
    pub(crate) fn commit(remote: &str, id: &str) -> Fetched {
        // Of `USER@HOST:PATH`, only the long form is an address.
        let short = remote.split_once(':').filter(|(_, path)| !path.starts_with("//"));
        let url = match short {
            Some((place, path)) => format!("ssh://{place}/{}", path.trim_start_matches('/')),
            None => public(remote),
        };
        Fetched { uri: format!("git+{url}"), algorithm: "gitCommit", digest: id.to_owned() }
    }

    /// A file at an address.
    pub(crate) fn file(url: &str, digest: &Digest) -> Fetched {
        Fetched { uri: public(url), algorithm: "sha256", digest: digest.hex() }
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }
}

/// What a build needs that is no file of its context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependency {
    /// A file or a commit.
    Fetched(Fetched),
    /// An image.
    Image {
        /// Its package URL; of one that is known by its identifier only, none.
        uri: Option<String>,
        /// Its manifest, where it came with one, else its configuration.
        digest: Digest,
        /// Which of the two that is.
        media_type: String,
    },
}

impl Dependency {
    /// An image that is here, by the name that it is asked for by, and the names that it has.
    pub(crate) fn image(
        name: &str,
        id: ImageId,
        (record, names): (Option<&ImageRecord>, &[Reference]),
        platform: &Platform,
    ) -> Dependency {
        let begins_id = id.0.hex().starts_with(name.trim_start_matches("sha256:"));
        let reference = Reference::parse(name).ok().map(Reference::with_default_tag);
        let reference = reference.filter(|reference| !begins_id || names.contains(reference));
        let uri = reference.map(|reference| locator(&reference, platform));
        match record.and_then(|record| record.manifest.as_ref()) {
            Some(manifest) => {
                Dependency::Image { uri, digest: manifest.digest, media_type: manifest.media_type.clone() }
            }
            None => Dependency::Image { uri, digest: id.0, media_type: media_type::DOCKER_CONFIG.to_owned() },
        }
    }

    /// As a resource of in-toto.
    pub(super) fn document(&self) -> Value {
        match self {
            Dependency::Fetched(Fetched { uri, algorithm, digest }) => {
                json!({ "uri": uri, "digest": { *algorithm: digest } })
            }
            Dependency::Image { uri, digest, media_type } => {
                let mut document = json!({ "digest": { "sha256": digest.hex() }, "mediaType": media_type });
                if let Some(uri) = uri {
                    document["uri"] = json!(uri);
                }
                document
            }
        }
    }
}

/// An image's package URL (github.com/package-url/purl-spec).
fn locator(reference: &Reference, platform: &Platform) -> String {
    let encoded = |text: &str| crate::sbom::encoded(text);
    let path: Vec<String> = reference.path().split('/').map(encoded).collect();
    let version = reference.digest().or(reference.tag()).unwrap_or_default();
    let mut locator = format!("pkg:docker/{}@{}?", path.join("/"), encoded(version));
    if reference.domain() != "docker.io" {
        locator.push_str(&format!("repository_url={}&", encoded(reference.domain())));
    }
    locator + &format!("platform={}", encoded(&platform.to_string()))
}

/// An address without what may be meant for whoever asks only: a name, a password, and what is asked with.
fn public(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", host.rsplit_once('@').map_or(host, |(_, host)| host))
}

/// What a step came to that makes a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) text: String,
    /// What it is found again by: a digest of all that it reads.
    pub(super) key: Digest,
    /// The layer, if it changed anything.
    pub(super) diff_ids: Vec<Digest>,
}

/// All that was noted.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    pub(super) dependencies: BTreeSet<Dependency>,
    /// Ids of secrets, and of SSH agents, that commands had.
    pub(super) secrets: BTreeSet<String>,
    pub(super) agents: BTreeSet<String>,
    /// By stage and step: of a step that has triggers of its base, several.
    pub(super) layers: BTreeMap<(usize, usize), Vec<Layer>>,
}

/// What a build takes, noted as it does, by all of its stages.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Taken>);

impl Ledger {
    /// Something is needed that is no file of the context.
    pub(crate) fn needs(&self, dependency: Dependency) {
        self.0.lock().dependencies.insert(dependency);
    }

    /// A command has a secret. What that is is nobody's to say.
    pub(crate) fn secret(&self, id: &str) {
        self.0.lock().secrets.insert(id.to_owned());
    }

    /// A command may use an agent.
    pub(crate) fn agent(&self, id: &str) {
        self.0.lock().agents.insert(id.to_owned());
    }

    /// A step has made a layer, or none, or was found again.
    pub(crate) fn layer(&self, step: StepId, text: &str, key: Digest, diff_ids: Vec<Digest>) {
        let layer = Layer { text: text.to_owned(), key, diff_ids };
        self.0.lock().layers.entry((step.stage, step.index)).or_default().push(layer);
    }

    pub(super) fn taken(&self) -> Taken {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_nothing_in_it_that_is_not_everybodys() {
        assert_eq!(public("https://ann:secret@h.example:8/a@b/c?token=x#y"), "https://h.example:8/a@b/c");
        assert_eq!(public("https://token@h.example"), "https://h.example");
        assert_eq!(public("git@h.example:a/b.git#main"), "git@h.example:a/b.git");
        assert_eq!(Fetched::commit("git@h.example:a/b.git", "1").uri, "git+ssh://git@h.example/a/b.git");
        assert_eq!(Fetched::commit("https://me:x@h.example/b.git", "1").uri, "git+https://h.example/b.git");
    }

    #[test]
    fn an_image_is_known_by_its_manifest_where_it_came_with_one() {
        let id = ImageId(Digest::of(b"configuration"));
        let platform: Platform = "linux/arm64".parse().unwrap();
        let of = |name: &str| Dependency::image(name, id, (None, &[]), &platform).document();
        let document = of("reg.example:5000/team/app:1");
        let uri = "pkg:docker/team/app@1?repository_url=reg.example:5000&platform=linux%2Farm64";
        assert_eq!((&document["uri"], &document["digest"]["sha256"]), (&json!(uri), &json!(id.0.hex())));
        assert_eq!(of("busybox")["uri"], "pkg:docker/library/busybox@latest?platform=linux%2Farm64");
        assert_eq!(of(&id.to_string()).get("uri"), None);
    }
}

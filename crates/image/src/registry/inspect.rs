//! Looks at images on a registry without pulling them, and at registries without images.

use hyper::{Method, StatusCode, header};
use serde::Deserialize;

use super::auth::{Auth, Credential};
use super::challenge::Challenge;
use super::error::RegistryError;
use super::http::Outgoing;
use super::repository::{Repository, is_old_manifest};
use super::session::{Access, Endpoint};
use super::token::{self, TokenRequest};
use super::url::form;
use super::{Registries, retrying};
use crate::manifest::{MAX_DOCUMENT, media_type};
use crate::reference::DEFAULT_DOMAIN;
use crate::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference};

/// Where Docker's own registry is searched.
const HUB_INDEX: &str = "index.docker.io";
const SEARCH_BODY_MAX: u64 = 8 << 20;

/// What a registry has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributionInspect {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// What it runs on.
    pub platforms: Vec<Platform>,
}

/// A login that a registry accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What to keep instead of the password, where the registry hands it out.
    pub identity_token: Option<String>,
}

/// A repository that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SearchResult {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it says about itself.
    #[serde(default)]
    pub description: String,
    /// How many like it.
    #[serde(default)]
    pub star_count: i64,
    /// Whether it belongs to the registry's own curated ones.
    #[serde(default)]
    pub is_official: bool,
    /// Whether it is built automatically; registries stopped saying so.
    #[serde(default)]
    pub is_automated: bool,
}

impl Registries {
    /// What the registry has under a name: `GET /distribution/{name}/json` of the Engine API.
    pub async fn inspect(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
    ) -> Result<DistributionInspect, RegistryError> {
        let reference = reference.clone().with_default_tag();
        let version = reference.version().to_owned();
        let mut failure = None;
        for address in self.pull_addresses(reference.domain()) {
            let inspected = async {
                let repository = self.repository(&address, &reference, auth, "pull").await?;
                self.inspect_at(&repository, &reference, &version).await
            };
            match inspected.await {
                Ok(inspect) => return Ok(inspect),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| RegistryError::Task("no registry to ask".into())))
    }

    async fn inspect_at(
        &self,
        repository: &Repository,
        reference: &Reference,
        version: &str,
    ) -> Result<DistributionInspect, RegistryError> {
        let raw = retrying(self.config(), || repository.manifest(version)).await?;
        if is_old_manifest(&raw.media_type) {
            return Err(RegistryError::OldSchema(reference.familiar()));
        }
        let platforms = if media_type::is_index(&raw.media_type) {
            Index::parse(&raw.bytes)?.manifests.into_iter().filter_map(|entry| entry.platform).collect()
        } else if media_type::is_manifest(&raw.media_type) {
            self.manifest_platform(repository, &Manifest::parse(&raw.bytes)?).await?.into_iter().collect()
        } else {
            return Err(RegistryError::UnsupportedMedia(raw.media_type));
        };
        let descriptor = Descriptor::new(raw.media_type, raw.digest, raw.bytes.len() as u64);
        Ok(DistributionInspect { descriptor, platforms })
    }

    /// The platform that an image's configuration names; artifacts that aren't images have none.
    async fn manifest_platform(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<Option<Platform>, RegistryError> {
        let digest = manifest.config.digest;
        let what = "the image's configuration";
        let document = retrying(self.config(), || repository.document(what, &digest, MAX_DOCUMENT)).await?;
        let actual = Digest::of(&document);
        if actual != digest {
            return Err(RegistryError::WrongDigest { expected: digest.to_string(), actual: actual.to_string() });
        }
        let config = ImageConfig::parse(&document).ok().filter(|config| !config.os.is_empty());
        Ok(config.map(|config| config.platform()))
    }

    /// The digest, size and media type that a registry has under a tag or digest; `None` where it has nothing.
    /// Costs a registry that counts pulls nothing (`HEAD`).
    pub async fn head(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Option<Descriptor>, RegistryError> {
        let reference = reference.clone().with_default_tag();
        let version = reference.version().to_owned();
        let repository = self.repository(reference.domain(), &reference, auth, "pull").await?;
        retrying(self.config(), || repository.head_manifest(&version)).await
    }

    /// Whether a registry takes these credentials: `POST /auth` of the Engine API. Nothing is kept.
    pub async fn login(&self, auth: &Auth) -> Result<Login, RegistryError> {
        let host = registry_host(&auth.server_address);
        let endpoint = Endpoint { address: &host, config: self.config() };
        let session = endpoint.open(self.tokens()).await?;
        let ping = Outgoing::new(Method::GET, session.url("/v2/")?);
        let bearer = session.challenges().into_iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, .. } => {
                Some(TokenRequest { realm, service, scopes: Default::default() })
            }
            Challenge::Basic => None,
        });
        let mut access = Access { credential: Some(auth.credential.clone()), scopes: Default::default() };
        let mut identity_token = None;
        if let (Some(request), Credential::Password { .. } | Credential::Identity(_)) = (bearer, &auth.credential) {
            session.check_realm(&ping, &request.realm)?;
            let grant = token::buy(&session.http, &request, Some(&auth.credential), true).await;
            let grant = grant.map_err(|error| super::session::seen_from(&ping, error))?;
            identity_token = grant.refresh;
            access.credential = Some(Credential::Bearer(grant.token));
        }
        let outgoing = session.authorize(ping, &access, false).await?;
        let answer = session.http.send(outgoing).await?;
        match answer.status {
            StatusCode::OK => Ok(Login { identity_token }),
            status => Err(RegistryError::LoginRefused { url: answer.url.to_string(), status: status.to_string() }),
        }
    }

    /// Searches a registry (`TERM`, or `HOST/TERM` for another than Docker's own). Only registries with the old index API can do that.
    /// At most `limit` results (1 to 100; 25 where `None`).
    pub async fn search(
        &self,
        term: &str,
        limit: Option<u32>,
        auth: Option<&Auth>,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            results: Vec<SearchResult>,
        }
        let (host, term) = match term.split_once('/') {
            Some((host, term)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), term),
            _ => (DEFAULT_DOMAIN.to_owned(), term),
        };
        let index = if is_hub(&host) { HUB_INDEX } else { &host };
        let endpoint = Endpoint { address: index, config: self.config() };
        let session = endpoint.open(self.tokens()).await?;
        let limit = limit.unwrap_or(25).to_string();
        let url = session.url(&format!("/v1/search?{}", form([("q", term), ("n", &limit)])))?;
        let mut outgoing = Outgoing::new(Method::GET, url);
        if let Some(basic) = auth.and_then(|auth| auth.credential.basic()) {
            outgoing = outgoing.header(header::AUTHORIZATION, &basic)?;
        }
        let mut answer = session.http.send(outgoing).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Err(RegistryError::NoSearch(host)),
            _ => return Err(answer.refusal().await),
        }
        let body = answer.bytes("the search result", SEARCH_BODY_MAX).await?;
        let page: Page = serde_json::from_slice(&body).map_err(|_| RegistryError::NoSearch(host))?;
        Ok(page.results)
    }
}

fn is_hub(host: &str) -> bool {
    matches!(host, DEFAULT_DOMAIN | HUB_INDEX | "registry-1.docker.io" | "")
}

/// The registry that a client's `serveraddress` means: clients write addresses of Docker's own in several ways, others with a scheme.
fn registry_host(server_address: &str) -> String {
    let bare = server_address.strip_prefix("https://").or_else(|| server_address.strip_prefix("http://"));
    let host = bare.unwrap_or(server_address).split('/').next().unwrap_or_default();
    if is_hub(host) { DEFAULT_DOMAIN.to_owned() } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_many_names() {
        for hub in ["", "https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"] {
            assert_eq!(registry_host(hub), "docker.io");
        }
        assert_eq!(registry_host("https://reg.example:5000/v2/"), "reg.example:5000");
        assert_eq!(registry_host("localhost:5000"), "localhost:5000");
    }
}

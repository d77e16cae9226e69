//! Registries: pulling, pushing and looking at images over the OCI distribution-spec 1.1 and Docker's registry protocol v2.
//!
//! # Why a client of our own
//! The house's plan prefers the crate `oci-client`, which covers the protocol's requests well. What it does not let us decide is
//! how it gets there: it takes a name and password or one bearer token, but no identity token; it has no retries, no second source
//! for a blob, and chooses between TLS and none by a list instead of by trying; certificates and client keys are the client's,
//! not a registry's; and its errors have lost whether a name, a port, a proxy or a certificate was wrong, which people and Docker's
//! clients tell apart by their texts. Bending it would have left its manifest types and little else. So the requests are written here
//! once ([`repository`]), over `hyper` and `rustls` with `ring`, which also leaves out two dozen crates.
//!
//! # How it is built
//! - [`dial`], [`tls`], [`proxy`]: a connection, however it is made.
//! - [`http`]: one exchange: redirections, stalls, bounds.
//! - [`session`], [`challenge`], [`token`]: a registry, and how it wants to be shown who asks.
//! - [`repository`]: the protocol's requests, each once.
//! - [`download`]: a blob as one stream, over as many connections as it takes.
//! - [`pull`], [`push`], [`artifact`], [`referrers`], [`inspect`]: what users ask for.
//! - [`fetch`], [`web`], [`reach`]: files of the web, and which addresses may be connected to for them.
//! - [`relay`]: the same for a program that speaks HTTP by itself.
//!
//! Everything that comes from a registry is bounded and verified before it is used; digests are those of the bytes that came.

mod artifact;
mod auth;
mod challenge;
mod choice;
mod config;
mod dial;
mod download;
mod error;
mod fetch;
mod http;
mod inspect;
mod proxy;
mod pull;
mod push;
mod reach;
mod referrers;
mod refusal;
mod relay;
mod repository;
mod session;
mod tls;
mod token;
mod url;
mod web;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use artifact::{NewArtifact, RemoteArtifact};
pub use auth::{Auth, AuthDocument, AuthError, Credential, basic_header, registry_of};
pub use choice::choose;
pub use config::{BadHostOrCidr, HostOrCidr, RegistryConfig};
pub use error::{Refusal, RegistryError, RegistryErrorKind, TransportCause};
pub use fetch::Fetched;
pub use inspect::{DistributionInspect, Login, SearchResult};
pub use proxy::ProxyConfig;
pub use pull::{PullStatus, Pulled};
pub use push::Pushed;
pub use reach::{BadRange, Reach};
pub use referrers::{Said, SaidOf};
pub use relay::{Forward, Relay};
pub use web::{Downloaded, Validators, WebFile, file_name, name_and_password, without_password};

use crate::{Digest, Reference};
use repository::Repository;
use session::{Access, Endpoint, Session};
use token::TokenCache;

/// For fuzzing: a header is read for nothing.
pub(crate) fn read_challenges(header: &str) {
    challenge::parse_challenges(header);
}

/// All registries, as this configuration reaches them. Clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registries(Arc<Inner>);

struct Inner {
    config: RegistryConfig,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    tokens: Arc<TokenCache>,
    downloads: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    layers: Turns<Digest>,
    /// Lists of referrers, by their addresses.
    lists: Turns<String>,
}

/// What one at a time works at.
type Turns<K> = Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>;

fn turn_at<K: std::hash::Hash + Eq>(turns: &Turns<K>, key: K) -> Arc<tokio::sync::Mutex<()>> {
    let mut turns = turns.lock();
    turns.retain(|_, lock| lock.strong_count() > 0);
    if let Some(lock) = turns.get(&key).and_then(Weak::upgrade) {
        return lock;
    }
    let lock = Arc::new(tokio::sync::Mutex::new(()));
    turns.insert(key, Arc::downgrade(&lock));
    lock
}

impl Registries {
    /// Registries by this configuration. Nothing is asked, read or connected yet.
    pub fn new(config: RegistryConfig) -> Registries {
        let limit = |wanted: usize| Arc::new(Semaphore::new(wanted.clamp(1, 1024)));
        Registries(Arc::new(Inner {
            sessions: Mutex::default(),
            tokens: Arc::default(),
            downloads: limit(config.concurrent_downloads),
            uploads: limit(config.concurrent_uploads),
            layers: Mutex::default(),
            lists: Mutex::default(),
            config,
        }))
    }

    /// How registries are reached.
    pub fn config(&self) -> &RegistryConfig {
        &self.0.config
    }

    /// All tags of a repository, for `pull --all-tags`.
    pub async fn tags(&self, repository: &Reference, auth: Option<&Auth>) -> Result<Vec<String>, RegistryError> {
        let mut failure = None;
        // Mirrors may know a part of the tags only, so the registry itself is asked first.
        for address in self.pull_addresses(repository.domain()).iter().rev() {
            let listed = async {
                let at = self.repository(address, repository, auth, "pull").await?;
                retrying(self.config(), || at.tags()).await
            };
            match listed.await {
                Ok(tags) => return Ok(tags),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        let failure = failure.unwrap_or_else(|| RegistryError::Task("no registry to ask".into()));
        Err(failure.of_pull(repository))
    }

    fn tokens(&self) -> &Arc<TokenCache> {
        &self.0.tokens
    }

    fn downloads(&self) -> &Arc<Semaphore> {
        &self.0.downloads
    }

    fn uploads(&self) -> &Arc<Semaphore> {
        &self.0.uploads
    }

    /// Held by whoever pulls a layer, so that two pulls of it don't fetch it twice.
    fn layer_lock(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        turn_at(&self.0.layers, *diff_id)
    }

    /// Where images of a registry are looked for, in this order: its mirrors, then itself.
    fn pull_addresses(&self, domain: &str) -> Vec<String> {
        let mirrors = self.0.config.mirrors.get(domain).into_iter().flatten().cloned();
        mirrors.chain([domain.to_owned()]).collect()
    }

    /// A repository at a registry or at one of its mirrors, as somebody who wants to do `actions` there.
    async fn repository(
        &self,
        address: &str,
        reference: &Reference,
        auth: Option<&Auth>,
        actions: &str,
    ) -> Result<Repository, RegistryError> {
        let endpoint = Endpoint { address, config: self.config() };
        let is_mirror = address != reference.domain();
        let credential = if is_mirror { endpoint.credential() } else { auth.map(|auth| auth.credential.clone()) };
        let kept = self.0.sessions.lock().get(address).cloned();
        let session = match kept {
            Some(session) => session,
            None => {
                let session = Arc::new(endpoint.open(self.tokens()).await?);
                self.0.sessions.lock().insert(address.to_owned(), session.clone());
                session
            }
        };
        let path = reference.path().to_owned();
        let scopes = BTreeSet::from([format!("repository:{path}:{actions}")]);
        Ok(Repository { session, path, access: Access { credential, scopes } })
    }
}

/// Does something until it succeeds, fails for good, or has been tried often enough.
async fn retrying<T, F>(config: &RegistryConfig, mut operation: impl FnMut() -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let mut failed = 0;
    loop {
        let error = match operation().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        failed += 1;
        let wait = error.is_passing().then(|| config.wait_before_retry(failed, error.retry_after())).flatten();
        let Some(wait) = wait else { return Err(error) };
        tracing::debug!(%error, ?wait, "trying again");
        tokio::time::sleep(wait).await;
    }
}

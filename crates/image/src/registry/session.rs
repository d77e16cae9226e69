//! What is known of one registry: how it is reached (TLS or not), how it wants to be shown who asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::{Method, StatusCode, Uri, header};
use parking_lot::Mutex;

use super::auth::Credential;
use super::challenge::{Challenge, parse_challenges};
use super::config::RegistryConfig;
use super::dial;
use super::error::{RegistryError, TransportCause};
use super::http::{Answer, HttpClient, Outgoing, Pieces};
use super::token::{TokenCache, TokenRequest};

/// Where Docker's own registry really is.
const HUB_HOST: &str = "registry-1.docker.io";

/// A registry that answered, with what it asked for. Shared by everything that talks to it.
pub(super) struct Session {
    pub(super) http: HttpClient,
    /// Its address up to where `/v2/` follows.
    pub(super) base: String,
    tokens: Arc<TokenCache>,
    challenges: Mutex<Vec<Challenge>>,
}

/// Who asks, and for what.
#[derive(Clone, Default)]
pub(super) struct Access {
    pub(super) credential: Option<Credential>,
    pub(super) scopes: BTreeSet<String>,
}

/// Where to look for a registry.
pub(super) struct Endpoint<'a> {
    /// The registry's name, or a mirror's address.
    pub(super) address: &'a str,
    pub(super) config: &'a RegistryConfig,
}

impl Endpoint<'_> {
    /// Finds out how the registry is reached, and what it asks for.
    pub(super) async fn open(&self, tokens: &Arc<TokenCache>) -> Result<Session, RegistryError> {
        let (scheme, rest) = match self.address.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest.trim_end_matches('/')),
            None => (None, self.address),
        };
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let (host, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = if host == crate::reference::DEFAULT_DOMAIN { HUB_HOST } else { host };
        let insecure = scheme == Some("http") || self.is_insecure(host).await;
        let schemes: &[(&str, bool)] = match (scheme, insecure) {
            (Some("http"), _) => &[("http", false)],
            (_, false) => &[("https", true)],
            (Some(_), true) => &[("https", false)],
            (None, true) => &[("https", false), ("http", false)],
        };
        let mut failure = None;
        for (scheme, verify) in schemes {
            let session = Session {
                http: HttpClient::new(self.config, host, *verify),
                base: format!("{scheme}://{host}{prefix}"),
                tokens: tokens.clone(),
                challenges: Mutex::default(),
            };
            match session.ping().await {
                Ok(()) => return Ok(session),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| RegistryError::Task("no way to reach the registry is allowed".into())))
    }

    async fn is_insecure(&self, host: &str) -> bool {
        let name = host.parse::<Uri>().ok();
        let name = name.as_ref().and_then(Uri::host).unwrap_or(host).trim_matches(['[', ']']);
        // A name that can't be looked up is reported when it is dialled.
        let addresses = dial::lookup(name, 443).await.unwrap_or_default();
        let addresses: Vec<_> = addresses.iter().map(std::net::SocketAddr::ip).collect();
        self.config.is_insecure(host, &addresses)
    }

    /// The name and password in a mirror's address.
    pub(super) fn credential(&self) -> Option<Credential> {
        let (_, rest) = self.address.split_once("://")?;
        let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
        let (username, password) = user.split_once(':').unwrap_or((user, ""));
        Some(Credential::Password {
            username: super::url::percent_decode(username),
            password: super::url::percent_decode(password),
        })
    }
}

impl Session {
    /// An address of this registry.
    pub(super) fn url(&self, path: &str) -> Result<Uri, RegistryError> {
        let text = format!("{}{path}", self.base);
        text.parse().map_err(|error| RegistryError::Malformed {
            what: format!("the address {text:?}"),
            reason: format!("{error}"),
        })
    }

    async fn ping(&self) -> Result<(), RegistryError> {
        let answer = self.http.send(Outgoing::new(Method::GET, self.url("/v2/")?)).await?;
        self.learn(&answer);
        Ok(())
    }

    /// Notes what an answer asks for.
    fn learn(&self, answer: &Answer) {
        if answer.status == StatusCode::UNAUTHORIZED {
            let headers = answer.headers.get_all(header::WWW_AUTHENTICATE);
            let found: Vec<Challenge> =
                headers.iter().filter_map(|value| value.to_str().ok()).flat_map(parse_challenges).collect();
            if !found.is_empty() {
                *self.challenges.lock() = found;
            }
        }
    }

    /// Refuses to send credentials in the clear because a registry that has TLS says so.
    pub(super) fn check_realm(&self, outgoing: &Outgoing, realm: &str) -> Result<(), RegistryError> {
        if self.base.starts_with("https://") && !realm.starts_with("https://") {
            let text = format!("the registry wants credentials sent to {realm}, which is not protected by TLS");
            return Err(outgoing.failed(TransportCause::Redirect(text)));
        }
        Ok(())
    }

    pub(super) fn challenges(&self) -> Vec<Challenge> {
        self.challenges.lock().clone()
    }

    /// Sends a request as somebody. Where the registry then asks for more, it gets that once.
    pub(super) async fn send(&self, outgoing: Outgoing, access: &Access) -> Result<Answer, RegistryError> {
        let authorized = self.authorize(outgoing.clone(), access, false).await?;
        let answer = self.http.send(authorized).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.learn(&answer);
        let mut access = access.clone();
        for challenge in self.challenges() {
            if let Challenge::Bearer { scope: Some(scope), .. } = challenge {
                access.scopes.extend(scope.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned));
            }
        }
        let again = self.authorize(outgoing, &access, true).await?;
        self.http.send(again).await
    }

    /// Sends a body from a stream as somebody; can't be asked again.
    pub(super) async fn send_stream(
        &self,
        outgoing: Outgoing,
        access: &Access,
        length: u64,
        pieces: Pieces,
    ) -> Result<Answer, RegistryError> {
        let outgoing = self.authorize(outgoing, access, false).await?;
        self.http.send_stream(outgoing, length, pieces).await
    }

    /// Sends a request that the registry may take its time for.
    pub(super) async fn send_patiently(&self, outgoing: Outgoing, access: &Access) -> Result<Answer, RegistryError> {
        let outgoing = self.authorize(outgoing, access, false).await?;
        self.http.send_patiently(outgoing).await
    }

    /// Adds what the registry asked for, where the request goes to the registry itself.
    pub(super) async fn authorize(
        &self,
        outgoing: Outgoing,
        access: &Access,
        fresh: bool,
    ) -> Result<Outgoing, RegistryError> {
        let own: Uri = self.url("/v2/")?;
        if outgoing.url.authority() != own.authority() || outgoing.url.scheme() != own.scheme() {
            return Ok(outgoing);
        }
        let challenges = self.challenges();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, .. } => Some((realm, service)),
            Challenge::Basic => None,
        });
        if let Some((realm, service)) = bearer {
            if access.credential.is_some() {
                self.check_realm(&outgoing, realm)?;
            }
            let (realm, service) = (realm.clone(), service.clone());
            let request = TokenRequest { realm, service, scopes: access.scopes.clone() };
            let token = self.tokens.token(&self.http, request, access.credential.as_ref(), fresh).await;
            let token = token.map_err(|error| seen_from(&outgoing, error))?;
            return outgoing.header(header::AUTHORIZATION, &format!("Bearer {token}"));
        }
        if let Some(Credential::Bearer(token)) = &access.credential {
            return outgoing.header(header::AUTHORIZATION, &format!("Bearer {token}"));
        }
        if !challenges.contains(&Challenge::Basic) {
            return Ok(outgoing);
        }
        match access.credential.as_ref().and_then(Credential::basic) {
            Some(basic) => outgoing.header(header::AUTHORIZATION, &basic),
            None => Err(outgoing.failed(TransportCause::NoCredentials)),
        }
    }
}

/// A refused token is told as the failure of the request that it was for.
pub(super) fn seen_from(outgoing: &Outgoing, error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Transport { cause: cause @ TransportCause::Token(_), .. } => outgoing.failed(cause),
        other => other,
    }
}

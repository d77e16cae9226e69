//! Bearer tokens: bought from the server that a registry names, kept until shortly before they end
//! (distribution's token authentication and OAuth2 specifications).

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use hyper::{Method, Uri, header};
use parking_lot::Mutex;
use serde::Deserialize;

use super::auth::Credential;
use super::error::{RegistryError, TransportCause};
use super::http::{HttpClient, Outgoing};
use super::url::{form, with_query};

const CLIENT_ID: &str = "stratus";
/// What the specification grants a token whose server doesn't say how long it lives.
const LIFE_MIN: Duration = Duration::from_secs(60);
/// A token is not used in its last moments, as requests take time too.
const LIFE_MARGIN: Duration = Duration::from_secs(10);
const TOKEN_BODY_MAX: u64 = 1 << 20;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenRequest {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scopes: BTreeSet<String>,
}

#[derive(PartialEq, Eq, Hash)]
struct TokenKey(TokenRequest, Option<[u8; 32]>);

struct KeptToken {
    token: String,
    ends: Instant,
}

/// Tokens by what they are for and whose they are.
#[derive(Default)]
pub(super) struct TokenCache(Mutex<HashMap<TokenKey, KeptToken>>);

/// What a token server hands out.
pub(super) struct Grant {
    pub(super) token: String,
    /// Buys further tokens, where the server gives one out.
    pub(super) refresh: Option<String>,
    life: Duration,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenDocument {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenCache {
    /// A token, bought now unless one is kept. `fresh` doesn't take a kept one, as the registry refused it.
    pub(super) async fn token(
        &self,
        http: &HttpClient,
        request: TokenRequest,
        credential: Option<&Credential>,
        fresh: bool,
    ) -> Result<String, RegistryError> {
        if let Some(Credential::Bearer(token)) = credential {
            return Ok(token.clone());
        }
        let key = TokenKey(request, credential.map(Credential::fingerprint));
        if !fresh && let Some(token) = self.kept(&key) {
            return Ok(token);
        }
        let grant = buy(http, &key.0, credential, false).await?;
        let mut kept = self.0.lock();
        let now = Instant::now();
        kept.retain(|_, token| token.ends > now);
        kept.insert(key, KeptToken { token: grant.token.clone(), ends: now + grant.life.saturating_sub(LIFE_MARGIN) });
        Ok(grant.token)
    }

    fn kept(&self, key: &TokenKey) -> Option<String> {
        self.0.lock().get(key).filter(|kept| kept.ends > Instant::now()).map(|kept| kept.token.clone())
    }
}

/// Buys a token. `offline` asks for a refresh token too, as a login does.
pub(super) async fn buy(
    http: &HttpClient,
    request: &TokenRequest,
    credential: Option<&Credential>,
    offline: bool,
) -> Result<Grant, RegistryError> {
    let outgoing = match credential {
        Some(Credential::Identity(refresh)) => by_refresh_token(request, refresh)?,
        other => by_password(request, other, offline)?,
    };
    let failed = outgoing.clone();
    let mut answer = http.send(outgoing).await?;
    if !answer.status.is_success() {
        return Err(match answer.refusal().await {
            RegistryError::Refused { status: 400..=403, refusal, .. } => failed.failed(TransportCause::Token(refusal)),
            other => other,
        });
    }
    let body = answer.bytes("the token server's answer", TOKEN_BODY_MAX).await?;
    let malformed =
        |reason: String| RegistryError::Malformed { what: format!("the token of {}", request.realm), reason };
    let document: TokenDocument = serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
    let token = [document.token, document.access_token].into_iter().flatten().find(|token| !token.is_empty());
    Ok(Grant {
        token: token.ok_or_else(|| malformed("authorization server did not include a token in the response".into()))?,
        refresh: document.refresh_token.filter(|token| !token.is_empty()),
        life: document.expires_in.map_or(LIFE_MIN, |seconds| Duration::from_secs(seconds.min(86_400))).max(LIFE_MIN),
    })
}

fn realm(request: &TokenRequest) -> Result<&str, RegistryError> {
    let is_address = request.realm.parse::<Uri>().is_ok_and(|uri| uri.host().is_some() && uri.scheme().is_some());
    is_address.then_some(&*request.realm).ok_or_else(|| RegistryError::Malformed {
        what: "the challenge".into(),
        reason: format!("its realm {:?} is no address", request.realm),
    })
}

fn by_password(
    request: &TokenRequest,
    credential: Option<&Credential>,
    offline: bool,
) -> Result<Outgoing, RegistryError> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    if let Some(service) = &request.service {
        pairs.push(("service", service));
    }
    pairs.extend(request.scopes.iter().map(|scope| ("scope", &**scope)));
    if offline {
        pairs.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
    }
    if let Some(Credential::Password { username, .. }) = credential {
        pairs.push(("account", username));
    }
    let address = with_query(realm(request)?, &form(pairs));
    let outgoing = Outgoing::new(Method::GET, address_of(&address)?);
    match credential.and_then(Credential::basic) {
        Some(basic) => outgoing.header(header::AUTHORIZATION, &basic),
        None => Ok(outgoing),
    }
}

fn by_refresh_token(request: &TokenRequest, refresh: &str) -> Result<Outgoing, RegistryError> {
    let scopes: Vec<&str> = request.scopes.iter().map(String::as_str).collect();
    let scopes = scopes.join(" ");
    let service = request.service.as_deref().unwrap_or_default();
    let pairs = [
        ("grant_type", "refresh_token"),
        ("service", service),
        ("client_id", CLIENT_ID),
        ("scope", &scopes),
        ("refresh_token", refresh),
    ];
    let outgoing = Outgoing::new(Method::POST, address_of(realm(request)?)?).body(form(pairs).into());
    outgoing.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
}

fn address_of(text: &str) -> Result<Uri, RegistryError> {
    text.parse()
        .map_err(|error| RegistryError::Malformed { what: format!("the address {text:?}"), reason: format!("{error}") })
}

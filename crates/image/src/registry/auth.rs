//! Who asks: credentials as clients hand them to the Engine API in `X-Registry-Auth`.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const TOLERANT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, TOLERANT);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, TOLERANT);

/// The header can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It isn't base64 in either alphabet.
    #[error("invalid X-Registry-Auth header: must be a valid base64url-encoded JSON document: it is not base64")]
    NotBase64,
    /// What was encoded is not the JSON document that the API defines.
    #[error("invalid X-Registry-Auth header: {0}")]
    NotJson(String),
    /// The `auth` field is not base64 of `user:password`.
    #[error("invalid credentials: the field \"auth\" must be base64 of user:password")]
    BadPair,
}

/// What a client proves itself to a registry with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password (or a personal access token in its place).
    Password {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token, which buys bearer tokens (`identitytoken`).
    Identity(String),
    /// A bearer token that is sent as it is (`registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Password { username, .. } => write!(f, "Password({username}, …)"),
            Credential::Identity(_) => f.write_str("Identity(…)"),
            Credential::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

/// A credential and the registry it is for. Never printed in whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// What is shown to the registry.
    pub credential: Credential,
    /// The registry as the client named it (`serveraddress`); empty where it said nothing.
    pub server_address: String,
}

/// Credentials as they are written in JSON: encoded in the header, or as they are, as the body of `POST /auth`.
#[derive(Deserialize, Default)]
#[serde(default, rename = "AuthConfig")]
pub struct AuthDocument {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    serveraddress: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Auth {
    /// A name and password for a registry.
    pub fn password(username: &str, password: &str, server_address: &str) -> Auth {
        let credential = Credential::Password { username: username.to_owned(), password: password.to_owned() };
        Auth { credential, server_address: server_address.to_owned() }
    }

    /// Reads the header `X-Registry-Auth`: base64url (or base64, padded or not) of a JSON document. `None` where it holds no credential.
    pub fn from_header(header: &str) -> Result<Option<Auth>, AuthError> {
        let header = header.trim();
        if header.is_empty() {
            return Ok(None);
        }
        let json = URL_SAFE.decode(header).or_else(|_| STANDARD.decode(header)).map_err(|_| AuthError::NotBase64)?;
        if json.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        Self::from_json(&json)
    }

    /// Reads the JSON document alone. `None` where it holds no credential.
    pub fn from_json(json: &[u8]) -> Result<Option<Auth>, AuthError> {
        let document: Option<AuthDocument> =
            serde_json::from_slice(json).map_err(|error| AuthError::NotJson(error.to_string()))?;
        document.unwrap_or_default().auth()
    }
}

/// The registry that credentials are for, as it stands in references: they may name it by an address, and Docker's own by one of old.
pub fn registry_of(name: &str) -> &str {
    let host = name.trim_start_matches("https://").trim_start_matches("http://");
    match host.split('/').next().unwrap_or_default() {
        "index.docker.io" => "docker.io",
        host => host,
    }
}

impl AuthDocument {
    /// The credential that the document holds. `None` where it holds none.
    pub fn auth(self) -> Result<Option<Auth>, AuthError> {
        let given = |field: Option<String>| field.filter(|text| !text.is_empty());
        let server_address = self.serveraddress.unwrap_or_default();
        let credential = if let Some(token) = given(self.registrytoken) {
            Credential::Bearer(token)
        } else if let Some(token) = given(self.identitytoken) {
            Credential::Identity(token)
        } else if let Some(username) = given(self.username) {
            Credential::Password { username, password: self.password.unwrap_or_default() }
        } else if let Some(pair) = given(self.auth) {
            let pair = STANDARD.decode(&pair).or_else(|_| URL_SAFE.decode(&pair)).map_err(|_| AuthError::BadPair)?;
            let pair = String::from_utf8(pair).map_err(|_| AuthError::BadPair)?;
            let (username, password) = pair.split_once(':').ok_or(AuthError::BadPair)?;
            Credential::Password { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() }
        } else {
            return Ok(None);
        };
        Ok(Some(Auth { credential, server_address }))
    }
}

impl Credential {
    /// The value of an `Authorization: Basic` header, for a name and password.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Credential::Password { username, password } => Some(basic_header(username, password)),
            Credential::Identity(_) | Credential::Bearer(_) => None,
        }
    }

    /// Tells two credentials apart without keeping either.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let parts: [&str; 3] = match self {
            Credential::Password { username, password } => ["password", username, password],
            Credential::Identity(token) => ["identity", token, ""],
            Credential::Bearer(token) => ["bearer", token, ""],
        };
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// The header that shows a name and a password (RFC 7617).
pub fn basic_header(username: &str, password: &str) -> String {
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{username}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::*;
    use proptest::prelude::*;

    #[test]
    fn every_way_of_encoding_is_read() {
        let json = br#"{"username":"ann","password":"p?>~ss\u00ff","serveraddress":"reg.example"}"#;
        let want = Auth::password("ann", "p?>~ss\u{ff}", "reg.example");
        for text in [
            BASE64_URL_SAFE.encode(json),
            BASE64_URL_SAFE_NO_PAD.encode(json),
            BASE64_STANDARD.encode(json),
            BASE64_STANDARD_NO_PAD.encode(json),
        ] {
            assert_eq!(Auth::from_header(&text), Ok(Some(want.clone())));
        }
    }

    #[test]
    fn tokens_win_over_passwords_and_nothing_is_nothing() {
        let read = |json: &str| Auth::from_json(json.as_bytes()).map(|auth| auth.map(|auth| auth.credential));
        assert_eq!(read(r#"{"username":"<token>","identitytoken":"i"}"#), Ok(Some(Credential::Identity("i".into()))));
        assert_eq!(read(r#"{"registrytoken":"r","identitytoken":"i"}"#), Ok(Some(Credential::Bearer("r".into()))));
        let pair = Credential::Password { username: "a".into(), password: "b:c".into() };
        assert_eq!(read(r#"{"auth":"YTpiOmM="}"#), Ok(Some(pair)));
        for empty in ["{}", "null", r#"{"username":"","email":"x","auth":null}"#] {
            assert_eq!(read(empty), Ok(None), "{empty}");
        }
        assert_eq!(Auth::from_header(""), Ok(None));
        assert!(read("[1]").is_err() && read("{").is_err() && Auth::from_header("§").is_err());
    }

    #[test]
    fn no_password_is_ever_printed() {
        let auth = Auth::password("ann", "geheim", "reg.example");
        assert!(!format!("{auth:?}").contains("geheim"));
        assert_ne!(
            Auth::password("a", "bc", "").credential.fingerprint(),
            Auth::password("ab", "c", "").credential.fingerprint()
        );
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(header in "\\PC*") { let _ = Auth::from_header(&header); }

        #[test]
        fn what_is_encoded_comes_back(username in "\\PC{1,20}", password in "\\PC{0,20}") {
            let json = serde_json::json!({"username": username, "password": password}).to_string();
            let auth = Auth::from_header(&BASE64_URL_SAFE.encode(json)).unwrap().unwrap();
            prop_assert_eq!(auth, Auth::password(&username, &password, ""));
        }
    }
}

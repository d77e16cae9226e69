//! What can go wrong with a registry, in the words that Docker's clients know, and of which kind each is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::reference::ReferenceError;

/// What a registry said when it refused: its code and message (distribution-spec, "Error Codes").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The registry's code, such as `MANIFEST_UNKNOWN`; empty where it gave none.
    pub code: String,
    /// The registry's text.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.replace('_', " ").to_lowercase();
        match (code.is_empty(), self.message.is_empty()) {
            (true, _) => f.write_str(&self.message),
            (false, true) => f.write_str(&code),
            (false, false) => write!(f, "{code}: {}", self.message),
        }
    }
}

/// Why no answer came. The texts are those of Go's network library, as Docker's users and tests know them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportCause {
    /// The registry's name has no address.
    #[error("dial tcp: lookup {host}{}: {reason}", resolver.map(|address| format!(" on {}", SocketAddr::new(address, 53))).unwrap_or_default())]
    Lookup {
        /// The name.
        host: String,
        /// Whom the system asks for names first.
        resolver: Option<IpAddr>,
        /// What the resolver said.
        reason: String,
    },
    /// No connection could be made.
    #[error("dial tcp {address}: connect: {reason}")]
    Dial {
        /// The address tried (the first one, where there were several).
        address: SocketAddr,
        /// The kernel's word.
        reason: String,
    },
    /// Nobody answered at this address.
    #[error("dial tcp {address}: i/o timeout")]
    DialTimeout {
        /// The address tried.
        address: SocketAddr,
    },
    /// The address is not to be connected to.
    #[error("{host} is at {address}, which is not to be reached from here")]
    OutOfReach {
        /// The host.
        host: String,
        /// Its address.
        address: IpAddr,
    },
    /// The server does not hand the file out.
    #[error("the server answered {}", hyper::StatusCode::from_u16(*.0).map_or_else(|_| .0.to_string(), |status| status.to_string()))]
    Answered(u16),
    /// The proxy couldn't be used.
    #[error("proxyconnect tcp: {0}")]
    Proxy(String),
    /// The peer's certificate or its TLS is not acceptable.
    #[error("tls: {0}")]
    Tls(String),
    /// The registry doesn't speak TLS, and is not configured as insecure.
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainAnswer,
    /// A file in the certificates' directory can't be used.
    #[error("{0}")]
    Certificates(String),
    /// No byte moved for this long.
    #[error("the transfer stood still for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The connection ended before the whole answer came.
    #[error("unexpected EOF")]
    Closed,
    /// The registry's redirections lead nowhere.
    #[error("{0}")]
    Redirect(String),
    /// The server that hands out tokens refused.
    #[error("{0}")]
    Token(Refusal),
    /// The registry asks for a name and password, and none was given.
    #[error("no basic auth credentials")]
    NoCredentials,
    /// Anything else that the connection reports.
    #[error("{0}")]
    Other(String),
}

impl TransportCause {
    /// Whether asking again may help.
    fn is_passing(&self) -> bool {
        use TransportCause as C;
        match self {
            C::Dial { .. } | C::DialTimeout { .. } | C::Stalled(_) | C::Closed | C::Other(_) | C::Proxy(_) => true,
            C::Lookup { reason, .. } => reason != "no such host",
            C::Answered(status) => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            C::OutOfReach { .. } | C::Tls(_) | C::PlainAnswer | C::Certificates(_) | C::Redirect(_) => false,
            C::Token(_) | C::NoCredentials => false,
        }
    }
}

/// Why a registry's answer can't be used, or why there is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is no reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry has no such tag or digest.
    #[error("manifest for {reference} not found: {refusal}")]
    ManifestUnknown {
        /// The reference in its familiar form.
        reference: String,
        /// What the registry said.
        refusal: Refusal,
    },
    /// The registry has no such repository.
    #[error("repository {name} not found: {refusal}")]
    RepositoryUnknown {
        /// The repository's familiar name.
        name: String,
        /// What the registry said.
        refusal: Refusal,
    },
    /// The registry doesn't let these credentials pull.
    #[error("pull access denied for {name}, repository does not exist or may require 'docker login': {refusal}")]
    PullDenied {
        /// The repository's familiar name.
        name: String,
        /// What the registry said.
        refusal: Refusal,
    },
    /// The registry refused, with this HTTP status.
    #[error("{refusal}")]
    Refused {
        /// The HTTP status, 400 to 599.
        status: u16,
        /// What the registry said.
        refusal: Refusal,
        /// How long it asked to be left alone (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// No answer came.
    #[error("{method} \"{url}\": {cause}")]
    Transport {
        /// The HTTP method, written as Go does: `Get`, `Head`.
        method: String,
        /// The address asked for.
        url: String,
        /// Why.
        cause: TransportCause,
    },
    /// The image exists, but not for this platform.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoMatchingPlatform(String),
    /// The image is for an operating system that can't run here.
    #[error("image operating system \"{0}\" cannot be used on this platform: operating system is not supported")]
    ForeignSystem(String),
    /// The manifest is of a kind that went out of use.
    #[error(
        "{0} is stored in Docker's image format v1 or manifest schema 1, which is not supported: ask its author to push it again in the OCI format or Docker manifest schema 2"
    )]
    OldSchema(String),
    /// The manifest is of a kind that is no image.
    #[error("unsupported manifest media type {0:?}: it is not a container image")]
    UnsupportedMedia(String),
    /// The image was pushed, and what is said of it was not.
    #[error("the image is there, but the attestation {predicate_type} was not taken: {why}")]
    NotAttested {
        /// What kind of thing is said.
        predicate_type: String,
        /// Why not.
        why: Box<RegistryError>,
    },
    /// What came is not what its digest says.
    #[error("manifest verification failed for digest {expected}: the registry sent {actual}")]
    WrongDigest {
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// What came can't be read as what it should be.
    #[error("{what} from the registry is malformed: {reason}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A document is larger than any honest one.
    #[error("{what} is larger than {limit} bytes, which is more than stratus accepts")]
    TooLarge {
        /// Which document.
        what: String,
        /// The bound in bytes.
        limit: u64,
    },
    /// The registry doesn't take these credentials.
    #[error("login attempt to {url} failed with status: {status}")]
    LoginRefused {
        /// The address asked.
        url: String,
        /// The answer's status line, as `401 Unauthorized`.
        status: String,
    },
    /// Images are pushed by tag only.
    #[error("cannot push a digest reference")]
    PushByDigest,
    /// The registry can't be searched.
    #[error(
        "the registry {0} cannot be searched: it answers no search requests (registries of the distribution specification have none)"
    )]
    NoSearch(String),
    /// The local store failed.
    #[error(transparent)]
    Store(Box<crate::Error>),
    /// A task that moved a layer ended without a result.
    #[error("a transfer ended unexpectedly: {0}")]
    Task(String),
}

impl From<crate::Error> for RegistryError {
    fn from(error: crate::Error) -> Self {
        RegistryError::Store(Box::new(error))
    }
}

/// The kinds of failure that callers treat differently; a door maps them to its protocol's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryErrorKind {
    /// There is no such image, for these credentials or at all.
    NotFound,
    /// The credentials are missing or wrong.
    Unauthorized,
    /// The credentials are right, and don't suffice.
    Forbidden,
    /// The request makes no sense.
    Invalid,
    /// The registry wants to be asked less often.
    TooManyRequests,
    /// The registry can't be reached, or has a fault of its own.
    Unavailable,
    /// The local store failed; see the error itself.
    Store,
    /// The registry's answer makes no sense, or another fault.
    System,
}

impl RegistryError {
    /// Of which kind this is.
    pub fn kind(&self) -> RegistryErrorKind {
        use RegistryErrorKind as K;
        match self {
            Self::Reference(_) | Self::PushByDigest | Self::NoSearch(_) | Self::ForeignSystem(_) => K::Invalid,
            Self::ManifestUnknown { .. } | Self::RepositoryUnknown { .. } | Self::PullDenied { .. } => K::NotFound,
            Self::NoMatchingPlatform(_) => K::NotFound,
            Self::OldSchema(_) | Self::UnsupportedMedia(_) => K::Invalid,
            Self::Refused { status, refusal, .. } => kind_of_refusal(*status, refusal),
            Self::Transport { cause: TransportCause::Token(refusal), .. } => kind_of_refusal(401, refusal),
            Self::Transport { cause: TransportCause::NoCredentials, .. } | Self::LoginRefused { .. } => K::Unauthorized,
            Self::Transport { .. } => K::Unavailable,
            Self::NotAttested { why, .. } => why.kind(),
            Self::Store(_) => K::Store,
            Self::WrongDigest { .. } | Self::Malformed { .. } | Self::TooLarge { .. } | Self::Task(_) => K::System,
        }
    }

    /// Whether the same request may succeed if it is made again.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Transport { cause, .. } => cause.is_passing(),
            // Every digest that is sent is that of the bytes: they were lost on the way, or the registry read what another push of the
            // same bytes was just writing.
            Self::Refused { refusal, .. } if refusal.code == "DIGEST_INVALID" => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// How long the registry asked to wait before the next request.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the registry answered that it has no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Puts a refusal into the words that a pull of this image uses.
    pub(super) fn of_pull(self, reference: &crate::reference::Reference) -> RegistryError {
        match self {
            Self::Refused { refusal, .. } if refusal.code == "MANIFEST_UNKNOWN" => {
                Self::ManifestUnknown { reference: reference.familiar(), refusal }
            }
            Self::Refused { refusal, .. } if refusal.code == "NAME_UNKNOWN" => {
                Self::RepositoryUnknown { name: reference.familiar_name(), refusal }
            }
            Self::Refused { refusal, .. } if refusal.code == "DENIED" => {
                Self::PullDenied { name: reference.familiar_name(), refusal }
            }
            other => other,
        }
    }
}

fn kind_of_refusal(status: u16, refusal: &Refusal) -> RegistryErrorKind {
    use RegistryErrorKind as K;
    match (&*refusal.code, status) {
        ("UNAUTHORIZED", _) | (_, 401) => K::Unauthorized,
        ("DENIED", _) | (_, 403) => K::Forbidden,
        ("TOOMANYREQUESTS", _) | (_, 429) => K::TooManyRequests,
        (_, 404) => K::NotFound,
        (_, 500..) => K::Unavailable,
        _ => K::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    fn refused(status: u16, code: &str, message: &str) -> RegistryError {
        let refusal = Refusal { code: code.into(), message: message.into() };
        RegistryError::Refused { status, refusal, retry_after: None }
    }

    #[test]
    fn refusals_read_as_dockers() {
        let reference = Reference::parse("busybox:nope").unwrap();
        let text = |error: RegistryError| error.of_pull(&reference).to_string();
        assert_eq!(
            text(refused(404, "MANIFEST_UNKNOWN", "manifest unknown")),
            "manifest for busybox:nope not found: manifest unknown: manifest unknown"
        );
        assert_eq!(
            text(refused(401, "DENIED", "requested access to the resource is denied")),
            "pull access denied for busybox, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        );
        assert_eq!(
            text(refused(404, "NAME_UNKNOWN", "repository name not known to registry")),
            "repository busybox not found: name unknown: repository name not known to registry"
        );
        assert_eq!(
            text(refused(401, "UNAUTHORIZED", "authentication required")),
            "unauthorized: authentication required"
        );
        assert_eq!(text(refused(429, "TOOMANYREQUESTS", "slow down")), "toomanyrequests: slow down");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(refused(503, "", "x").is_passing() && refused(429, "", "x").is_passing());
        assert!(refused(400, "DIGEST_INVALID", "x").is_passing());
        assert!(!refused(404, "", "x").is_passing() && !refused(401, "", "x").is_passing());
        let lookup = |reason: &str| TransportCause::Lookup { host: "x".into(), resolver: None, reason: reason.into() };
        assert!(!lookup("no such host").is_passing() && lookup("Temporary failure in name resolution").is_passing());
    }
}

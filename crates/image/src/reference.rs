//! Names of images, in the grammar that Docker's distribution project gave them.
//!
//! ```text
//! reference := name [ ":" tag ] [ "@" digest ]
//! name      := [ domain "/" ] path
//! domain    := host [ ":" port ]          host: a DNS name, an IPv4 address or an IPv6 address in brackets
//! path      := component ( "/" component )*
//! component := alnum ( separator alnum )*  separator: "." | "_" | "__" | "-"+   alnum: [a-z0-9]+
//! tag       := [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
//! digest    := algorithm ":" hex
//! ```
//!
//! A [`Reference`] is always held in its canonical form (`docker.io/library/debian:12`); people see the familiar form (`debian:12`).

mod pattern;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use pattern::{BadPattern, Pattern};

/// The registry that names without a domain belong to.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag that a name without tag and digest means.
pub const DEFAULT_TAG: &str = "latest";
/// The longest name (domain and path together), in bytes.
pub const NAME_LENGTH_MAX: usize = 255;

const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const TAG_LENGTH_MAX: usize = 128;

/// Why a text is no image reference. The texts are Docker's, as its clients compare them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text doesn't follow the grammar.
    #[error("invalid reference format")]
    InvalidFormat,
    /// The text would follow the grammar if it were in lower case; carries the repository's part of it.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The name is longer than [`NAME_LENGTH_MAX`].
    #[error("repository name must not be more than {NAME_LENGTH_MAX} characters")]
    NameTooLong,
    /// The name is 64 hexadecimal digits, and so would be taken for an image's id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The tag alone is not valid.
    #[error("invalid tag format")]
    InvalidTag,
    /// The digest is not `algorithm:hex`.
    #[error("invalid checksum digest format")]
    InvalidDigest,
    /// The digest has the wrong number of digits for its algorithm.
    #[error("invalid checksum digest length")]
    InvalidDigestLength,
    /// The digest is of an algorithm that the OCI image-spec doesn't register.
    #[error("unsupported digest algorithm")]
    UnsupportedDigest,
}

/// A valid image name with, where given, its tag and digest, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Reads a reference as people type it: `debian`, `debian:12`, `localhost:5000/app@sha256:…`.
    ///
    /// No tag is added; see [`Reference::with_default_tag`].
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if is_image_id(text) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let repository = rest.split(':').next().unwrap_or_default();
        if repository.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase(repository.to_owned()));
        }
        Self::parse_parts(domain, rest)
    }

    /// Reads a reference that names its domain, as manifests' annotations and stored records do.
    pub fn parse_canonical(text: &str) -> Result<Reference, ReferenceError> {
        let reference = Self::parse(text)?;
        let (name, full) = (reference.to_string(), text);
        if name == full { Ok(reference) } else { Err(ReferenceError::InvalidFormat) }
    }

    fn parse_parts(domain: &str, rest: &str) -> Result<Reference, ReferenceError> {
        let (rest, digest) = match rest.split_once('@') {
            Some((before, digest)) => (before, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((before, tag)) => (before, Some(tag)),
            None => (rest, None),
        };
        let path = match (domain == DEFAULT_DOMAIN, path.contains('/')) {
            (true, false) => format!("{OFFICIAL_PREFIX}{path}"),
            _ => path.to_owned(),
        };
        if !is_domain(domain) || !is_path(&path) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::InvalidFormat);
        }
        if domain.len() + 1 + path.len() > NAME_LENGTH_MAX {
            return Err(ReferenceError::NameTooLong);
        }
        if let Some(digest) = digest {
            if !has_digest_shape(digest) {
                return Err(ReferenceError::InvalidFormat);
            }
            check_digest(digest)?;
        }
        Ok(Reference {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The registry's name, with its port where there is one: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on its registry: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, where one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest (`sha256:…`), where one was given.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Whether neither a tag nor a digest was given.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Domain and path: `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name as people know it: `debian`, `team/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            // The last word alone would be taken for an image's id.
            Some(short) if !short.contains('/') && !is_image_id(short) => short.to_owned(),
            // A path that begins as a domain does would be read as one.
            _ if split_domain(&self.path) != (DEFAULT_DOMAIN, &self.path) => self.name(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people know it: `debian:12`, `debian@sha256:…`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The whole reference with everything that the short form leaves out: `docker.io/library/debian:12`.
    pub fn canonical(&self) -> String {
        self.with_suffix(self.name())
    }

    fn with_suffix(&self, mut name: String) -> String {
        for (mark, part) in [(':', &self.tag), ('@', &self.digest)] {
            if let Some(part) = part {
                name.push(mark);
                name.push_str(part);
            }
        }
        name
    }

    /// This reference, with the tag `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Reference {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// What a registry is asked for: the digest, else the tag, which is `latest` where there is none.
    pub fn version(&self) -> &str {
        self.digest().unwrap_or(self.tag_or_default())
    }

    /// The tag, which is `latest` where there is none.
    pub fn tag_or_default(&self) -> &str {
        self.tag().unwrap_or(DEFAULT_TAG)
    }

    /// This repository with another tag, and without a digest.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::InvalidTag);
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// This repository with another digest, and without a tag: the form in which an image's `RepoDigests` are kept.
    pub fn with_digest(&self, digest: &str) -> Result<Reference, ReferenceError> {
        check_digest(digest)?;
        Ok(Reference { tag: None, digest: Some(digest.to_owned()), ..self.clone() })
    }

    /// The repository alone, without tag and digest.
    #[must_use]
    pub fn without_version(&self) -> Reference {
        Reference { tag: None, digest: None, ..self.clone() }
    }

    /// Whether a glob as Docker's filter `reference=` takes it names this: the whole familiar form, or the familiar name alone.
    pub fn matches(&self, pattern: &Pattern) -> bool {
        pattern.matches(&self.familiar()) || pattern.matches(&self.familiar_name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Whether a text is a whole image id: 64 lower-case hexadecimal digits.
fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Splits what was typed into its registry and the rest. The first component is a registry only where it can't be a user's name.
fn split_domain(text: &str) -> (&str, &str) {
    let Some((first, rest)) = text.split_once('/') else { return (DEFAULT_DOMAIN, text) };
    match first {
        LEGACY_DOMAIN => (DEFAULT_DOMAIN, rest),
        "localhost" => (first, rest),
        _ if first.contains(['.', ':']) || first.chars().any(char::is_uppercase) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { return false };
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            return match after.strip_prefix(':') {
                Some(port) => is_port(port),
                None => after.is_empty(),
            };
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    host.split('.').all(is_domain_component) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_domain_component(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

fn is_path_component(component: &str) -> bool {
    let is_alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_alnum(*first) || !is_alnum(*last) {
        return false;
    }
    bytes.split(|b| is_alnum(*b)).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|b| *b == b'-'),
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.first().is_some_and(|b| is_word(*b))
        && bytes.len() <= TAG_LENGTH_MAX
        && bytes.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-'))
}

/// The grammar's looser idea of a digest; [`check_digest`] says whether it is one that can be verified.
fn has_digest_shape(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let component = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(component)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a text is a digest of a registered algorithm, `sha256:…`, `sha384:…` or `sha512:…`, of the right length.
pub fn check_digest(digest: &str) -> Result<(), ReferenceError> {
    let Some((algorithm, hex)) = digest.split_once(':') else { return Err(ReferenceError::InvalidDigest) };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ if has_digest_shape(digest) => return Err(ReferenceError::UnsupportedDigest),
        _ => return Err(ReferenceError::InvalidDigest),
    };
    if hex.len() != length {
        return Err(ReferenceError::InvalidDigestLength);
    }
    match hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        true => Ok(()),
        false => Err(ReferenceError::InvalidDigest),
    }
}

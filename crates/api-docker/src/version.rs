//! Versions of the Docker Engine API: which are spoken, and what a request's prefix asks for.

use std::fmt;

use crate::error::ApiError;

/// A version of the API: `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

/// The newest version that is spoken; also what a request without a prefix gets.
pub const MAX_API_VERSION: ApiVersion = ApiVersion::new(1, 50);
/// [`MAX_API_VERSION`] as headers carry it.
pub(crate) const MAX_API_VERSION_TEXT: &str = "1.50";
/// The version of Docker that clients are told: the last one whose newest API is [`MAX_API_VERSION`].
///
/// Clients compare it to know what they may ask for (cAdvisor refuses what is older than 1.0), and know nothing of our
/// own numbers. These stand, with our name, in `Platform` and `Components` of `/version`.
pub(crate) const DOCKER_VERSION: &str = "28.2.2";
/// The oldest version that is spoken.
pub const MIN_API_VERSION: ApiVersion = ApiVersion::new(1, 24);

impl ApiVersion {
    /// A version from its two numbers.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// The version that `text` names (`1.44`), if it is one that is spoken.
    ///
    /// # Errors
    /// 400, in Docker's words, for a version that is too old or too new.
    pub(crate) fn negotiate(text: &str) -> Result<Self, ApiError> {
        let version = Self::parse(text).unwrap_or(Self::new(0, 0));
        if version < MIN_API_VERSION {
            let message = format!(
                "client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, \
                 please upgrade your client to a newer version"
            );
            return Err(ApiError::bad_request(message));
        }
        if version > MAX_API_VERSION {
            let message =
                format!("client version {text} is too new. Maximum supported API version is {MAX_API_VERSION}");
            return Err(ApiError::bad_request(message));
        }
        Ok(version)
    }

    /// Numbers that are too great for a version are greater than every version.
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let minor = minor.split('.').next().unwrap_or_default();
        let number =
            |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().unwrap_or(u16::MAX));
        Some(Self { major: number(major)?, minor: number(minor)? })
    }

    /// Whether this version is 1.`minor` or newer.
    pub(crate) fn at_least(self, minor: u16) -> bool {
        self >= Self::new(1, minor)
    }

    /// Whether this version is older than 1.`minor`.
    pub(crate) fn before(self, minor: u16) -> bool {
        !self.at_least(minor)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Splits `/v1.44/info` into the version it names and the path that follows; a path without a version is all path.
pub(crate) fn split_prefix(path: &str) -> (Option<&str>, &str) {
    let Some((version, _)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else { return (None, path) };
    let versionish =
        version.starts_with(|c: char| c.is_ascii_digit()) && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match versionish {
        true => (Some(version), &path[2 + version.len()..]),
        false => (None, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_within_the_range_are_taken() {
        for text in ["1.24", "1.41", "1.50"] {
            assert_eq!(ApiVersion::negotiate(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn versions_out_of_the_range_are_refused_in_dockers_words() {
        let old = ApiVersion::negotiate("1.23").expect_err("too old").to_string();
        assert_eq!(
            old,
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        let new = ApiVersion::negotiate("1.99").expect_err("too new").to_string();
        assert_eq!(new, "client version 1.99 is too new. Maximum supported API version is 1.50");
        assert!(ApiVersion::negotiate("1.99999999999").is_err());
    }

    #[test]
    fn the_newest_version_is_written_once_as_numbers_and_once_as_text() {
        assert_eq!(MAX_API_VERSION.to_string(), MAX_API_VERSION_TEXT);
    }

    #[test]
    fn a_version_is_compared_by_number() {
        assert!(ApiVersion::new(1, 9).before(24));
        assert!(ApiVersion::new(1, 44).at_least(44));
    }

    #[test]
    fn prefixes_are_split_off() {
        assert_eq!(split_prefix("/v1.41/containers/json"), (Some("1.41"), "/containers/json"));
        assert_eq!(split_prefix("/volumes/x"), (None, "/volumes/x"));
        assert_eq!(split_prefix("/version"), (None, "/version"));
        assert_eq!(split_prefix("/v1.41"), (None, "/v1.41"));
    }
}

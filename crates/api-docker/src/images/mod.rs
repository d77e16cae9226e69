//! Images: everything below `/images` and `/distribution`.

pub(crate) mod archive;
pub(crate) mod attestations;
pub(crate) mod inspect;
pub(crate) mod list;
mod manifests;
pub(crate) mod registry;
pub(crate) mod remove;

use image::Reference;
use serde::Deserialize;

use crate::call::Call;
use crate::error::{ApiError, Result};

/// `repository[:tag]` of the two parameters that clients send apart; `None` where the repository is not given.
///
/// # Errors
/// 400 in dockerd's words.
pub(crate) fn repository_and_tag(repository: &str, tag: &str) -> Result<Option<String>> {
    if repository.is_empty() {
        return Ok(None);
    }
    let reference = reference(repository)?;
    if reference.digest().is_some() {
        return Err(ApiError::bad_request("cannot import digest reference"));
    }
    let reference = match tag {
        "" => reference.with_default_tag(),
        tag => reference.with_tag(tag).map_err(|error| ApiError::bad_request(error.to_string()))?,
    };
    Ok(Some(reference.familiar()))
}

/// The platform that the parameter `platform` asks for, in the versions of the API that have it there: a JSON document
/// of the OCI image-spec. As `os/arch[/variant]`.
///
/// # Errors
/// 400 in dockerd's words.
pub(crate) fn platform(call: &Call, since: u16) -> Result<Option<String>> {
    let given = call.query.given("platform").filter(|_| call.version.at_least(since));
    given.map(platform_of).transpose()
}

fn platform_of(text: &str) -> Result<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Platform {
        os: String,
        architecture: String,
        variant: String,
    }
    let refused = |reason: &str| ApiError::bad_request(format!("failed to parse platform: {reason}"));
    let platform: Platform = serde_json::from_str(text).map_err(|error| refused(&error.to_string()))?;
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Err(refused("both OS and Architecture must be provided"));
    }
    let parts = [platform.os, platform.architecture, platform.variant];
    Ok(parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/"))
}

/// Refuses an image that is not for the platform that is asked for.
pub(crate) fn check_platform(call: &Call, image: &str, since: u16) -> Result<()> {
    match platform(call, since)? {
        Some(platform) => Ok(call.engine().image_runs_on(image, &platform)?),
        None => Ok(()),
    }
}

/// A reference as people type it.
///
/// # Errors
/// 400 in dockerd's words.
pub(crate) fn reference(text: &str) -> Result<Reference> {
    Reference::parse(text).map_err(|error| ApiError::bad_request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_and_a_tag_are_one_name() {
        let name = |repository, tag| repository_and_tag(repository, tag).expect("a name");
        assert_eq!(name("", "x"), None);
        assert_eq!(name("app", "").as_deref(), Some("app:latest"));
        assert_eq!(name("app:2", "").as_deref(), Some("app:2"));
        assert_eq!(name("localhost:5000/team/app", "1").as_deref(), Some("localhost:5000/team/app:1"));
    }

    #[test]
    fn platforms_are_documents() {
        assert_eq!(platform_of(r#"{"os":"linux","architecture":"arm","variant":"v7"}"#).expect("one"), "linux/arm/v7");
        assert_eq!(platform_of(r#"{"os":"linux","architecture":"amd64"}"#).expect("one"), "linux/amd64");
        for wrong in ["linux/amd64", "{}", r#"{"os":"linux"}"#, "[]"] {
            let refused = platform_of(wrong).expect_err("refused");
            assert!(refused.message().starts_with("failed to parse platform: "), "{}", refused.message());
        }
    }

    #[test]
    fn nonsense_is_refused_in_dockerds_words() {
        let refusal = |repository, tag| repository_and_tag(repository, tag).expect_err("refused").message().to_owned();
        assert_eq!(refusal("App", ""), "invalid reference format: repository name (App) must be lowercase");
        assert_eq!(refusal("app", "-"), "invalid tag format");
    }
}

//! Images: everything below `/images` and `/distribution`.

pub(crate) mod archive;
pub(crate) mod inspect;
pub(crate) mod list;
mod manifests;
pub(crate) mod registry;
pub(crate) mod remove;

use image::Reference;

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
    fn nonsense_is_refused_in_dockerds_words() {
        let refusal = |repository, tag| repository_and_tag(repository, tag).expect_err("refused").message().to_owned();
        assert_eq!(refusal("App", ""), "invalid reference format: repository name (App) must be lowercase");
        assert_eq!(refusal("app", "-"), "invalid tag format");
    }
}

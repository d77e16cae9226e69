//! Build arguments that are meant for the builder itself: no `ARG` need take them, and one that does has their value
//! (Dockerfile reference, "BuildKit built-in build args").

use super::Given;
use crate::{Error, Result};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// A text before the ids of `RUN --mount=type=cache`: builds with another have other caches.
    CacheMountNamespace,
    /// A context that is fetched from a git repository has its `.git`.
    ContextKeepGitDir,
    /// Which checks are made, as the directive `check` says it.
    DockerfileCheck,
    /// The image says of itself what the steps that made its layers are found by.
    InlineCache,
    /// What comes of one platform looks as what comes of several does: an index, and a directory of its name.
    MultiPlatform,
    /// The name of the machine that a `RUN` sees.
    SandboxHostname,
    /// An image that would parse the file, as the directive `syntax` says it.
    Syntax,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Builtin; 7] = [
        Builtin::CacheMountNamespace,
        Builtin::ContextKeepGitDir,
        Builtin::DockerfileCheck,
        Builtin::InlineCache,
        Builtin::MultiPlatform,
        Builtin::SandboxHostname,
        Builtin::Syntax,
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Builtin::CacheMountNamespace => "BUILDKIT_CACHE_MOUNT_NS",
            Builtin::ContextKeepGitDir => "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
            Builtin::DockerfileCheck => "BUILDKIT_DOCKERFILE_CHECK",
            Builtin::InlineCache => "BUILDKIT_INLINE_CACHE",
            Builtin::MultiPlatform => "BUILDKIT_MULTI_PLATFORM",
            Builtin::SandboxHostname => "BUILDKIT_SANDBOX_HOSTNAME",
            Builtin::Syntax => "BUILDKIT_SYNTAX",
        }
    }

    /// What a build was given as it; an empty text is none.
    pub fn text(self, given: &Given) -> Option<&str> {
        given.arguments.get(self.name()).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Whether a build was given a yes, as Go's `strconv.ParseBool` reads one.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is neither yes nor no.
    pub fn is_yes(self, given: &Given) -> Result<bool> {
        match self.text(given) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some(other) => Err(Error::Invalid(format!("{}={other}: it is to be true or false", self.name()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_is_one_and_nonsense_is_told() {
        let with = |text: &str| {
            let mut given = Given::host();
            given.arguments.insert("BUILDKIT_MULTI_PLATFORM".to_owned(), text.to_owned());
            Builtin::MultiPlatform.is_yes(&given)
        };
        assert!(with("1").unwrap() && with("True").unwrap());
        assert!(!with("0").unwrap() && !with("").unwrap() && !Builtin::MultiPlatform.is_yes(&Given::host()).unwrap());
        let told = with("perhaps").unwrap_err().to_string();
        assert_eq!(told, "BUILDKIT_MULTI_PLATFORM=perhaps: it is to be true or false");
    }

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Builtin::ALL.iter().map(|one| one.name()).collect();
        assert_eq!(names.len(), Builtin::ALL.len());
    }
}

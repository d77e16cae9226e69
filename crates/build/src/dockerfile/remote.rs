//! What `ADD` takes beside files of the context, once variables are expanded.

/// What a source of `ADD` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddSource {
    /// A path of the context, or a pattern of paths.
    Path(String),
    /// A file at a URL of HTTP.
    Url(String),
    /// A git repository.
    Git(GitSource),
}

/// A git repository, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    /// What git fetches from.
    pub remote: String,
    /// A branch, a tag or a commit; the repository's own choice unless it says.
    pub reference: Option<String>,
    /// The directory whose files are added; all unless it says.
    pub directory: Option<String>,
}

impl AddSource {
    /// Tells what a source is: `git://…`, `ssh://…`, `USER@HOST:PATH` and what ends in `.git` are repositories, and behind
    /// their `#` may be `REFERENCE[:DIRECTORY]`.
    pub fn parse(text: &str) -> AddSource {
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let scheme = address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let git = match scheme.as_deref() {
            Some("git" | "ssh") => true,
            Some("http" | "https") => address.split('?').next().is_some_and(|path| path.ends_with(".git")),
            Some(_) => false,
            None => is_scp(address),
        };
        if git {
            let (reference, directory) =
                match fragment.map(|fragment| fragment.split_once(':').unwrap_or((fragment, ""))) {
                    Some((reference, directory)) => (reference, directory.trim_matches('/')),
                    None => ("", ""),
                };
            let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            return AddSource::Git(GitSource {
                remote: address.to_owned(),
                reference: filled(reference),
                directory: filled(directory),
            });
        }
        match scheme.as_deref() {
            Some("http" | "https") => AddSource::Url(text.to_owned()),
            _ => AddSource::Path(text.to_owned()),
        }
    }
}

/// Whether it is `USER@HOST:PATH`.
fn is_scp(address: &str) -> bool {
    let part = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    address.split_once('@').is_some_and(|(user, rest)| {
        part(user, b"-_") && rest.split_once(':').is_some_and(|(host, path)| part(host, b"-.") && !path.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let git = |remote: &str, reference: Option<&str>, directory: Option<&str>| {
            AddSource::Git(GitSource {
                remote: remote.into(),
                reference: reference.map(Into::into),
                directory: directory.map(Into::into),
            })
        };
        for (text, source) in [
            ("a/*.c", AddSource::Path("a/*.c".into())),
            ("c#", AddSource::Path("c#".into())),
            ("me@work.txt", AddSource::Path("me@work.txt".into())),
            ("github.com/a/b", AddSource::Path("github.com/a/b".into())),
            ("https://x/a.tar.gz#y", AddSource::Url("https://x/a.tar.gz#y".into())),
            ("HTTP://x/a", AddSource::Url("HTTP://x/a".into())),
            ("https://x/a.git", git("https://x/a.git", None, None)),
            ("https://x/a.git#v1:docs/", git("https://x/a.git", Some("v1"), Some("docs"))),
            ("git://x/a#:docs", git("git://x/a", None, Some("docs"))),
            ("ssh://git@x/a#main", git("ssh://git@x/a", Some("main"), None)),
            ("git@x.org:a/b.git#1", git("git@x.org:a/b.git", Some("1"), None)),
        ] {
            assert_eq!(AddSource::parse(text), source, "{text}");
        }
    }
}

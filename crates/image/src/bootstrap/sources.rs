//! Where the host gets its packages from: apt's lists of sources, in both their forms (sources.list(5)).

use std::path::{Path, PathBuf};

use super::spec::Distribution;

/// One suite at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) uri: String,
    pub(super) suite: String,
}

/// The host, as far as base images care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) distribution: Option<Distribution>,
    codename: String,
    sources: Vec<Source>,
}

impl Host {
    /// Reads the host's own files; what isn't there or can't be read names no sources.
    pub(super) fn read() -> Host {
        let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let mut sources = Vec::new();
        for file in source_files(Path::new("/etc/apt")) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let is_deb822 = file.extension().is_some_and(|extension| extension == "sources");
            sources.extend(if is_deb822 { parse_deb822(&text) } else { parse_one_line(&text) });
        }
        Host::new(&os_release, sources)
    }

    fn new(os_release: &str, sources: Vec<Source>) -> Host {
        let value = |name: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        let distribution = match &*value("ID") {
            "debian" => Some(Distribution::Debian),
            "ubuntu" => Some(Distribution::Ubuntu),
            _ => None,
        };
        Host { distribution, codename: value("VERSION_CODENAME"), sources }
    }

    fn uri_of(&self, suite: &str) -> Option<&str> {
        self.sources.iter().find(|source| source.suite == suite).map(|source| &*source.uri)
    }

    /// The suites to make an image of this suite from, as far as possible at the addresses that the host uses itself.
    pub(super) fn sources_for(&self, distribution: Distribution, suite: &str, architecture: &str) -> Vec<Source> {
        let is_own = self.distribution == Some(distribution);
        let own = |suffix: &str| self.uri_of(&format!("{}{suffix}", self.codename)).filter(|_| is_own);
        let at = |suffix: &str, default: &str| Source {
            uri: self.uri_of(&format!("{suite}{suffix}")).or_else(|| own(suffix)).unwrap_or(default).to_owned(),
            suite: format!("{suite}{suffix}"),
        };
        let (main, security) = default_mirrors(distribution, architecture);
        let mut sources = vec![at("", main)];
        if !matches!(suite, "sid" | "unstable" | "experimental" | "rc-buggy") {
            sources.push(at("-updates", &sources[0].uri));
            sources.push(at("-security", security));
        }
        sources
    }
}

/// The distributions' own public addresses, for hosts that don't say better.
fn default_mirrors(distribution: Distribution, architecture: &str) -> (&'static str, &'static str) {
    match (distribution, architecture) {
        (Distribution::Debian, _) => ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security"),
        (Distribution::Ubuntu, "amd64" | "i386") => {
            ("http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu")
        }
        (Distribution::Ubuntu, _) => ("http://ports.ubuntu.com/ubuntu-ports", "http://ports.ubuntu.com/ubuntu-ports"),
    }
}

fn source_files(apt: &Path) -> Vec<PathBuf> {
    let mut files = vec![apt.join("sources.list")];
    let parts = std::fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut parts: Vec<PathBuf> = parts
        .filter(|path| path.extension().is_some_and(|extension| extension == "list" || extension == "sources"))
        .collect();
    parts.sort();
    files.extend(parts);
    files
}

/// `deb [option=value …] URI SUITE COMPONENT…`
fn parse_one_line(text: &str) -> Vec<Source> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let parsed = lines.filter_map(|line| {
        let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        Some(Source { uri: words.next()?.trim_end_matches('/').to_owned(), suite: words.next()?.to_owned() })
    });
    parsed.collect()
}

/// Stanzas of `Field: values`, continued on lines that begin with a space.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza_sources(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza_sources(fields: &[(String, String)]) -> Vec<Source> {
    let words = |name: &str| {
        let field = fields.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.split_whitespace().collect::<Vec<_>>()).unwrap_or_default()
    };
    let is_off = words("enabled").first().is_some_and(|word| matches!(*word, "no" | "false" | "0" | "off" | "disable"));
    if is_off || !words("types").contains(&"deb") {
        return Vec::new();
    }
    let (uris, suites) = (words("uris"), words("suites"));
    let pairs = uris.iter().flat_map(|uri| suites.iter().map(move |suite| (uri, suite)));
    pairs.map(|(uri, suite)| Source { uri: uri.trim_end_matches('/').to_owned(), suite: (*suite).to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOOKWORM: &str = "NAME=x\nID=debian\nVERSION_CODENAME=bookworm\n";

    fn source(uri: &str, suite: &str) -> Source {
        Source { uri: uri.into(), suite: suite.into() }
    }

    #[test]
    fn both_forms_are_read() {
        let lines = "# deb http://no/ x main\ndeb-src http://no/ x main\n deb [arch=amd64 signed-by=/k] http://a/d/ trixie main # c\ndeb\thttp://b trixie-updates main\n";
        let want = [source("http://a/d", "trixie"), source("http://b", "trixie-updates")];
        assert_eq!(parse_one_line(lines.replace("\n deb", "\ndeb").as_str()), want);
        let stanzas = "Types: deb deb-src\nURIs: http://a/d/\nSuites: trixie\n trixie-updates\n# c\nComponents: main\n\n\nTypes: deb\nEnabled: no\nURIs: http://n\nSuites: x\n\nTypes: deb-src\nURIs: http://n\nSuites: x";
        assert_eq!(parse_deb822(stanzas), [source("http://a/d", "trixie"), source("http://a/d", "trixie-updates")]);
    }

    #[test]
    fn the_hosts_own_mirror_is_used_for_its_distribution() {
        let host = Host::new(
            BOOKWORM,
            vec![
                source("https://other/", "stable"),
                source("http://near/debian", "bookworm"),
                source("http://near/sec", "bookworm-security"),
            ],
        );
        assert_eq!(
            host.sources_for(Distribution::Debian, "trixie", "amd64"),
            [
                source("http://near/debian", "trixie"),
                source("http://near/debian", "trixie-updates"),
                source("http://near/sec", "trixie-security")
            ]
        );
        assert_eq!(host.sources_for(Distribution::Debian, "sid", "amd64"), [source("http://near/debian", "sid")]);
        let ubuntu = host.sources_for(Distribution::Ubuntu, "noble", "arm64");
        assert!(ubuntu.iter().all(|source| source.uri == "http://ports.ubuntu.com/ubuntu-ports"));
    }

    proptest! {
        #[test]
        fn no_file_makes_the_readers_panic(text in "([a-zA-Z:#\\[\\] \t\n/.-]|deb |Types: |URIs: ){0,200}") {
            parse_one_line(&text);
            parse_deb822(&text);
        }
    }
}

//! Whether everything that the program is built from may be: its licence, and where it comes from.
//!
//! `cargo deny` asks more, but takes long to build and needs the network for its database; this reads the same
//! `deny.toml`, and needs neither, so that every run of the tests can afford it.

use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fmt;
use std::fs;
use std::path::Path;

/// The part of `deny.toml` that is looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct Rules {
    licenses: Licenses,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// A crate that may not be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    name: String,
    why: Why,
}

#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// Its licence is not among those that are allowed.
    Licence(String),
    /// It says no licence, or one that is no expression of licences.
    NoLicence,
    /// It comes from somewhere else.
    Source(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.why {
            Why::Licence(licence) => write!(f, "{name} is under {licence}, which deny.toml does not allow"),
            Why::NoLicence => write!(f, "{name} says no licence that can be understood"),
            Why::Source(source) => write!(f, "{name} comes from {source}, which deny.toml does not allow"),
        }
    }
}

impl Rules {
    /// The rules in the workspace's `deny.toml`.
    pub(crate) fn load(root: &Path) -> Result<Rules> {
        let path = root.join("deny.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not understood", path.display()))
    }

    /// The crates that may not be used, of all that the workspace is built from.
    pub(crate) fn check(&self, workspace: &Workspace) -> Vec<Refused> {
        let strangers = workspace.packages.iter().filter_map(|package| Some((package, package.source.as_deref()?)));
        let mut refused = Vec::new();
        for (package, source) in strangers {
            let mut refuse = |why| refused.push(Refused { name: format!("{} {}", package.name, package.version), why });
            let registry = source.strip_prefix("registry+").or_else(|| source.strip_prefix("sparse+"));
            if !registry.is_some_and(|registry| self.sources.allow_registry.iter().any(|allowed| allowed == registry)) {
                refuse(Why::Source(source.to_owned()));
            }
            match package.license.as_deref().map(|licence| (licence, self.allows(licence))) {
                Some((_, Some(true))) => {}
                Some((licence, Some(false))) => refuse(Why::Licence(licence.to_owned())),
                Some((_, None)) | None => refuse(Why::NoLicence),
            }
        }
        refused
    }

    /// Whether an SPDX expression can be met by allowed licences; `None` for what is no such expression.
    fn allows(&self, expression: &str) -> Option<bool> {
        // Old crates separate alternatives by a slash.
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<_> = spaced.split_whitespace().collect();
        let mut parser = Expression { words: &words, allowed: &self.licenses.allow };
        let allowed = parser.any()?;
        parser.words.is_empty().then_some(allowed)
    }
}

/// An SPDX licence expression (version 2.3, annex D) that is read from the left: `OR` of `AND` of licences.
struct Expression<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Expression<'_> {
    fn next(&mut self) -> Option<&str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.words.first() == Some(&word);
        if there {
            self.words = &self.words[1..];
        }
        there
    }

    fn any(&mut self) -> Option<bool> {
        let mut allowed = self.all()?;
        while self.take("OR") {
            allowed |= self.all()?;
        }
        Some(allowed)
    }

    fn all(&mut self) -> Option<bool> {
        let mut allowed = self.one()?;
        while self.take("AND") {
            allowed &= self.one()?;
        }
        Some(allowed)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let allowed = self.any()?;
            return self.take(")").then_some(allowed);
        }
        let mut licence = self.next().filter(|word| !["OR", "AND", "WITH", ")"].contains(word))?.to_owned();
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.next()?);
        }
        Some(self.allowed.contains(&licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    const INDEX: &str = "https://github.com/rust-lang/crates.io-index";

    fn rules() -> Rules {
        let allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).to_vec();
        Rules { licenses: Licenses { allow }, sources: Sources { allow_registry: vec![INDEX.to_owned()] } }
    }

    fn package(name: &str, license: Option<&str>, source: Option<String>) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            manifest_path: "/w/Cargo.toml".into(),
            license: license.map(str::to_owned),
            source,
            dependencies: Vec::new(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn an_expression_is_allowed_if_it_can_be_met() {
        let cases = [
            ("MIT", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("MIT OR GPL-3.0-only", Some(true)),
            ("MIT AND GPL-3.0-only", Some(false)),
            ("GPL-3.0-only OR MIT AND Apache-2.0", Some(true)),
            ("(GPL-3.0-only OR MIT) AND Apache-2.0", Some(true)),
            ("(GPL-3.0-only OR MIT) AND (ISC)", Some(false)),
            ("MIT/Apache-2.0", Some(true)),
            ("Apache-2.0 WITH LLVM-exception", Some(true)),
            ("MIT WITH LLVM-exception", Some(false)),
            ("", None),
            ("MIT MIT", None),
            ("(MIT", None),
            ("MIT OR", None),
            ("MIT WITH", None),
            (") MIT", None),
        ];
        for (expression, allowed) in cases {
            assert_eq!(rules().allows(expression), allowed, "{expression:?}");
        }
    }

    #[test]
    fn what_is_refused_is_told_with_the_reason() {
        let registry = || Some(format!("registry+{INDEX}"));
        let packages = vec![
            package("ours", None, None),
            package("fine", Some("MIT"), registry()),
            package("copyleft", Some("GPL-3.0-only"), registry()),
            package("mute", None, registry()),
            package("stray", Some("MIT"), Some("git+https://example.com/stray".to_owned())),
        ];
        let refused: Vec<_> = rules()
            .check(&Workspace { packages, target_directory: Default::default() })
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            refused,
            [
                "copyleft 1.0.0 is under GPL-3.0-only, which deny.toml does not allow",
                "mute 1.0.0 says no licence that can be understood",
                "stray 1.0.0 comes from git+https://example.com/stray, which deny.toml does not allow",
            ]
        );
    }

    #[test]
    fn the_projects_own_rules_are_understood() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let rules = Rules::load(root).unwrap();
        assert_eq!(rules.allows("MIT OR Apache-2.0"), Some(true));
    }
}

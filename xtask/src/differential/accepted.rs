//! The differences that stay: each with the reason why.

use super::compare::Difference;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::cell::Cell;
use std::fs;
use std::path::Path;

/// The list, as it stands in tests/differential/accepted.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted {
    #[serde(default, rename = "difference")]
    entries: Vec<Entry>,
}

/// One that stays. In all of these but the reason, `*` stands for any text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default = "anything")]
    scenario: String,
    #[serde(default = "anything")]
    command: String,
    place: String,
    /// What dockerd has there, where only that is meant. Nothing at all is written as "".
    dockerd: Option<String>,
    stratus: Option<String>,
    reason: String,
    #[serde(skip)]
    matches: Cell<usize>,
}

fn anything() -> String {
    "*".to_owned()
}

impl Accepted {
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let list: Self = toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(entry) = list.entries.iter().find(|entry| entry.reason.trim().is_empty()) {
            bail!("{}: {} at {:?} has no reason", path.display(), entry.command, entry.place);
        }
        Ok(list)
    }

    /// Whether a difference is one that stays. The entry counts as needed then.
    pub(super) fn has(&self, scenario: &str, command: &str, difference: &Difference) -> bool {
        let found = self.entries.iter().find(|entry| entry.means(scenario, command, difference));
        found.inspect(|entry| entry.matches.set(entry.matches.get() + 1)).is_some()
    }

    /// Entries that no difference needed.
    pub(super) fn unneeded(&self) -> impl Iterator<Item = String> {
        self.entries
            .iter()
            .filter(|entry| entry.matches.get() == 0)
            .map(|entry| format!("scenario {:?}, command {:?}, place {:?}", entry.scenario, entry.command, entry.place))
    }
}

impl Entry {
    fn means(&self, scenario: &str, command: &str, difference: &Difference) -> bool {
        let side = |pattern: &Option<String>, text: &Option<String>| {
            pattern.as_ref().is_none_or(|pattern| matches(pattern, text.as_deref().unwrap_or_default()))
        };
        matches(&self.scenario, scenario)
            && matches(&self.command, command)
            && matches(&self.place, &difference.place)
            && side(&self.dockerd, &difference.dockerd)
            && side(&self.stratus, &difference.stratus)
    }
}

/// Whether a text is what a pattern says, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in
            [("", ""), ("*", ""), ("*", "a\nb"), ("a*c", "abc"), ("a*c", "ac"), ("*[*].B", "x[0][1].B")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", ""), ("a*a", "a"), ("a*c", "abcd"), ("a*b*c", "acb")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}

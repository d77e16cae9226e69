//! The differences that stay: each with the reason why.

use super::compare::Difference;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// What may differ.
pub(super) struct Accepted {
    entries: Vec<Entry>,
}

/// The list, as it stands in tests/differential/accepted.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(rename = "difference")]
    differences: Vec<Listed>,
}

/// One that stays. In all of these but the reason, `*` stands for any text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(default = "anything")]
    scenario: String,
    /// Each of them needs it.
    #[serde(default = "any_command")]
    commands: Vec<String>,
    place: String,
    /// What dockerd has there, or a container beside a microVM. Nothing at all is written as "".
    #[serde(alias = "container")]
    dockerd: String,
    #[serde(alias = "microvm")]
    stratus: String,
    reason: String,
    /// Why other hosts may not need it; nothing: all do.
    #[serde(default)]
    host: Option<String>,
}

/// One that stays, for one pattern of commands.
struct Entry {
    command: String,
    listed: Rc<Listed>,
    matches: Cell<usize>,
}

/// An entry that no difference needed.
pub(super) struct Unneeded<'a> {
    /// Which.
    pub(super) entry: String,
    /// Why this host may not need it; nothing: it is to go.
    pub(super) host: Option<&'a str>,
}

/// Stands for text that both sides have.
const SAME: &str = "<same>";

fn anything() -> String {
    "*".to_owned()
}

fn any_command() -> Vec<String> {
    vec![anything()]
}

impl Accepted {
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let list: List = toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let mut entries = Vec::new();
        for listed in list.differences {
            listed.check().with_context(|| format!("{}: {:?}", path.display(), listed.reason))?;
            let listed = Rc::new(listed);
            let of_command = |command: &String| Entry {
                command: command.clone(),
                listed: Rc::clone(&listed),
                matches: Cell::new(0),
            };
            entries.extend(listed.commands.iter().map(of_command));
        }
        Ok(Self { entries })
    }

    /// Why a difference stays, if it does. The entry counts as needed then.
    pub(super) fn reason(&self, scenario: &str, command: &str, difference: &Difference) -> Option<&str> {
        let found = self.entries.iter().find(|entry| entry.means(scenario, command, difference))?;
        found.matches.set(found.matches.get() + 1);
        Some(&found.listed.reason)
    }

    /// Entries that no difference needed.
    pub(super) fn unneeded(&self) -> impl Iterator<Item = Unneeded<'_>> {
        self.entries.iter().filter(|entry| entry.matches.get() == 0).map(|Entry { command, listed, .. }| {
            let Listed { scenario, place, dockerd, stratus, host, .. } = &**listed;
            let entry =
                format!("scenario {scenario:?}, command {command:?}, place {place:?}, {dockerd:?} and {stratus:?}");
            Unneeded { entry, host: host.as_deref() }
        })
    }
}

impl Listed {
    fn check(&self) -> Result<()> {
        if self.reason.trim().is_empty() {
            bail!("there is no reason for what is accepted at {:?}", self.place);
        }
        if self.commands.is_empty() {
            bail!("it is accepted for no command");
        }
        match [&self.dockerd, &self.stratus].map(|side| side.matches(SAME).count()) {
            [0, 0] | [1, 1] => Ok(()),
            _ => bail!("{SAME} has to be there once on each side, or on none"),
        }
    }
}

impl Entry {
    fn means(&self, scenario: &str, command: &str, difference: &Difference) -> bool {
        let Listed { scenario: of_scenario, place, dockerd, stratus, .. } = &*self.listed;
        let theirs = difference.dockerd.as_deref().unwrap_or_default();
        let ours = difference.stratus.as_deref().unwrap_or_default();
        matches(of_scenario, scenario)
            && matches(&self.command, command)
            && matches(place, &difference.place)
            && both_match((dockerd, theirs), (stratus, ours))
    }
}

/// Whether each of two texts is what its pattern says, and the same text is where both have [`SAME`].
fn both_match((their_pattern, theirs): (&str, &str), (our_pattern, ours): (&str, &str)) -> bool {
    match (their_pattern.split_once(SAME), our_pattern.split_once(SAME)) {
        (Some(their_parts), Some(our_parts)) => {
            let theirs = between(their_parts, theirs);
            between(our_parts, ours).iter().any(|text| theirs.contains(text))
        }
        _ => matches(their_pattern, theirs) && matches(our_pattern, ours),
    }
}

/// Everything that can stand between two patterns in a text.
fn between<'a>((before, after): (&str, &str), text: &'a str) -> Vec<&'a str> {
    let places = || (0..=text.len()).filter(|at| text.is_char_boundary(*at));
    let ends: Vec<_> = places().filter(|at| matches(after, &text[*at..])).collect();
    places()
        .filter(|start| matches(before, &text[..*start]))
        .flat_map(|start| ends.iter().filter_map(move |end| text.get(start..*end)))
        .collect()
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

    #[test]
    fn what_is_the_same_is_compared() {
        let (theirs, ours) = ("failed: <same>: unknown", "failed again: <same>");
        assert!(both_match((theirs, "failed: no such file: unknown"), (ours, "failed again: no such file")));
        assert!(!both_match((theirs, "failed: no such file: unknown"), (ours, "failed again: permission denied")));
        assert!(!both_match((theirs, "failed: no such file"), (ours, "failed again: no such file")));
        assert!(both_match(("*: <same>", "a: b: ü"), ("<same>!", "ü!")));
        assert!(!both_match(("<same>", "a"), ("<same>", "b")));
        assert!(both_match(("a*", "ab"), ("", "")));
    }
}

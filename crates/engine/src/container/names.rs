//! Names of containers: those that users choose, and those for containers that nobody named.

use rand::seq::IndexedRandom;

use crate::{Error, Result};

const QUALITIES: [&str; 64] = [
    "able", "agile", "amber", "ample", "azure", "brave", "bright", "brisk", "calm", "clear", "clever", "cosy", "crisp",
    "daring", "deep", "eager", "early", "fair", "fancy", "fast", "fleet", "fond", "fresh", "gentle", "glad", "golden",
    "grand", "happy", "hardy", "honest", "humble", "ideal", "jolly", "keen", "kind", "light", "lively", "lucid",
    "lucky", "mellow", "merry", "mild", "neat", "nimble", "noble", "patient", "plain", "prime", "proud", "quick",
    "quiet", "rapid", "ready", "robust", "royal", "sharp", "silent", "smooth", "snug", "solid", "steady", "swift",
    "vivid", "warm",
];

const THINGS: [&str; 64] = [
    "acorn", "alder", "anchor", "aspen", "badger", "basin", "beacon", "birch", "breeze", "bridge", "brook", "canyon",
    "cedar", "cirrus", "cliff", "cloud", "comet", "coral", "crane", "creek", "cumulus", "delta", "dune", "ember",
    "falcon", "fern", "fjord", "forest", "garnet", "geyser", "glacier", "grove", "harbor", "hazel", "heron", "island",
    "juniper", "lagoon", "lantern", "larch", "maple", "marten", "meadow", "mesa", "nimbus", "oak", "orchard", "osprey",
    "otter", "pebble", "pine", "plover", "prairie", "quartz", "reef", "ridge", "river", "sequoia", "spruce", "stratus",
    "summit", "tundra", "valley", "willow",
];

/// A name for a container that nobody named; `attempt` above 0 makes it longer.
pub(super) fn random(attempt: u32) -> String {
    let mut rng = rand::rng();
    let quality = QUALITIES.choose(&mut rng).copied().unwrap_or("plain");
    let thing = THINGS.choose(&mut rng).copied().unwrap_or("cloud");
    match attempt {
        0 => format!("{quality}_{thing}"),
        _ => format!("{quality}_{thing}{}", rand::random_range(0..10_u32.saturating_pow(attempt.min(8)))),
    }
}

/// Refuses what is no name. A slash before it is left out.
pub(crate) fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut chars = bare.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let mut rest = chars.clone();
    let valid = first && rest.next().is_some() && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if valid && bare.len() <= 255 {
        return Ok(bare);
    }
    Err(Error::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_names() {
        for attempt in 0..12 {
            check(&random(attempt)).unwrap();
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "/", "a", "-ab", "a b", "ä1", "a/b"] {
            assert!(check(name).is_err(), "{name}");
        }
        assert_eq!(check("/web.1").unwrap(), "web.1");
    }
}
